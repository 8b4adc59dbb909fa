//! A token that must die although it lives.

use std::{sync::Arc, time::Duration};

use super::{Held, Slot, Verdict, reported::too_often};
use crate::domain::{Generation, Mode, Moment, Now, Token, budget::FORCED_GAP, report::Stale};

/// Mints that kill a leaked token: the first retires it, the second ends its overlap.
const DRILL: u8 = 2;

/// The two mints that kill a leaked token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drill {
    pub(super) left: u8,
    pub(super) next: Moment,
}

/// What a token replaced.
#[derive(Clone, Debug)]
pub(super) enum Before {
    /// Another process saw it.
    Unknown,
    /// Nothing that worked.
    Nothing,
    /// This token, which may work until the overlap is over, and the number that it had first.
    Was(Arc<Token>, Generation),
}

impl Held {
    /// Whether a report is about this token, by the number that it has or the one that it had first.
    pub(super) fn is_meant(&self, stale: &Stale) -> bool {
        let first = matches!(stale, Stale::Generation(generation) if *generation == self.first);
        first || stale.means(&self.token)
    }
}

impl Slot {
    /// Whether a report is about the token in force.
    pub fn is_meant(&self, stale: &Stale) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_meant(stale))
    }

    /// The generation of the token that a report is about, if it may work although another one is in force.
    pub fn outlives(&self, stale: &Stale, now: Now) -> Option<Generation> {
        let held = self.living(now)?;
        let overlaps = now.boot < held.token.asked_at + self.policy.overlap;
        let generation = match (&held.before, stale) {
            (Before::Nothing, _) => None,
            // Whatever ended the one in force ended the one before as well.
            _ if held.dead || held.is_meant(stale) => None,
            (Before::Was(before, _), _) if before.expires_at <= now.boot => None,
            (Before::Was(before, _), Stale::Value(_)) => {
                stale.means(before).then_some(before.generation)
            }
            // Whoever has not seen that one takes the number below the next.
            (Before::Was(_, first), Stale::Generation(generation)) => {
                (generation >= first).then_some(*generation)
            }
            (Before::Unknown, Stale::Generation(generation)) => Some(*generation),
            (Before::Unknown, Stale::Value(_)) => {
                let below = held.token.generation.0.saturating_sub(1);
                Some(Generation(below))
            }
        };
        generation.filter(|generation| overlaps && *generation < held.token.generation)
    }

    /// A report says that the token in force has leaked.
    pub(super) fn leaked(&mut self, since: Moment, now: Now) -> Verdict {
        let allowed = self.forced_at(now);
        if self.drill.is_none() && allowed > now.boot {
            return too_often(allowed, None, now);
        }
        self.kill_by(DRILL, now.boot, now);
        self.drilled(since, now)
    }

    /// A report says that the token before has leaked. The one that replaced it was the first mint of its drill,
    /// whatever it was made for, and maybe by a process that ended then.
    pub(super) fn leaked_before(&mut self, since: Moment, now: Now) -> Verdict {
        let gap = self.drill_gap();
        let allowed = self.forced_at(now);
        // WeChat's pause is waited for; another day is not.
        if allowed > now.boot + gap || self.tomorrow(now) > now.boot {
            return too_often(allowed, None, now);
        }
        let first = self.held.as_ref().map(|held| held.token.asked_at + gap);
        self.kill_by(DRILL - 1, allowed.max(first.unwrap_or_default()), now);
        self.drilled(since, now)
    }

    fn kill_by(&mut self, left: u8, next: Moment, now: Now) {
        if self.drill.is_none() {
            self.drill = Some(Drill { left, next });
            // Only the drill holds it back.
            self.next_ask = self.next_ask.min(now.boot);
        }
    }

    /// The drill is waited for, unless it does not get on: who wants a token dead must hear of that.
    pub(super) fn drilled(&self, since: Moment, now: Now) -> Verdict {
        if self.fetch.is_some() {
            return Verdict::Wait;
        }
        let tomorrow = self.tomorrow(now);
        match self.failed_at {
            _ if self.next_ask > now.boot => Verdict::NoToken,
            Some(at) if at >= since => Verdict::NoToken,
            _ if tomorrow > now.boot => too_often(tomorrow, None, now),
            _ => Verdict::Wait,
        }
    }

    /// When the day's budget lets a token be killed: a classic one at any time.
    fn tomorrow(&self, now: Now) -> Moment {
        match self.policy.mode {
            Mode::Stable => self.ledger.budget_at(&self.policy, now),
            Mode::Classic => now.boot,
        }
    }

    /// The pause between the mints of a drill.
    fn drill_gap(&self) -> Duration {
        match self.policy.mode {
            Mode::Stable => FORCED_GAP,
            Mode::Classic => FORCED_GAP.min(self.policy.overlap),
        }
    }

    pub(super) fn advance_drill(&mut self, now: Now) {
        let gap = self.drill_gap();
        self.drill = self.drill.and_then(|drill| {
            let left = drill.left.saturating_sub(1);
            let next = now.boot + gap;
            (left > 0).then_some(Drill { left, next })
        });
    }
}
