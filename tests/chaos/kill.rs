//! `kill -9` before and after each durable step, at the first fetch and at a rotation.
//!
//! The program kills itself with SIGKILL at a failpoint, so it is as dead as by `kill -9`, only at a
//! known place. What the system has taken into its cache survives that; a power failure, which it may
//! not survive, is what the flushing is for, and nothing here can show that it works.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use wxtokend::{
    pb,
    sandbox::{Knobs, Settings},
};

use crate::{
    deaths::{CLASSIC, Death, STABLE, all, deaths, read_until_the_end},
    process::{Home, Server, WeChat, token},
    seen::Seen,
    served::Client,
};

/// Once it listens again, a living token is there by then. With nothing in the way it takes some
/// milliseconds, two looks at worst; the rest is for a machine that does something else.
const SOON: Duration = Duration::from_secs(10);

/// A token that is replaced after two seconds, while two are good at a time.
fn settings(life: u64) -> Settings {
    Settings {
        life: Duration::from_secs(life),
        overlap: Duration::from_secs(2),
        // Somebody may come while the first fetch is under way.
        latency: Duration::from_millis(30),
        ..Settings::default()
    }
}

/// On the way of one record to the disk.
const WRITING: [&str; 5] = [
    "file half written",
    "file written",
    "file flushed",
    "file renamed",
    "folder flushed",
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_a_classic_fetch_it_comes_back_with_a_living_token() {
    // The first fetch and the first rotation, each of which writes twice: the note, and the record.
    let deaths = deaths(&CLASSIC, 2).chain(deaths(&WRITING, 4));
    all("classic", deaths, |death| {
        die_and_come_back("classic", death)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_a_stable_fetch_it_comes_back_with_a_living_token() {
    // Each writes once.
    let deaths = deaths(&STABLE, 2).chain(deaths(&WRITING, 2));
    all("stable", deaths, |death| die_and_come_back("stable", death)).await;
}

/// Returns how long it took until a living token was served again.
async fn die_and_come_back(name: &str, death: Death) -> Duration {
    let place = death.place();
    let life = if name == "classic" { 20 } else { 4 };
    let wechat = WeChat::start(&[name], settings(life)).await;
    let refresh = "overlap = '2s'\nfloor = '100ms'\nat = 0.1";
    let home = Home::new(&wechat.url(), refresh, &[name]).on_unix();
    let kill = death.failpoints();
    let mut seen = Seen::default();

    let server = Server::of(home.spawn_with(&[("FAILPOINTS", &kill)])).await;
    for token in read_until_the_end(server, name, &place).await {
        seen.sees(name, &token, &place);
    }
    let minted = wechat.counts(name).mints();
    let record = home.record_of(name);

    // No rotation is due while we look.
    wechat.turn(&Knobs {
        life: Some(Duration::from_hours(1)),
        ..Knobs::default()
    });
    let home = home.replace("at = 0.1", "at = 0.9");
    let began = Instant::now();
    let server = home.serve().await;
    let mut client = server.client().await;
    let token = living(&wechat, &mut client, name, &mut seen, &place).await;
    let took = began.elapsed();
    let said = server.process.stderr();
    assert!(
        !said.contains("not believed"),
        "half a file, {place}: {said}"
    );
    home.saved(name).await;
    let after = living(&wechat, &mut client, name, &mut seen, &place).await;

    let more = wechat.counts(name).mints() - minted;
    if name == "classic" {
        // What was on the disk is what the new server knew.
        let knew = record["token"].is_object() && record["note"].is_null();
        assert_eq!(more, u64::from(!knew), "mints, {place}, found {record}");
        if knew {
            assert_eq!(token.access_token, after.access_token, "{place}");
        }
    } else {
        // WeChat repeats a stable token, so none can be lost.
        assert!(more <= 1, "{more} mints, {place}");
    }
    took
}

/// Waits for a token that lives in truth. One that has just died may be seen, but not for long.
async fn living(
    wechat: &WeChat,
    client: &mut Client,
    name: &str,
    seen: &mut Seen,
    place: &str,
) -> pb::Token {
    let began = Instant::now();
    loop {
        if let Ok(token) = token(client, name).await {
            let lives = wechat.accepts(name, &token.access_token);
            seen.sees(name, &token, place);
            if lives {
                return token;
            }
        }
        assert!(began.elapsed() < SOON, "no living token, {place}");
        sleep(Duration::from_millis(5)).await;
    }
}
