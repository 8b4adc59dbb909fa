//! Programs that behave as SDKs do, at a real server whose WeChat is simulated: they keep what they get
//! for as long as they are told, less their margin, and when WeChat refuses it they ask again, at once
//! and without end. The SDKs themselves are in `tests/interop/`.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};
use wxtokend::sandbox::{Pool, Settings};

use super::ask;
use crate::process::{Home, Server, WeChat};

/// Who has asked so often about one call has lost itself in a loop.
const LOOP: usize = 100;

struct Worker {
    hub: String,
    wechat: String,
    margin: Duration,
    held: Option<(String, Instant)>,
    asked: usize,
}

impl Worker {
    async fn token(&mut self) -> String {
        let now = Instant::now();
        if let Some((token, until)) = &self.held
            && now < *until
        {
            return token.clone();
        }
        self.asked += 1;
        let target = "/cgi-bin/token?grant_type=client_credential&appid=wx-c&secret=any";
        let json = ask(&self.hub, "GET", target, &[], "").await.json();
        let token = json["access_token"].as_str().expect("a token").to_owned();
        let life = Duration::from_secs(json["expires_in"].as_u64().unwrap());
        self.held = Some((token.clone(), now + life.saturating_sub(self.margin)));
        token
    }

    /// A business call. How often WeChat refused a token before it went through.
    async fn call(&mut self) -> usize {
        for refused in 0..LOOP {
            let token = self.token().await;
            let target = format!("/cgi-bin/get_api_domain_ip?access_token={token}");
            let reply = ask(&self.wechat, "GET", &target, &[], "").await.json();
            if reply["errcode"].as_i64().unwrap_or(0) == 0 {
                return refused;
            }
            self.held = None;
        }
        panic!("the token is refused for ever");
    }
}

async fn begin(overlap: Duration) -> (WeChat, Home, Server, String) {
    let settings = Settings {
        overlap,
        ..Settings::default()
    };
    let wechat = WeChat::start(&["c"], settings).await;
    let refresh = format!("overlap = '{}s'", overlap.as_secs());
    let home = Home::new(&wechat.url(), &refresh, &["c"]).and("[http]\nlisten = '127.0.0.1:0'\n");
    let server = home.serve().await;
    let hub = server.process.stdout_line("http ").await;
    let hub = hub.strip_prefix("http ").unwrap().to_owned();
    (wechat, home, server, hub)
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_go_on_through_a_foreign_fetch_and_cause_one_fetch() {
    let (wechat, _home, _server, hub) = begin(Duration::from_mins(5)).await;
    let mut workers = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(18);
    for _ in 0..8 {
        let mut worker = Worker {
            hub: hub.clone(),
            wechat: wechat.url(),
            margin: Duration::from_mins(1),
            held: None,
            asked: 0,
        };
        workers.spawn(async move {
            let mut refused = 0;
            while Instant::now() < end {
                refused = refused.max(worker.call().await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (refused, worker.asked)
        });
    }
    // A token that was made just now is not judged.
    tokio::time::sleep(Duration::from_secs(11)).await;
    // The second one retires ours at once.
    for _ in 0..2 {
        wechat.foreign_fetch("c", Pool::Classic);
    }
    for (refused, asked) in workers.join_all().await {
        // Who asks again within a second is believed the twentieth time at the latest, and then waits.
        assert!(
            (1..30).contains(&refused),
            "a call was refused {refused} times"
        );
        assert!(asked < 40, "asked {asked} times");
    }
    let fetches = wechat.counts("c").fetches();
    assert_eq!(
        fetches, 2,
        "the first token, and one for that which was retired"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_that_never_believes_a_token_causes_looks_and_no_fetch() {
    let (wechat, _home, _server, hub) = begin(Duration::from_secs(2)).await;
    let target = "/cgi-bin/stable_token";
    let body = r#"{"grant_type":"client_credential","appid":"wx-c","force_refresh":true}"#;
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        let json = ask(&hub, "POST", target, &[], body).await.json();
        assert!(json["access_token"].is_string(), "{json}");
        asked += 1;
    }
    let counts = wechat.counts("c");
    assert_eq!(counts.fetches(), 1);
    // A token that was made just now is looked at a little later, and what a look has shown is
    // remembered for a while; both scale with the overlap, and both are 10 s with WeChat's.
    assert!(asked > 20, "it is told at once what is known");
    assert!(counts.looks <= 4, "{counts:?}");
}
