//! A day of rotations at sixty times the speed, or a part of one faster still, with callers that use
//! what they are given: WeChat must never refuse it, and memory must not grow.
//!
//! `WXTOKEND_DAY` says how many seconds. From ten minutes on tokens live 120 s with an overlap of 5 s,
//! as a day's two hours and five minutes divided by sixty; before that, 8 s and 2 s.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use wxtokend::{pb, sandbox::Settings};

use crate::{
    FEW_CLIENTS, GRPC,
    history::History,
    measured,
    process::{Home, PATIENCE, WeChat, token, token_that, watch_request},
    seen::Seen,
    served::Client,
};

const BOTH: [&str; 2] = ["classic", "stable"];

/// Seconds when nobody says how many.
const SHORT: u64 = 30;

/// Who ask, and who watch, of each app.
const CALLERS: usize = 8;

/// Memory may grow by so much from the third rotation to the last.
const SLACK: u64 = 4 << 20;

/// What one client did.
#[derive(Debug, Default)]
struct Done {
    used: u64,
    refused: u64,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it takes a while: `.ci/run chaos`, and a whole day: `.ci/full day`"]
async fn in_a_day_of_rotations_wechat_refuses_nothing_that_was_handed_out() {
    let span = std::env::var("WXTOKEND_DAY");
    let span = span.map_or(SHORT, |span| span.parse().expect("seconds"));
    let (life, overlap) = if span < 600 { (8, 2) } else { (120, 5) };
    let settings = Settings {
        life: Duration::from_secs(life),
        overlap: Duration::from_secs(overlap),
        ..Settings::default()
    };
    let wechat = Arc::new(WeChat::start(&BOTH, settings).await);
    let refresh = format!("overlap = '{overlap}s'\nfloor = '100ms'\nprobe_every = '1s'");
    let home = Home::new(&wechat.url(), &refresh, &BOTH).replace(GRPC, FEW_CLIENTS);
    let server = home.serve().await;
    for name in BOTH {
        token_that(&mut server.client().await, name, "is there", |_| true).await;
    }

    let end = Instant::now() + Duration::from_secs(span);
    let mut clients = JoinSet::new();
    for name in BOTH {
        for _ in 0..CALLERS {
            clients.spawn(asks(server.client().await, Arc::clone(&wechat), name, end));
            clients.spawn(watches(
                server.client().await,
                server.history.clone(),
                Arc::clone(&wechat),
                name,
                end,
            ));
        }
    }
    sleep(Duration::from_secs(span.min(3 * life))).await;
    let warm = measured::memory(&server.process);
    let mut all = Done::default();
    for done in clients.join_all().await {
        all.used += done.used;
        all.refused += done.refused;
    }
    let grown = measured::memory(&server.process).saturating_sub(warm);
    let mints = BOTH.map(|name| wechat.counts(name).mints());
    println!(
        "{span} s, tokens minted {mints:?}, used {} times, {} refused, memory {warm} + {grown} bytes",
        all.used, all.refused
    );
    assert_eq!(all.refused, 0, "{}", server.process.stderr());
    assert!(grown < SLACK, "memory grew by {grown} bytes");
    // No more than planned: a classic one at each half of a life, a stable one in each last overlap.
    for (minted, pace) in mints.into_iter().zip([life / 2, life - overlap]) {
        assert!(minted <= span / pace + 2, "{mints:?}");
        assert!(minted >= span / (pace + 2) / 2, "{mints:?}");
    }
    let said = server.process.stderr();
    assert!(!said.contains("WARN"), "{said}");
}

/// Asks, uses, asks again.
async fn asks(mut client: Client, wechat: Arc<WeChat>, name: &str, end: Instant) -> Done {
    let (mut done, mut seen) = (Done::default(), Seen::default());
    while Instant::now() < end {
        let token = token(&mut client, name).await.expect("there is always one");
        seen.sees(name, &token, "while asking");
        done.uses(&wechat, name, &token);
        sleep(Duration::from_millis(50)).await;
    }
    done
}

/// Keeps what it was told last, and uses it all the time.
async fn watches(
    mut client: Client,
    history: History,
    wechat: Arc<WeChat>,
    name: &str,
    end: Instant,
) -> Done {
    let (mut done, mut seen) = (Done::default(), Seen::default());
    let stream = history.watch(&mut client, watch_request(name)).await;
    let mut stream = stream.unwrap();
    let first = timeout(PATIENCE, stream.message())
        .await
        .expect("a snapshot");
    let mut held = first.unwrap().unwrap().token.unwrap();
    while Instant::now() < end {
        match timeout(Duration::from_millis(50), stream.message()).await {
            Ok(message) => held = message.unwrap().unwrap().token.unwrap(),
            Err(_) => done.uses(&wechat, name, &held),
        }
        seen.sees(name, &held, "while watching");
    }
    done
}

impl Done {
    fn uses(&mut self, wechat: &WeChat, name: &str, token: &pb::Token) {
        self.used += 1;
        self.refused += u64::from(!wechat.accepts(name, &token.access_token));
    }
}
