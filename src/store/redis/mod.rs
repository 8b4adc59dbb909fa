//! Redis: one server, one behind Sentinel, or a cluster.
//!
//! A claim is a key that expires (`SET … PX`), numbered by a counter; everything that depends on it is
//! done by one script (`scripts.rs`). Changes are published, and looked for all the same: what is
//! published is not kept for those who do not listen at the moment, and the expiry of a claim is not
//! published at all.
//!
//! Redis promises less than etcd: a server that has failed may have answered what its successor does not
//! know. Then a claim can be held twice for a while, and a record be older than the last one saved. See
//! the README for what that costs.

mod nodes;
mod scripts;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use redis::FromRedisValue;
use tokio::{sync::mpsc, time::timeout};
use zeroize::Zeroizing;

use nodes::{CALL, Failure, Nodes};

use super::{
    StoreError,
    shared::{Board, Claim, Engine, Entry, Kept, Lease, Posted, millis},
    times::Age,
};
use crate::config;

/// How many claims are renewed at a time.
const AT_A_TIME: usize = 256;

/// A Redis.
#[derive(Debug)]
pub(super) struct Redis {
    me: String,
    prefix: String,
    apps: Vec<String>,
    lease_ms: u64,
    nodes: Nodes,
    /// The claims of this replica as they are written in Redis, by appid.
    claims: Mutex<BTreeMap<String, String>>,
}

/// What the script `BOARD` gives.
type RawBoard = (
    Option<String>,
    Option<String>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<i64>,
    i64,
    BTreeMap<String, String>,
);

impl Redis {
    /// Prepares to use it; nothing is asked of it yet.
    pub(super) fn new(
        config: &config::Redis,
        me: &str,
        apps: &[String],
        lease: Duration,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            me: me.to_owned(),
            prefix: config.prefix.clone(),
            apps: apps.to_vec(),
            lease_ms: millis(lease),
            nodes: Nodes::new(config)?,
            claims: Mutex::default(),
        })
    }

    fn key(&self, appid: &str, fact: &str) -> String {
        format!("{}{{{appid}}}:{fact}", self.prefix)
    }

    fn channel(&self) -> String {
        format!("{}changes", self.prefix)
    }

    fn claims(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self, fence: i64) -> String {
        format!("{fence}#{}", self.me)
    }

    async fn run<T: FromRedisValue>(
        &self,
        action: &'static str,
        script: &str,
        appid: &str,
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(scripts::whole(script)).arg(5);
        for fact in ["claim", "record", "letters", "version", "fence"] {
            eval.arg(self.key(appid, fact));
        }
        eval.arg(self.channel()).arg(appid);
        for argument in arguments {
            eval.arg(*argument);
        }
        self.nodes.ask(action, &eval).await
    }

    /// Whether the claim is still this replica's, and lasts as long as a new one.
    async fn renew_one(&self, appid: String, claim: String) -> Result<(String, bool), StoreError> {
        let lease = self.lease_ms.to_string();
        let arguments = [claim.as_bytes(), lease.as_bytes()];
        let renewed: i64 = self
            .run("reached", scripts::RENEW, &appid, &arguments)
            .await?;
        Ok((appid, renewed != 0))
    }

    async fn listen(&self, changed: &mpsc::Sender<String>) -> Result<(), Failure> {
        let begin = async {
            let mut ear = self.nodes.ear().await?;
            ear.subscribe(self.channel()).await?;
            Ok::<_, Failure>(ear)
        };
        let ear = timeout(CALL, begin).await.map_err(|_| Failure::Silent)??;
        let mut messages = ear.into_on_message();
        while let Some(message) = messages.next().await {
            let appid: String = message.get_payload()?;
            if changed.send(appid).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The version of a board: of its counter, and of the claim, which expires without being counted.
fn version(counter: Option<&str>, claim: Option<&str>) -> u64 {
    if counter.is_none() && claim.is_none() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    (counter, claim).hash(&mut hasher);
    hasher.finish()
}

fn read_claim(written: &str) -> Option<Claim> {
    let (fence, holder) = written.split_once('#')?;
    Some(Claim {
        holder: holder.to_owned(),
        fence: fence.parse().ok()?,
    })
}

#[async_trait]
impl Engine for Redis {
    /// There is no lease as such: each claim lives by itself. So if one is lost, all count as lost, and
    /// those that are not are found again.
    async fn renew(&self) -> Result<Lease, StoreError> {
        let claims = self.claims().clone();
        if claims.is_empty() {
            let ping = redis::cmd("PING");
            self.nodes.ask::<String>("reached", &ping).await?;
        }
        // They share a connection, so that a thousand take hardly longer than one.
        let renewals = claims.into_iter();
        let renewals = renewals.map(|(appid, claim)| self.renew_one(appid, claim));
        let mut renewals = stream::iter(renewals).buffer_unordered(AT_A_TIME);
        let mut lost = false;
        while let Some((appid, renewed)) = renewals.try_next().await? {
            if !renewed {
                self.claims().remove(&appid);
                lost = true;
            }
        }
        Ok(if lost { Lease::Begun } else { Lease::Renewed })
    }

    async fn versions(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let mut get = redis::cmd("MGET");
        for appid in &self.apps {
            get.arg(self.key(appid, "version"));
            get.arg(self.key(appid, "claim"));
        }
        let values: Vec<Option<String>> = self.nodes.ask("read", &get).await?;
        let boards = self.apps.iter().zip(values.chunks(2));
        let version = |(appid, values): (&String, &[Option<String>])| {
            let [counter, claim] = values else {
                return None;
            };
            let version = version(counter.as_deref(), claim.as_deref());
            Some((appid.clone(), version))
        };
        Ok(boards.filter_map(version).collect())
    }

    async fn board(&self, appid: &str) -> Result<Board, StoreError> {
        let board: RawBoard = self.run("read", scripts::BOARD, appid, &[]).await?;
        let (counter, claimed, state, about, kept_version, age, letters) = board;
        let claim = claimed.as_deref().and_then(read_claim);
        if let Some(own) = claim.as_ref().filter(|claim| claim.holder == self.me) {
            let written = self.written(own.fence);
            self.claims().insert(appid.to_owned(), written);
        } else {
            self.claims().remove(appid);
        }
        let record = state.map(|state| Kept {
            state: Zeroizing::new(state),
            about: about.unwrap_or_default(),
            version: kept_version.unwrap_or_default(),
            // After a failover the clock may be another server's.
            age: match u64::try_from(age) {
                Ok(age) => Age::Known(Duration::from_millis(age)),
                Err(_) => Age::AtLeast(Duration::ZERO),
            },
        });
        Ok(Board {
            version: version(counter.as_deref(), claimed.as_deref()),
            claim,
            record,
            letters,
        })
    }

    async fn claim(&self, appid: &str) -> Result<(), StoreError> {
        let lease = self.lease_ms.to_string();
        let arguments = [self.me.as_bytes(), lease.as_bytes()];
        let taken: Result<i64, _> = self.run("claimed", scripts::CLAIM, appid, &arguments).await;
        taken.map(drop)
    }

    async fn release(&self, appid: &str) -> Result<(), StoreError> {
        let claim = self.claims().remove(appid);
        let Some(claim) = claim else { return Ok(()) };
        let arguments = [claim.as_bytes()];
        let gone: Result<i64, _> = self
            .run("given up", scripts::RELEASE, appid, &arguments)
            .await;
        gone.map(drop)
    }

    async fn post(&self, appid: &str, entry: &Entry<'_>) -> Result<Posted, StoreError> {
        let (claim, version) = (self.written(entry.fence), entry.version.to_string());
        let arguments = [
            claim.as_bytes(),
            version.as_bytes(),
            entry.state,
            entry.about,
        ];
        let posted: i64 = self
            .run("written", scripts::POST, appid, &arguments)
            .await?;
        Ok(match posted {
            -1 => Posted::Lost,
            -2 => Posted::Changed,
            version => Posted::Done(version),
        })
    }

    async fn send(&self, appid: &str, id: &str, letter: &str) -> Result<(), StoreError> {
        let arguments = [id.as_bytes(), letter.as_bytes()];
        let sent: Result<i64, _> = self.run("written", scripts::SEND, appid, &arguments).await;
        sent.map(drop)
    }

    async fn reply(&self, appid: &str, id: &str, letter: &str) -> Result<(), StoreError> {
        let arguments = [id.as_bytes(), letter.as_bytes()];
        let sent: Result<i64, _> = self.run("written", scripts::REPLY, appid, &arguments).await;
        sent.map(drop)
    }

    async fn discard(&self, appid: &str, id: &str) -> Result<(), StoreError> {
        let arguments = [id.as_bytes()];
        let gone: Result<i64, _> = self
            .run("written", scripts::DISCARD, appid, &arguments)
            .await;
        gone.map(drop)
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let claimed: Vec<String> = self.claims().keys().cloned().collect();
        for appid in claimed {
            self.release(&appid).await?;
        }
        Ok(())
    }

    async fn watch(&self, changed: &mpsc::Sender<String>) -> StoreError {
        let ended = match self.listen(changed).await {
            Ok(()) => Failure::Silent,
            Err(error) => error,
        };
        ended.at("watched")
    }
}
