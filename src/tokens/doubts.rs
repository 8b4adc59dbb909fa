//! Readers who need WeChat's word before they may have a token, and how they and the owner hear of each other.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use crate::domain::AppName;

/// Which tokens are in doubt and asked for.
#[derive(Debug)]
pub struct Doubts {
    apps: BTreeMap<AppName, Doubted>,
    /// Whether anything is wanted.
    any: AtomicBool,
    /// Some reader has begun to wait.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Doubted {
    wanted: AtomicBool,
    /// What is known has changed.
    known: Notify,
}

impl Doubts {
    pub(super) fn new(apps: impl Iterator<Item = AppName>) -> Self {
        Self {
            apps: apps.map(|app| (app, Doubted::default())).collect(),
            any: AtomicBool::new(false),
            wanted: Notify::new(),
        }
    }

    /// Tells the owner that a reader wants to know whether the token of `app` lives.
    pub(super) fn want(&self, app: &AppName) {
        let doubted = self.apps.get(app);
        if doubted.is_some_and(|doubted| !doubted.wanted.swap(true, Ordering::AcqRel)) {
            self.any.store(true, Ordering::Release);
            self.wanted.notify_one();
        }
    }

    /// Returns once there is something to [`Doubts::take`].
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The apps that readers have begun to wait for since this was called last.
    pub fn take(&self) -> Vec<AppName> {
        if !self.any.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let wanted = |(_, doubted): &(_, &Doubted)| doubted.wanted.swap(false, Ordering::AcqRel);
        let apps = self.apps.iter().filter(wanted);
        apps.map(|(app, _)| app.clone()).collect()
    }

    /// What to wait for until something is known about `app`.
    pub(super) fn known(&self, app: &AppName) -> Option<&Notify> {
        self.apps.get(app).map(|doubted| &doubted.known)
    }
}
