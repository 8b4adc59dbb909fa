//! The end: it comes in time, whoever is there.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use wxtokend::sandbox::{Fault, Kind, Settings};

use super::shop::{BOTH, Shop, incurious, shortly_before_the_refresh};
use crate::{
    process::watch_request,
    served::{serve_with, settings},
};

/// hyperium/hyper#4170, spiffe/spire#790, grpc/grpc-rust#1820: a graceful shutdown waited for streams that
/// never end. Guards: streams end first, and what is left is cut, `Server::serve` in `grpc/mod.rs`.
/// Without the guard (no limit): it does not end, because of the peer that answers nothing.
#[tokio::test]
async fn hyper_4170_open_streams_and_deaf_peers_do_not_hold_up_the_end() {
    let server = serve_with(settings(), Vec::new(), Duration::from_secs(1)).await;
    server.publish(1);
    let mut unread = Vec::new();
    for _ in 0..10 {
        let mut client = server.client().await;
        for _ in 0..10 {
            let stream = server.history.watch(&mut client, watch_request("shop"));
            unread.push(stream.await.unwrap());
        }
    }
    let silent = server.socket().await;
    let mut deaf = server.socket().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    deaf.write_all(preface).await.unwrap();
    let mut greeting = [0; 9];
    deaf.read_exact(&mut greeting).await.unwrap();
    // Within `SOON`, or it panics.
    server.drain_and_stop().await;
    drop((unread, silent, deaf));
}

/// chanxuehong/wechat#253: the goroutine that refreshes could not be stopped. Guard: `Refresher::finish`
/// waits for a fetch that was sent, but not for ever, `refresher/mod.rs`.
/// Without the guard (no limit): it ends when the call is given up, after 9.9 s.
#[tokio::test(start_paused = true)]
async fn chanxuehong_253_the_refresher_ends_although_wechat_does_not_answer() {
    for mode in BOTH {
        let mut shop = Shop::with(Settings::default(), incurious(mode)).await;
        shop.strike(Fault::new(Kind::Hang));
        let refresh = shortly_before_the_refresh(mode) + Duration::from_mins(1);
        tokio::time::sleep(refresh + Duration::from_millis(100)).await;
        let began = Instant::now();
        let took = shop.world.stop().await;
        assert!(took <= Duration::from_millis(8010), "{mode:?}: {took:?}");
        assert!(took >= Duration::from_secs(5), "a fetch was under way");
        assert_eq!(began.elapsed(), took);
    }
}
