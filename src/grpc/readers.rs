//! Who watches an app, and which generation each of them has pulled, and when.
//!
//! A message counts as pulled when the transport comes back for the next one: a reader that grants no
//! window holds up its last message, and must not look up to date.
//!
//! Every push passes here once per stream, so what is common is done without a lock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tracing::debug;

use crate::{
    domain::{AppName, Generation, Moment},
    telemetry::{Metrics, Watching},
    tokens::{NoToken, Tokens},
};

/// The readers of every app.
#[derive(Clone, Debug)]
pub(super) struct Readers(Arc<BTreeMap<AppName, Arc<Audience>>>);

impl Readers {
    pub(super) fn new(tokens: &Tokens, metrics: &Metrics) -> Self {
        let audience = |app: &AppName| {
            let audience = Audience {
                app: app.clone(),
                tokens: tokens.clone(),
                watching: metrics.watching(app),
                newest: AtomicU64::default(),
                count: Mutex::default(),
            };
            (app.clone(), Arc::new(audience))
        };
        Self(Arc::new(tokens.apps().map(audience).collect()))
    }

    /// One more reader of `app`.
    pub(super) fn join(&self, app: &AppName) -> Result<Reader, NoToken> {
        let audience = self.0.get(app).cloned();
        let audience = audience.ok_or_else(|| NoToken::UnknownApp(app.to_string()))?;
        audience.watching.streams.inc();
        Ok(Reader {
            audience,
            handed: None,
            pulled: None,
            pulled_at: Moment::default(),
        })
    }

    /// Learns what is in force, which readers that are stuck will never ask for.
    pub(super) fn look(&self) {
        for (app, audience) in self.0.iter() {
            if let Some(current) = audience.tokens.view(app).current {
                audience.published(current.token.generation, current.published_at);
            }
        }
    }
}

/// One stream.
#[derive(Debug)]
pub(super) struct Reader {
    audience: Arc<Audience>,
    handed: Option<Generation>,
    /// The generation that it has for certain, and since when.
    pulled: Option<Generation>,
    pulled_at: Moment,
}

impl Reader {
    /// What it reads.
    pub(super) fn tokens(&self) -> &Tokens {
        &self.audience.tokens
    }

    /// A message with the token of `generation` is about to be handed to the transport.
    pub(super) fn hand(&mut self, generation: Generation, published_at: Moment) {
        self.audience.published(generation, published_at);
        self.handed = Some(generation);
    }

    /// The transport has taken what it was handed.
    pub(super) fn took(&mut self) {
        if self.pulled != self.handed {
            self.pulled_at = self.audience.tokens.now().boot;
            let before = std::mem::replace(&mut self.pulled, self.handed);
            self.audience.moved(before, self.handed, self.pulled_at);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let audience = &self.audience;
        audience.watching.streams.dec();
        let Some(pulled) = self.pulled else {
            return;
        };
        let now = audience.tokens.now().boot;
        let newest = audience.newest.load(Relaxed);
        if pulled.0 < newest {
            let since = now.since(self.pulled_at);
            debug!(
                app = %audience.app,
                generation = pulled.0,
                newest,
                since_s = since.as_secs(),
                "a stream ended whose reader had not taken the newest token",
            );
        }
        audience.moved(Some(pulled), None, now);
    }
}

/// The readers of one app.
#[derive(Debug)]
struct Audience {
    app: AppName,
    tokens: Tokens,
    watching: Watching,
    /// That of `count`, for those who have nothing to tell.
    newest: AtomicU64,
    count: Mutex<Count>,
}

impl Audience {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn published(&self, generation: Generation, at: Moment) {
        if self.newest.load(Relaxed) >= generation.0 {
            return;
        }
        let mut count = self.count();
        count.published(generation, at);
        self.newest.store(count.newest.0, Relaxed);
        self.show(&count);
    }

    fn moved(&self, before: Option<Generation>, after: Option<Generation>, now: Moment) {
        let mut count = self.count();
        let delivered = count.moved(before, after, now);
        self.show(&count);
        drop(count);
        if let Some(took) = delivered {
            self.watching.delivery.observe(took);
        }
    }

    fn show(&self, count: &Count) {
        self.watching
            .behind
            .set(count.behind.try_into().unwrap_or(i64::MAX));
    }
}

/// Who holds an older token than the newest is behind; who holds none yet is not behind but new.
#[derive(Debug, Default)]
struct Count {
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

    /// A reader went from `before` to `after`, `None` for nothing. How long the newest token was on its
    /// way, if that reader was the last.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(second))
    }

    #[test]
    fn a_delivery_lasts_until_the_last_reader_has_the_newest_or_is_gone() {
        let [one, two, three] = [1, 2, 3].map(|n| Some(Generation(n)));
        let mut count = Count::default();
        count.published(Generation(1), at(0));
        for _ in 0..3 {
            assert_eq!(count.moved(None, one, at(1)), None, "new, not behind");
        }
        count.published(Generation(2), at(10));
        assert_eq!(count.behind, 3);
        assert_eq!(count.moved(one, two, at(11)), None);
        count.published(Generation(3), at(12));
        assert_eq!(count.behind, 3, "whoever holds the second is behind again");
        assert_eq!(count.moved(one, three, at(13)), None, "it skipped one");
        assert_eq!(count.moved(two, three, at(14)), None);
        let slowest = count.moved(one, None, at(42));
        assert_eq!(slowest, Some(Duration::from_secs(30)), "it was reset");
        assert_eq!((count.behind, count.holders), (0, 2));
        assert_eq!(count.moved(three, None, at(50)), None);
    }

    #[test]
    fn an_older_publication_changes_nothing() {
        let mut count = Count::default();
        count.published(Generation(2), at(1));
        count.moved(None, Some(Generation(2)), at(2));
        count.published(Generation(1), at(3));
        assert_eq!((count.behind, count.newest), (0, Generation(2)));
    }
}
