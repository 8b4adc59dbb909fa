//! A fetch came back: with a token, with the same token, or with a trouble.

use std::{sync::Arc, time::Duration};

use super::{Fetch, ROUNDING, Rotation, Slot, Suspect, ability::Ability};
use crate::domain::{
    Ask, Fetched, Mode, Moment, Now, Remedy, Secret, Token, Trouble, time::whole_millis,
};

/// A stable token that changes with more than this left beyond the overlap was forced by somebody.
const FOREIGN_SLACK: Duration = Duration::from_secs(5);

impl Slot {
    /// A fetch that was sent at `sent` brought a token. `None` if it is the one that is held.
    pub fn fetched(&mut self, got: Fetched, sent: Now, now: Now) -> Option<Rotation> {
        let fetch = self.fetch.take()?;
        (self.failures, self.failed_at, self.trouble) = (0, None, None);
        self.ability = Ability::default();
        (self.settled, self.doubted, self.blocked_until) = (true, false, None);
        if self
            .held
            .as_ref()
            .is_some_and(|h| h.token.value == got.value)
        {
            self.repeated(got.time_to_live, sent, now);
            return None;
        }
        self.ledger.minted(self.policy.mode, fetch.replacement, now);
        self.answered(&fetch, now);
        let generation = fetch.reserved.unwrap_or_else(|| self.next_generation(now));
        self.taken = self.taken.max(generation);
        let token = Arc::new(Token {
            value: got.value,
            generation,
            asked_at: sent.boot,
            expires_at: sent.boot + got.time_to_live,
            issue_time: whole_millis(sent.wall),
            expire_time: whole_millis(sent.wall) + got.time_to_live,
        });
        let foreign = self.somebody_else_did(&fetch, now);
        let previous = self.old_one_dies_at(sent, now).filter(|_| !foreign);
        (self.suspect, self.unfinished) = (None, false);
        self.advance_drill(now);
        let planned = self.policy.planned(&token, now.boot);
        self.hold(Arc::clone(&token), previous, now);
        self.plan(planned, now);
        Some(Rotation { token, foreign })
    }

    /// WeChat repeated the token that is held: no rotation, no news.
    fn repeated(&mut self, time_to_live: Duration, sent: Now, now: Now) {
        self.repeated_at = Some(now.boot);
        self.suspect = None;
        let Some(held) = &mut self.held else { return };
        let expires_at = sent.boot + time_to_live;
        let known = held.token.expires_at;
        if expires_at.since(known).max(known.since(expires_at)) > ROUNDING {
            held.token = Arc::new(Token {
                value: Secret::new(held.token.value.expose()),
                expires_at,
                expire_time: whole_millis(sent.wall) + time_to_live,
                ..*held.token
            });
        }
        let left = held.token.expires_at.since(now.boot);
        let planned = self.policy.planned(&held.token, held.token.asked_at);
        let planned = planned.max(now.boot + self.policy.step(left));
        self.plan(planned, now);
        if self.looks.due.is_none() && !self.looks.busy() {
            self.looks.plan_unasked(&self.policy, now.boot);
        }
    }

    /// Whether somebody else made WeChat replace the token that is held: it died although nothing was
    /// asked for here, or it is a stable one that changed while WeChat would still have repeated it.
    fn somebody_else_did(&self, fetch: &Fetch, now: Now) -> bool {
        let Some(held) = self.living(now).filter(|_| !self.unfinished) else {
            return false;
        };
        let early = held.token.expires_at.since(now.boot) > self.policy.overlap + FOREIGN_SLACK;
        let unforced = self.policy.mode == Mode::Stable && fetch.ask == Ask::Normal;
        (held.dead && self.suspect.is_none()) || (unforced && early)
    }

    fn old_one_dies_at(&self, sent: Now, now: Now) -> Option<Moment> {
        let held = self.living(now).filter(|h| !h.dead)?;
        // After an open outcome there may have been a token between the two: then the old one is gone.
        let certain = self.suspect.is_none();
        certain.then(|| held.token.expires_at.min(sent.boot + self.policy.overlap))
    }

    /// A fetch that was sent at `sent` failed. The current token stays, and there is always a next
    /// attempt. `roll` is in `0.0..1.0`.
    pub fn failed(&mut self, mut trouble: Trouble, sent: Now, now: Now, roll: f64) {
        let Some(fetch) = self.fetch.take() else {
            return;
        };
        self.failures = self.failures.saturating_add(1);
        self.ability.failed(&trouble);
        self.failed_at = Some(now.boot);
        self.doubted = false;
        self.settled = true;
        self.answered(&fetch, now);
        if fetch.ask == Ask::Forced && trouble.remedy == Remedy::DayQuota {
            // Asking normally is still allowed.
            self.ledger.exhaust_forced(now);
            trouble.remedy = Remedy::BackOff;
        } else if fetch.replacement && trouble.definite {
            self.ledger.refund(self.policy.mode);
        }
        if !trouble.definite && self.policy.mode == Mode::Classic {
            self.open_outcome(sent, now, roll);
        }
        let left = self.left(now);
        let pause = self
            .policy
            .pause(trouble.remedy, self.failures, left, now.wall, roll);
        self.next_ask = now.boot + pause;
        if let Remedy::RiskRejected(_) = trouble.remedy {
            self.blocked_until = Some(self.next_ask);
        }
        if self.looks.due.is_none() {
            self.looks.plan_unasked(&self.policy, now.boot);
        }
        if self.held.as_ref().is_some_and(|held| held.dead) {
            // The attempt took the place of the look that would have seen the token revive.
            self.looks.want_at_the_dead(now.boot);
        }
        self.trouble = Some(Arc::new(trouble));
    }

    /// WeChat may have carried out a forced refresh as late as now, and counts from then.
    fn answered(&mut self, fetch: &Fetch, now: Now) {
        if fetch.ask == Ask::Forced {
            self.ledger.replaced_at = Some(now.boot);
        }
    }

    fn open_outcome(&mut self, sent: Now, now: Now, roll: f64) {
        self.ledger.minted_at = Some(now.boot);
        if self.living(now).is_none() {
            return;
        }
        let unanswered = self.suspect.is_some_and(|s| !s.replied);
        let first = Suspect::new(sent.boot);
        self.suspect = Some(match self.suspect {
            Some(Suspect { since, .. }) if since <= sent.boot => Suspect { since, ..first },
            _ => first,
        });
        if unanswered {
            // One more lost reply is no reason to look sooner.
            let left = self.left(now);
            self.looks
                .plan_insistent(&self.policy, left, roll, now.boot);
        } else {
            self.looks.want(now.boot);
        }
    }
}
