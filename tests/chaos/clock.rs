//! The time of day jumps by an hour, in both directions, while the program runs and while it does not.
//!
//! libfaketime moves only the time of day: the program reads boot time from the kernel itself.

use std::{fs, path::PathBuf, time::Duration};

use tokio::time::{Instant, timeout};
use wxtokend::{pb, sandbox::Settings};

use crate::{
    FEW_CLIENTS, GRPC,
    process::{Home, Server, WeChat, time, token, token_that, until, watch_request},
};

const BOTH: [&str; 2] = ["classic", "stable"];
const HOUR: Duration = Duration::from_hours(1);

/// Two readings on a busy machine may be so far apart.
const ABOUT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_an_hour_fast_costs_no_token() {
    the_clock_jumps("+1h", |time| time + HOUR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_an_hour_slow_costs_no_token() {
    the_clock_jumps("-1h", |time| time.saturating_sub(HOUR)).await;
}

async fn the_clock_jumps(jump: &str, jumped: fn(Duration) -> Duration) {
    let wechat = WeChat::start(&BOTH, Settings::default()).await;
    let home = Home::new(&wechat.url(), "probe_every = '1s'", &BOTH).replace(GRPC, FEW_CLIENTS);
    let file = home.path("time").display().to_string();
    home.write("time", "+0s");
    let home = home
        .variable("LD_PRELOAD", &libfaketime().display().to_string())
        .variable("FAKETIME_TIMESTAMP_FILE", &file)
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let began = Instant::now();
    let mut server = home.serve().await;
    let before = both(&server).await;
    for name in BOTH {
        home.saved(name).await;
    }
    let mut client = server.client().await;
    let stream = server.history.watch(&mut client, watch_request("stable"));
    let mut stream = stream.await.unwrap();
    stream.message().await.unwrap().unwrap();

    home.write("time", jump);
    server.process.until_stderr("the wall clock was set").await;
    unmoved(&before, &both(&server).await, jumped);
    // It goes on looking, and is not surprised again.
    let looks = wechat.counts("stable").looks;
    until("it looks again", || {
        wechat.counts("stable").looks > looks + 1
    })
    .await;
    let said = server.process.stderr();
    assert_eq!(said.matches("the wall clock was set").count(), 1, "{said}");
    assert_eq!(said.matches("WARN").count(), 1, "{said}");
    let news = timeout(Duration::from_millis(100), stream.message()).await;
    assert!(news.is_err(), "a stream was told of something: {news:?}");

    // The file is from before the jump, and the boot is the same.
    server.process.kill().await;
    let server = home.serve().await;
    unmoved(&before, &both(&server).await, jumped);
    assert_eq!(wechat.counts("classic").fetches(), 1, "no fetch at all");
    // A stable token is asked for with every look, and otherwise not.
    let (asked, most) = (
        wechat.counts("stable").fetches(),
        began.elapsed().as_secs() + 4,
    );
    assert!(asked <= most, "{asked} fetches in {most} s");
    assert_eq!(wechat.counts("stable").mints(), 1);
}

async fn both(server: &Server) -> Vec<pb::Token> {
    let mut client = server.client().await;
    let mut tokens = Vec::new();
    for name in BOTH {
        token_that(&mut client, name, "is there", |_| true).await;
        tokens.push(token(&mut client, name).await.unwrap());
    }
    tokens
}

fn unmoved(before: &[pb::Token], after: &[pb::Token], jumped: fn(Duration) -> Duration) {
    for (before, after) in before.iter().zip(after) {
        assert_eq!(before.access_token, after.access_token);
        assert_eq!(before.generation, after.generation);
        let life = |token: &pb::Token| token.time_to_live.unwrap().seconds;
        let lost = life(before) - life(after);
        assert!((0..60).contains(&lost), "{lost} s of its life are gone");
        for (was, is) in [
            (before.expire_time, after.expire_time),
            (before.issue_time, after.issue_time),
        ] {
            let (expected, shown) = (jumped(time(was)), time(is));
            assert!(
                shown.abs_diff(expected) < ABOUT,
                "{shown:?}, not {expected:?}"
            );
        }
    }
}

/// The library of Debian's package `libfaketime`, for programs with threads.
fn libfaketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap();
    let paths = folders.map(|folder| folder.unwrap().path().join("faketime/libfaketimeMT.so.1"));
    let found = paths.into_iter().find(|path| path.exists());
    found.expect("libfaketime is not installed (Debian: `faketime`)")
}
