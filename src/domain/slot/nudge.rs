//! What comes from outside and is about no token: a signal, a clock that was set.

use super::{Condition, Slot};
use crate::domain::{Mode, Moment, Now};

impl Slot {
    /// Somebody wants an attempt now: a new secret, or an operator's signal.
    pub fn nudged(&mut self, now: Now) {
        if self.trouble.is_some() {
            self.failures = 0;
            self.blocked_until = None;
            self.next_ask = self.next_ask.min(self.hurried_at(now));
        }
    }

    /// How soon a signal may bring the next attempt. A classic token that works keeps its distance from
    /// the one before, and once it goes on as planned callers were told to keep it until then.
    fn hurried_at(&self, now: Now) -> Moment {
        let classic = self.policy.mode == Mode::Classic;
        match &self.held {
            Some(held) if classic && self.condition(now) == Condition::Healthy => {
                if self.next_ask == self.planned {
                    self.planned
                } else {
                    self.spaced_at(&held.token, now).max(now.boot)
                }
            }
            _ => now.boot,
        }
    }

    /// The wall clock was set. No expiry moves, since none depends on it, only what people see of it; a
    /// look makes sure.
    pub fn clock_was_set(&mut self, now: Now) {
        if let Some(held) = &mut self.held {
            held.token = held.token.shown_by(now);
            self.looks.want(now.boot);
        }
    }
}
