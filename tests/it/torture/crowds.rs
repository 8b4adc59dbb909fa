//! More streams on one connection than anybody needs.

use std::collections::BTreeMap;

use wxtokend::pb::Cause;

use super::Town;
use crate::{
    peer::{
        DATA, HEADERS, Peer, REFUSED_STREAM, RST_STREAM, STREAM_CLOSED, WIDE, WINDOW, get, grant,
        reset, streams, watch,
    },
    served::{settings, within},
};

const CROWD: u32 = 10_000;

/// What the settings of tests allow, and the contract's least.
const LIMIT: u32 = 1000;

/// The error of a connection that is ended because it asks for too much.
const ENHANCE_YOUR_CALM: u32 = 11;

/// The identifier of the setting for the window that streams begin with.
const STREAM_WINDOW: u16 = 4;

/// One connection that is never stopped by what it may read.
async fn thirsty(town: &Town) -> Peer {
    let mut peer = Peer::with(town.url(), &[(STREAM_WINDOW, WIDE)]).await;
    peer.grants = false;
    peer.send(&grant(0, WIDE - WINDOW)).await.unwrap();
    peer
}

type Words = BTreeMap<u32, Result<(Cause, u64), u32>>;

/// Opens so many streams, and what the first word on each of them is.
async fn crowd(town: &Town, count: u32) -> (Peer, Words) {
    let mut peer = thirsty(town).await;
    let mut words = Words::new();
    // The server lets nobody send more than 64 KiB at a time.
    let all: Vec<u32> = streams(count).collect();
    for some in all.chunks(1000) {
        let calls: Vec<u8> = some.iter().flat_map(|&id| watch(id, "shop")).collect();
        assert_eq!(peer.pour(&calls).await, calls.len());
        words.extend(next_words(&mut peer, some.len()).await);
    }
    (peer, words)
}

/// The next word on each stream, a message or a refusal, until `count` have one.
async fn next_words(peer: &mut Peer, count: usize) -> Words {
    let mut words = BTreeMap::new();
    let all = async {
        while words.len() < count {
            let frame = peer.frame().await.expect("the connection lives");
            let word = match frame.kind {
                DATA => Ok(frame.told()),
                // A refused stream hears once more, that nobody waits for its request.
                RST_STREAM if frame.error() == STREAM_CLOSED => continue,
                RST_STREAM => Err(frame.error()),
                _ => continue,
            };
            words.insert(frame.stream, word);
        }
    };
    within(all, "a word on each stream").await;
    words
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_all_others_live() {
    let mut town = Town::new().await;
    let too_many = LIMIT + 400;
    let (mut peer, words) = crowd(&town, too_many).await;
    let mut heard: Vec<u32> = Vec::new();
    for (stream, word) in words {
        match word {
            Ok(told) => {
                assert_eq!(told, (Cause::Current, 1));
                heard.push(stream);
            }
            Err(error) => assert_eq!(error, REFUSED_STREAM, "stream {stream}"),
        }
    }
    assert!(heard.iter().copied().eq(streams(LIMIT)), "{heard:?}");
    town.rotates().await;
    let words = next_words(&mut peer, heard.len()).await;
    assert!(words.values().all(|word| *word == Ok((Cause::Rotated, 2))));
    assert!(words.keys().eq(&heard), "those with a place");

    // Who leaves makes room for somebody else.
    let next = 2 * too_many + 1;
    peer.send(&get(next, "shop")).await.unwrap();
    peer.await_frame("a refusal", |frame| {
        frame.kind == RST_STREAM && frame.stream == next && frame.error() == REFUSED_STREAM
    })
    .await;
    let freed = [reset(heard[0]), get(next + 2, "shop")].concat();
    peer.send(&freed).await.unwrap();
    let answer = peer.await_kind(HEADERS).await;
    assert_eq!(answer.stream, next + 2);
    drop(peer);
    town.is_rid_of_them().await;
}

#[tokio::test]
async fn who_opens_streams_without_end_is_told_to_calm_down_and_cut() {
    let mut town = Town::new().await;
    let mut peer = thirsty(&town).await;
    let calls: Vec<u8> = streams(CROWD).flat_map(|id| watch(id, "shop")).collect();
    peer.pour(&calls).await;
    let remains = within(peer.remains(), "the cut").await;
    assert_eq!(remains.goaway, Some(ENHANCE_YOUR_CALM));
    town.rotates().await;
    town.is_rid_of_them().await;
}

#[tokio::test]
async fn with_room_for_them_ten_thousand_streams_on_one_connection_all_hear_of_a_rotation() {
    let mut settings = settings();
    settings.max_streams_per_connection = CROWD;
    let mut town = Town::with(settings).await;
    let (mut peer, words) = crowd(&town, CROWD).await;
    assert!(words.values().all(|word| *word == Ok((Cause::Current, 1))));
    town.rotates().await;
    let words = next_words(&mut peer, words.len()).await;
    assert!(words.values().all(|word| *word == Ok((Cause::Rotated, 2))));
    drop(peer);
    town.is_rid_of_them().await;
}
