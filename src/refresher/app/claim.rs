//! Giving a claim up, and taking it again.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tracing::{debug, info};

use super::{App, Event, replica::Replica};
use crate::{
    domain::{AppName, Mode, Now, Record},
    store::StoreError,
};

/// Who gave a claim up takes it again only if no other replica has done so for this long.
const HESITATION: Duration = Duration::from_secs(2);

/// When a refresh is overdue, whoever did not refresh last leaves the claim for this long to whoever did, and
/// may have gone on alone: more than it takes until every replica has found the claim free.
const DEFERENCE: Duration = Duration::from_secs(1);

/// A replica gives the claim of an app up once in so many overlaps.
const OVERLAPS: u32 = 3;

impl Replica {
    /// The claim is free. Other news about the board must not put off what was planned already.
    fn plan_to_claim(&mut self, overlap: Duration, overdue: bool, now: Now) {
        let pause = if self.gave_up_lately(overlap, now) {
            HESITATION
        } else if overdue && !self.named {
            DEFERENCE
        } else {
            Duration::ZERO
        };
        let at = now.boot + pause;
        self.claim_at = Some(self.claim_at.map_or(at, |planned| planned.min(at)));
    }

    fn gave_up_lately(&self, overlap: Duration, now: Now) -> bool {
        let again = self.gave_up_at.map(|at| at + overlap * OVERLAPS);
        again.is_some_and(|again| again > now.boot)
    }
}

impl App {
    /// The claim is free, and `record` is what was saved last.
    pub(super) fn plan_to_claim(&mut self, record: Option<&Record>, now: Now) {
        let saved = record.and_then(|record| record.token.as_deref());
        let planned = saved.map(|token| self.policy.planned(token, token.asked_at));
        // A stable token is burnt by nobody, and near its end: there is no time to lose.
        let overdue =
            self.policy.mode == Mode::Classic && planned.is_some_and(|planned| planned <= now.boot);
        if let Some(replica) = &mut self.replica {
            replica.plan_to_claim(self.policy.overlap, overdue, now);
        }
    }

    /// Gives the claim up if this replica cannot refresh, so that another one can show whether it can.
    pub(super) fn let_another_try(&mut self, now: Now, events: &mut JoinSet<(AppName, Event)>) {
        let idle = !self.has_business() && self.saving.retry_at.is_none();
        let needed = idle && self.slot.needs_another(now);
        let Some(replica) = self.replica.as_mut().filter(|_| needed) else {
            return;
        };
        if replica.gave_up_lately(self.policy.overlap, now) {
            return;
        }
        info!(app = %self.name, "this replica cannot refresh the app; another one may try");
        replica.gave_up_at = Some(now.boot);
        replica.releasing = true;
        let (name, appid) = (self.name.clone(), Arc::clone(&self.adapters.appid));
        let shared = Arc::clone(&replica.shared);
        events.spawn(async move { (name, Event::Released(shared.release(&appid).await)) });
        self.step_down(now);
    }

    pub(super) fn on_released(&mut self, released: &Result<(), StoreError>) {
        if let Err(error) = released {
            debug!(app = %self.name, %error, "the claim is still this replica's, perhaps");
        }
        if let Some(replica) = &mut self.replica {
            replica.releasing = false;
        }
    }

    pub(super) fn on_claimed(&mut self, now: Now) {
        let Some(replica) = &mut self.replica else {
            return;
        };
        replica.claiming = false;
        // If it worked, or somebody else was first, the store tells, or has told.
        replica.claim_at = replica.claim_at.map(|_| now.boot + self.policy.floor);
    }
}
