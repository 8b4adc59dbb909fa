//! A name with several addresses, as that of a headless service has: each address counts as a server.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    time::Duration,
};

use wxtokend::sandbox::Settings;

use crate::{
    FEW_CLIENTS, GRPC,
    mounts::mount,
    process::{Home, Process, Server, WeChat, token_that},
};

const APP: &str = "stable";

/// Two addresses of this machine.
const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];

/// A port that is free at both.
fn port() -> u16 {
    loop {
        let one = TcpListener::bind((HOSTS[0], 0)).unwrap();
        let port = one.local_addr().unwrap().port();
        if TcpListener::bind((HOSTS[1], port)).is_ok() {
            return port;
        }
    }
}

/// Gives both addresses one name, in this mount namespace.
fn name_them(home: &Home, name: &str) {
    let mut hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    for host in HOSTS {
        hosts += &["\n", &host.to_string(), " ", name, "\n"].concat();
    }
    home.write("hosts", &hosts);
    let file = home.path("hosts").display().to_string();
    mount(&["--bind", &file], Path::new("/etc/hosts"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_goes_from_one_address_of_a_name_to_the_next() {
    let settings = Settings {
        life: Duration::from_mins(1),
        overlap: Duration::from_secs(5),
        ..Settings::default()
    };
    let (wechat, port) = (WeChat::start(&[APP], settings).await, port());
    let mut hosts = Vec::new();
    for host in HOSTS {
        let listen = format!("{FEW_CLIENTS}listen = '{host}:{port}'\n");
        let home = Home::new(&wechat.url(), "overlap = '5s'", &[APP]);
        let home = home.replace(&format!("{GRPC}listen = '127.0.0.1:0'\n"), &listen);
        let server = home.serve().await;
        token_that(&mut server.client().await, APP, "is there", |_| true).await;
        hosts.push((home, server));
    }
    let home = &hosts[0].0;
    name_them(home, "servers.test");
    let text = format!(
        "[agent]\nservers = ['http://servers.test:{port}']\napps = ['{APP}']\n{FEW_CLIENTS}listen = '127.0.0.1:0'\n"
    );
    home.write("agent.toml", &text);
    let config = home.path("agent.toml").display().to_string();
    let agent = Server::of(Process::start(&["agent", "--config", &config], &[])).await;
    token_that(&mut agent.client().await, APP, "is there", |_| true).await;

    for (at, (home, server)) in hosts.iter_mut().enumerate() {
        server.process.kill().await;
        let other = format!("server=\"http://{}:{port}\"", HOSTS[1 - at]);
        agent.process.until_stderr(&other).await;
        *server = home.serve().await;
    }
}
