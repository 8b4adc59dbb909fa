//! A database that replicas share, in memory and by tokio's clock: what etcd and Redis do for them, with
//! the ways to it that can be cut, lose answers, or tell no changes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{broadcast, mpsc},
    time::{Instant, sleep},
};
use wxtokend::store::{
    StoreError,
    shared::{Age, Board, Claim, Engine, Entry, Kept, Lease, Posted},
};
use zeroize::Zeroizing;

use super::links::{Link, Way};

/// To the database, or back.
const HALFWAY: Duration = Duration::from_millis(1);

/// A call that gets no answer fails after this.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Hints that nobody has read.
const HINTS: usize = 1024;

/// What is kept for one app.
#[derive(Debug, Default)]
struct Row {
    version: u64,
    claim: Option<Claim>,
    record: Option<Saved>,
    /// Each with the replica that it ends with.
    letters: BTreeMap<String, (String, String)>,
}

#[derive(Debug)]
struct Saved {
    state: Zeroizing<Vec<u8>>,
    about: Vec<u8>,
    version: i64,
    at: Instant,
    /// Whether `at` is still known.
    counted: bool,
}

#[derive(Debug, Default)]
struct Rows {
    revision: u64,
    /// When the lease of each replica ends.
    leases: BTreeMap<String, Instant>,
    boards: BTreeMap<String, Row>,
}

/// The database.
#[derive(Debug)]
pub(super) struct Database {
    rows: Mutex<Rows>,
    /// How often somebody began to listen to hints.
    watches: AtomicU32,
    hints: broadcast::Sender<String>,
}

impl Database {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            watches: AtomicU32::new(0),
            hints: broadcast::Sender::new(HINTS),
        })
    }

    /// What one replica has of it.
    pub(super) fn client(
        self: &Arc<Self>,
        replica: &str,
        lease: Duration,
        link: Arc<Link>,
    ) -> Client {
        Client {
            database: Arc::clone(self),
            replica: replica.to_owned(),
            lease,
            link,
        }
    }

    /// How much longer the claim of `appid` is certainly that of `replica`.
    pub(super) fn claimed_for(&self, appid: &str, replica: &str) -> Option<Duration> {
        let rows = self.rows();
        let claim = rows.boards.get(appid)?.claim.as_ref()?;
        let end = rows.leases.get(replica)?;
        (claim.holder == replica).then(|| *end - Instant::now())
    }

    pub(super) fn watches(&self) -> u32 {
        self.watches.load(Ordering::Relaxed)
    }

    /// Somebody writes on the board of `appid`, and it does not concern anybody.
    pub(super) fn scribble(&self, appid: &str) {
        let _ = self.rows().change(appid);
        self.tell(appid);
    }

    /// Forgets how old records are, as etcd does when another member leads.
    pub(super) fn lose_count(&self) {
        let mut rows = self.rows();
        let appids: Vec<_> = rows.boards.keys().cloned().collect();
        for appid in appids {
            if let Some(saved) = &mut rows.change(&appid).record {
                saved.counted = false;
            }
        }
    }

    /// The rows as of now: whatever has ended is gone.
    fn rows(&self) -> MutexGuard<'_, Rows> {
        let mut rows = self.rows.lock().expect("no panic");
        for appid in rows.expire(Instant::now()) {
            self.tell(&appid);
        }
        rows
    }

    fn tell(&self, appid: &str) {
        // Nobody listens at times.
        let _ = self.hints.send(appid.to_owned());
    }
}

impl Rows {
    /// Ends the leases that are over, and returns whose boards have changed by that.
    fn expire(&mut self, now: Instant) -> Vec<String> {
        let over: Vec<_> = self.leases.extract_if(.., |_, end| *end <= now).collect();
        over.iter()
            .flat_map(|(replica, _)| self.end(replica))
            .collect()
    }

    /// Takes away what lived by the lease of `replica`.
    fn end(&mut self, replica: &str) -> Vec<String> {
        let mut changed = Vec::new();
        for (appid, row) in &mut self.boards {
            let claim = row.claim.take_if(|claim| claim.holder == replica);
            let letters = row.letters.len();
            row.letters.retain(|_, (sender, _)| sender != replica);
            if claim.is_some() || letters != row.letters.len() {
                self.revision += 1;
                row.version = self.revision;
                changed.push(appid.clone());
            }
        }
        changed
    }

    /// The row of `appid`, which is about to change.
    fn change(&mut self, appid: &str) -> &mut Row {
        self.revision += 1;
        let row = self.boards.entry(appid.to_owned()).or_default();
        row.version = self.revision;
        row
    }

    fn board(&self, appid: &str, now: Instant) -> Board {
        let Some(row) = self.boards.get(appid) else {
            return Board::default();
        };
        let kept = |saved: &Saved| Kept {
            state: saved.state.clone(),
            about: saved.about.clone(),
            version: saved.version,
            age: if saved.counted {
                Age::Known(now - saved.at)
            } else {
                Age::AtLeast(Duration::ZERO)
            },
        };
        let letter = |(id, (_, letter)): (&String, &(String, String))| (id.clone(), letter.clone());
        Board {
            version: row.version,
            claim: row.claim.clone(),
            record: row.record.as_ref().map(kept),
            letters: row.letters.iter().map(letter).collect(),
        }
    }

    fn post(&mut self, appid: &str, replica: &str, entry: &Entry<'_>, now: Instant) -> Posted {
        let row = self.boards.entry(appid.to_owned()).or_default();
        let ours = |claim: &Claim| claim.holder == replica && claim.fence == entry.fence;
        if !row.claim.as_ref().is_some_and(ours) {
            return Posted::Lost;
        }
        if row.record.as_ref().map_or(0, |saved| saved.version) != entry.version {
            return Posted::Changed;
        }
        let row = self.change(appid);
        let version = entry.version + 1;
        row.record = Some(Saved {
            state: Zeroizing::new(entry.state.to_vec()),
            about: entry.about.to_vec(),
            version,
            at: now,
            counted: true,
        });
        Posted::Done(version)
    }
}

/// One replica's way to the database.
#[derive(Debug)]
pub(super) struct Client {
    database: Arc<Database>,
    replica: String,
    lease: Duration,
    link: Arc<Link>,
}

impl Client {
    /// Carries `work` out in the database if the call arrives there; whether its answer arrives here is
    /// another question.
    async fn call<T>(&self, work: impl FnOnce(&mut Rows, Instant) -> T) -> Result<T, StoreError> {
        self.link.runs().await;
        sleep(HALFWAY).await;
        self.arrives(self.link.to_store()).await?;
        let done = work(&mut self.database.rows(), Instant::now());
        sleep(HALFWAY).await;
        self.arrives(self.link.back_from_store()).await?;
        self.link.runs().await;
        Ok(done)
    }

    async fn arrives(&self, way: Way) -> Result<(), StoreError> {
        match way {
            Way::Open => return Ok(()),
            Way::Closed => {}
            Way::Silent => sleep(PATIENCE).await,
        }
        self.link.runs().await;
        Err(unreachable())
    }

    /// Like [`Client::call`], for what changes something.
    async fn write<T>(&self, work: impl FnOnce(&mut Rows, Instant) -> T) -> Result<T, StoreError> {
        let read_only = self.link.state().read_only;
        let done = self.call(|rows, now| (!read_only).then(|| work(rows, now)));
        done.await?.ok_or_else(unreachable)
    }

    /// Like [`Client::write`], for what changes the board of `appid` if it comes to anything.
    async fn change<T>(
        &self,
        appid: &str,
        work: impl FnOnce(&mut Rows, Instant) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        let tell = |rows: &mut Rows, now| {
            let done = work(rows, now);
            done.inspect(|_| self.database.tell(appid))
        };
        self.write(tell).await
    }
}

fn unreachable() -> StoreError {
    StoreError::Remote {
        place: "the database".into(),
        action: "reached",
        source: "the way is cut".into(),
    }
}

#[async_trait]
impl Engine for Client {
    async fn renew(&self) -> Result<Lease, StoreError> {
        let renew = |rows: &mut Rows, now: Instant| {
            let end = now + self.lease;
            let before = rows.leases.insert(self.replica.clone(), end);
            before.map_or(Lease::Begun, |_| Lease::Renewed)
        };
        self.write(renew).await
    }

    async fn versions(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let version = |(appid, row): (&String, &Row)| (appid.clone(), row.version);
        self.call(|rows, _| rows.boards.iter().map(version).collect())
            .await
    }

    async fn board(&self, appid: &str) -> Result<Board, StoreError> {
        self.call(|rows, now| rows.board(appid, now)).await
    }

    async fn claim(&self, appid: &str) -> Result<(), StoreError> {
        let claim = |rows: &mut Rows, _| {
            let lives = rows.leases.contains_key(&self.replica);
            let free = rows.boards.get(appid).is_none_or(|row| row.claim.is_none());
            if !lives || !free {
                return None;
            }
            let row = rows.change(appid);
            row.claim = Some(Claim {
                holder: self.replica.clone(),
                fence: i64::try_from(row.version).expect("few changes"),
            });
            Some(())
        };
        self.change(appid, claim).await.map(drop)
    }

    async fn release(&self, appid: &str) -> Result<(), StoreError> {
        let release = |rows: &mut Rows, _| {
            let claim = rows.boards.get(appid)?.claim.as_ref()?;
            if claim.holder != self.replica {
                return None;
            }
            rows.change(appid).claim = None;
            Some(())
        };
        self.change(appid, release).await.map(drop)
    }

    async fn post(&self, appid: &str, entry: &Entry<'_>) -> Result<Posted, StoreError> {
        let post = |rows: &mut Rows, now| {
            let posted = rows.post(appid, &self.replica, entry, now);
            if matches!(posted, Posted::Done(_)) {
                self.database.tell(appid);
            }
            posted
        };
        self.write(post).await
    }

    async fn send(&self, appid: &str, id: &str, letter: &str) -> Result<(), StoreError> {
        let send = |rows: &mut Rows, _| {
            let lives = rows.leases.contains_key(&self.replica);
            let letter = (self.replica.clone(), letter.to_owned());
            lives.then(|| rows.change(appid).letters.insert(id.to_owned(), letter))
        };
        let letter = self.change(appid, send).await?;
        letter.map(drop).ok_or_else(unreachable)
    }

    async fn reply(&self, appid: &str, id: &str, letter: &str) -> Result<(), StoreError> {
        let reply = |rows: &mut Rows, _| {
            let known = rows.boards.get(appid)?.letters.contains_key(id);
            let row = known.then(|| rows.change(appid))?;
            letter.clone_into(&mut row.letters.get_mut(id)?.1);
            Some(())
        };
        self.change(appid, reply).await.map(drop)
    }

    async fn discard(&self, appid: &str, id: &str) -> Result<(), StoreError> {
        let discard = |rows: &mut Rows, _| {
            let known = rows.boards.get(appid)?.letters.contains_key(id);
            known.then(|| rows.change(appid).letters.remove(id))
        };
        self.change(appid, discard).await.map(drop)
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let leave = |rows: &mut Rows, _: Instant| {
            rows.leases.remove(&self.replica);
            for appid in rows.end(&self.replica) {
                self.database.tell(&appid);
            }
        };
        self.write(leave).await
    }

    async fn watch(&self, changed: &mpsc::Sender<String>) -> StoreError {
        let mut hints = self.database.hints.subscribe();
        self.database.watches.fetch_add(1, Ordering::Relaxed);
        loop {
            let hint = hints.recv().await;
            if self.link.to_store() != Way::Open {
                return unreachable();
            }
            self.link.runs().await;
            match hint {
                Ok(appid) if !self.link.deaf() => drop(changed.send(appid).await),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return unreachable(),
            }
        }
    }
}
