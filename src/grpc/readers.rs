//! Who watches an app, and which generation each of them has pulled, and when.
//!
//! A message counts as pulled when the transport comes back for the next one: a reader that grants no
//! window holds up its last message, and must not look up to date.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    domain::{AppName, Generation, Moment},
    tokens::Tokens,
};

/// The readers of every app.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    audiences: Arc<BTreeMap<AppName, Arc<Audience>>>,
    tokens: Tokens,
}

impl Readers {
    pub(super) fn new(tokens: Tokens) -> Self {
        let audience = |app: &AppName| (app.clone(), Arc::default());
        let audiences = Arc::new(tokens.apps().map(audience).collect());
        Self { audiences, tokens }
    }

    /// One more reader of `app`.
    pub(super) fn join(&self, app: &AppName) -> Arc<Reader> {
        let audience = self.audiences.get(app).cloned().unwrap_or_default();
        audience.count().streams += 1;
        Arc::new(Reader {
            audience,
            tokens: self.tokens.clone(),
            handed: AtomicU64::default(),
            pulled: Mutex::default(),
        })
    }

    /// Learns what is in force, which readers that are stuck will never ask for.
    pub(super) fn look(&self) {
        for (app, audience) in self.audiences.iter() {
            let view = self.tokens.watch(app);
            if let Ok(view) = view
                && let Some(current) = &view.borrow().current
            {
                audience
                    .count()
                    .published(current.token.generation, current.published_at);
            }
        }
    }
}

/// One stream.
#[derive(Debug)]
pub(super) struct Reader {
    audience: Arc<Audience>,
    tokens: Tokens,
    handed: AtomicU64,
    pulled: Mutex<Option<Pulled>>,
}

/// What a reader has for certain, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pulled {
    generation: Generation,
    at: Moment,
}

impl Reader {
    /// A message with the token of `generation` is about to be handed to the transport.
    pub(super) fn hand(&self, generation: Generation, published_at: Moment) {
        self.audience.count().published(generation, published_at);
        self.handed.store(generation.0, Ordering::Relaxed);
    }

    /// The transport has taken what it was handed.
    pub(super) fn took(&self) {
        let generation = Generation(self.handed.load(Ordering::Relaxed));
        let mut pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pulled.map(|pulled| pulled.generation);
        if generation == Generation::default() || before == Some(generation) {
            return;
        }
        let at = self.tokens.now().boot;
        *pulled = Some(Pulled { generation, at });
        self.audience.moved(before, Some(generation), at);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let pulled = self
            .pulled
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let before = pulled.map(|pulled| pulled.generation);
        self.audience.moved(before, None, self.tokens.now().boot);
        self.audience.count().streams -= 1;
    }
}

/// The readers of one app.
#[derive(Debug, Default)]
struct Audience(Mutex<Count>);

impl Audience {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, before: Option<Generation>, after: Option<Generation>, now: Moment) {
        let delivered = self.count().moved(before, after, now);
        let _ = delivered; // METRICS
    }
}

/// What there is to know about all of them. Who holds an older token than the newest is behind; who
/// holds none yet is not behind but new.
#[derive(Debug, Default)]
struct Count {
    streams: usize,
    holders: usize,
    behind: usize,
    newest: Generation,
    published_at: Moment,
}

impl Count {
    fn published(&mut self, generation: Generation, at: Moment) {
        if generation > self.newest {
            self.newest = generation;
            self.published_at = at;
            self.behind = self.holders;
        }
    }

    /// A reader went from `before` to `after`, `None` for nothing; how long the newest token was on its way if that
    /// reader was the last.
    fn moved(
        &mut self,
        before: Option<Generation>,
        after: Option<Generation>,
        now: Moment,
    ) -> Option<Duration> {
        let behind = |held: Option<Generation>| held.is_some_and(|held| held < self.newest);
        let (was, is) = (behind(before), behind(after));
        self.holders = self.holders + usize::from(after.is_some()) - usize::from(before.is_some());
        self.behind = self.behind + usize::from(is) - usize::from(was);
        (was && self.behind == 0).then(|| now.since(self.published_at))
    }
}
