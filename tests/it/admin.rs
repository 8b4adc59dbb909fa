//! Metrics and probes over real sockets: that they tell the truth, the same one as gRPC health, and
//! that nobody can keep others from hearing it.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use wxtokend::{
    admin::Server,
    config::{Admin, Listen},
    domain::{Moment, Remedy},
    sandbox::{Fault, Kind, Knobs, Settings},
    tokens::View,
};

use crate::{
    process::{Home, Process, WeChat, http},
    served::{Running, app, eventually, failed, serve, within},
};

const README: &str = include_str!("../../README.md");

/// Contract: a change shows within this long, in both directions.
const SHOWN: Duration = Duration::from_secs(1);

/// A gRPC server driven by hand, with its admin listener.
struct Watched {
    server: Running,
    url: String,
    health: HealthClient<Channel>,
    end: CancellationToken,
    serving: JoinHandle<()>,
}

async fn watched() -> Watched {
    let server = serve().await;
    let settings = Admin {
        listen: Listen::Tcp("127.0.0.1:0".into()),
    };
    let (tokens, metrics) = (server.tokens.clone(), server.metrics.clone());
    let admin = Server::bind(&settings, tokens, metrics, server.stop.clone()).await;
    let admin = admin.unwrap();
    let end = CancellationToken::new();
    Watched {
        url: admin.local_url().to_owned(),
        health: HealthClient::new(server.channel().await),
        serving: tokio::spawn(admin.serve(end.clone())),
        server,
        end,
    }
}

impl Watched {
    async fn get(&self, target: &str) -> (u16, String) {
        http(&self.url, "GET", target, "").await
    }

    async fn metrics(&self) -> String {
        self.get("/metrics").await.1
    }

    /// Everything is well, except `other`, which has no token.
    fn all_is_well(&self) {
        self.server.publish(1);
        let trouble = failed(Remedy::BackOff, self.now());
        self.server.publisher.publish(&app("other"), trouble);
        self.server.publisher.beat(self.now());
    }

    fn now(&self) -> Moment {
        self.server.tokens.now().boot
    }

    async fn health(&self, service: &str) -> bool {
        let service = service.into();
        let mut health = self.health.clone();
        let answer = health.check(HealthCheckRequest { service });
        answer.await.unwrap().into_inner().status() == ServingStatus::Serving
    }

    /// What both kinds of probe say is `live`, `ready`, and whether `shop` has a token.
    async fn agrees(&self, [live, ready, shop]: [bool; 3]) -> bool {
        let status = |well| if well { 200 } else { 503 };
        let http = self.get("/livez").await.0 == status(live)
            && self.get("/readyz").await.0 == status(ready)
            && self.get("/readyz?verbose").await.0 == status(ready);
        let service = self.health("wxtokend.v1.TokenService").await == ready;
        let grpc = self.health("live").await == live && self.health("").await == ready;
        let page = self.metrics().await;
        let metrics = value(&page, "live") == Some(f64::from(u8::from(live)))
            && value(&page, "ready") == Some(f64::from(u8::from(ready)));
        http && grpc && service && metrics && self.health("app/shop").await == shop
    }

    async fn shows(&self, expected: [bool; 3], what: &str) {
        let began = Instant::now();
        eventually(|| self.agrees(expected), what).await;
        let took = began.elapsed();
        assert!(took < SHOWN, "{what}: {took:?}");
        println!("{what}: {took:?}");
    }
}

/// The value of a line of the page, without the prefix that all have.
fn value(page: &str, series: &str) -> Option<f64> {
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("wxtokend_")?.rsplit_once(' ')?;
        (name == series).then(|| value.parse().unwrap())
    };
    page.lines().find_map(line)
}

/// A cause, and what must be said of it.
struct Row {
    cause: &'static str,
    bring_about: fn(&Watched),
    /// `live`, ready, `app/shop`.
    probes: [bool; 3],
    /// In `/readyz?verbose`.
    line: &'static str,
    /// A line of the metrics, and its value.
    metric: (&'static str, f64),
}

const ROWS: [Row; 6] = [
    Row {
        cause: "no token",
        bring_about: |w| {
            let view = failed(Remedy::IpList, w.now());
            w.server.publisher.publish(&app("shop"), view);
        },
        probes: [true, false, false],
        line: "[-]app/shop failed: there is no valid token: WeChat refused; hint: do this",
        metric: ("token_usable{app=\"shop\"}", 0.0),
    },
    Row {
        cause: "about to die, no successor",
        bring_about: |w| {
            let view = View {
                trouble: failed(Remedy::IpList, w.now()).trouble,
                ..w.server.alive(7, Duration::from_millis(30_900))
            };
            w.server.publisher.publish(&app("shop"), view);
        },
        probes: [true, true, true],
        line: "[!]app/shop ok: generation 7, 30 s left; no new token: WeChat refused; hint: do this",
        metric: ("refresh_failing{app=\"shop\"}", 1.0),
    },
    Row {
        cause: "an outcome is open",
        bring_about: |w| {
            let view = View {
                suspect: true,
                ..w.server.alive(7, Duration::from_millis(30_900))
            };
            w.server.publisher.publish(&app("shop"), view);
        },
        probes: [true, true, true],
        line: "[!]app/shop ok: generation 7, 30 s left; WeChat may have made another token, which ends this one early",
        metric: ("suspect{app=\"shop\"}", 1.0),
    },
    Row {
        cause: "refresher stuck",
        bring_about: |w| {
            let long_ago = w.now() - Duration::from_secs(61);
            w.server.publisher.beat(long_ago);
        },
        probes: [false, true, true],
        line: "[-]refresher failed: its loop has not turned for 61 s",
        metric: ("live", 0.0),
    },
    Row {
        cause: "store failing",
        bring_about: |w| {
            let view = View {
                unsaved: Some("`data/wx1.json` cannot be written: no space".into()),
                ..w.server.alive(1, Duration::from_hours(2))
            };
            w.server.publisher.publish(&app("shop"), view);
        },
        probes: [true, true, true],
        line: "[!]store/shop failing: `data/wx1.json` cannot be written: no space; it is served from memory",
        metric: ("store_failing{app=\"shop\"}", 1.0),
    },
    // The last one: there is no way back.
    Row {
        cause: "draining",
        bring_about: |w| w.server.stop.cancel(),
        probes: [true, false, true],
        line: "[-]shutdown failed: the server is shutting down",
        metric: ("draining", 1.0),
    },
];

#[tokio::test]
async fn every_cause_shows_in_both_kinds_of_probe_and_in_metrics_within_a_second_and_so_does_its_end()
 {
    let watched = watched().await;
    watched
        .shows([true, false, false], "nothing is known yet")
        .await;
    for row in ROWS {
        watched.all_is_well();
        watched.shows([true, true, true], "all is well").await;
        let (series, sick) = row.metric;
        let healthy = value(&watched.metrics().await, series);
        assert_eq!(healthy, Some(1.0 - sick), "{}", row.cause);

        (row.bring_about)(&watched);
        watched.shows(row.probes, row.cause).await;
        let (_, lines) = watched.get("/readyz?verbose").await;
        let said = lines.lines().any(|line| line == row.line);
        assert!(said, "{}:\n{lines}", row.cause);
        let last = lines.lines().last().unwrap();
        let verdict = if row.probes[1] { "passed" } else { "failed" };
        assert_eq!(last, format!("readyz check {verdict}"));
        assert_eq!(
            value(&watched.metrics().await, series),
            Some(sick),
            "{}",
            row.cause
        );
    }
}

#[test]
fn the_readme_says_of_each_cause_what_is_tested() {
    for row in ROWS {
        let words = row.probes.map(|well| if well { "✓" } else { "✗" });
        let name = row.metric.0.split('{').next().unwrap();
        let begin = format!("| **{}** | {} |", row.cause, words.join(" | "));
        let line = README.lines().find(|line| line.starts_with(&begin));
        let line = line.unwrap_or_else(|| panic!("no `{begin}`"));
        assert!(
            line.contains(&format!("`{name} {}`", row.metric.1)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_token_is_described_by_its_generation_its_expiry_and_the_servers_clock() {
    let watched = watched().await;
    let expiry = "token_expire_timestamp_seconds{app=\"shop\"}";
    let page = watched.metrics().await;
    assert_eq!(value(&page, expiry), None, "there is no token");
    assert_eq!(value(&page, "token_generation{app=\"shop\"}"), Some(0.0));
    watched.all_is_well();
    let page = watched.metrics().await;
    let left = value(&page, expiry).unwrap() - value(&page, "clock_seconds").unwrap();
    assert!((7199.0..=7200.0).contains(&left), "{left}");
    assert_eq!(value(&page, "token_generation{app=\"shop\"}"), Some(1.0));
    assert_eq!(value(&page, "holder{app=\"other\"}"), Some(1.0));
    let build = format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&page, &build), Some(1.0));
}

#[tokio::test]
async fn every_metric_is_in_the_readme_and_has_help_and_a_type() {
    let watched = watched().await;
    watched.all_is_well();
    watched.server.metrics.watching(&app("shop")).streams.inc();
    watched.server.metrics.refreshing(&app("shop"));
    let page = watched.metrics().await;
    let heads = |what| {
        let lines = page.lines().filter_map(move |line| line.strip_prefix(what));
        let names = lines.map(|rest: &str| rest.split(' ').next().unwrap().to_owned());
        names.collect::<BTreeSet<String>>()
    };
    let types = heads("# TYPE ");
    assert_eq!(types, heads("# HELP "));
    for name in &types {
        assert!(
            README.contains(&format!("`{}", &name["wxtokend_".len()..])),
            "{name}"
        );
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts.iter().find_map(|part| name.strip_suffix(part));
        let known = types.contains(name) || family.is_some_and(|name| types.contains(name));
        assert!(known, "{line}");
    }
    println!(
        "{} metrics, {} lines, {} bytes",
        types.len(),
        page.lines().count(),
        page.len()
    );
}

#[tokio::test]
async fn there_are_three_pages_to_read_and_nothing_to_write() {
    let watched = watched().await;
    let table = [
        ("GET", "/livez", 200),
        ("HEAD", "/livez", 200),
        ("GET", "/livez?verbose", 200),
        ("HEAD", "/readyz", 503),
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("PUT", "/readyz", 405),
        ("DELETE", "/livez", 405),
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("GET", "/livez/", 404),
        ("GET", "/metrics/../livez", 404),
    ];
    for (method, target, status) in table {
        let answer = http(&watched.url, method, target, "").await;
        assert_eq!(answer.0, status, "{method} {target}");
        let said = method != "HEAD" && ![404, 405].contains(&status);
        assert_eq!(
            !answer.1.is_empty(),
            said,
            "{method} {target}: {}",
            answer.1
        );
    }
}

#[tokio::test]
async fn a_probe_gets_through_whatever_others_do() {
    let watched = watched().await;
    watched.all_is_well();
    let address = watched.url.strip_prefix("http://").unwrap();
    let connect = || async { TcpStream::connect(address).await.unwrap() };
    let mut silent = connect().await;
    let mut crowd = Vec::new();
    let mut slowest = Duration::ZERO;
    for n in 0..400 {
        let mut peer = connect().await;
        let said: &[u8] = match n % 4 {
            0 => b"",
            1 => b"GET /met",
            2 => b"\x16\x03\x01garbage\r\n\r\n",
            // Asks for more than it will ever read.
            _ => &b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200),
        };
        // It may have been shown out already.
        let _ = peer.write_all(said).await;
        crowd.push(peer);
        if n % 10 == 0 {
            let began = Instant::now();
            assert_eq!(watched.get("/readyz").await.0, 200, "after {n}");
            slowest = slowest.max(began.elapsed());
        }
    }
    println!("the slowest of 40 probes among 400 hostile peers: {slowest:?}");
    let mut rest = Vec::new();
    let closed = within(silent.read_to_end(&mut rest), "the oldest is shown out").await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test]
async fn it_answers_while_the_server_drains_and_until_its_own_end() {
    let watched = watched().await;
    watched.all_is_well();
    let mut idle = TcpStream::connect(watched.url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    watched.server.publisher.drain();
    watched.server.stop.cancel();
    let stopped = within(watched.server.serving, "gRPC ends");
    stopped.await.unwrap();
    assert_eq!(http(&watched.url, "GET", "/livez", "").await.0, 200);
    assert_eq!(http(&watched.url, "GET", "/readyz", "").await.0, 503);
    watched.end.cancel();
    within(watched.serving, "it ends").await.unwrap();
    let mut rest = Vec::new();
    let closed = within(idle.read_to_end(&mut rest), "connections are cut").await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_tells_of_its_drain_until_it_is_gone() {
    let wechat = WeChat::start(&["shop"], Settings::default()).await;
    wechat.turn(&Knobs {
        faults: vec![Fault::new(Kind::Hang)],
        ..Knobs::default()
    });
    let home = Home::new(&wechat.url(), "", &["shop"]).and("[admin]\nlisten = '127.0.0.1:0'\n");
    let server = home.serve().await;
    let line = server.process.stdout_line("admin ").await;
    let url = line.strip_prefix("admin ").unwrap();
    assert_eq!(http(url, "GET", "/livez", "").await.0, 200);
    assert_eq!(http(url, "GET", "/readyz", "").await.0, 503);
    let asked = || async { wechat.counts("shop").stable_fetches > 0 };
    eventually(asked, "a fetch is under way").await;

    server.process.signal("TERM").await;
    let drains = || async {
        let (status, lines) = http(url, "GET", "/readyz?verbose", "").await;
        status == 503 && lines.contains("[-]shutdown failed")
    };
    eventually(drains, "the drain shows").await;
    let (status, page) = http(url, "GET", "/metrics", "").await;
    assert_eq!((status, value(&page, "draining")), (200, Some(1.0)));
    let ended = server.process.end().await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    let address = url.strip_prefix("http://").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody is left");
}

#[tokio::test]
async fn an_address_in_use_is_told_with_the_setting_to_change() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let variables = [
        ("WXTOKEND__GRPC__LISTEN", "127.0.0.1:0"),
        ("WXTOKEND__ADMIN__LISTEN", &address),
    ];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let ended = Process::start(&["serve", "--sandbox"], &variables)
        .end()
        .await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    for words in [
        "cannot serve metrics and probes",
        "another program already does",
        "set another `admin.listen`",
    ] {
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn the_sandbox_takes_settings_from_the_environment_and_refuses_bad_ones() {
    let start = |listen: &str| {
        let variables = [
            ("WXTOKEND__GRPC__LISTEN", "127.0.0.1:0"),
            ("WXTOKEND__ADMIN__LISTEN", listen),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        Process::start(&["serve", "--sandbox"], &variables)
    };
    let sandbox = start("127.0.0.1:0");
    let line = sandbox.stdout_line("admin ").await;
    let url = line.strip_prefix("admin ").unwrap();
    let ready = || async { http(url, "GET", "/readyz", "").await.0 == 200 };
    eventually(ready, "the sandbox is ready").await;
    let ended = start("nowhere").end().await;
    assert_eq!(ended.code(), 64, "{ended:?}");
    let words = "WXTOKEND__ADMIN__LISTEN: `admin.listen` must be";
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
}
