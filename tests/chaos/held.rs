//! SIGSTOP between the note and the request, for longer than the overlap: the worst place for a pause,
//! since the request that follows is older than anybody thinks.

use std::time::Duration;

use tokio::time::sleep;
use wxtokend::sandbox::Settings;

use crate::{
    FEW_CLIENTS, GRPC,
    process::{Home, Server, WeChat, token, token_that, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn stopped_between_note_and_request_it_goes_on_with_a_living_token() {
    let settings = Settings {
        life: Duration::from_secs(20),
        overlap: Duration::from_secs(2),
        ..Settings::default()
    };
    let wechat = WeChat::start(&["classic"], settings).await;
    let refresh = "overlap = '2s'\nfloor = '100ms'\nat = 0.1";
    let home = Home::new(&wechat.url(), refresh, &["classic"]).replace(GRPC, FEW_CLIENTS);
    let hold = [("FAILPOINTS", "asking=1*off->1*sleep(1000)->off")];
    let server = Server::of(home.spawn_with(&hold)).await;
    let mut client = server.client().await;
    let first = token_that(&mut client, "classic", "is there", |_| true).await;
    home.saved("classic").await;
    until("the next fetch is noted", || {
        home.record_of("classic")["note"].is_object()
    })
    .await;
    server.process.signal("STOP").await;
    // A pause is a fact, not a wait for one: longer than the overlap, and than it is held.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        wechat.counts("classic").mints(),
        1,
        "it was stopped before it asked"
    );
    server.process.signal("CONT").await;

    let next = loop {
        let token = token(&mut client, "classic").await.unwrap();
        assert!(
            wechat.accepts("classic", &token.access_token),
            "a dead token"
        );
        if token.access_token != first.access_token {
            break token;
        }
        sleep(Duration::from_millis(5)).await;
    };
    assert!(next.generation > first.generation);
    home.saved("classic").await;
    assert_eq!(wechat.counts("classic").mints(), 2);
    let trouble = server.process.stderr().contains("WARN");
    assert!(!trouble, "{}", server.process.stderr());
}
