//! How far one of several replicas may go by itself.

use std::time::Duration;

use super::{Condition, Slot};
use crate::domain::{Generation, Moment, Now};

/// What this replica may do about an app, as the claims and the store are at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Everything: it holds the claim, or it is the only one.
    #[default]
    Everything,
    /// Nothing: another replica refreshes, and what it obtains arrives through the store.
    Nothing,
    /// The store cannot be reached, in stable mode: what harms nobody, whoever else does it.
    Harmless,
    /// The store cannot be reached, in classic mode.
    ///
    /// Nobody can tell from here whether all are cut off from the store, or this replica alone while
    /// another one refreshes. Only WeChat knows: a token that still works long after another replica
    /// would have replaced it shows that there is no such replica.
    CutOff {
        /// When the store could be read last: nobody had replaced the token before.
        contact: Moment,
        /// Whether this replica refreshed when there was a store.
        named: bool,
    },
}

impl Slot {
    /// Sets what may be done from now on.
    pub fn reaches(&mut self, reach: Reach) {
        self.reach = reach;
        if let Some(since) = self.doubtful_since() {
            self.looks.want(since - self.doubt());
        }
    }

    /// Until when it is certain that no other replica has ended the token; `None` if that is no question.
    pub(super) fn doubtful_since(&self) -> Option<Moment> {
        let Reach::CutOff { contact, .. } = self.reach else {
            return None;
        };
        // Nobody replaces it before the plan, unless an outcome was open already.
        let soonest = match self.suspect {
            Some(suspect) => suspect.since,
            None => contact.max(self.planned),
        };
        Some(soonest + self.policy.overlap)
    }

    /// The pause between two looks at a token that another replica may have ended.
    pub(super) fn doubt(&self) -> Duration {
        (self.policy.overlap / 60).max(self.policy.floor)
    }

    /// When something that is wanted `at` a time may be asked for.
    pub(super) fn within_reach(&self, at: Moment, now: Now) -> Option<Moment> {
        match self.reach {
            Reach::Everything | Reach::Harmless => Some(at),
            Reach::Nothing | Reach::CutOff { named: false, .. } => None,
            Reach::CutOff { named: true, .. } => self.last_resort(at, now),
        }
    }

    /// The replica that refreshed last goes on doing so when it is plain that nobody else does, and not
    /// before the token is about to end: others that are cut off too keep theirs for longest like that.
    fn last_resort(&self, at: Moment, now: Now) -> Option<Moment> {
        let held = self.held.as_ref()?;
        let alone = match self.condition(now) {
            Condition::Lost => !held.dead,
            Condition::Dead => false,
            _ => self.looks.alive_at >= self.doubtful_since(),
        };
        let end = held.token.expires_at;
        let late = if alone {
            end - self.policy.overlap
        } else {
            end
        };
        (!held.dead).then_some(at.max(late))
    }

    /// The generation of a token that is asked for now. While cut off it is the smallest possible one:
    /// what the others have numbered meanwhile by the time of day is above it.
    pub(super) fn next_generation(&self, now: Now) -> Generation {
        let cut_off = matches!(self.reach, Reach::Harmless | Reach::CutOff { .. });
        match self.taken {
            Generation(taken) if cut_off && taken > 0 => Generation(taken.saturating_add(1)),
            taken => taken.next(now.wall),
        }
    }
}
