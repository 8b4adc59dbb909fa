//! The real engines keep the contract of stores that replicas share.

use std::{path::PathBuf, time::Duration};

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
    let redis = Redis::start_with_sentinels(None, false, None).await;
    keeps_the_contract(&on_redis("sentinel", redis.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_with_a_password_is_reached_whether_its_sentinels_have_it_too_or_none() {
    let papers = Papers::new();
    let password = papers.file("password", "CANARY-password\n");
    for theirs in [false, true] {
        let redis = Redis::start_with_sentinels(Some("CANARY-password"), theirs, None).await;
        // One that takes connections and says nothing must not keep the others from being asked.
        redis.sentinels[0].signal("STOP");
        let (url, password) = (redis.url(), password.clone());
        let place = place("sentinel with a password", move || {
            let redis = config::Redis {
                url: url.clone(),
                prefix: "contract:".into(),
                user: None,
                password_file: Some(password.clone()),
                tls: Tls::default(),
            };
            config::Store::Redis(redis, sharing())
        });
        let shared = (place.join)(vec!["wx-app".to_owned()], place.clock);
        let patience = Duration::from_secs(10);
        assert!(shared.wait_for_contact(patience).await, "theirs: {theirs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_redis_keeps_the_contract() {
    let redis = Redis::start_cluster(None).await;
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
            user: Some(("tokens".into(), password.clone())),
            tls: tls.clone(),
        };
        config::Store::Etcd(etcd, sharing())
    }))
    .await;
}

/// A right password that takes the place of a wrong one is used soon all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_sent_to_etcd_once_in_five_seconds() {
    let etcd = Etcd::start(1).await;
    let mut client = etcd.client().await;
    let known = client.user_add("root", "CANARY-password", None).await;
    known.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let papers = Papers::new();
    let password = papers.file("password", "another\n");
    let (at, file) = (format!("http://{}", etcd.addresses[0]), password.clone());
    let place = place("etcd with a wrong password", move || {
        let etcd = config::Etcd {
            endpoints: vec![at.clone()],
            prefix: "/contract/".into(),
            user: Some(("root".into(), file.clone())),
            tls: Tls::default(),
        };
        config::Store::Etcd(etcd, sharing())
    });
    let shared = (place.join)(vec!["wx-app".to_owned()], place.clock);
    let (span, pause) = (Duration::from_secs(12), Duration::from_secs(5));
    assert!(!shared.wait_for_contact(span).await, "etcd lets anybody in");
    let refused = etcd.refused().await;
    assert!((2..=3).contains(&refused), "{refused} in {span:?}");
    // Whoever looks at the probes reads why.
    let why = shared.why().unwrap();
    assert!(why.contains("authentication failed"), "{why}");
    papers.file("password", "CANARY-password\n");
    assert!(shared.wait_for_contact(pause * 2).await);

    let root = etcd_client::ConnectOptions::new().with_user("root", "CANARY-password");
    let mut client = etcd_client::Client::connect(&etcd.addresses, Some(root))
        .await
        .unwrap();
    let changed = client.user_change_password("root", "CANARY-new").await;
    changed.unwrap();
    papers.file("password", "CANARY-new\n");
    let since = place.clock.now().boot;
    while shared.contact() < Some(since + pause) {
        let waited = place.clock.now().boot.since(since);
        assert!(waited < pause * 4, "the new password is not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// There is `tokens`, who has nothing but the prefix.
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
    for name in ["root", "tokens"] {
        let added = client.user_add(name, "CANARY-password", None).await;
        added.unwrap();
    }
    client.role_add("tokens").await.unwrap();
    let prefix = etcd_client::Permission::read_write("/contract/").with_prefix();
    let granted = client.role_grant_permission("tokens", prefix).await;
    granted.unwrap();
    for name in ["root", "tokens"] {
        client.user_grant_role(name, name).await.unwrap();
    }
    client.auth_enable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_and_with_a_password_redis_keeps_the_contract() {
    let papers = Papers::new();
    let redis = Redis::start_with_tls(&papers, "CANARY-password").await;
    let user = Some("tokens".to_owned());
    let password = papers.file("password", "CANARY-password\n");
    let place = on_redis_with_tls("redis over TLS", &redis, &papers, user, Some(password));
    keeps_the_contract(&place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_redis_behind_sentinels_keeps_the_contract() {
    let papers = Papers::new();
    let secret = "CANARY-password";
    let redis = Redis::start_with_sentinels(Some(secret), true, Some(&papers)).await;
    let password = papers.file("password", secret);
    let place = on_redis_with_tls("sentinel over TLS", &redis, &papers, None, Some(password));
    keeps_the_contract(&place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_cluster_of_redis_keeps_the_contract() {
    let papers = Papers::new();
    let redis = Redis::start_cluster(Some(&papers)).await;
    let place = on_redis_with_tls("cluster over TLS", &redis, &papers, None, None);
    keeps_the_contract(&place).await;
}

fn on_redis_with_tls(
    name: &'static str,
    redis: &Redis,
    papers: &Papers,
    user: Option<String>,
    password_file: Option<PathBuf>,
) -> Place {
    let (url, tls) = (redis.url(), tls(papers));
    place(name, move || {
        let redis = config::Redis {
            url: url.clone(),
            prefix: "contract:".into(),
            user: user.clone(),
            password_file: password_file.clone(),
            tls: tls.clone(),
        };
        config::Store::Redis(redis, sharing())
    })
}
