//! The real engines keep the contract of stores that replicas share.

use wxtokend::{
    clock::Clock,
    config::{self, Sharing, Tls},
    store::{self, Opened},
};

use crate::{
    contract::{LEASE, Place, keeps_the_contract},
    engines::{Etcd, Papers, Redis},
};

fn sharing() -> Sharing {
    Sharing {
        lease: LEASE,
        cache: None,
    }
}

fn place(name: &'static str, config: impl Fn() -> config::Store + Send + Sync + 'static) -> Place {
    Place {
        name,
        clock: Clock::SYSTEM,
        join: Box::new(
            move |apps, clock| match store::open(&config(), apps, clock).unwrap() {
                Opened::Shared(shared) => shared,
                Opened::Own(_) => panic!("{name} is not shared"),
            },
        ),
    }
}

fn on_etcd(etcd: &Etcd) -> Place {
    let endpoints: Vec<String> = etcd
        .addresses
        .iter()
        .map(|a| format!("http://{a}"))
        .collect();
    place("etcd", move || {
        let etcd = config::Etcd {
            endpoints: endpoints.clone(),
            prefix: "/contract/".into(),
            user: None,
            tls: Tls::default(),
        };
        config::Store::Etcd(etcd, sharing())
    })
}

fn on_redis(name: &'static str, url: String) -> Place {
    place(name, move || {
        let redis = config::Redis {
            url: url.clone(),
            prefix: "contract:".into(),
            user: None,
            password_file: None,
            tls: Tls::default(),
        };
        config::Store::Redis(redis, sharing())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_keeps_the_contract() {
    let etcd = Etcd::start(3).await;
    keeps_the_contract(&on_etcd(&etcd)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract() {
    let redis = Redis::start().await;
    keeps_the_contract(&on_redis("redis", redis.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_behind_sentinels_keeps_the_contract() {
    let redis = Redis::start_with_sentinels().await;
    keeps_the_contract(&on_redis("sentinel", redis.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_redis_keeps_the_contract() {
    let redis = Redis::start_cluster().await;
    keeps_the_contract(&on_redis("cluster", redis.url())).await;
}

fn tls(papers: &Papers) -> Tls {
    let (ca, cert, key) = papers.paths();
    Tls {
        ca_file: Some(ca.into()),
        identity: Some((cert.into(), key.into())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_and_with_a_password_etcd_keeps_the_contract() {
    let papers = Papers::new();
    let etcd = Etcd::start_with_tls(&papers).await;
    let endpoint = etcd.addresses[0].replace("127.0.0.1", "https://localhost");
    let password = papers.file("password", "CANARY-password\n");
    switch_users_on(&endpoint, &papers).await;
    let tls = tls(&papers);
    keeps_the_contract(&place("etcd over TLS", move || {
        let etcd = config::Etcd {
            endpoints: vec![endpoint.clone()],
            prefix: "/contract/".into(),
            user: Some(("root".into(), password.clone())),
            tls: tls.clone(),
        };
        config::Store::Etcd(etcd, sharing())
    }))
    .await;
}

async fn switch_users_on(endpoint: &str, papers: &Papers) {
    let (ca, cert, key) = papers.paths();
    let read = |path: &str| std::fs::read(path).unwrap();
    let tls = etcd_client::TlsOptions::new()
        .ca_certificate(etcd_client::Certificate::from_pem(read(&ca)))
        .identity(etcd_client::Identity::from_pem(read(&cert), read(&key)));
    let options = etcd_client::ConnectOptions::new().with_tls(tls);
    let mut client = etcd_client::Client::connect([endpoint], Some(options))
        .await
        .unwrap();
    client
        .user_add("root", "CANARY-password", None)
        .await
        .unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_and_with_a_password_redis_keeps_the_contract() {
    let papers = Papers::new();
    let redis = Redis::start_with_tls(&papers, "CANARY-password").await;
    let (url, tls) = (redis.url(), tls(&papers));
    let password = papers.file("password", "CANARY-password\n");
    keeps_the_contract(&place("redis over TLS", move || {
        let redis = config::Redis {
            url: url.clone(),
            prefix: "contract:".into(),
            user: Some("tokens".into()),
            password_file: Some(password.clone()),
            tls: tls.clone(),
        };
        config::Store::Redis(redis, sharing())
    }))
    .await;
}
