//! `kill -9` before and after each durable step, at the first fetch and at a rotation.
//!
//! The program kills itself with SIGKILL at a failpoint, so it is as dead as by `kill -9`, only at a
//! known place. What the system has taken into its cache survives that; a power failure, which it may
//! not survive, is what the flushing is for, and nothing here can show that it works.

use std::{os::unix::process::ExitStatusExt, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Endpoint;
use wxtokend::{
    pb,
    sandbox::{Knobs, Settings},
};

use crate::{
    process::{Home, PATIENCE, Server, WeChat, token, watch_request},
    seen::Seen,
    served::Client,
};

/// Servers that die at a time: they wait most of it.
const AT_A_TIME: usize = 6;

/// Once it listens again, a living token is there by then. With nothing in the way it takes some
/// milliseconds, two looks at worst; the rest is for a machine that does something else.
const SOON: Duration = Duration::from_secs(10);

/// A death: at which failpoint, and how many times that was passed alive.
#[derive(Clone, Copy, Debug)]
struct Death {
    point: &'static str,
    passes: u32,
}

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
    let steps = [
        "noting",
        "noted",
        "asking",
        "answered",
        "publishing",
        "published",
        "saving",
        "saved",
    ];
    // The first fetch and the first rotation, each of which writes twice: the note, and the record.
    all("classic", deaths(&steps, 2).chain(deaths(&WRITING, 4))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_a_stable_fetch_it_comes_back_with_a_living_token() {
    // It is not noted, and written once, before it is published.
    let steps = ["asking", "answered", "saving", "saved", "publishing"];
    all("stable", deaths(&steps, 2).chain(deaths(&WRITING, 2))).await;
}

fn deaths(points: &[&'static str], times: u32) -> impl Iterator<Item = Death> {
    let of = move |point| (0..times).map(move |passes| Death { point, passes });
    points.iter().copied().flat_map(of)
}

async fn all(name: &'static str, deaths: impl Iterator<Item = Death>) {
    let (seats, mut tasks) = (Arc::new(Semaphore::new(AT_A_TIME)), JoinSet::new());
    for death in deaths {
        let seats = Arc::clone(&seats);
        tasks.spawn(async move {
            let _seat = seats.acquire_owned().await;
            (death, die_and_come_back(name, death).await)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (death, back) = done.unwrap();
        println!("{name}, {death:?}: served again after {back:?}");
        took.push(back);
    }
    println!("{} deaths, at most {:?}", took.len(), took.iter().max());
}

/// Returns how long it took until a living token was served again.
async fn die_and_come_back(name: &str, death: Death) -> Duration {
    let place = format!("killed at `{}` after {} passes", death.point, death.passes);
    let life = if name == "classic" { 20 } else { 4 };
    let wechat = WeChat::start(&[name], settings(life)).await;
    let refresh = "overlap = '2s'\nfloor = '100ms'\nat = 0.1";
    let home = Home::new(&wechat.url(), refresh, &[name]).on_unix();
    let kill = format!("{}={}*off->return", death.point, death.passes);
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

/// What two clients see, one that asks again and again and one that watches, until the server is
/// dead. It must die by itself.
async fn read_until_the_end(server: Server, name: &str, place: &str) -> Vec<pb::Token> {
    let mut watched = Vec::new();
    // It may be dead before they connect.
    let channel = || {
        Endpoint::from_shared(server.url.clone())
            .unwrap()
            .connect_lazy()
    };
    let (mut asking, mut watching) = (Client::new(channel()), Client::new(channel()));
    let ask = async {
        let mut asked = Vec::new();
        // Only a dead server leaves no `ErrorInfo`: others say why there is no token.
        loop {
            match token(&mut asking, name).await {
                Ok(token) => asked.push(token),
                Err(status) if status.details().is_empty() => return asked,
                Err(_) => {}
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    let watch = async {
        let history = &server.history;
        while let Ok(mut stream) = history.watch(&mut watching, watch_request(name)).await {
            while let Ok(Some(message)) = stream.message().await {
                watched.extend(message.token);
            }
        }
    };
    let both = async { tokio::join!(ask, watch).0 };
    let asked = timeout(PATIENCE, both).await;
    let asked = asked.unwrap_or_else(|_| panic!("not {place}: {}", server.process.stderr()));
    let ended = server.process.end().await;
    assert_eq!(ended.status.signal(), Some(9), "{place}: {ended:?}");
    // Each client's own order holds; between them, the higher one was seen by somebody.
    for tokens in [&asked, &watched] {
        let mut own = Seen::default();
        for token in tokens {
            own.sees(name, token, place);
        }
    }
    let mut all = asked;
    all.extend(watched);
    all.sort_by_key(|token| token.generation);
    all
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
