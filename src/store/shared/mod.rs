//! A store that several replicas share.
//!
//! One of them holds the *claim* of an app and refreshes it; what it saves arrives at the others, and
//! what their callers report arrives at it. A claim lives by its replica's lease, so it ends by itself
//! when the replica does. Every save names the claim that it is made under, and is refused if that is
//! over: a replica that was held up cannot undo what its successor did.
//!
//! Which database it is does not matter here ([`Engine`]). What replicas know of a board is read from
//! it whole, whenever a hint says that it has changed; a hint that is lost is made up for by a regular
//! comparison of versions (`keeper.rs`).

mod boards;
mod engine;
mod keeper;
mod letters;
mod recount;
mod sharing;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

pub use self::{
    engine::{Board, Claim, Engine, Entry, Kept, Lease, Posted},
    letters::{Letter, Reply, Request, millis},
    sharing::Sharing,
};
pub use super::times::Age;
use super::{Store, StoreError};

use crate::domain::{Generation, Moment, Record};

/// Asks of a claim that it lasts for a while are waited for so long.
const RENEWAL: Duration = Duration::from_secs(2);

/// So many boards are claimed, or read and copied, at a time.
const LANES: usize = 16;

/// How an app stands in the store.
#[derive(Debug)]
pub struct Seen {
    /// Which app.
    pub appid: String,
    /// Who refreshes it.
    pub holder: Holder,
    /// What was saved last.
    pub record: Option<Record>,
    /// Whether it was this replica that saved it.
    pub own: bool,
    /// What replicas ask of each other, by its id.
    pub letters: BTreeMap<String, Letter>,
}

/// Who refreshes an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: it is free for the taking.
    Nobody,
    /// This replica.
    Us,
    /// The replica of this name.
    Other(String),
}

/// One replica's share in a store.
#[derive(Debug)]
pub struct Shared {
    inner: Arc<Inner>,
    changes: Mutex<Option<mpsc::UnboundedReceiver<Seen>>>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Inner {
    engine: Arc<dyn Engine>,
    sharing: Sharing,
    state: Mutex<State>,
    /// What claims and reads boards: a database is not sent what concerns all apps at once.
    lanes: Semaphore,
    /// One record is counted anew at a time.
    counting: Arc<AsyncMutex<()>>,
    seen: mpsc::UnboundedSender<Seen>,
    /// The lease is to be renewed at once.
    hurry: Notify,
    /// Something about lease or contact has changed.
    turned: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// It has answered once.
    answered: bool,
    /// When the last comparison of versions was sent that was answered.
    contact: Option<Moment>,
    /// When the last comparison of versions was sent that was not answered.
    missed: Option<Moment>,
    /// Why.
    why: Option<Arc<str>>,
    /// When the last renewal was sent that was answered.
    renewed: Option<Moment>,
    /// The store can be read, but no claim can be taken.
    read_only: bool,
    boards: BTreeMap<String, Known>,
}

/// What is known of a board.
#[derive(Debug, Default)]
struct Known {
    version: Option<u64>,
    record: i64,
    /// When the record of this version was saved, as the store counted it.
    saved_at: Option<(i64, Moment)>,
    recounting: Option<recount::Recount>,
    claim: Option<Claim>,
    turns: Turns,
}

/// What is done for an app one after the other.
#[derive(Clone, Debug, Default)]
struct Turns {
    /// Reading its board, so that what was read first is told first.
    look: Arc<AsyncMutex<()>>,
    /// Writing its local copy, of which the generation is known once it was written or read.
    copy: Arc<AsyncMutex<Option<Generation>>>,
}

impl Shared {
    /// Begins to share `engine`. Goes on trying while it cannot be reached.
    pub fn begin(engine: Arc<dyn Engine>, sharing: Sharing) -> Self {
        let (seen, changes) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            engine,
            sharing,
            state: Mutex::default(),
            lanes: Semaphore::new(LANES),
            counting: Arc::default(),
            seen,
            hurry: Notify::new(),
            turned: watch::Sender::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper::keep_the_lease(Arc::clone(&inner)));
        tasks.spawn(keeper::follow(Arc::clone(&inner)));
        Self {
            inner,
            changes: Mutex::new(Some(changes)),
            _tasks: tasks,
        }
    }

    /// How each app stands, whenever that may have changed. To be taken once.
    pub fn changes(&self) -> Option<mpsc::UnboundedReceiver<Seen>> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.take()
    }

    /// The name of this replica.
    pub fn me(&self) -> &str {
        &self.inner.sharing.me
    }

    /// How long a claim outlives the last sign of its replica.
    pub fn lease(&self) -> Duration {
        self.inner.sharing.lease
    }

    /// Waits until the store was read once, at most for `patience`. Whether it has answered at least: to read very many
    /// boards takes longer.
    pub async fn wait_for_contact(&self, patience: Duration) -> bool {
        let mut turned = self.inner.turned.subscribe();
        let contact = async { while self.contact().is_none() && turned.changed().await.is_ok() {} };
        let _ = timeout(patience, contact).await;
        self.inner.state().answered
    }

    /// When the store was last known to hold nothing that was not told: `None` before it was reached.
    pub fn contact(&self) -> Option<Moment> {
        self.inner.state().contact
    }

    /// When the store was last asked in vain.
    pub fn missed(&self) -> Option<Moment> {
        self.inner.state().missed
    }

    /// Why the store was asked in vain last.
    pub fn why(&self) -> Option<Arc<str>> {
        self.inner.state().why.clone()
    }

    /// Until when the claim of `appid` certainly is ours, if nothing is heard of the store any more.
    pub fn claim_until(&self, appid: &str) -> Option<Moment> {
        self.inner.claim_until(appid)
    }

    /// Tries to take the claim of `appid`. What came of it is told as a change.
    pub async fn claim(&self, appid: &str) -> Result<(), StoreError> {
        let inner = &self.inner;
        // Without a lease there is nothing that a claim could live by.
        let mut turned = inner.turned.subscribe();
        let lease =
            async { while inner.state().renewed.is_none() && turned.changed().await.is_ok() {} };
        let _ = timeout(RENEWAL, lease).await;
        let claimed = {
            let _lane = inner.lane().await;
            inner.engine.claim(appid).await
        };
        if let Err(error) = &claimed {
            inner.wrote_nothing(error).await;
        }
        claimed?;
        inner.state().read_only = false;
        inner.look(appid).await.map(drop)
    }

    /// What is saved for `appid` by now. It is told as well, after all that is older.
    pub async fn look(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        self.inner.look(appid).await
    }

    /// Whether the store can be read, but lets nobody take a claim.
    pub fn read_only(&self) -> bool {
        self.inner.state().read_only
    }

    /// Gives up the claim of `appid`, so that another replica can take it at once. Nothing may be under
    /// way that depends on it.
    pub async fn release(&self, appid: &str) -> Result<(), StoreError> {
        let forget = || {
            let mut state = self.inner.state();
            // What came of it is found by the next comparison.
            let known = state.board(appid);
            (known.claim, known.version) = (None, None);
        };
        forget();
        let released = self.inner.engine.release(appid).await;
        forget();
        released
    }

    /// Who refreshes `appid`, by the store itself.
    pub async fn holder(&self, appid: &str) -> Result<Holder, StoreError> {
        let board = self.inner.engine.board(appid).await?;
        Ok(self.inner.holder(board.claim))
    }

    /// The local copy of what readers here knew last.
    pub async fn copy(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        match &self.inner.sharing.cache {
            Some(cache) => cache.load(appid).await,
            None => Ok(None),
        }
    }

    /// Keeps a local copy of what readers are about to see and the store does not know.
    pub async fn keep(&self, appid: &str, record: &Record) {
        self.inner.keep_a_copy(appid, record).await;
    }

    /// Sends a question to whoever refreshes `appid`, under an `id` that no other question has.
    pub async fn ask(&self, appid: &str, id: &str, request: Request) -> Result<(), StoreError> {
        let from = self.me().to_owned();
        let letter = Letter {
            from,
            request,
            reply: None,
        };
        self.inner.engine.send(appid, id, &text(&letter)).await
    }

    /// Answers a question.
    pub async fn answer(&self, appid: &str, id: &str, letter: &Letter) -> Result<(), StoreError> {
        self.inner.engine.reply(appid, id, &text(letter)).await
    }

    /// Takes away a question of ours.
    pub async fn discard(&self, appid: &str, id: &str) -> Result<(), StoreError> {
        self.inner.engine.discard(appid, id).await
    }

    /// Gives up all claims, so that others can take them at once.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.inner.engine.leave().await
    }
}

#[async_trait]
impl Store for Shared {
    async fn load(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        let board = self.inner.engine.board(appid).await?;
        Ok(self.inner.record(appid, board.record.as_ref()).0)
    }

    async fn read(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        let board = self.inner.engine.board(appid).await?;
        let kept = board.record.as_ref();
        let believed = kept.map(|kept| self.inner.believed(appid, kept));
        match believed.transpose() {
            Ok(found) => Ok(found.map(|(record, _)| record)),
            Err(damage) => Err(StoreError::Remote {
                place: format!("the record of `{appid}`"),
                action: "believed",
                source: damage.into(),
            }),
        }
    }

    async fn save(&self, appid: &str, record: &Record) -> Result<(), StoreError> {
        if self.inner.standing(appid).is_none() {
            return Err(StoreError::Lost);
        }
        // Whatever becomes of the save, readers may see the record: a restart must know it, even one that
        // does not reach the store.
        let copy = self.inner.keep_a_copy(appid, record);
        tokio::join!(self.inner.save(appid, record), copy).0
    }

    async fn may_ask(&self, appid: &str, span: Duration) -> bool {
        let long_enough = || {
            let until = self.claim_until(appid)?;
            Some(until >= self.inner.sharing.clock.now().boot + span)
        };
        let mut turned = self.inner.turned.subscribe();
        let renewal = async {
            while long_enough() == Some(false) {
                self.inner.hurry.notify_one();
                if turned.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(RENEWAL, renewal).await;
        long_enough() == Some(true)
    }
}

impl State {
    fn board(&mut self, appid: &str) -> &mut Known {
        if !self.boards.contains_key(appid) {
            self.boards.insert(appid.to_owned(), Known::default());
        }
        self.boards.get_mut(appid).expect("it is there now")
    }
}

fn text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain structs have no keys or numbers that JSON lacks")
}
