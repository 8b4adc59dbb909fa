//! Waiting for a new secret, after WeChat refused the one there is.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::sleep};

use super::{App, Event};
use crate::domain::{AppName, Remedy, Trouble};

/// The pause between two looks at a secret that WeChat refused: somebody is about to change it.
const SECRET_POLL: Duration = Duration::from_secs(1);

impl App {
    /// A refused credential is retried slowly, but a new secret at once.
    pub(super) fn poll_secret_after(
        &mut self,
        trouble: &Trouble,
        refused: Option<u64>,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        let hopeless = matches!(trouble.remedy, Remedy::Refused(_));
        if !hopeless || self.secret_poll.is_some() {
            return;
        }
        let (name, upstream) = (self.name.clone(), Arc::clone(&self.adapters.upstream));
        let poll = events.spawn(async move {
            loop {
                let version = upstream.secret_version().await;
                if version.is_some() && version != refused {
                    return (name, Event::SecretChanged);
                }
                sleep(SECRET_POLL).await;
            }
        });
        self.secret_poll = Some(poll);
    }

    pub(super) fn stop_secret_poll(&mut self) {
        if let Some(poll) = self.secret_poll.take() {
            poll.abort();
        }
    }
}
