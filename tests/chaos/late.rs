//! A fetch that was given up while the network was cut, and the network that is mended.

use tokio::process::Command;

use crate::{
    FEW_CLIENTS, GRPC,
    process::{Home, Process, Server, token_that},
};

/// It would retire the token that was obtained in between, and nobody would know.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_was_given_up_does_not_arrive_when_the_network_is_mended() {
    let mut lossy = Command::new("python3");
    lossy.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/lossy.py"));
    let wechat = Process::of(lossy, &[]);
    let url = wechat.stdout_line("at ").await.replace("at ", "");
    let home = Home::new(&url, "floor = '100ms'", &["classic"])
        .replace("timeout = '2s'", "timeout = '1s'")
        .replace(GRPC, FEW_CLIENTS);
    let server = Server::of(home.spawn_with(&[])).await;
    server
        .process
        .until_stderr("its answer did not arrive")
        .await;
    wechat.stdout_line("gone 1").await;
    wechat.signal("USR1").await;
    let mut client = server.client().await;
    token_that(&mut client, "classic", "is there", |_| true).await;
    let heard = wechat.stdout();
    assert!(!heard.contains("request 1\n"), "{heard}");
}
