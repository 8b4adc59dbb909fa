//! One replica after the other is stopped and started again, perhaps with another configuration.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tonic::transport::Endpoint;

use crate::{
    engines::{Etcd, Redis},
    process::{Home, WeChat, token, token_that},
    replicas::Fleet,
    served::Client,
    stories::{REFRESH, lives_of, three},
};

/// The pause between two replicas, as an orchestrator makes one.
const PAUSE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn in_a_rolling_update_no_call_fails() {
    let etcd = Etcd::start(3).await;
    let mut fleet = three(&etcd, 12, &["classic", "stable"]).await;
    for app in ["classic", "stable"] {
        fleet.everybody_has(app, "is there").await;
    }
    let caller = Caller::of(&fleet, &["classic", "stable"]);
    update(&mut fleet, &["classic", "stable"]).await;
    caller.end_well().await;
    let most = fleet.wechat.counts("classic").mints();
    assert!(most <= 6, "{most} tokens were made");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_rolling_update_changes_the_mode_no_call_fails_and_all_have_the_same_in_the_end() {
    let etcd = Etcd::start(1).await;
    let mut fleet = three(&etcd, 12, &["classic"]).await;
    fleet.everybody_has("classic", "is there").await;
    let caller = Caller::of(&fleet, &["classic"]);
    for (old, new) in [("classic", "stable"), ("stable", "classic")] {
        for replica in &mut fleet.replicas {
            let home = std::mem::replace(&mut replica.home, Home::new("http://x", "", &[]));
            let mode = |mode: &str| format!("mode = '{mode}'");
            replica.home = home.replace(&mode(old), &mode(new));
        }
        update(&mut fleet, &["classic"]).await;
        let holder = fleet.holder(&etcd, "classic").await.expect("one refreshes");
        let newest = fleet.everybody_has("classic", "is there").await;
        let newest = newest[holder].generation;
        for replica in &fleet.replicas {
            let mut client = replica.client().await;
            let new = |token: &wxtokend::pb::Token| token.generation >= newest;
            token_that(&mut client, "classic", "is of the new mode", new).await;
        }
    }
    caller.end_well().await;
}

/// As programs in Kubernetes call: over one connection to whatever replica a Service gives it, once.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_never_try_again_notice_no_rolling_update_behind_a_balancer() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::on_redis(&redis, 3, lives_of(12), &["classic"], REFRESH).await;
    fleet.start().await;
    fleet.everybody_has("classic", "is there").await;
    let balancer = Balancer::before(&fleet).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..6 {
        let channel = Endpoint::from_shared(balancer.url.clone()).unwrap();
        let client = Client::new(channel.connect_lazy());
        let (wechat, over) = (Arc::clone(&fleet.wechat), Arc::clone(&over));
        callers.spawn(async move { call(vec![client], &["classic"], &wechat, &over).await });
    }
    for n in 0..fleet.replicas.len() {
        balancer.spare(n);
        // What its manifest has for it before it is stopped, but shorter.
        sleep(PAUSE / 4).await;
        stop_and_start(&mut fleet, n, &["classic"]).await;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(called) = callers.join_next().await {
        let (calls, failed) = called.unwrap();
        assert!(
            calls > 100 && failed == 0,
            "{failed} of {calls} calls failed"
        );
    }
}

/// Gives each new connection to one replica after the other, but for the one that is to be stopped.
struct Balancer {
    url: String,
    spared: Arc<AtomicUsize>,
}

impl Balancer {
    async fn before(fleet: &Fleet) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let socket = |url: &str| url.trim_start_matches("unix://").to_owned();
        let replicas = fleet.replicas.iter();
        let sockets: Vec<_> = replicas.map(|r| socket(&r.server().url)).collect();
        let spared = Arc::new(AtomicUsize::new(usize::MAX));
        let out = Arc::clone(&spared);
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((mut near, _)) = listener.accept().await {
                turn += 1;
                if turn % sockets.len() == out.load(Ordering::SeqCst) {
                    turn += 1;
                }
                let mut far = UnixStream::connect(&sockets[turn % sockets.len()])
                    .await
                    .unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        });
        Self { url, spared }
    }

    fn spare(&self, n: usize) {
        self.spared.store(n, Ordering::SeqCst);
    }
}

async fn update(fleet: &mut Fleet, apps: &[&str]) {
    for n in 0..fleet.replicas.len() {
        stop_and_start(fleet, n, apps).await;
    }
}

async fn stop_and_start(fleet: &mut Fleet, n: usize, apps: &[&str]) {
    let replica = &mut fleet.replicas[n];
    replica.drain().await;
    replica.start().await;
    for app in apps {
        token_that(&mut replica.client().await, app, "is there", |_| true).await;
    }
    sleep(PAUSE).await;
}

/// Goes to another replica when one is going away, as a load balancer has it.
struct Caller {
    over: Arc<AtomicBool>,
    calling: JoinHandle<(u32, u32)>,
}

impl Caller {
    fn of(fleet: &Fleet, apps: &[&'static str]) -> Self {
        let urls = fleet.replicas.iter().map(|r| r.server().url.clone());
        let channel = |url: String| Endpoint::from_shared(url).unwrap().connect_lazy();
        let clients: Vec<_> = urls.map(|url| Client::new(channel(url))).collect();
        let (over, wechat) = (Arc::new(AtomicBool::new(false)), fleet.wechat.clone());
        let (ends, apps) = (over.clone(), apps.to_vec());
        let calling = tokio::spawn(async move { call(clients, &apps, &wechat, &ends).await });
        Self { over, calling }
    }

    async fn end_well(self) {
        self.over.store(true, Ordering::Relaxed);
        let (calls, failed) = self.calling.await.unwrap();
        println!("{calls} calls, {failed} failed");
        let well = calls > 100 && failed == 0;
        assert!(well, "{failed} of {calls} calls failed");
    }
}

/// Calls and failures: a call fails if no replica answers it with a token that lives.
async fn call(
    mut clients: Vec<Client>,
    apps: &[&str],
    wechat: &WeChat,
    over: &AtomicBool,
) -> (u32, u32) {
    let (mut calls, mut failed) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        for app in apps {
            let first = calls as usize % clients.len();
            let mut good = false;
            for n in 0..clients.len() {
                let at = (first + n) % clients.len();
                if let Ok(token) = token(&mut clients[at], app).await {
                    good = wechat.accepts(app, &token.access_token);
                    break;
                }
            }
            calls += 1;
            failed += u32::from(!good);
        }
        sleep(Duration::from_millis(10)).await;
    }
    (calls, failed)
}
