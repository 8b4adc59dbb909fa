//! Peers that ask and do not read, or not for long.

use std::time::Duration;

use tokio::{
    join,
    time::{Instant, sleep, timeout},
};
use wxtokend::{pb::Cause, tokens::Outcome};

use super::{Neighbours, Town};
use crate::{
    peer::{
        CANCEL, DATA, GOAWAY, HEADERS, PING, Peer, RST_STREAM, WINDOW, call, frame, get, grant,
        streams, watch,
    },
    process::stale,
    served::{eventually, settings, within},
};

const STREAM_WINDOW: u16 = 4;

/// The contract's 30 s, and what a machine with other work may take longer.
const STALL: Duration = Duration::from_secs(30);
const LATE: Duration = Duration::from_secs(15);

/// Waits for the reset of `stream`, and returns when it came.
async fn is_reset(peer: &mut Peer, stream: u32) -> Instant {
    let reset = async {
        loop {
            let frame = peer.frame().await.expect("the connection lives");
            if frame.kind == RST_STREAM && frame.stream == stream {
                assert_eq!(frame.error(), CANCEL);
                return Instant::now();
            }
        }
    };
    timeout(STALL + LATE, reset).await.expect("a reset")
}

/// A stream and a call without any window, on a connection that goes on.
async fn no_window_of_its_own(url: &str) {
    let mut peer = Peer::with(url, &[(STREAM_WINDOW, 0)]).await;
    let both = [watch(1, "shop"), get(3, "shop")].concat();
    let start = Instant::now();
    peer.send(&both).await.unwrap();
    let first = is_reset(&mut peer, 1).await;
    assert!(first - start >= STALL, "too soon");
    peer.is_alive().await;
    let wide = [get(5, "shop"), grant(5, 1000)].concat();
    peer.send(&wide).await.unwrap();
    peer.await_frame("an answer", |f| f.kind == DATA && f.stream == 5)
        .await;
}

/// More streams than the window of their connection can feed.
async fn no_window_of_the_connection(url: &str) {
    let mut peer = Peer::greeting(url).await;
    peer.grants = false;
    let calls: Vec<u8> = streams(900).flat_map(|id| watch(id, "shop")).collect();
    let start = Instant::now();
    peer.pour(&calls).await;
    // All of them, sooner or later: a rotation finds the first stuck as well.
    for last in [899 * 2 + 1, 1] {
        let at = is_reset(&mut peer, last).await;
        assert!(at - start >= STALL, "too soon");
    }
    // Some that are still there may take a part of it.
    peer.send(&grant(0, 1_000_000)).await.unwrap();
    peer.send(&get(2001, "shop")).await.unwrap();
    peer.await_frame("an answer", |f| f.kind == DATA && f.stream == 2001)
        .await;
}

/// Takes no byte off its socket, and makes the server fill it.
async fn no_byte_off_the_socket(url: &str) -> Peer {
    let mut peer = Peer::greeting(url).await;
    peer.send(&watch(1, "shop")).await.unwrap();
    // The kernel keeps some megabytes of answers.
    let pings = frame(PING, 0, 0, b"12345678").repeat(2_000_000);
    let sent = timeout(Duration::from_secs(10), peer.send(&pings)).await;
    assert!(sent.is_err(), "the server reads no more: {sent:?}");
    peer
}

#[tokio::test]
async fn readers_that_take_nothing_are_reset_after_30_s_and_the_others_miss_nothing() {
    let mut town = Town::new().await;
    let url = town.url().to_owned();
    let others = async {
        for _ in 0..14 {
            town.rotates().await;
            sleep(Duration::from_secs(2)).await;
        }
    };
    let (stuck, (), (), ()) = join!(
        no_byte_off_the_socket(&url),
        no_window_of_its_own(&url),
        no_window_of_the_connection(&url),
        others
    );
    let cut = || async { town.connections() == Neighbours::CONNECTIONS };
    eventually(cut, "who takes no byte is cut as well").await;
    drop(stuck);
    town.rotates().await;
}

#[tokio::test]
async fn a_reader_that_wakes_up_gets_what_it_was_handed_and_then_the_newest() {
    let mut town = Town::new().await;
    let mut peer = Peer::with(town.url(), &[(STREAM_WINDOW, 0)]).await;
    peer.send(&watch(1, "shop")).await.unwrap();
    peer.await_kind(HEADERS).await;
    for _ in 0..5 {
        town.rotates().await;
    }
    peer.send(&grant(1, WINDOW)).await.unwrap();
    let mut told = Vec::new();
    while told.last().is_none_or(|(_, generation)| *generation < 6) {
        told.push(peer.await_kind(DATA).await.told());
    }
    assert_eq!(told, [(Cause::Current, 1), (Cause::Rotated, 6)]);
    town.rotates().await;
    assert_eq!(peer.await_kind(DATA).await.told(), (Cause::Rotated, 7));
}

#[tokio::test]
async fn an_aged_connection_says_so_and_lets_the_call_under_way_finish() {
    let mut settings = settings();
    settings.max_connection_age = Duration::from_secs(2);
    // No neighbours: their connections would age as well.
    let mut server = crate::served::serve_with(settings, Vec::new(), STALL).await;
    server.publish(1);
    let mut peer = Peer::greeting(&server.url).await;
    let report = call(3, "ForceRefresh", &stale("shop", "token-1"));
    let both = [watch(1, "shop"), report].concat();
    peer.send(&both).await.unwrap();
    let reported = within(server.publisher.reports.recv(), "the report").await;

    let mut told = Vec::new();
    let mut goaway = None;
    let stream_ends = async {
        loop {
            let frame = peer.frame().await.expect("a call is under way");
            match frame.kind {
                DATA => told.push(frame.told()),
                GOAWAY => goaway = Some(frame.error()),
                _ if frame.ends_stream() => break assert_eq!(frame.stream, 1),
                _ => {}
            }
        }
    };
    within(stream_ends, "the stream ends").await;
    assert_eq!(told, [(Cause::Current, 1), (Cause::Draining, 1)]);
    assert_eq!(goaway, Some(0), "no error, please leave");
    peer.is_alive().await;

    let reply = reported.unwrap().reply;
    reply.send(Ok(Outcome::StillValid)).unwrap();
    let remains = within(peer.remains(), "the end").await;
    assert_eq!(remains.ended, [3], "{remains:?}");
    assert!(remains.resets.is_empty(), "{remains:?}");
}
