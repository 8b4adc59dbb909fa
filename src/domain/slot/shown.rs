//! What readers may know of a slot.

use std::{sync::Arc, time::Duration};

use super::{Reach, Slot};
use crate::domain::{Mode, Moment, Now, Token, Trouble, budget::Allowance};

impl Slot {
    /// The newest token, dead or alive; `None` until it may be shown.
    pub fn token(&self) -> Option<&Arc<Token>> {
        let held = self.held.as_ref().filter(|_| self.settled);
        held.map(|h| &h.token)
    }

    /// Since when the newest token is in force here.
    pub fn held_since(&self) -> Option<Moment> {
        self.held.as_ref().map(|h| h.since)
    }

    /// Whether the newest token is proven dead.
    pub fn dead(&self) -> bool {
        self.held.as_ref().is_some_and(|h| h.dead)
    }

    /// Whether it was this replica to which WeChat refused the newest token, and not since accepted it.
    pub fn refused(&self) -> bool {
        self.held.as_ref().is_some_and(|h| h.refused.is_some())
    }

    /// Until when the token before it works.
    pub fn previous_expires_at(&self) -> Option<Moment> {
        self.held.as_ref()?.previous_expires_at
    }

    /// How long a caller that does not watch may use the token: until its death, or until the overlap
    /// after the next rotation is over, or until the overlap of an open outcome is.
    pub fn keep_until(&self, now: Now) -> Option<Moment> {
        let held = self.held.as_ref()?;
        let rotation = match self.policy.mode {
            // Whoever refreshes may do so at any moment, and is heard of.
            _ if self.reach == Reach::Following => self.planned.max(now.boot),
            // The next attempt ends it, also one that comes before the plan.
            Mode::Classic => self.next_ask,
            // An attempt before the plan repeats it.
            Mode::Stable => self.planned.max(self.next_ask),
        };
        let mut until = held.token.expires_at.min(rotation + self.policy.grace());
        if let Some(suspect) = self.suspect {
            until = until.min(suspect.since + self.policy.overlap);
        }
        Some(until)
    }

    /// While an outcome is open the next token may come, and end this one, at any moment.
    pub fn keep_at_most(&self) -> Option<Duration> {
        self.suspect.map(|_| self.policy.floor)
    }

    /// Whether an outcome is open: WeChat may have made a token that ends this one.
    pub fn suspect(&self) -> bool {
        self.suspect.is_some()
    }

    /// How many replacements are left today.
    pub fn allowance(&self) -> Allowance {
        self.ledger.allowance(&self.policy)
    }

    /// When the token that is held expires.
    pub fn expires_at(&self) -> Option<Moment> {
        self.held.as_ref().map(|h| h.token.expires_at)
    }

    /// Whether WeChat has said that it refuses this server for hours.
    pub fn blocked(&self) -> bool {
        self.blocked_until.is_some()
    }

    /// Whether a look is under way.
    pub fn looking(&self) -> bool {
        self.looks.flying
    }

    /// Why there is no newer token, if the last attempt failed.
    pub fn trouble(&self) -> Option<&Arc<Trouble>> {
        self.trouble.as_ref()
    }

    /// Whether anything is known: a token, or why there is none.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// When the next attempt is planned.
    pub fn retry_at(&self, now: Now) -> Moment {
        self.ask_at(now).unwrap_or(now.boot + self.policy.floor)
    }
}
