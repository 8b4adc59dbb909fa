//! The story of one refresh, up to WeChat's answer: note, ask. `domain::protocol` tells it; the loop
//! goes on with the answer.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    clock::Clock,
    domain::{
        Fetched, Now, Record, Remedy, Trouble,
        protocol::{Errand, Heard, Protocol, Step},
    },
    failpoint,
    store::{Store, StoreError},
    upstream::Upstream,
};

/// The longest a save may take before it counts as failed.
pub(super) const SAVE: Duration = Duration::from_secs(2);

/// A source bounds its own fetches; this catches one that does not.
const SLACK: Duration = Duration::from_secs(1);

/// What a refresh came to.
#[derive(Debug)]
pub(super) struct Obtained {
    /// Where the protocol is; the next thing it hears is about `result`.
    pub(super) protocol: Protocol,
    /// Whether it was sent under a claim.
    pub(super) claimed: bool,
    /// Just before the request was sent.
    pub(super) sent: Now,
    /// Which secret it showed.
    pub(super) secret: Option<u64>,
    /// WeChat's answer; `None` if it was not asked, because the claim might have ended meanwhile, or
    /// because there is no note that other replicas could read.
    pub(super) result: Option<Result<Fetched, Trouble>>,
    /// Why there is no note, if one was due.
    pub(super) note: Result<(), StoreError>,
}

/// One app's adapters.
#[derive(Clone, Debug)]
pub(super) struct Adapters {
    pub(super) appid: Arc<str>,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) store: Arc<dyn Store>,
    pub(super) timeout: Duration,
    pub(super) clock: Clock,
}

impl Adapters {
    /// Carries out `errand` until WeChat has answered. Under a claim, it has to outlast the answer.
    pub(super) async fn obtain(self, errand: Errand, claimed: bool) -> Obtained {
        let mut protocol = errand.protocol();
        let mut note = Ok(());
        let mut step = protocol.next(Heard::Begun);
        while step == Step::Note {
            failpoint::pass("noting");
            note = match &errand.note {
                Some(record) if claimed => self.save(record).await,
                // It would not be taken, and a store that is cut off takes its time to say so.
                Some(_) => Err(StoreError::Lost),
                None => Ok(()),
            };
            failpoint::pass("noted");
            step = protocol.next(if note.is_ok() {
                Heard::Noted
            } else {
                Heard::NoteFailed
            });
        }
        let secret = self.upstream.secret_version().await;
        let longest = self.timeout + SLACK;
        let alone = !claimed || self.store.may_ask(&self.appid, longest).await;
        let sent = self.clock.now();
        let result = if alone && step == Step::Ask {
            failpoint::pass("asking");
            let fetch = timeout(longest, self.upstream.fetch(errand.ask)).await;
            failpoint::pass("answered");
            Some(match fetch {
                Ok(Ok(fetched)) => Ok(fetched),
                Ok(Err(error)) => Err(error.trouble()),
                Err(_) => Err(no_answer()),
            })
        } else {
            None
        };
        Obtained {
            protocol,
            claimed,
            sent,
            secret,
            result,
            note,
        }
    }

    /// Saves `record`, or fails in time.
    pub(super) async fn save(&self, record: &Record) -> Result<(), StoreError> {
        let save = self.store.save(&self.appid, record);
        timeout(SAVE, save)
            .await
            .unwrap_or(Err(StoreError::Slow { patience: SAVE }))
    }
}

fn no_answer() -> Trouble {
    Trouble {
        remedy: Remedy::BackOff,
        errcode: None,
        definite: false,
        message: "WeChat did not answer in time".into(),
        hint: None,
    }
}
