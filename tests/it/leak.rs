//! Nothing that anybody prints holds an AppSecret, a token or a consumer's key.
//!
//! Servers live through chaos at the most talkative level, and clients make every mistake. All they
//! wrote is searched for canaries and for every token that WeChat made.

use std::{fmt::Write as _, fs, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::Request;
use wxtokend::{
    pb,
    sandbox::{Endpoint, Fault, Kind, Knobs, Settings},
};

use crate::{
    history::History,
    process::{Home, Process, Server, WeChat, get, http, secret_of, stale, token, watch_request},
    raw::{self, Answer, refusing},
    served::Client,
};

/// In every AppSecret, key and made-up token of these tests.
const CANARY: &str = "CANARY";

const KEY: &str = "CANARY-key-of-orders";

const APPS: [&str; 3] = ["classic", "stable", "cwrong"];

/// How long each server lives: several lives of a token.
const CHAOS: Duration = Duration::from_secs(5);

/// The first secret that `text` holds, with some text around it.
fn leak<'t>(text: &'t str, tokens: &[String]) -> Option<&'t str> {
    // A piece of a token is bad enough.
    let pieces = tokens.iter().map(|token| &token[40..64]);
    let places = pieces
        .chain([CANARY])
        .filter_map(|needle| text.find(needle));
    let place = places.min()?;
    let begin = text.floor_char_boundary(place.saturating_sub(200));
    let end = text.ceil_char_boundary(place + 100);
    Some(&text[begin..end])
}

#[tokio::test]
async fn the_search_finds_what_is_there_and_reqwest_would_put_it_there() {
    let token = format!("98_{}", "0123456789abcdef".repeat(8));
    let tokens = [token.clone()];
    assert_eq!(leak("INFO token rotated generation=7", &tokens), None);
    assert!(leak(&format!("INFO token rotated token={token}"), &tokens).is_some());
    assert!(leak(&format!("the token {}… was refused", &token[..80]), &tokens).is_some());
    assert!(leak(&format!("invalid secret `{}`", secret_of("shop")), &[]).is_some());

    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy();
    let url = format!(
        "{}/cgi-bin/token?secret={}",
        refusing().await,
        secret_of("shop")
    );
    let error = client.build().unwrap().get(url).send().await.unwrap_err();
    assert!(leak(&error.to_string(), &[]).is_some(), "{error}");
}

/// Every kind of mishap, at random.
fn mishaps() -> Knobs {
    let kinds = [
        Kind::Errcode,
        Kind::Lost,
        Kind::Cut,
        Kind::Truncated,
        Kind::Gateway,
        Kind::Empty,
        Kind::Hang,
    ];
    let mut faults: Vec<Fault> = kinds
        .into_iter()
        .map(|kind| Fault::new(kind).with_probability(0.05))
        .collect();
    let bodies = [
        r#"{"access_token":"CANARY-98_token","expires_in":0}"#,
        r#"{"access_token":"CANARY-98_token","expires_in":"soon"}"#,
        r#"{"access_token":["CANARY-98_token"],"expires_in":7200}"#,
        r#"{"access_token":"CANARY 98\n_token","expires_in":7200}"#,
        r#"{"access_token":"CANARY-98_token""#,
        r#"["CANARY-98_token"]"#,
        "<html>CANARY-98_token</html>",
    ];
    faults.extend(bodies.into_iter().map(|body| Fault {
        body: body.into(),
        endpoint: Some(Endpoint::Classic),
        ..Fault::new(Kind::Reply).with_probability(0.05)
    }));
    Knobs {
        faults,
        ..Knobs::default()
    }
}

fn home(base_url: &str, more: &str, format: &str) -> Home {
    let refresh = "overlap = '1s'\nfloor = '100ms'\nceiling = '300ms'\nprobe_every = '500ms'";
    let home = Home::new(base_url, refresh, &APPS)
        .replace("timeout = '2s'", &format!("timeout = '300ms'\n{more}"))
        .variable(
            "WXTOKEND_LOG",
            "trace,reqwest=trace,hyper=trace,rustls=trace,h2=trace",
        )
        .variable("RUST_BACKTRACE", "1");
    home.write("cwrong", "CANARY-no-such-secret");
    home.write("orders", KEY);
    home.write("wrong-key", "CANARY-wrong-key");
    let key = home.path("orders").display().to_string();
    home.and(&format!(
        "[http]\nlisten = '127.0.0.1:0'\n[admin]\nlisten = '127.0.0.1:0'\n[log]\nformat = '{format}'\n[[consumer]]\nname = 'orders'\nkey_file = '{key}'\napps = ['*']\n\
         rights = ['read', 'refresh', 'admin']\n"
    ))
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(1));
    let value = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Does what callers do, and what they should not do. Returns what they were told.
async fn pester(history: History, mut client: Client) -> String {
    let made_up = "CANARY-98_made-up";
    let mut told = String::new();
    for app in APPS {
        let got = client.get_token(with_key(get(app), KEY)).await;
        let token = got
            .as_ref()
            .ok()
            .and_then(|got| got.get_ref().token.clone());
        let token = token.map_or_else(|| made_up.to_owned(), |token| token.access_token);
        writeln!(told, "{got:?}").unwrap();
        let report = client
            .force_refresh(with_key(stale(app, &token), KEY))
            .await;
        writeln!(told, "{report:?}").unwrap();
        let request = with_key(watch_request(app), KEY);
        if let Ok(mut stream) = history.watch(&mut client, request).await {
            let first = stream.message().await;
            writeln!(told, "{first:?}").unwrap();
        }
    }
    let mut refused = Vec::new();
    refused.push(
        client
            .get_token(with_key(get("stable"), "CANARY-wrong-key"))
            .await
            .map(drop),
    );
    refused.push(token(&mut client, "stable").await.map(drop));
    let long = pb::ForceRefreshRequest {
        stale_token: made_up.repeat(1000),
        ..stale("stable", "")
    };
    refused.push(client.force_refresh(with_key(long, KEY)).await.map(drop));
    let leaked = pb::ForceRefreshRequest {
        leaked: true,
        ..stale("classic", made_up)
    };
    refused.push(client.force_refresh(with_key(leaked, KEY)).await.map(drop));
    let odd = stale("stable", "CANARY\u{7}\nodd token");
    refused.push(client.force_refresh(with_key(odd, KEY)).await.map(drop));
    for status in refused.into_iter().filter_map(Result::err) {
        writeln!(told, "{status:?}\n{status}").unwrap();
    }
    told
}

/// Runs the program's own clients. `watch` shows no token unless it is asked to.
async fn commands(home: &Home, server: &Server) -> String {
    let key = home.path("orders").display().to_string();
    let wrong = home.path("wrong-key").display().to_string();
    let common = ["--endpoint", &server.url, "--key-file"];
    let watching = Process::start(&[&["watch", "stable"], &common[..], &[&key]].concat(), &[]);
    let runs: [&[&str]; 5] = [
        &["get", "stable", "--key-file", &wrong],
        &["get", "nothing", "--key-file", &key],
        &[
            "refresh",
            "stable",
            "--token",
            "CANARY-98_made-up",
            "--key-file",
            &wrong,
        ],
        &[
            "refresh",
            "nothing",
            "--token",
            "CANARY-98_made-up",
            "--key-file",
            &key,
        ],
        &["health", "--service", "app/stable", "--key-file", &key],
    ];
    let mut said = String::new();
    for run in runs {
        let ended = Process::run(&[run, &common[..2]].concat()).await;
        writeln!(said, "{}\n{}", ended.stdout, ended.stderr).unwrap();
    }
    let answered = Process::run(
        &[
            &["refresh", "stable", "--generation", "1"],
            &common[..],
            &[&key],
        ]
        .concat(),
    )
    .await;
    said += &answered.stderr;
    said += &watching.stdout();
    said += &watching.stderr();
    said
}

/// What the pages of the admin listener say.
async fn pages(server: &Server) -> String {
    let line = server.process.stdout_line("admin ").await;
    let url = line.strip_prefix("admin ").unwrap();
    let mut said = String::new();
    for target in ["/metrics", "/readyz?verbose", "/livez?verbose", "/CANARY"] {
        let (_, page) = http(url, "GET", target, "").await;
        said += &page;
    }
    assert!(said.contains("app/stable"), "{said}");
    assert!(said.contains("refreshes_total{app=\"stable\""), "{said}");
    said
}

/// What programs are told that ask over HTTP and get no token. Keys and tokens travel in the query there.
async fn refused_over_http(server: &Server) -> String {
    let line = server.process.stdout_line("http ").await;
    let url = line.strip_prefix("http ").unwrap();
    let ask = "grant_type=client_credential&appid=wx-stable";
    let mut said = String::new();
    for (method, target, body) in [
        ("GET", format!("/cgi-bin/token?{ask}&secret={KEY}"), ""),
        (
            "GET",
            format!("/cgi-bin/token?{ask}&secret=CANARY-wrong-key"),
            "",
        ),
        (
            "POST",
            "/cgi-bin/stable_token".into(),
            "{\"secret\":\"CANARY\"",
        ),
        (
            "POST",
            "/cgi-bin/stable_token".into(),
            "{\"grant_type\":\"CANARY\",\"secret\":\"CANARY-key-of-orders\"}",
        ),
        (
            "GET",
            format!("/get_access_token?secret={KEY}&appid=wx-CANARY"),
            "",
        ),
        ("GET", format!("/v1/apps/CANARY/token?secret={KEY}"), ""),
        (
            "GET",
            format!("/v1/apps/stable/token?secret={KEY}&stale=CANARY-98_made-up"),
            "",
        ),
        (
            "GET",
            format!("/v1/apps/stable/token?secret={KEY}&wait=CANARY"),
            "",
        ),
        ("GET", "/CANARY?secret=CANARY".into(), ""),
    ] {
        let (_, answer) = http(url, method, &target, body).await;
        if answer.contains("errcode") {
            said += &answer;
        }
    }
    assert!(said.contains("40125") && said.contains("40066"), "{said}");
    said
}

/// A sidecar of the server, which tells a command of each token.
fn sidecar(home: &Home, server: &Server) -> Process {
    let key = home.path("orders").display().to_string();
    let file = home.path("shown").display().to_string();
    home.write(
        "agent.toml",
        &format!(
            "[agent]\nservers = ['{}']\nkey_file = '{key}'\napps = ['stable', 'classic', 'nothing']\n\
             [grpc]\nlisten = '127.0.0.1:0'\n[[output]]\napp = 'stable'\nkind = 'file'\npath = '{file}'\n\
             command = ['false', 'CANARY']\n[[output]]\napp = 'classic'\nkind = 'file'\npath = '/nowhere/x'\n",
            server.url
        ),
    );
    let config = home.path("agent.toml").display().to_string();
    let level = (
        "WXTOKEND_LOG".to_owned(),
        "trace,h2=trace,hyper=trace,tonic=trace".to_owned(),
    );
    Process::start(&["agent", "--config", &config], &[level])
}

/// Everything that a server and its clients said in a chaotic life.
async fn said_in_chaos(home: Home) -> String {
    let server = home.serve().await;
    let end = Instant::now() + CHAOS;
    let mut said = commands(&home, &server).await;
    let sidecar = sidecar(&home, &server);
    while Instant::now() < end {
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let history = server.history.clone();
            callers.spawn(pester(history, server.client().await));
        }
        while let Some(told) = callers.join_next().await {
            said += &told.unwrap();
        }
        said += &pages(&server).await;
        said += &refused_over_http(&server).await;
        server.process.signal("HUP").await;
        sleep(Duration::from_millis(100)).await;
    }
    sidecar.signal("TERM").await;
    let ended = sidecar.end().await;
    let lost = "no server can be followed";
    assert!(ended.stderr.contains(lost), "{}", ended.stderr);
    said += &ended.stderr;
    server.process.signal("TERM").await;
    let ended = server.process.end().await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(
        ended.stderr.contains("DEBUG") && ended.stderr.lines().count() > 10,
        "{}",
        ended.stderr
    );
    said + &ended.stdout + &ended.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_leaked_while_wechat_plays_every_trick() {
    let settings = Settings {
        life: Duration::from_secs(3),
        overlap: Duration::from_secs(1),
        hang: Duration::from_secs(1),
        back_ends: 2,
        lag: Duration::from_millis(300),
        ..Settings::default()
    };
    let wechat = WeChat::start(&APPS, settings).await;
    wechat.turn(&mishaps());
    let text = said_in_chaos(home(&wechat.url(), "", "text"));
    let json = said_in_chaos(home(&wechat.url(), "", "json"));
    let (text, json) = tokio::join!(text, json);
    let tokens: Vec<String> = APPS.iter().flat_map(|app| wechat.tokens(app)).collect();
    assert!(tokens.len() > 4, "{}", tokens.len());
    for said in [text, json] {
        assert!(said.contains("an output failed"), "{said}");
        assert_eq!(leak(&said, &tokens), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_leaked_while_the_network_plays_every_trick() {
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/?secret=CANARY-moved\r\nContent-Length: 0\r\n\r\n";
    let raw = raw::Server::answering(vec![
        Answer::Bytes(moved.into()),
        Answer::Bytes(b"HTTP/1.1 200 OK\r\nCANARY-no-header\r\n\r\n".to_vec()),
        Answer::Bytes(b"CANARY-98_token is not HTTP".to_vec()),
        Answer::Hang(
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"access_token\":\"CANARY".to_vec(),
        ),
        Answer::Reset,
        Answer::Close,
        Answer::json(r#"{"errcode":"CANARY-98_token"}"#),
        Answer::http(200, "text/html", &"CANARY".repeat(20_000)),
        Answer::Bytes(moved.into()),
    ])
    .await;
    let (raw, refused) = (raw.url(), refusing().await);
    let no_tls = raw.replace("http://127.0.0.1", "https://localhost");
    let homes = [
        home(&raw, "", "text"),
        home(&refused, "", "json"),
        home(&no_tls, "", "text"),
        home("http://nowhere.invalid", "", "text"),
        home("https://api.invalid", &format!("proxy = '{raw}'"), "json"),
        home(
            "http://api.invalid",
            &format!("proxy = '{refused}'"),
            "text",
        ),
    ];
    let mut runs = JoinSet::new();
    for home in homes {
        runs.spawn(said_in_chaos(home));
    }
    while let Some(said) = runs.join_next().await {
        assert_eq!(leak(&said.unwrap(), &[]), None);
    }
}

#[tokio::test]
async fn a_secret_in_the_wrong_place_is_not_repeated() {
    let home = home("http://127.0.0.1:9", "", "text");
    let config = home.config();
    let good = fs::read_to_string(&config).unwrap();
    let faults = [
        "secret = 'CANARY-0123456789abcdef'",
        "secret = 'CANARY-0123456789abcdef",
        "secret = CANARY-0123456789abcdef",
        "secret_file = ['CANARY-0123456789abcdef']\nkey = 'CANARY-0123456789abcdef'",
        "key = 'CANARY-0123456789abcdef'\nname = 7",
    ];
    for fault in faults {
        home.write(
            "bad.toml",
            &format!("{good}\n[[app]]\nappid = 'wxmore'\n{fault}\n"),
        );
        let bad = home.path("bad.toml").display().to_string();
        for command in ["check", "serve"] {
            let ended = Process::run(&[command, "--config", &bad]).await;
            assert_eq!(ended.code(), 64, "{ended:?}");
            assert_eq!(leak(&format!("{ended:?}"), &[]), None, "{fault}");
        }
    }
}
