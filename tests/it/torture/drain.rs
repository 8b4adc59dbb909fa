//! A stop while ten thousand streams are open and peers behave as they like.

use std::time::Duration;

use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Response, Status};
use wxtokend::{
    pb::{Cause, ForceRefreshResponse},
    sandbox::{Knobs, Settings},
};

use super::admin_of;
use crate::{
    peer::{
        DATA, GOAWAY, HEADERS, PING, PREFACE, Peer, RST_STREAM, SETTINGS, WIDE, WINDOW, frame, get,
        grant, streams, watch,
    },
    process::{Ended, Home, PATIENCE, Server, WeChat, http, row, stale, token},
    served::within,
};

/// The contract: from the signal to the end, whatever peers do.
const STOP: Duration = Duration::from_secs(10);

/// What a machine with other work may add.
const LATE: Duration = Duration::from_secs(5);

type Answer = Result<Response<ForceRefreshResponse>, Status>;

const STREAM_WINDOW: u16 = 4;

const CONNECTIONS: u32 = 100;
const STREAMS: u32 = 100;

/// WeChat, and a server that has a token which lives for an hour.
async fn serving() -> (WeChat, Home, Server) {
    let lives = Settings {
        life: Duration::from_hours(1),
        ..Settings::default()
    };
    let wechat = WeChat::start(&["classic"], lives).await;
    let home = Home::new(&wechat.url(), "", &["classic"]);
    let home = home.and("[admin]\nlisten = '127.0.0.1:0'\n");
    let server = home.serve().await;
    (wechat, home, server)
}

/// A connection with many streams, each of which has its token.
async fn audience(url: &str) -> Peer {
    let mut peer = Peer::with(url, &[(STREAM_WINDOW, WIDE)]).await;
    peer.grants = false;
    peer.send(&grant(0, WIDE - WINDOW)).await.unwrap();
    let calls: Vec<u8> = streams(STREAMS)
        .flat_map(|id| watch(id, "classic"))
        .collect();
    peer.pour(&calls).await;
    for _ in 0..STREAMS {
        let (cause, _) = peer.await_kind(DATA).await.told();
        assert_eq!(cause, Cause::Current);
    }
    peer
}

/// Reads to the end: each stream says that the server drains, then ends as it should.
async fn hears_the_end(mut peer: Peer) {
    let (mut drained, mut ended, mut goaway) = (0, 0, None);
    while let Some(frame) = peer.frame().await {
        match frame.kind {
            DATA if frame.told().0 == Cause::Draining => drained += 1,
            // What the fetch under way has brought.
            DATA => assert_eq!(frame.told().0, Cause::Rotated),
            HEADERS if frame.ends_stream() => ended += 1,
            GOAWAY => goaway = Some(frame.error()),
            SETTINGS => {}
            _ => assert_ne!(frame.kind, RST_STREAM, "{frame:?}"),
        }
    }
    assert_eq!((drained, ended, goaway), (STREAMS, STREAMS, Some(0)));
}

/// Peers that would keep the server for ever.
async fn clingers(url: &str) -> Vec<Peer> {
    let mut all = Vec::new();
    for _ in 0..50 {
        all.push(Peer::silent(url).await);
        let mut half = Peer::silent(url).await;
        half.send(&PREFACE[..20]).await.unwrap();
        all.push(half);
        // It acknowledges nothing, because nobody reads for it.
        let mut deaf = Peer::greeting(url).await;
        deaf.send(&watch(1, "classic")).await.unwrap();
        all.push(deaf);
        // Its streams can say nothing more.
        let mut narrow = Peer::with(url, &[(STREAM_WINDOW, 0)]).await;
        let both = [watch(1, "classic"), get(3, "classic")].concat();
        narrow.send(&both).await.unwrap();
        all.push(narrow);
        let mut unfinished = Peer::greeting(url).await;
        let begin = frame(HEADERS, 0, 1, b"");
        unfinished.send(&begin).await.unwrap();
        all.push(unfinished);
    }
    // And one whose socket is full of what it does not read.
    let mut full = Peer::greeting(url).await;
    full.send(&watch(1, "classic")).await.unwrap();
    let pings = frame(PING, 0, 0, b"12345678").repeat(2_000_000);
    let sent = timeout(Duration::from_secs(5), full.send(&pings)).await;
    assert!(sent.is_err(), "the server reads no more");
    all.push(full);
    all
}

/// A call under way, for which a fetch is under way at a slow WeChat.
async fn slow_fetch(wechat: &WeChat, server: &Server) -> JoinHandle<Answer> {
    let mut client = server.client().await;
    let token = token(&mut client, "classic").await.unwrap();
    wechat.turn(&Knobs {
        latency: Some(Duration::from_secs(1)),
        ..Knobs::default()
    });
    let mut report = stale("classic", &token.access_token);
    report.leaked = true;
    let report = tokio::spawn(async move { client.force_refresh(report).await });
    let asked = async {
        while wechat.counts("classic").classic_fetches < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("it asks");
    report
}

/// Asks the readiness probe until it says no.
async fn is_unready(admin: &str) {
    let unready = async { while http(admin, "GET", "/readyz", "").await.0 != 503 {} };
    within(unready, "readiness is off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_ten_thousand_streams_politely_and_all_others_within_10_s() {
    let (wechat, _home, server) = serving().await;
    let mut readers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        readers.spawn(hears_the_end(audience(&server.url).await));
    }
    let clingers = clingers(&server.url).await;
    let report = slow_fetch(&wechat, &server).await;

    let began = Instant::now();
    server.process.signal("TERM").await;
    is_unready(&admin_of(&server)).await;
    let all = readers.join_all();
    timeout(STOP + LATE, all).await.expect("every reader's end");
    println!("the last stream ended after {:?}", began.elapsed());
    // One mint is done, and a second, which a leaked token takes, does not begin any more.
    let (code, reason, _) = row(&report.await.unwrap().unwrap_err());
    assert_eq!((code, &*reason), (Code::Unavailable, "DRAINING"));
    assert_eq!(wechat.counts("classic").classic_fetches, 2);
    let ended = server.process.end().await;
    println!("the process ended after {:?}", began.elapsed());
    assert!(began.elapsed() < STOP + LATE, "{:?}", began.elapsed());
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("cut connections"), "{}", ended.stderr);
    drop(clingers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let (_wechat, _home, server) = serving().await;
    let mut deaf = Peer::greeting(&server.url).await;
    deaf.send(&watch(1, "classic")).await.unwrap();
    deaf.await_kind(DATA).await;
    server.process.signal("TERM").await;
    server.process.until_stderr("stopping").await;
    let began = Instant::now();
    server.process.signal("TERM").await;
    let Ended { status, stderr, .. } = server.process.end().await;
    assert!(began.elapsed() < LATE, "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(0), "{stderr}");
    let said = "told to stop again: ending at once";
    assert!(stderr.contains(said), "{stderr}");
}
