//! A classic token that another replica may have ended, unheard: until when it is certain, and when WeChat's word
//! is needed.

use std::time::Duration;

use super::{Reach, Slot};
use crate::domain::{Mode, Moment, Now};

/// From the end of a replica's claim until another has asked WeChat in its place, at most: the claim is found
/// free, left for a moment to whoever went on alone, and the fetch is noted.
const SUCCESSION: Duration = Duration::from_secs(3);

/// What is needed before the token is handed out: a look that WeChat accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// From when on. The token may have ended then, and nothing was heard.
    pub since: Moment,
    /// When the last look was sent that WeChat accepted.
    pub accepted: Option<Moment>,
    /// So much older than the reader's question it may be.
    pub age: Duration,
}

impl Slot {
    /// What is needed before the token is handed out, if nothing is heard from now on; `None` if nothing is.
    ///
    /// Nobody waits for a WeChat that is silent: then it is [`Slot::certain_until`] that says who goes on.
    pub fn doubt(&self, now: Now) -> Option<Doubt> {
        let since = self.doubtful_since()?;
        let accepted = self.looks.accepted;
        let silent = self.looks.blur.is_some() || self.looks.quiet(now.boot);
        if self.reach == Reach::Everything || self.fetch.is_some() || silent {
            return None;
        }
        let age = if self.is_about_to_end() {
            Duration::ZERO
        } else {
            self.policy.overlap / 300
        };
        Some(Doubt {
            since,
            accepted,
            age,
        })
    }

    /// A reader waits for WeChat's word. Whether that will come.
    pub fn asked_for_a_word(&mut self, now: Now) -> bool {
        let in_doubt = self.doubt(now).is_some_and(|doubt| doubt.since <= now.boot);
        if !in_doubt || self.dead() {
            return false;
        }
        if !self.looks.flying {
            self.looks.want_if_allowed(now.boot);
        }
        self.may_look(now) || self.looks.flying
    }

    /// Whether the token ends about now if another replica replaced it when that was due, or had to wait for the end of
    /// a claim of usual length before. If it works for longer, it probably goes on to.
    fn is_about_to_end(&self) -> bool {
        let due = self.suspect.is_some() || self.is_known();
        let claim = self.policy.overlap / 5;
        due && self.looks.accepted < self.alone_since().map(|at| at + claim)
    }

    /// Whether another replica may have ended the token, and this one cannot know.
    pub(super) fn is_doubted(&self, now: Now) -> bool {
        let others = matches!(self.reach, Reach::Following | Reach::CutOff { .. });
        others && self.doubtful_since().is_some() && self.looks_are_ours(now)
    }

    /// From when on this replica looks at the token because another one may have ended it.
    ///
    /// While nothing is heard that begins as soon as another one may have replaced it: WeChat ends a token
    /// at once if two are made after it, as happens when the answer of the first is lost.
    pub(super) fn watchful_since(&self) -> Option<Moment> {
        let doubtful = self.doubtful_since()?;
        let ahead = match self.reach {
            Reach::CutOff { .. } => self.policy.overlap,
            _ => self.lead(),
        };
        Some(doubtful - ahead)
    }

    /// Until when it is certain that no other replica has ended the token; `None` if that is no question.
    pub(super) fn doubtful_since(&self) -> Option<Moment> {
        let contact = self.contact?;
        let soonest = match (self.policy.mode, self.reach) {
            (Mode::Stable, _) => return None,
            (Mode::Classic, Reach::Everything) => contact,
            _ => match self.suspect {
                Some(suspect) => suspect.since,
                // Nobody replaces it before the plan, unless to all others its outcome is open.
                None if self.is_known() => contact.max(self.planned),
                None => contact.max(self.born()),
            },
        };
        Some(soonest + self.policy.overlap)
    }

    fn born(&self) -> Moment {
        let held = self.held.as_ref();
        held.map_or(Moment::default(), |held| held.token.asked_at)
    }

    /// Whether other replicas know the token, as far as this one can tell.
    fn is_known(&self) -> bool {
        self.held_generation() <= self.known
    }

    /// From when on it shows that nobody else refreshes if the token works, as it would not if it had been
    /// replaced when that was due.
    pub(super) fn alone_since(&self) -> Option<Moment> {
        let doubtful = self.doubtful_since()?;
        let overlap = self.policy.overlap;
        let due = if self.suspect.is_some() || self.is_known() {
            doubtful
        } else {
            // Others wait until their outcome is not open any more.
            doubtful.max(self.planned) + overlap
        };
        Some(due + SUCCESSION + self.policy.timeout)
    }

    /// Until when the token can be handed out, if nothing is heard from now on.
    ///
    /// WeChat's word counts too. So does its silence, once a look has shown that nobody else refreshes: then whoever
    /// cannot reach anybody goes on.
    pub fn certain_until(&self) -> Option<Moment> {
        let since = self.doubtful_since()?;
        let asked = self.fetch.as_ref().filter(|fetch| fetch.reserved.is_some());
        let own = asked.map_or(since, |fetch| fetch.begun + self.policy.overlap);
        let alone = self.looks.accepted.is_some() && self.looks.accepted >= self.alone_since();
        let heard = if alone {
            self.looks.heard_at()
        } else {
            self.looks.alive_at
        };
        let heard = heard.filter(|at| *at >= since - self.lead());
        let trusted = heard.map(|at| at + self.pause_in_doubt() * 2 + self.policy.timeout);
        Some(trusted.map_or(since.min(own), |until| until.max(since.min(own))))
    }

    /// The pause between two looks at a token that another replica may have ended.
    pub(super) fn pause_in_doubt(&self) -> Duration {
        (self.policy.overlap / 60).max(self.policy.floor)
    }

    /// Looks begin so long before there is a doubt, so that there is an answer by then.
    fn lead(&self) -> Duration {
        (self.pause_in_doubt() + self.policy.timeout).min(self.policy.overlap / 2)
    }
}
