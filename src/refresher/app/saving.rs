//! Getting records onto the disk, later if it fails: the readers never wait for it longer than they
//! must. And back from there at a start.

use std::{error::Error, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{App, Event};
use crate::{
    clock::Clock,
    domain::{
        AppName, Generation, Moment, Now, Policy, Slot,
        protocol::{Heard, Protocol, Step},
    },
    failpoint,
    store::{Store, StoreError},
};

/// Whether the store has what it should have.
#[derive(Debug, Default)]
pub(super) struct Saving {
    pub(super) under_way: bool,
    /// The token that is being saved.
    pub(super) token: Generation,
    /// Something changed that is not saved, and when to try again.
    pub(super) retry_at: Option<Moment>,
    pub(super) failures: u32,
    /// What was last warned about.
    pub(super) warned: Option<StoreError>,
}

impl Saving {
    /// Why the store fails, if it does.
    pub(super) fn complaint(&self) -> Option<Arc<str>> {
        let error = self.warned.as_ref()?;
        Some(error.told().into())
    }
}

impl App {
    /// Saves what is not saved yet, before the end.
    pub(in crate::refresher) fn save_now(&mut self, events: &mut JoinSet<(AppName, Event)>) {
        if self.saving.retry_at.is_some() && !self.has_business() {
            self.start_save(None, events);
        }
    }

    pub(super) fn start_save(
        &mut self,
        protocol: Option<Protocol>,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        self.saving.under_way = true;
        self.saving.retry_at = None;
        let (name, adapters, record) =
            (self.name.clone(), self.adapters.clone(), self.slot.record());
        self.remember_the_trouble(&record);
        let token = record.token.as_ref();
        self.saving.token = token.map_or(Generation(0), |token| token.generation);
        events.spawn(async move {
            failpoint::pass("saving");
            let saved = adapters.save(&record).await;
            failpoint::pass("saved");
            (name, Event::Saved(protocol, saved))
        });
    }

    pub(super) fn on_saved(
        &mut self,
        protocol: Option<Protocol>,
        result: Result<(), StoreError>,
        now: Now,
    ) {
        self.saving.under_way = false;
        if let Some(replica) = &mut self.replica {
            replica.renumbering = false;
        }
        if matches!(result, Err(StoreError::Lost)) {
            let noted = protocol.is_some_and(|protocol| !protocol.publishes_last());
            return self.on_lost(noted, now);
        }
        let heard = match result {
            Ok(()) => {
                if self.saving.warned.take().is_some() {
                    info!(app = %self.name, "the store works again");
                }
                self.saving.failures = 0;
                self.slot.told(self.saving.token);
                Heard::Saved
            }
            Err(error) => {
                self.warn_about_the_store(error);
                self.saving.failures += 1;
                let pause =
                    self.policy
                        .back_off(self.saving.failures, Duration::ZERO, fastrand::f64());
                self.saving.retry_at = Some(now.boot + pause);
                Heard::SaveFailed
            }
        };
        if protocol.is_some_and(|mut protocol| protocol.next(heard) == Step::Publish) {
            failpoint::pass("publishing");
            self.withheld = false;
        }
    }
}

/// A slot that goes on where the record of a server's own store ended.
pub(super) async fn restored(
    store: &dyn Store,
    name: &AppName,
    appid: &str,
    policy: Policy,
    clock: Clock,
) -> Slot {
    let loaded = store.load(appid).await;
    let now = clock.now();
    let mut slot = Slot::new(policy, now);
    match loaded {
        Ok(Some(record)) => slot.restored(record, now),
        Ok(None) => {}
        Err(error) => {
            warn!(app = %name, error = &error as &dyn Error, "the saved token cannot be read; a new one is fetched");
        }
    }
    if let Some(token) = slot.token() {
        let left = token.expires_at.since(now.boot).as_secs_f64().round();
        info!(app = %name, generation = token.generation.0, left_secs = left, "token restored");
    }
    slot
}
