//! A caller says that WeChat refused the token.
//!
//! A report is judged when it arrives and again after everything that happens, until there is an
//! answer. So any number of reports join the one look or fetch that is under way, and if that leaves
//! the token in force without having looked at it, the next judgment asks for a look.

use std::time::Duration;

use super::{Slot, looks::Blur};
use crate::domain::{Mode, Moment, Now, blames_the_token, report::StaleReport};

/// A look without a verdict is not repeated for so long, however many callers ask.
const LATER: Duration = Duration::from_secs(5);

/// What to answer, if it can be said already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Judge again after the next thing that happens.
    Wait,
    /// Another token was in force already when the report came.
    AlreadyNewer,
    /// There is a new token since.
    Refreshed,
    /// WeChat accepts the token.
    StillValid,
    /// There is no token to answer with.
    NoToken,
    /// It cannot be told whether the token is dead.
    Inconclusive {
        /// When to report again.
        retry_after: Duration,
        /// WeChat's number, if it gave one.
        errcode: Option<i64>,
    },
    /// The token is dead but was replaced too often.
    TooOften {
        /// When the next replacement is allowed.
        retry_after: Duration,
        /// Why it cannot be told whether the token is dead, if it cannot.
        errcode: Option<i64>,
    },
    /// Another token does not cure this errcode.
    NotATokenError,
}

impl Slot {
    /// Judges a report that arrived at `since`. Call [`Slot::woke`] afterwards: it may want a look or
    /// a fetch now.
    pub fn reported(&mut self, report: &StaleReport, since: Moment, now: Now) -> Verdict {
        let Some(held) = self.living(now).filter(|_| self.settled) else {
            return self.without_token();
        };
        if !held.is_meant(&report.stale) {
            if report.leaked && self.drill.is_none() && self.outlives(&report.stale, now).is_some()
            {
                return self.leaked_before(since, now);
            }
            let killing = self.drill.is_some() && report.leaked;
            return match held.since > since {
                _ if killing && held.dead => self.dead_reported(since, now),
                _ if killing => self.drilled(since, now),
                true => Verdict::Refreshed,
                false => Verdict::AlreadyNewer,
            };
        }
        if report.errcode != 0 && !blames_the_token(report.errcode) {
            return Verdict::NotATokenError;
        }
        // What is dead already need not be killed.
        if held.dead {
            return self.dead_reported(since, now);
        }
        if report.leaked {
            return self.leaked(since, now);
        }
        self.doubtful(since, now)
    }

    fn without_token(&self) -> Verdict {
        if self.fetch.is_some() || self.looks.flying || self.trouble.is_none() {
            Verdict::Wait
        } else {
            Verdict::NoToken
        }
    }

    /// The token is proven dead: its successor is on the way, or must wait.
    fn dead_reported(&self, since: Moment, now: Now) -> Verdict {
        if self.fetch.is_some() {
            return Verdict::Wait;
        }
        let allowed = self.replace_at(now);
        if allowed > now.boot {
            return too_often(allowed, None, now);
        }
        match self.failed_at {
            _ if self.next_ask > now.boot => Verdict::NoToken,
            Some(at) if at >= since => Verdict::NoToken,
            _ => Verdict::Wait,
        }
    }

    /// Nothing is proven yet.
    fn doubtful(&mut self, since: Moment, now: Now) -> Verdict {
        let settle = self.policy.settle();
        if self.fetch.is_some() {
            return Verdict::Wait;
        }
        let doubt = self.doubt(now).filter(|doubt| doubt.since <= now.boot);
        let lives = match doubt {
            // It may have ended since the last look.
            Some(doubt) => doubt.accepted >= Some(since),
            None => self.looks.alive_at.is_some_and(|at| at + settle > now.boot),
        };
        if lives {
            return Verdict::StillValid;
        }
        if self.looks.busy() {
            return Verdict::Wait;
        }
        if let Some((at, blur)) = self.looks.blur
            && now.boot < at + LATER
        {
            return self.blurred(blur, at, since, now);
        }
        let Some(held) = &self.held else {
            return Verdict::NoToken;
        };
        // One answer counts for everybody who reports soon after it.
        let asked = self.repeated_at.max(self.failed_at);
        let asked = asked.unwrap_or(held.token.asked_at);
        let patient = self.failures > 0;
        let asks = self.policy.mode == Mode::Stable && self.drill.is_none();
        if asks && !patient && asked + settle <= since {
            self.next_ask = self.next_ask.min(now.boot);
            return Verdict::Wait;
        }
        // A younger token is not judged: WeChat's servers may not all know it yet.
        self.looks.want(now.boot.max(held.token.asked_at + settle));
        Verdict::Wait
    }

    fn blurred(&mut self, blur: Blur, at: Moment, since: Moment, now: Now) -> Verdict {
        let inconclusive = |errcode| Verdict::Inconclusive {
            retry_after: (at + LATER).since(now.boot),
            errcode,
        };
        let Blur::Answered(errcode) = blur else {
            return inconclusive(None);
        };
        let Some(held) = self
            .held
            .as_ref()
            .filter(|_| self.policy.mode == Mode::Classic)
        else {
            return inconclusive(Some(errcode));
        };
        let spaced = self.spaced_at(&held.token, now);
        let allowed = spaced.max(self.ledger.budget_at(&self.policy, now));
        if allowed > now.boot {
            return too_often(allowed, Some(errcode), now);
        }
        let patient = self.failures > 0 && self.next_ask > now.boot;
        if patient || self.failed_at.is_some_and(|at| at >= since) {
            return inconclusive(Some(errcode));
        }
        self.doubted = true;
        self.next_ask = self.next_ask.min(now.boot);
        Verdict::Wait
    }
}

pub(super) fn too_often(allowed: Moment, errcode: Option<i64>, now: Now) -> Verdict {
    let retry_after = allowed.since(now.boot);
    Verdict::TooOften {
        retry_after,
        errcode,
    }
}
