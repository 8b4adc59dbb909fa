//! A log that nobody takes: the pipe is full, and whoever should read it has stopped.

use std::time::Duration;

use tokio::time::Instant;
use wxtokend::sandbox::Settings;

use crate::process::{Home, Server, WeChat, token};

/// The contract's ten seconds, and a second for what is left of the log.
const STOP: Duration = Duration::from_secs(11);

#[tokio::test]
async fn a_log_that_nobody_takes_holds_up_neither_calls_nor_the_stop() {
    let wechat = WeChat::start(&["shop"], Settings::default()).await;
    let home = Home::new(&wechat.url(), "", &["shop"]);
    let (process, _reader) = home.spawn_unheard();
    let server = Server::of(process).await;
    let mut client = server.client().await;
    // Each is worth a line, and so is the token.
    for _ in 0..20 {
        server.process.signal("HUP").await;
        token(&mut client, "shop").await.unwrap();
    }
    drop(client);
    let began = Instant::now();
    server.process.signal("TERM").await;
    let ended = server.process.end().await;
    assert!(ended.status.success(), "{}", ended.status);
    assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
}
