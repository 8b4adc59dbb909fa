//! What goes on in the background: the lease is kept alive, and the boards are read when they change.
//!
//! Hints come by the database's own way of telling changes, within milliseconds. Such ways have been
//! seen to fall silent without an end (etcd-io/etcd#8980), so versions are compared twice a second as
//! well, which also is the proof that nothing was missed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::{join_all, try_join_all};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};

use super::{Inner, Lease, StoreError};

/// The pause between two comparisons of versions.
const POLL: Duration = Duration::from_millis(500);

/// The pause before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// So often between two hints a comparison may find what none has told, before the hints are begun anew.
const SILENT: u32 = 3;

/// What hints are about is read within this.
const HINTED: Duration = Duration::from_secs(2);

/// Hints beyond this many wait.
const HINTS: usize = 256;

/// Renews the lease at each third of it, and whenever somebody is in a hurry.
pub(super) async fn keep_the_lease(inner: Arc<Inner>) {
    let lease = inner.sharing.lease;
    loop {
        let sent = inner.sharing.clock.now().boot;
        let renewed = timeout(lease / 3, inner.engine.renew()).await;
        let pause = match renewed {
            Ok(Ok(renewed)) => {
                let mut state = inner.state();
                let over = |at| at + lease <= sent;
                let lapsed = state.renewed.is_none_or(over) || renewed == Lease::Begun;
                for known in state.boards.values_mut().filter(|_| lapsed) {
                    // Whoever counted on a claim has given it up: it is told anew what is true.
                    known.version = None;
                    known.claim.take_if(|_| renewed == Lease::Begun);
                }
                state.renewed = Some(sent);
                lease / 3
            }
            Ok(Err(_)) | Err(_) => AGAIN,
        };
        inner.turned.send_replace(());
        // In no hurry to do so more often than it may fail.
        sleep(AGAIN.min(pause)).await;
        let _ = timeout(pause.saturating_sub(AGAIN), inner.hurry.notified()).await;
    }
}

/// What told changes for so long worked, and its end is news.
const LASTING: Duration = Duration::from_secs(10);

/// Reads boards when they change.
pub(super) async fn follow(inner: Arc<Inner>) {
    let (mut warned, mut told) = (false, false);
    loop {
        let began = inner.sharing.clock.now().boot;
        let (hint, mut hints) = mpsc::channel(HINTS);
        let end = tokio::select! {
            // Not for fairness: so that a simulation is the same each time.
            biased;
            error = inner.engine.watch(&hint) => Some(error),
            () = inner.read_what_changes(&mut hints, &mut warned) => None,
        };
        // Once, if it is not even begun.
        told &= inner.sharing.clock.now().boot.since(began) < LASTING;
        match end {
            Some(error) if !warned && !told => {
                told = true;
                let error = &error as &dyn std::error::Error;
                info!(error, "changes in the store are not told; looking for them");
            }
            Some(_) => {}
            None => info!("the store has fallen silent; asking it for changes anew"),
        }
        // Between the two, nothing is missed for longer than it takes to compare versions.
        let _ = inner.compare(&mut warned).await;
        sleep(AGAIN).await;
    }
}

impl Inner {
    /// Until hints seem to be lost.
    async fn read_what_changes(&self, hints: &mut mpsc::Receiver<String>, warned: &mut bool) {
        let (mut silent, mut polls) = (0, interval(POLL));
        let mut hinted = Vec::new();
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while silent < SILENT {
            tokio::select! {
                biased;
                _ = polls.tick() => match self.compare(warned).await {
                    0 => {}
                    _ => silent += 1,
                },
                count = hints.recv_many(&mut hinted, HINTS) => {
                    if count == 0 {
                        return;
                    }
                    silent = 0;
                    let boards: BTreeSet<String> = hinted.drain(..).collect();
                    let looks = boards.iter().map(|appid| self.look(appid));
                    // What cannot be read now is found by the next comparison, which must not wait for it.
                    drop(timeout(HINTED, join_all(looks)).await);
                }
            }
        }
    }

    /// Compares all boards with what is known of them and reads those that differ. Returns how many did.
    async fn compare(&self, warned: &mut bool) -> usize {
        let sent = self.sharing.clock.now().boot;
        let mut changed = 0;
        match self.read_what_differs(&mut changed).await {
            Ok(()) => {
                if std::mem::take(warned) {
                    info!("the store can be reached again");
                }
                let mut state = self.state();
                // Others cannot tell through it what they do.
                if state.read_only {
                    state.missed = Some(sent);
                } else {
                    (state.contact, state.why) = (Some(sent), None);
                }
            }
            Err(error) => {
                let mut state = self.state();
                state.missed = Some(sent);
                state.why = Some(error.told().into());
                drop(state);
                warn_of(&error, warned);
            }
        }
        self.turned.send_replace(());
        changed
    }

    async fn read_what_differs(&self, changed: &mut usize) -> Result<(), StoreError> {
        let versions = self.engine.versions().await?;
        self.state().answered = true;
        let mut different = Vec::new();
        for appid in &self.sharing.apps {
            let version = versions.get(appid).copied().unwrap_or_default();
            let known = self.state().board(appid).version;
            if known != Some(version) {
                *changed += usize::from(known.is_some());
                different.push(self.look(appid));
            }
        }
        try_join_all(different).await.map(drop)
    }
}

fn warn_of(error: &StoreError, warned: &mut bool) {
    if !std::mem::replace(warned, true) {
        let error = error as &dyn std::error::Error;
        warn!(
            error,
            "the store cannot be reached; tokens are served from memory"
        );
    }
}
