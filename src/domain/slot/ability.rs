//! Whether this replica can refresh, or another one had better try.
//!
//! What keeps WeChat from answering may be this machine's alone: its way out, or its address, which is not
//! on the account's list. If it is everybody's, each replica finds that out by one attempt, and then the
//! pause stays as long as it has become: an outage must not cost more because there are more replicas.

use super::{Condition, Slot};
use crate::domain::{Now, Sight, Trouble};

/// So many failures in a row may be chance.
const CHANCE: u32 = 1;

/// What the pause is counted by after another replica had no luck: the longest one.
const MANY_FAILURES: u32 = 16;

/// What is known of this replica's way to WeChat since it refreshes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ability {
    /// Attempts in a row that may have failed for this machine alone.
    failures: u32,
    /// The replica before had no luck either.
    inherited: bool,
}

impl Ability {
    pub(super) fn failed(&mut self, trouble: &Trouble) {
        self.failures = if trouble.may_be_local() {
            self.failures.saturating_add(1)
        } else {
            0
        };
    }
}

impl Slot {
    /// Whether WeChat has to be asked and another replica should try it.
    pub fn needs_another(&self, now: Now) -> bool {
        let wanted = self.trouble.is_some() || self.condition(now) != Condition::Healthy;
        let chance = if self.ability.inherited { 0 } else { CHANCE };
        wanted && self.ability.failures > chance
    }

    /// This replica refreshes from now on, and the last word about that is the trouble.
    pub(super) fn begins_to_refresh(&mut self, now: Now) {
        let trouble = self.trouble.as_deref();
        let inherited = trouble.is_some_and(Trouble::may_be_local);
        self.ability = Ability {
            inherited,
            failures: 0,
        };
        if inherited {
            (self.failures, self.looks.unanswered) = (MANY_FAILURES, MANY_FAILURES);
        }
        if inherited && self.condition(now) == Condition::Lost {
            self.next_ask = self.next_ask.min(now.boot);
        }
    }

    /// A look came back. While an outcome is open looks are what the attempts wait for.
    pub(super) fn looked_for_recovery(&mut self, sight: Sight) {
        let needed = self.suspect.is_some() || self.dead();
        if needed && !sight.replied() {
            self.ability.failures = self.ability.failures.saturating_add(1);
        }
    }
}
