//! Three replicas that share a store, each with ways to it and to WeChat that can be cut.

use std::{env, fmt::Write as _, sync::Arc, time::Duration};

use wxtokend::sandbox::Settings;

use crate::{
    engines::{Etcd, Redis},
    history::History,
    links::Link,
    process::{Home, Server, WeChat, token_that},
    served::Client,
};

/// Room for a few clients each.
const GRPC: &str = "[grpc]\nmax_connections = 100\n";

/// How long a claim lives here.
pub(crate) const LEASE: Duration = Duration::from_secs(5);

/// The same, if `WXTOKEND_LEASE` does not say otherwise, in seconds.
pub(crate) fn lease() -> u64 {
    let secs = env::var("WXTOKEND_LEASE");
    secs.map_or(LEASE.as_secs(), |secs| secs.parse().unwrap())
}

/// The longest that something is wrong in these tests: more than a lease.
pub(crate) fn longest_fault() -> Duration {
    Duration::from_secs(lease()) * 8 / 5
}

/// By how much replicas may differ in what they say of one token's end: WeChat and etcd count lives in whole
/// seconds, and each replica that is cut off asks WeChat by itself.
const APART: Duration = Duration::from_secs(2);

/// One process, its ways, and what it keeps over restarts.
pub(crate) struct Replica {
    pub(crate) home: Home,
    pub(crate) server: Option<Server>,
    /// To each member of the store.
    pub(crate) to_store: Vec<Link>,
    pub(crate) to_wechat: Link,
    /// What its former processes said.
    former: String,
}

impl Replica {
    pub(crate) async fn start(&mut self) {
        self.server = Some(self.home.serve().await);
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.process.kill().await;
            self.former.push_str(&server.process.stderr());
        }
    }

    /// `SIGTERM`, which is obeyed.
    pub(crate) async fn drain(&mut self) {
        let mut server = self.server.take().expect("it runs");
        server.process.signal("TERM").await;
        assert!(server.process.ended().await.success());
        self.former.push_str(&server.process.stderr());
    }

    /// All that its processes said.
    pub(crate) fn log(&self) -> String {
        let server = self.server.as_ref();
        let last = server.map(|server| server.process.stderr());
        format!("{}{}", self.former, last.unwrap_or_default())
    }

    pub(crate) async fn client(&self) -> Client {
        self.server().client().await
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    pub(crate) fn cut_from_the_store(&self) {
        self.to_store.iter().for_each(Link::cut);
    }

    pub(crate) fn mend(&self) {
        self.to_store.iter().for_each(Link::mend);
        self.to_wechat.mend();
    }
}

/// What they share, and they.
pub(crate) struct Fleet {
    pub(crate) wechat: Arc<WeChat>,
    pub(crate) replicas: Vec<Replica>,
}

impl Fleet {
    /// `count` replicas of `apps` (one whose name begins with `c` is classic) that are not started yet.
    pub(crate) async fn on_etcd(
        etcd: &Etcd,
        count: usize,
        settings: Settings,
        apps: &[&str],
        refresh: &str,
    ) -> Self {
        let store = |links: &[Link]| {
            let urls: Vec<String> = links.iter().map(Link::url).collect();
            format!("kind = 'etcd'\nendpoints = {urls:?}")
        };
        Self::on(&etcd.addresses, store, count, settings, apps, refresh).await
    }

    /// The same on one Redis, or on the one that its sentinels name.
    pub(crate) async fn on_redis(
        redis: &Redis,
        count: usize,
        settings: Settings,
        apps: &[&str],
        refresh: &str,
    ) -> Self {
        // What sentinels tell leads past any link.
        let alone = redis.sentinels.is_empty();
        let address = alone.then(|| format!("127.0.0.1:{}", redis.ports[0]));
        let store = |links: &[Link]| {
            let linked = links
                .first()
                .map(|link| format!("redis://{}", link.address()));
            let url = linked.unwrap_or_else(|| redis.url());
            format!("kind = 'redis'\nurl = '{url}'")
        };
        let addresses: Vec<String> = address.into_iter().collect();
        Self::on(&addresses, store, count, settings, apps, refresh).await
    }

    async fn on(
        addresses: &[String],
        store: impl Fn(&[Link]) -> String,
        count: usize,
        settings: Settings,
        apps: &[&str],
        refresh: &str,
    ) -> Self {
        let wechat = Arc::new(WeChat::start(apps, settings).await);
        let mut replicas = Vec::new();
        for _ in 0..count {
            let mut to_store = Vec::new();
            for address in addresses {
                to_store.push(Link::to(address.clone()).await);
            }
            let store = store(&to_store);
            replicas.push(replica(&wechat, to_store, &store, apps, refresh).await);
        }
        Self { wechat, replicas }
    }

    /// They are going to be stopped for up to `span`.
    pub(crate) fn stand_still_for(&mut self, span: Duration) {
        for replica in &mut self.replicas {
            replica.home.history = History::of_servers(APART, span);
        }
    }

    pub(crate) async fn start(&mut self) {
        for replica in &mut self.replicas {
            replica.start().await;
        }
    }

    /// Until every replica has a token of `app` that fits.
    pub(crate) async fn everybody_has(&self, app: &str, what: &str) -> Vec<wxtokend::pb::Token> {
        let mut tokens = Vec::new();
        for replica in &self.replicas {
            let mut client = replica.client().await;
            tokens.push(token_that(&mut client, app, what, |_| true).await);
        }
        tokens
    }

    /// Whether anybody has the claim of `app`.
    pub(crate) async fn claimed(&self, etcd: &Etcd, app: &str) -> bool {
        let mut client = etcd.client().await;
        let key = format!("/wxtokend/wx-{app}/claim");
        client.get(key, None).await.unwrap().count() > 0
    }

    /// How often the record of `app` was saved, if etcd says so.
    pub(crate) async fn saves(&self, etcd: &Etcd, app: &str) -> Option<i64> {
        let mut client = etcd.client().await;
        let got = client.get(format!("/wxtokend/wx-{app}/record"), None);
        // A member that is cut off keeps one waiting.
        let got = tokio::time::timeout(Duration::from_millis(500), got).await;
        Some(got.ok()?.ok()?.kvs().first()?.version())
    }

    /// Which replica refreshes `app`, if one says so.
    pub(crate) async fn holder(&self, etcd: &Etcd, app: &str) -> Option<usize> {
        let mut client = etcd.client().await;
        let key = format!("/wxtokend/wx-{app}/claim");
        let got = client.get(key, None).await.ok()?;
        let name = got.kvs().first()?.value_str().ok()?.to_owned();
        self.replicas.iter().position(|replica| {
            let server = replica.server.as_ref();
            server.is_some_and(|server| server.process.stderr().contains(&name))
        })
    }
}

async fn replica(
    wechat: &WeChat,
    to_store: Vec<Link>,
    store: &str,
    apps: &[&str],
    refresh: &str,
) -> Replica {
    let to_wechat = Link::to(wechat.url().replace("http://", "")).await;
    let mut home = Home::new(&to_wechat.url(), refresh, apps).on_unix();
    home.history = History::of_servers(APART, Duration::ZERO);
    let path = home.path("data").display().to_string();
    let mut shared = String::from(store);
    write!(shared, "\nlease = '{}s'\ncache = '{path}'", lease()).unwrap();
    let home = home
        .replace(&format!("path = '{path}'"), &shared)
        .replace("[grpc]\n", GRPC);
    Replica {
        home,
        server: None,
        to_store,
        to_wechat,
        former: String::new(),
    }
}
