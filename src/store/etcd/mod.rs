//! etcd: a key for each fact, under `<prefix><appid>/`.
//!
//! | key | value | lives by |
//! |---|---|---|
//! | `claim` | the name of the replica that refreshes | its lease |
//! | `record` | a state file's text; it holds the token | – |
//! | `about` | who saved it, under which lease, what is the trouble | – |
//! | `letters/<id>` | a question to that replica, and its answer | the lease of the one that asks |
//!
//! *Age.* etcd does not tell the time, but it counts leases down. Each save is given a lease of a day
//! that no key hangs on: what it has left says how long ago that was, whatever the clocks of machines
//! show. A new leader counts all leases from the beginning (etcd-io/etcd#7275), so the leader's term is
//! kept too, and an age from another term is only the least that it can be. With the term,
//! a board counts as changed for the replica that refreshes, which has its record counted anew.

mod members;
mod watch;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, GetResponse, KeyValue, PutOptions,
    ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use members::{Failure, Members, is_about_the_lease};

use super::{
    StoreError,
    shared::{Board, Claim, Engine, Entry, Kept, Lease, Posted},
    times::Age,
};
use crate::config::{self};

/// What is older is as good as dead.
const COUNTED: i64 = 24 * 3600;

/// An etcd cluster.
#[derive(Debug)]
pub(super) struct Etcd {
    me: String,
    prefix: String,
    /// In seconds.
    ttl: i64,
    members: Members,
    /// Of this replica; 0 before there is one.
    lease: AtomicI64,
    /// The first change that the next watch has to tell; 0 before there was one.
    next: AtomicI64,
}

/// What this engine adds to what is known beside a record.
#[derive(Default, Deserialize, Serialize)]
struct Counted {
    #[serde(default)]
    age_lease: i64,
    #[serde(default)]
    term: u64,
}

impl Etcd {
    /// Prepares to use the cluster; nothing is asked of it yet.
    pub(super) fn new(
        config: &config::Etcd,
        me: &str,
        lease: Duration,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            me: me.to_owned(),
            prefix: config.prefix.clone(),
            ttl: i64::try_from(lease.as_secs()).unwrap_or(i64::MAX),
            members: Members::new(config)?,
            lease: AtomicI64::new(0),
            next: AtomicI64::new(0),
        })
    }

    fn key(&self, appid: &str, fact: &str) -> String {
        format!("{}{appid}/{fact}", self.prefix)
    }

    /// The appid in a key, and the fact.
    fn parts<'k>(&self, key: &'k [u8]) -> Option<(&'k str, &'k str)> {
        let key = str::from_utf8(key).ok()?;
        key.strip_prefix(self.prefix.as_str())?.split_once('/')
    }

    /// What a key must hang on that has to end with this replica. Without a lease it would stay for ever.
    fn by_lease(&self, action: &'static str) -> Result<PutOptions, StoreError> {
        match self.lease.load(Ordering::SeqCst) {
            0 => Err(Failure::NoLease.at(action)),
            lease => Ok(PutOptions::new().with_lease(lease)),
        }
    }

    /// How long ago a record was saved; `None` if nothing counts that any more.
    async fn age(&self, counted: &Counted) -> Result<Option<Age>, StoreError> {
        let id = counted.age_lease;
        let left = |mut client: Client| async move { client.lease_time_to_live(id, None).await };
        let left = self.members.call("read", left).await?;
        if left.ttl() <= 0 {
            return Ok(None);
        }
        let age = COUNTED.saturating_sub(left.ttl());
        let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
        let age = if term(left.header()) == counted.term {
            Age::Known(age)
        } else {
            Age::AtLeast(age)
        };
        Ok(Some(age))
    }

    /// A lease that counts from now on, and the term in which it does.
    async fn begin_to_count(&self) -> Result<Counted, StoreError> {
        let grant = |mut client: Client| async move { client.lease_grant(COUNTED, None).await };
        let granted = self.members.call("written", grant).await?;
        Ok(Counted {
            age_lease: granted.id(),
            term: term(granted.header()),
        })
    }

    async fn revoke(&self, lease: i64) {
        let revoke = |mut client: Client| async move { client.lease_revoke(lease).await };
        // One that is left over ends by itself.
        let _ = self.members.call("written", revoke).await;
    }

    async fn txn(&self, action: &'static str, txn: Txn) -> Result<TxnResponse, StoreError> {
        let send = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        self.members.call(action, send).await
    }

    /// All keys that begin with `prefix`.
    async fn list(&self, prefix: &str, options: GetOptions) -> Result<GetResponse, StoreError> {
        let get = |mut client: Client| {
            let (prefix, options) = (prefix.to_owned(), options.clone().with_prefix());
            async move { client.get(prefix, Some(options)).await }
        };
        self.members.call("read", get).await
    }

    /// The board, but for the age of its record.
    async fn list_board(&self, appid: &str) -> Result<Board, StoreError> {
        let under = self.key(appid, "");
        let mut listed = self.list(&under, GetOptions::new()).await?;
        let (keys, term) = (listed.take_kvs(), term(listed.header()));
        let mut board = Board {
            version: self
                .versions_of(&keys, term)
                .remove(appid)
                .unwrap_or_default(),
            ..Board::default()
        };
        let (mut state, mut about) = (None, Vec::new());
        for key in keys {
            let Some((_, fact)) = self.parts(key.key()) else {
                continue;
            };
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            match fact {
                "claim" => {
                    let (holder, fence) = (text(key.value()), key.create_revision());
                    board.claim = Some(Claim { holder, fence });
                }
                "record" => {
                    let version = key.mod_revision();
                    state = Some((Zeroizing::new(key.into_key_value().1), version));
                }
                "about" => about = key.value().to_vec(),
                other => {
                    if let Some(id) = other.strip_prefix("letters/") {
                        board.letters.insert(id.to_owned(), text(key.value()));
                    }
                }
            }
        }
        if let Some((state, version)) = state {
            board.record = Some(Kept {
                // It is counted for as long as a record is of use.
                age: Age::Known(Duration::from_secs(COUNTED.unsigned_abs())),
                state,
                about,
                version,
            });
        }
        Ok(board)
    }

    /// The version of each board is made of all keys on it and their revisions; of one whose claim is ours, also of
    /// the leader's `term`.
    fn versions_of(&self, keys: &[KeyValue], term: u64) -> BTreeMap<String, u64> {
        let lease = self.lease.load(Ordering::SeqCst);
        let mut hashers: BTreeMap<String, DefaultHasher> = BTreeMap::new();
        for key in keys {
            if let Some((appid, fact)) = self.parts(key.key()) {
                let hasher = hashers.entry(appid.to_owned()).or_default();
                if fact == "claim" && key.lease() == lease {
                    term.hash(hasher);
                }
                (fact, key.mod_revision()).hash(hasher);
            }
        }
        let finish = |(appid, hasher): (String, DefaultHasher)| (appid, hasher.finish());
        hashers.into_iter().map(finish).collect()
    }
}

#[async_trait]
impl Engine for Etcd {
    async fn renew(&self) -> Result<Lease, StoreError> {
        let lease = self.lease.load(Ordering::SeqCst);
        if lease != 0 {
            let renew =
                |mut client: Client| async move { client.lease_keep_alive(lease).await.map(drop) };
            match self.members.call("reached", renew).await {
                Ok(()) => return Ok(Lease::Renewed),
                Err(error) if !is_about_the_lease(&error) => return Err(error),
                Err(_) => {}
            }
        }
        let ttl = self.ttl;
        let grant = |mut client: Client| async move { client.lease_grant(ttl, None).await };
        let granted = self.members.call("reached", grant).await?;
        self.lease.store(granted.id(), Ordering::SeqCst);
        Ok(Lease::Begun)
    }

    async fn versions(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let keys = GetOptions::new().with_keys_only();
        let listed = self.list(&self.prefix, keys).await?;
        if let Some(header) = listed.header() {
            let next = header.revision() + 1;
            let _ = self
                .next
                .compare_exchange(0, next, Ordering::SeqCst, Ordering::SeqCst);
        }
        Ok(self.versions_of(listed.kvs(), term(listed.header())))
    }

    async fn board(&self, appid: &str) -> Result<Board, StoreError> {
        let mut before = None;
        loop {
            let mut board = self.list_board(appid).await?;
            let Some(kept) = &mut board.record else {
                return Ok(board);
            };
            let counted = serde_json::from_slice(&kept.about).unwrap_or_default();
            if let Some(age) = self.age(&counted).await? {
                kept.age = age;
                return Ok(board);
            }
            // A save puts another lease in place of the one that counted: what was listed is outdated then.
            if before.replace(kept.version) == Some(kept.version) {
                return Ok(board);
            }
        }
    }

    async fn claim(&self, appid: &str) -> Result<(), StoreError> {
        let key = self.key(appid, "claim");
        let lease = self.by_lease("claimed")?;
        let txn = Txn::new()
            .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.as_str(), self.me.as_str(), Some(lease))]);
        self.txn("claimed", txn).await.map(drop)
    }

    async fn release(&self, appid: &str) -> Result<(), StoreError> {
        let key = self.key(appid, "claim");
        let txn = Txn::new()
            .when([Compare::value(key.as_str(), CompareOp::Equal, &*self.me)])
            .and_then([TxnOp::delete(key.as_str(), None)]);
        self.txn("given up", txn).await.map(drop)
    }

    async fn post(&self, appid: &str, entry: &Entry<'_>) -> Result<Posted, StoreError> {
        let counted = self.begin_to_count().await?;
        let [claim, record, about] = ["claim", "record", "about"].map(|fact| self.key(appid, fact));
        let beside = beside(entry.about, &counted);
        let (before, held) = (GetOptions::new(), Compare::create_revision);
        let txn = Txn::new()
            .when([
                held(claim.as_str(), CompareOp::Equal, entry.fence),
                Compare::mod_revision(record.as_str(), CompareOp::Equal, entry.version),
            ])
            .and_then([
                TxnOp::get(about.as_str(), Some(before.clone())),
                TxnOp::put(record.as_str(), entry.state, None),
                TxnOp::put(about.as_str(), beside, None),
            ])
            .or_else([TxnOp::get(claim.as_str(), Some(before))]);
        // After a failure the lease goes on: it may count for a record that was written all the same.
        let done = self.txn("written", txn).await?;
        let first = done.op_responses().into_iter().next();
        let found = match &first {
            Some(TxnOpResponse::Get(got)) => got.kvs().first(),
            _ => None,
        };
        if done.succeeded() {
            let old: Counted = found
                .and_then(|about| serde_json::from_slice(about.value()).ok())
                .unwrap_or_default();
            if old.age_lease != 0 {
                self.revoke(old.age_lease).await;
            }
            let revision = done.header().map_or(0, ResponseHeader::revision);
            return Ok(Posted::Done(revision));
        }
        self.revoke(counted.age_lease).await;
        let ours = found.is_some_and(|claim| claim.create_revision() == entry.fence);
        Ok(if ours { Posted::Changed } else { Posted::Lost })
    }

    async fn send(&self, appid: &str, id: &str, letter: &str) -> Result<(), StoreError> {
        let key = self.key(appid, &format!("letters/{id}"));
        let lease = self.by_lease("written")?;
        let put =
            async |mut client: Client| client.put(key.as_str(), letter, Some(lease.clone())).await;
        self.members.call("written", put).await.map(drop)
    }

    async fn reply(&self, appid: &str, id: &str, letter: &str) -> Result<(), StoreError> {
        let key = self.key(appid, &format!("letters/{id}"));
        let same = PutOptions::new().with_ignore_lease();
        let txn = Txn::new()
            .when([Compare::create_revision(
                key.as_str(),
                CompareOp::Greater,
                0,
            )])
            .and_then([TxnOp::put(key.as_str(), letter, Some(same))]);
        self.txn("written", txn).await.map(drop)
    }

    async fn discard(&self, appid: &str, id: &str) -> Result<(), StoreError> {
        let key = self.key(appid, &format!("letters/{id}"));
        let delete = TxnOp::delete(key, None);
        self.txn("written", Txn::new().and_then([delete]))
            .await
            .map(drop)
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let lease = self.lease.swap(0, Ordering::SeqCst);
        if lease == 0 {
            return Ok(());
        }
        let revoke = |mut client: Client| async move { client.lease_revoke(lease).await };
        self.members.call("reached", revoke).await.map(drop)
    }

    async fn watch(&self, changed: &mpsc::Sender<String>) -> StoreError {
        let at = self.members.present();
        let ended = match self.watch_until_it_ends(changed).await {
            Ok(()) => Failure::Etcd(Error::WatchError("it ended".into())),
            Err(error) => error,
        };
        self.members.forget_if_refused(at, &ended);
        if ended.is_about_the_member() {
            self.members.go_on(at);
        }
        ended.at("watched")
    }
}

/// The leader's, in whose time an answer was given.
fn term(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, ResponseHeader::raft_term)
}

/// `about` with what was counted added.
fn beside(about: &[u8], counted: &Counted) -> Vec<u8> {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(about).unwrap_or_default();
    fields.insert("age_lease".into(), counted.age_lease.into());
    fields.insert("term".into(), counted.term.into());
    serde_json::to_vec(&fields).unwrap_or_default()
}
