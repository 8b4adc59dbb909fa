//! Peers that never get as far as a call.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Neighbours, Town};
use crate::{
    peer::{
        CONTINUATION, DATA, END_HEADERS, HEADERS, PREFACE, Peer, Remains, SETTINGS, frame, head,
    },
    served::{eventually, settings, within},
};

/// The first bytes of somebody who wants TLS 1.3.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03";

/// Says `bytes`, one at a time; what is left in the end. No answer to a ping.
async fn drip(mut peer: Peer, bytes: &[u8], pause: Duration) -> Remains {
    peer.polite = false;
    for byte in bytes {
        if peer.send(&[*byte]).await.is_err() {
            break;
        }
        if let Ok(over) = timeout(pause, peer.frame()).await
            && over.is_none()
        {
            break;
        }
    }
    peer.remains().await
}

#[tokio::test]
async fn who_does_not_speak_http2_soon_is_cut_without_a_word() {
    let patience = Duration::from_millis(500);
    let mut settings = settings();
    settings.first_bytes_timeout = patience;
    let mut town = Town::with(settings).await;
    let url = town.url().to_owned();
    let start = Instant::now();
    let silent = async |first: &[u8]| {
        let mut peer = Peer::silent(&url).await;
        peer.send(first).await.unwrap();
        let remains = within(peer.remains(), "the cut").await;
        assert_eq!(remains.frames, 0, "{first:?}");
        start.elapsed()
    };
    let slowly = async {
        let peer = Peer::silent(&url).await;
        let dripping = drip(peer, PREFACE, Duration::from_millis(50));
        within(dripping, "the cut").await.frames
    };
    let (nothing, half, slow, ()) =
        tokio::join!(silent(b""), silent(&PREFACE[..12]), slowly, town.rotates());
    assert!(
        nothing >= patience && half >= patience,
        "{nothing:?} {half:?}"
    );
    assert_eq!(slow, 0, "a byte at a time buys no time");
    let other: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        CLIENT_HELLO,
        b"PRI * HTTP/2.0\r\n\r\nSX",
        &[0; 100],
    ];
    for language in other {
        silent(language).await;
    }
    town.rotates().await;
    town.is_rid_of_them().await;
}

#[tokio::test]
async fn a_crowd_that_says_nothing_does_not_shut_the_door() {
    let mut settings = settings();
    settings.max_connections = 50;
    settings.max_handshakes = 20;
    settings.first_bytes_timeout = Duration::from_hours(1);
    let mut town = Town::with(settings).await;
    let mut crowd = Vec::new();
    for turn in 0..300 {
        let mut peer = Peer::silent(town.url()).await;
        if turn % 2 == 0 {
            peer.send(&PREFACE[..20]).await.unwrap();
        }
        crowd.push(peer);
    }
    // Somebody new, amid the crowd.
    drop(Neighbours::of(town.url(), "shop", &town.server.history).await);
    town.rotates().await;
    let few = || async { town.connections() <= 20 + Neighbours::CONNECTIONS };
    eventually(few, "all but twenty are shown out").await;
    drop(crowd);
    town.is_rid_of_them().await;
}

/// A town that pings its peers each second, and waits a second for the answer.
async fn alert() -> Town {
    let mut settings = settings();
    settings.keepalive_interval = Duration::from_secs(1);
    settings.keepalive_timeout = Duration::from_secs(1);
    Town::with(settings).await
}

#[tokio::test]
async fn who_never_ends_a_frame_or_its_headers_is_cut_when_it_answers_no_ping() {
    let mut town = alert().await;
    let url = town.url().to_owned();
    let slowly = async |bytes: Vec<u8>| {
        let peer = Peer::greeting(&url).await;
        drip(peer, &bytes, Duration::from_millis(50)).await
    };
    let settings = frame(SETTINGS, 0, 0, &[0; 6000]);
    let headers = frame(HEADERS, 0, 1, &head("GetToken"));
    let continued = frame(CONTINUATION, 0, 1, &[0; 6000]);
    let mut silent = Peer::greeting(&url).await;
    silent.polite = false;
    let never_answers = within(silent.remains(), "who never answers is cut");
    let all = async {
        tokio::join!(
            slowly(settings),
            slowly(headers.clone()),
            slowly([headers.clone(), continued].concat()),
            never_answers,
            town.rotates(),
        )
    };
    within(all, "they are cut").await;

    // Who answers pings may stay for as long as it likes, but not amid its headers.
    let mut peer = Peer::greeting(&url).await;
    let talk = timeout(Duration::from_secs(3), peer.remains()).await;
    assert!(talk.is_err(), "{talk:?}");
    peer.send(&headers).await.unwrap();
    let remains = within(peer.remains(), "the cut").await;
    assert_eq!(remains.goaway, Some(1), "{remains:?}");
    town.rotates().await;
    town.is_rid_of_them().await;
}

#[tokio::test]
async fn a_call_that_never_comes_whole_ends_after_10_s() {
    let mut town = Town::new().await;
    let mut peer = Peer::greeting(town.url()).await;
    let open = frame(HEADERS, END_HEADERS, 1, &head("GetToken"));
    peer.send(&open).await.unwrap();
    let start = Instant::now();
    let a_byte_at_a_time = async {
        // It announces a message of a thousand bytes.
        for byte in [0, 0, 0, 3, 0xe8].into_iter().chain([0; 1000]) {
            let byte = frame(DATA, 0, 1, &[byte]);
            if peer.send(&byte).await.is_err() {
                return None;
            }
            let answer = timeout(Duration::from_millis(500), peer.await_kind(HEADERS));
            if let Ok(answer) = answer.await {
                return Some(answer);
            }
        }
        None
    };
    let answer = timeout(Duration::from_secs(30), a_byte_at_a_time).await;
    let answer = answer.unwrap().unwrap();
    assert!(answer.ends_stream(), "{answer:?}");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(9900), "{took:?}");
    peer.is_alive().await;
    town.rotates().await;
    drop(peer);
    town.is_rid_of_them().await;
}
