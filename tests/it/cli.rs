//! The command line as people and scripts meet it: what it prints, where, and how it ends.

use std::{net::TcpListener, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;
use wxtokend::sandbox::{Fault, Knobs, Settings};

use crate::process::{Ended, Home, PATIENCE, Process, Server, WeChat, appid, http};

fn long_lives() -> Settings {
    Settings {
        life: Duration::from_hours(1),
        overlap: Duration::from_secs(1),
        ..Settings::default()
    }
}

/// A server with a token of `stable`, and with `ctrouble` that WeChat refuses.
async fn serving() -> (WeChat, Home, Server) {
    let names = ["stable", "ctrouble"];
    let wechat = WeChat::start(&names, long_lives()).await;
    wechat.turn(&Knobs {
        faults: vec![Fault {
            appid: Some(appid("ctrouble")),
            ..Fault::errcode(40164)
        }],
        ..Knobs::default()
    });
    let home = Home::new(&wechat.url(), "overlap = '1s'\nprobe_every = '0s'", &names).on_unix();
    let server = home.serve().await;
    // Ready: each app has had its first outcome.
    let began = Instant::now();
    while run(&server, &["health"]).await.code() != 0 {
        assert!(began.elapsed() < PATIENCE, "{}", server.process.stderr());
    }
    (wechat, home, server)
}

async fn run(server: &Server, arguments: &[&str]) -> Ended {
    Process::run(&[arguments, &["--endpoint", &server.url]].concat()).await
}

/// stdout of a command that must succeed and say nothing else.
async fn data(server: &Server, arguments: &[&str]) -> String {
    let ended = run(server, arguments).await;
    assert_eq!((ended.code(), &*ended.stderr), (0, ""), "{arguments:?}");
    ended.stdout
}

/// Checks the form of an error: nothing on stdout, `error:`, perhaps causes, an empty line, `hint:`.
fn is_error(ended: &Ended, code: i32, words: &str) {
    assert_eq!((ended.code(), &*ended.stdout), (code, ""), "{ended:?}");
    let told = ended.stderr.as_str();
    let (error, hint) = told.split_once("\n\n").unwrap_or((told.trim_end(), ""));
    for (place, line) in error.lines().enumerate() {
        let lead = if place == 0 || code == 64 {
            "error: "
        } else {
            "  caused by: "
        };
        assert!(line.starts_with(lead), "{told}");
        assert!(!line.ends_with('.'), "{told}");
    }
    assert!(
        hint.is_empty() || hint.starts_with("hint: ") && hint.lines().count() == 1,
        "{told}"
    );
    assert!(told.contains(words), "`{words}` is missing in\n{told}");
}

fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    humantime::parse_rfc3339_weak(text).is_ok() || humantime::parse_rfc3339(text).is_ok()
}

/// Checks the form of a token in JSON.
fn is_token(token: &Value, shown: bool) {
    let names: Vec<&String> = token.as_object().unwrap().keys().collect();
    let mut expected = vec![
        "access_token",
        "app_id",
        "expire_time",
        "generation",
        "issue_time",
        "keep_for",
        "time_to_live",
    ];
    if !shown {
        expected.remove(0);
    }
    assert_eq!(names, expected);
    assert!(token["generation"].is_u64(), "{token}");
    assert!(token["keep_for"].is_number() && token["time_to_live"].is_number());
    assert!(
        is_time(&token["issue_time"]) && is_time(&token["expire_time"]),
        "{token}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_the_token_and_nothing_else() {
    let (wechat, _home, server) = serving().await;
    assert!(server.url.starts_with("unix:///"), "{}", server.url);
    for app in ["stable", "wx-stable"] {
        let token = data(&server, &["get", app]).await;
        assert!(token.ends_with('\n') && token.lines().count() == 1);
        assert!(wechat.accepts("stable", token.trim_end()));
    }
    let answer = data(&server, &["get", "wx-stable", "--json"]).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    is_token(&answer["token"], true);
    assert_eq!(
        answer["token"]["app_id"], "wx-stable",
        "the name it was asked with"
    );
    assert!(answer["token"]["time_to_live"].as_f64().unwrap() > 3500.0);

    let endpoint = [("WXTOKEND_ENDPOINT".to_owned(), server.url.clone())];
    let ended = Process::start(&["get", "stable"], &endpoint).end().await;
    assert_eq!(
        ended.code(),
        0,
        "the endpoint of the environment: {ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_says_what_came_of_it() {
    let (wechat, _home, server) = serving().await;
    let token = data(&server, &["get", "stable"]).await;
    let token = token.trim_end();
    let (named, old) = (["--token", token], ["--generation", "1"]);
    let outcomes = [
        (
            named,
            "OUTCOME_STILL_VALID",
            "WeChat accepts the reported token",
        ),
        (
            old,
            "OUTCOME_ALREADY_NEWER",
            "another token was current already",
        ),
    ];
    for (stale, outcome, said) in outcomes {
        let ended = run(&server, &[&["refresh", "stable"], &stale[..]].concat()).await;
        let expected = (0, format!("{token}\n"), format!("{said}\n"));
        assert_eq!((ended.code(), ended.stdout, ended.stderr), expected);
        let answer = data(
            &server,
            &[&["refresh", "stable", "--json"], &stale[..]].concat(),
        )
        .await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        is_token(&answer["token"], true);
        assert_eq!(answer["outcome"], outcome);
    }
    let ended = run(
        &server,
        &["refresh", "stable", "--token", token, "--errcode", "48001"],
    )
    .await;
    is_error(&ended, 1, "(NOT_A_TOKEN_ERROR)");
    let ended = run(
        &server,
        &["refresh", "stable", "--token", token, "--errcode", "-1"],
    )
    .await;
    is_error(&ended, 1, "(NOT_A_TOKEN_ERROR)");
    assert_eq!(wechat.counts("stable").mints(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_an_exit_code() {
    let (_wechat, _home, server) = serving().await;
    for service in ["", "live", "wxtokend.v1.TokenService", "app/stable"] {
        let said = data(&server, &["health", "--service", service]).await;
        assert_eq!(said, "SERVING\n", "{service}");
    }
    assert_eq!(data(&server, &["health"]).await, "SERVING\n");
    let ended = run(&server, &["health", "--service", "app/ctrouble"]).await;
    let expected = (1, "NOT_SERVING\n", "");
    assert_eq!((ended.code(), &*ended.stdout, &*ended.stderr), expected);
    is_error(
        &run(&server, &["health", "--service", "nothing"]).await,
        1,
        "",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_has_its_exit_code_and_a_hint() {
    let (_wechat, home, server) = serving().await;
    let ended = run(&server, &["get", "ctrouble"]).await;
    is_error(&ended, 1, "(NEEDS_OPERATOR)");
    assert!(ended.stderr.contains("127.0.0.1"), "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains("\n\nhint: add `127.0.0.1` to the app's API IP list"),
        "{}",
        ended.stderr
    );
    let ended = run(&server, &["get", "nothing"]).await;
    is_error(&ended, 1, "(UNKNOWN_APP)");
    assert!(ended.stderr.contains("hint: use a name or an appid"));
    is_error(
        &run(&server, &["watch", "nothing"]).await,
        1,
        "(UNKNOWN_APP)",
    );
    is_error(&run(&server, &["get", "a b"]).await, 1, "");
    let ended = run(&server, &["get", "stable", "--key-file", "/nowhere/key"]).await;
    is_error(&ended, 1, "/nowhere/key");

    let nobody = format!("unix://{}", home.path("nobody.sock").display());
    for endpoint in [nobody.as_str(), "http://127.0.0.1:9"] {
        for command in ["get", "watch", "health"] {
            let app = if command == "health" {
                "--service=live"
            } else {
                "stable"
            };
            let ended = Process::run(&[command, app, "--endpoint", endpoint]).await;
            is_error(&ended, 69, &format!("`{endpoint}`"));
            assert!(
                ended
                    .stderr
                    .contains("\n\nhint: start one with `wxtokend serve`")
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_exit_code_2() {
    let wrong: [&[&str]; 11] = [
        &[],
        &["nonsense"],
        &["get"],
        &["get", "shop", "--nonsense"],
        &["serve"],
        &["check"],
        &["refresh", "shop"],
        &["refresh", "shop", "--generation", "one"],
        &["refresh", "shop", "--generation", "1", "--token", "t"],
        &["sandbox", "--life", "long"],
        &["sandbox", "--appid", "wx1"],
    ];
    for arguments in wrong {
        let ended = Process::run(arguments).await;
        assert_eq!(
            (ended.code(), &*ended.stdout),
            (2, ""),
            "{arguments:?} {ended:?}"
        );
        assert!(
            ended.stderr.contains("--help") || arguments.is_empty(),
            "{}",
            ended.stderr
        );
    }
    let help = Process::run(&["--help"]).await;
    assert_eq!((help.code(), &*help.stderr), (0, ""));
    for command in [
        "serve", "get", "watch", "refresh", "health", "check", "sandbox",
    ] {
        assert!(
            help.stdout.contains(&format!("\n  {command} ")),
            "{}",
            help.stdout
        );
    }
    let version = Process::run(&["--version"]).await;
    assert_eq!(
        version.stdout,
        concat!("wxtokend ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_told_completely() {
    let home = Home::new("http://127.0.0.1:9", "", &["stable"]);
    let good = home.config();
    let ended = Process::run(&["check", "--config", &good]).await;
    assert_eq!(
        (ended.code(), &*ended.stdout),
        (0, &*format!("{good}: fine, 1 app(s)\n"))
    );

    home.write(
        "bad.toml",
        "[grpc]\nlisten = 7\n[http]\nlisten = 'x'\n[refresh]\nat = 7\n[[app]]\nappid = 'wx1'\n",
    );
    let bad = home.path("bad.toml").display().to_string();
    for command in ["check", "serve"] {
        let ended = Process::run(&[command, "--config", &bad]).await;
        is_error(&ended, 64, "\n\nhint: ");
        let problems: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(problems.len(), 4, "{}", ended.stderr);
        for (problem, line) in problems.iter().zip([2, 4, 6, 7]) {
            assert!(
                problem.starts_with(&format!("error: {bad}:{line}:")),
                "{problem}"
            );
        }
    }
    let ended = Process::run(&["serve", "--config", "/nowhere/wxtokend.toml"]).await;
    is_error(&ended, 64, "/nowhere/wxtokend.toml");

    // A warning is no problem.
    std::fs::remove_file(home.path("stable")).unwrap();
    let ended = Process::run(&["check", "--config", &good]).await;
    assert_eq!(ended.code(), 0);
    assert!(
        ended.stderr.starts_with("warning: app `stable`: "),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_prints_a_line_for_each_message_and_survives_a_restart() {
    let lives = Settings {
        life: Duration::from_secs(3),
        overlap: Duration::from_secs(1),
        ..Settings::default()
    };
    let wechat = WeChat::start(&["stable"], lives).await;
    let home = Home::new(
        &wechat.url(),
        "overlap = '1s'\nfloor = '100ms'",
        &["stable"],
    )
    .on_unix();
    let mut server = home.serve().await;
    let watch = |more: &[&str]| {
        let arguments = [&["watch", "stable", "--endpoint", &server.url], more].concat();
        Process::start(&arguments, &[])
    };
    let (plain, shown) = (watch(&[]), watch(&["--show-token"]));
    let (in_json, all_in_json) = (watch(&["--json"]), watch(&["--json", "--show-token"]));
    let rotated = |text: &String| text.contains("ROTATED");
    for watching in [&plain, &shown, &in_json, &all_in_json] {
        watching.until_stdout("a rotation", rotated).await;
    }
    server.process.signal("TERM").await;
    server.process.end().await;
    for watching in [&plain, &shown, &in_json, &all_in_json] {
        watching
            .until_stdout("the last word", |text| text.contains("DRAINING"))
            .await;
        watching.until_stderr("watching again").await;
    }
    server = home.serve().await;
    for watching in [&plain, &shown, &in_json, &all_in_json] {
        let after = |text: &String| {
            text.split_once("DRAINING")
                .is_some_and(|(_, rest)| rest.lines().count() > 1)
        };
        watching
            .until_stdout("a token of the new server", after)
            .await;
    }
    let tokens = wechat.tokens("stable");
    check_columns(&plain.stdout(), &tokens, false);
    check_columns(&shown.stdout(), &tokens, true);
    for (watching, with_token) in [(in_json, false), (all_in_json, true)] {
        for line in watching.stdout().lines() {
            let message: Value = serde_json::from_str(line).unwrap();
            assert!(message["cause"].as_str().unwrap().starts_with("CAUSE_"));
            let mut token = message["token"].clone();
            token
                .as_object_mut()
                .unwrap()
                .remove("previous_expire_time");
            is_token(&token, with_token);
        }
    }
    drop(server);
}

/// Time, cause, generation, life left and, if wanted, the token.
fn check_columns(text: &str, tokens: &[String], shown: bool) {
    let mut last = 0;
    for line in text.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        assert_eq!(columns.len(), if shown { 5 } else { 4 }, "{line}");
        assert!(is_time(&columns[0].into()), "{line}");
        assert!(
            ["CURRENT", "ROTATED", "HEARTBEAT", "DRAINING"].contains(&columns[1]),
            "{line}"
        );
        let generation: u64 = columns[2].parse().unwrap();
        assert!(generation >= last, "{text}");
        last = generation;
        assert!(
            columns[3].ends_with('s') && columns[3].trim_end_matches('s').parse::<u32>().is_ok()
        );
        assert_eq!(
            tokens.iter().any(|token| line.contains(token.as_str())),
            shown,
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_sandbox_works_at_once_and_its_three_commands_too() {
    // Whoever else has the port: it is taken.
    let _taken = TcpListener::bind("127.0.0.1:50051");
    let began = Instant::now();
    let server = Server::of(Process::start(&["serve", "--sandbox"], &[])).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_ne!(server.url, "http://127.0.0.1:50051");
    server
        .process
        .stdout_line("sandbox http://127.0.0.1:")
        .await;
    server.process.until_stderr(" refresh sandbox ").await;
    let told = server.process.stderr();
    let commands: Vec<&str> = told.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(commands.len(), 3, "{told}");
    // A token is judged when it is ten seconds old, so the last one takes its time. The watch would
    // go on for ever.
    let [get, watch, refresh] =
        [("5", commands[0]), ("3", commands[1]), ("15", commands[2])].map(shell);
    let (get, watch, refresh) = tokio::join!(get, watch, refresh);
    for (ended, code, expected) in [
        (get, 0, "\"access_token\""),
        (watch, 124, "CURRENT"),
        (refresh, 0, "98_"),
    ] {
        let said = String::from_utf8_lossy(&ended.stdout);
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(said.contains(expected), "{ended:?}");
    }
    let lines = server.process.stdout().lines().count();
    assert_eq!(lines, 3, "one line for each listener, nothing else");
    server.process.signal("INT").await;
    assert_eq!(server.process.end().await.code(), 0);
}

/// Runs what was suggested, as it was suggested.
async fn shell((seconds, command): (&str, &str)) -> std::process::Output {
    let command = format!("timeout {seconds} sh -c '{}'", command.trim());
    let ran = tokio::process::Command::new("sh")
        .args(["-c", &command])
        .output()
        .await;
    ran.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_alone_speaks_wechats_protocol_and_turns_its_knobs() {
    let arguments = [
        "sandbox",
        "--listen",
        "127.0.0.1:0",
        "--life",
        "1m",
        "--overlap",
        "5s",
        "--appid",
        "wxa",
        "--secret",
        "s1",
        "--appid",
        "wxb",
        "--secret",
        "s2",
    ];
    let process = Process::start(&arguments, &[]);
    let url = process.stdout_line("sandbox ").await;
    let url = url.strip_prefix("sandbox ").unwrap().to_owned();
    let fetch = "/cgi-bin/token?grant_type=client_credential&appid=wxb&secret=s2";
    let (_, answer) = http(&url, "GET", fetch, "").await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["expires_in"], 60);
    let token = answer["access_token"].as_str().unwrap();
    let use_it = format!("/cgi-bin/user/get?access_token={token}");
    let (_, used) = http(&url, "GET", &use_it, "").await;
    assert!(used.contains("\"total\""), "{used}");
    let ask = json!({ "grant_type": "client_credential", "appid": "wxa", "secret": "wrong" });
    let (_, refused) = http(&url, "POST", "/cgi-bin/stable_token", &ask.to_string()).await;
    assert!(refused.contains("40125"), "{refused}");

    let knobs =
        json!({ "appid": "wxb", "faults": [{ "kind": "errcode", "errcode": 45009, "calls": 1 }] });
    let (status, told) = http(&url, "POST", "/sandbox/knobs", &knobs.to_string()).await;
    assert_eq!((status, &*told), (200, "{}"));
    let (_, refused) = http(&url, "GET", fetch, "").await;
    assert!(refused.contains("45009"), "{refused}");
    let (status, told) = http(&url, "POST", "/sandbox/revoke?appid=wxb", "").await;
    assert_eq!((status, &*told), (200, r#"{"revoked":true}"#));
    let (_, used) = http(&url, "GET", &use_it, "").await;
    assert!(used.contains("40001"), "{used}");
    let (status, told) = http(&url, "POST", "/sandbox/knobs", r#"{"nonsense":1}"#).await;
    assert_eq!(status, 400, "{told}");

    let (_, state) = http(&url, "GET", "/sandbox/state", "").await;
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["counts"]["classic_fetches"], 2);
    assert_eq!(state["counts"]["classic_mints"], 1);
    let (status, help) = http(&url, "GET", "/sandbox", "").await;
    assert_eq!(status, 200);
    assert!(help.contains("/sandbox/knobs"), "{help}");
    process.signal("TERM").await;
    assert_eq!(process.end().await.code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_cannot_be_is_refused() {
    let wrong: [(&[&str], &str); 4] = [
        (&["--life", "0s"], "`life`"),
        (&["--busy-rate", "2"], "`busy_rate`"),
        (&["--ip", "10.0.0.0/99"], "`10.0.0.0/99`"),
        (&["--listen", "nowhere.invalid:1"], "`nowhere.invalid:1`"),
    ];
    for (more, words) in wrong {
        let account = [
            "sandbox",
            "--listen",
            "127.0.0.1:0",
            "--appid",
            "wx1",
            "--secret",
            "s",
        ];
        let arguments: Vec<&str> = match more[0] {
            "--listen" => [&account[..1], more, &account[3..]].concat(),
            _ => [&account[..], more].concat(),
        };
        is_error(&Process::run(&arguments).await, 1, words);
    }
}
