//! Everything at once, by the dice.

use std::{env, time::Duration};

use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{City, vitals::Vitals};
use crate::{
    peer::{
        DATA, END_HEADERS, HEADERS, PING, PREFACE, Peer, SETTINGS, frame, get, head, reset,
        streams, values, watch,
    },
    served::eventually,
};

/// How long it lasts.
const SPAN: Duration = Duration::from_secs(8);

/// How many misbehave at a time.
const CROWD: usize = 40;

/// What all of them may add to the program's memory, in MiB.
const MIB: u64 = 100;

/// One peer that does one thing, then does not move for a while, then leaves.
async fn misbehave(url: String, mut dice: Rng) {
    let greets = dice.u8(..8) > 0;
    let mut peer = if greets {
        Peer::with(&url, &[(4, dice.u32(..100))]).await
    } else {
        Peer::silent(&url).await
    };
    peer.polite = dice.bool();
    peer.grants = dice.bool();
    let count = dice.u32(1..2000);
    let bytes = match dice.u8(..9) {
        0 => Vec::new(),
        1 => PREFACE[..dice.usize(..PREFACE.len())].to_vec(),
        2 => streams(count).flat_map(|id| watch(id, "classic")).collect(),
        3 => streams(count).flat_map(|id| get(id, "classic")).collect(),
        4 => streams(count)
            .flat_map(|id| [get(id, "classic"), reset(id)].concat())
            .collect(),
        5 => frame(PING, 0, 0, b"12345678").repeat(2000),
        6 => frame(SETTINGS, 0, 0, &values(&[(4, count)])).repeat(1000),
        7 => [
            frame(HEADERS, END_HEADERS, 1, &head("GetToken")),
            frame(DATA, 0, 1, b"").repeat(1000),
        ]
        .concat(),
        _ => (0..count).map(|_| dice.u8(..)).collect(),
    };
    let (reads, patience) = (dice.bool(), Duration::from_millis(dice.u64(..2000)));
    let doing = async {
        if reads {
            peer.pour(&bytes).await;
            peer.remains().await;
        } else {
            // Without reading a word.
            let _ = peer.send(&bytes).await;
            sleep(SPAN).await;
        }
    };
    let _ = timeout(patience, doing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_peers_at_once_disturb_nobody() {
    let mut city = City::new().await;
    let vitals = Vitals(city.server.process.pid());
    let (before, descriptors) = (vitals.peak(), vitals.descriptors());
    let seed = env::var("WXTOKEND_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("mix this again with WXTOKEND_SEED={seed}");
    let mut dice = Rng::with_seed(seed);
    let (mut crowd, start) = (JoinSet::new(), Instant::now());
    let mut came = 0;
    while start.elapsed() < SPAN {
        while crowd.len() < CROWD {
            crowd.spawn(misbehave(city.url().to_owned(), dice.fork()));
            came += 1;
        }
        crowd.join_next().await.unwrap().unwrap();
        if came % 200 == 0 {
            city.neighbours.are_served().await;
        }
    }
    println!("{came} peers came");
    city.goes_on().await;
    crowd.shutdown().await;
    let gone = || async { vitals.descriptors() <= descriptors };
    eventually(gone, "all are forgotten").await;
    let peak = vitals.peak();
    assert!(peak <= before + MIB, "from {before} to {peak} MiB");
    let stderr = city.server.process.stderr();
    assert!(!stderr.contains("panicked"), "{stderr}");
}
