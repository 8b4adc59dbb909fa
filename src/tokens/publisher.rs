//! The half of the one who owns the tokens.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use tokio::sync::{mpsc, watch};

use super::{Reported, View, doubts::Doubts};
use crate::{
    clock::Clock,
    domain::{AppName, Moment},
};

/// The owner's half. Dropping it ends every watch.
#[derive(Debug)]
pub struct Publisher {
    pub(super) writers: BTreeMap<AppName, watch::Sender<View>>,
    pub(super) draining: watch::Sender<bool>,
    pub(super) beat: Arc<AtomicI64>,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) clock: Clock,
    /// What readers doubt.
    pub doubts: Arc<Doubts>,
    /// What readers report.
    pub reports: mpsc::Receiver<Reported>,
}

impl Publisher {
    /// Replaces what is known about `app` and wakes its readers if it matters to them.
    pub fn publish(&self, app: &AppName, view: View) {
        let Some(writer) = self.writers.get(app) else {
            return;
        };
        let now = self.clock.now().boot;
        writer.send_if_modified(|present| {
            let view = view.published(present, now);
            let matters = present.differs(&view);
            *present = view;
            matters
        });
        if let Some(known) = self.doubts.known(app) {
            known.notify_waiters();
        }
    }

    /// The owner's loop turned.
    pub fn beat(&self, now: Moment) {
        self.beat.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Callers had better go elsewhere: from now on the server counts as not ready.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Tells every reader that the end is here. Streams say so and end themselves.
    pub fn drain(&self) {
        self.stop();
        self.draining.send_replace(true);
    }
}
