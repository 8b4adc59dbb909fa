//! Peers that say what makes no sense: the stream or the connection ends, and nothing else.

use std::{env, time::Duration};

use fastrand::Rng;
use tokio::time::timeout;

use super::{
    Town,
    phrases::{self, Phrase, WHOLE},
};
use crate::{
    peer::{
        DATA, END_HEADERS, Frame, GOAWAY, HEADERS, PREFACE, Peer, RST_STREAM, SETTINGS, WINDOW,
        WINDOW_UPDATE, frame, get, head, watch,
    },
    served::within,
};

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// The connection, with a word about what was wrong.
    Connection,
    /// The stream: answered with nothing but a status, or reset.
    Stream,
    /// Nothing.
    Nothing,
}

use Ends::{Connection, Nothing, Stream};

/// The stream of a call that comes after the nonsense.
const LATER: u32 = 101;

/// Whether a frame brings a token.
fn answers(frame: &Frame) -> bool {
    frame.kind == DATA && !frame.payload.is_empty()
}

/// Says `bytes`, then makes a call as it should be. What ends, if not what is `expected` to.
async fn differs(town: &Town, (name, bytes): Phrase, expected: Ends) -> Option<String> {
    let mut peer = Peer::greeting(town.url()).await;
    peer.pour(&[bytes, get(LATER, "shop")].concat()).await;
    let (mut first, mut later) = (false, false);
    let seen = async {
        while !(later && (first || expected == Nothing)) {
            match peer.frame().await {
                None => return Connection,
                Some(frame) if frame.kind == GOAWAY => return Connection,
                Some(frame) if answers(&frame) && frame.stream != LATER => return Nothing,
                Some(frame) if frame.kind == RST_STREAM || frame.ends_stream() => {
                    first |= frame.stream != LATER;
                    later |= frame.stream == LATER && frame.kind == HEADERS;
                }
                Some(_) => {}
            }
        }
        if first { Stream } else { Nothing }
    };
    let seen = within(seen, name).await;
    (seen != expected).then(|| format!("{name}: {seen:?}"))
}

#[tokio::test]
async fn nonsense_ends_a_stream_or_its_connection_and_nothing_else() {
    let mut town = Town::new().await;
    let all = [
        (phrases::harmless(), Nothing),
        (phrases::messages(), Stream),
        (phrases::calls(), Stream),
        (phrases::frames(), Connection),
        (phrases::numbers(), Connection),
        (phrases::blocks(), Connection),
    ];
    let mut wrong = Vec::new();
    for (phrases, expected) in all {
        for phrase in phrases {
            wrong.extend(differs(&town, phrase, expected).await);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    town.rotates().await;
    town.is_rid_of_them().await;
}

#[tokio::test]
async fn a_message_that_goes_on_and_on_is_refused_at_64_kib() {
    let mut town = Town::new().await;
    let mut peer = Peer::greeting(town.url()).await;
    let open = frame(HEADERS, END_HEADERS, 1, &head("GetToken"));
    let announced = frame(DATA, 0, 1, &[0, 255, 255, 255, 255]);
    peer.send(&[open, announced].concat()).await.unwrap();
    let chunk = [7; 10_000];
    let (mut window, mut room) = (WINDOW - 5, WINDOW - 5);
    let mut sent = 0;
    let refused = async {
        loop {
            let least = window.min(room);
            if least >= 10_000 {
                peer.send(&frame(DATA, 0, 1, &chunk)).await.unwrap();
                (window, room, sent) = (window - 10_000, room - 10_000, sent + 10_000);
            }
            // As long as there is window, nothing need come.
            let patience = Duration::from_millis(if least >= 10_000 { 1 } else { 5000 });
            let Ok(frame) = timeout(patience, peer.frame()).await else {
                continue;
            };
            let frame = frame.expect("the connection lives");
            match (frame.kind, frame.stream) {
                (WINDOW_UPDATE, 0) => window += granted(&frame.payload),
                (WINDOW_UPDATE, _) => room += granted(&frame.payload),
                _ if frame.ends_stream() => break,
                _ => {}
            }
        }
    };
    within(refused, "a refusal").await;
    assert!(sent <= 200_000, "{sent} bytes were read");
    peer.is_alive().await;
    town.rotates().await;
}

fn granted(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}

#[tokio::test]
async fn who_says_farewell_and_goes_on_is_answered_or_cut() {
    let mut town = Town::new().await;
    let mut peer = Peer::greeting(town.url()).await;
    let farewell = frame(GOAWAY, 0, 0, &[0; 8]);
    let all = [watch(1, "shop"), farewell, get(3, "shop")].concat();
    peer.pour(&all).await;
    let answered = async {
        while let Some(frame) = peer.frame().await {
            if frame.stream == 3 && frame.ends_stream() {
                break;
            }
        }
    };
    within(answered, "an answer or an end").await;
    town.rotates().await;
    drop(peer);
    town.is_rid_of_them().await;
}

/// Bytes without sense; sometimes they look like frames.
fn garbage(dice: &mut Rng) -> Vec<u8> {
    let bytes = |dice: &mut Rng, most| (0..dice.usize(..most)).map(|_| dice.u8(..)).collect();
    let mut all: Vec<u8> = Vec::new();
    if dice.u8(..4) > 0 {
        all.extend(PREFACE);
    }
    if dice.bool() {
        all.extend(frame(SETTINGS, 0, 0, b""));
    }
    for _ in 0..dice.usize(..20) {
        let payload: Vec<u8> = bytes(dice, 300);
        if dice.u8(..5) == 0 {
            all.extend(payload);
            continue;
        }
        let (kind, stream) = (dice.u8(..11), dice.u32(..8));
        all.extend(match dice.u8(..3) {
            0 => get(stream, "shop"),
            1 => frame(kind, dice.u8(..), stream, &payload),
            _ => frame(kind, WHOLE, stream, &[head("WatchToken"), payload].concat()),
        });
    }
    all
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let mut town = Town::new().await;
    let seed = env::var("WXTOKEND_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("say this garbage again with WXTOKEND_SEED={seed}");
    let mut dice = Rng::with_seed(seed);
    let mut peers = Vec::new();
    for turn in 0..300 {
        let mut peer = Peer::silent(town.url()).await;
        let garbage = garbage(&mut dice);
        let said = timeout(Duration::from_secs(1), peer.pour(&garbage)).await;
        assert!(said.is_ok(), "turn {turn}: neither cut nor read");
        peers.push(peer);
        if turn % 100 == 99 {
            town.rotates().await;
        }
    }
    drop(peers);
    town.rotates().await;
    town.is_rid_of_them().await;
}
