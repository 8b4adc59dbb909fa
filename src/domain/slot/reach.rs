//! How far one of several replicas may go by itself, and how long it can trust what it holds.

use std::time::Duration;

use super::{Condition, Slot};
use crate::domain::{Generation, Mode, Moment, Now};

/// So many numbers are left to replicas that are cut off: theirs must not be those of other tokens.
const ROOM: u64 = 1000;

/// From the end of a replica's claim until another has asked WeChat in its place, at most: the claim is found
/// free, left for a moment to whoever went on alone, and the fetch is noted.
const SUCCESSION: Duration = Duration::from_secs(3);

/// What this replica may do about an app, as the claims and the store are at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Everything: it holds the claim, or it is the only one.
    #[default]
    Everything,
    /// Nothing, or almost: another replica refreshes, and what it obtains arrives through the store. Only a stable
    /// token that is about to end, and of which no trouble is told, is asked for: that harms nobody.
    Following,
    /// The store cannot be reached, in stable mode: what harms nobody, whoever else does it.
    Harmless,
    /// The store cannot be reached, in classic mode.
    ///
    /// Nobody can tell from here whether all are cut off from the store, or this replica alone while
    /// another one refreshes. Only WeChat knows: a token that still works long after another replica
    /// would have replaced it shows that there is no such replica.
    CutOff {
        /// Whether this replica refreshed when there was a store.
        named: bool,
    },
}

impl Slot {
    /// Sets what may be done from now on. Until `contact` it is known what other replicas did: they did
    /// nothing that is not in the slot.
    pub fn reaches(&mut self, reach: Reach, contact: Moment, now: Now) {
        let before = std::mem::replace(&mut self.reach, reach);
        self.contact = Some(contact);
        if matches!(reach, Reach::Everything | Reach::Harmless) {
            return;
        }
        // What was planned was for another reach.
        self.looks.due.take_if(|_| before != reach);
        match self.watchful_since() {
            _ if self.looks.flying => {}
            _ if self.refused() => {
                let due = self.looks.due.unwrap_or(now.boot);
                self.looks.want_if_allowed(due);
            }
            // The looks of a replica that refreshes are none of this one's.
            Some(begin) if now.boot < begin && reach == Reach::Following => {
                self.looks.due = Some(begin);
            }
            // Not as seldom as what is planned for a token that nobody else may have ended.
            Some(begin) if self.looks.due.is_some() => {
                let soon = now.boot + self.doubt();
                self.looks.want_if_allowed(begin.max(soon));
            }
            Some(begin) => self.looks.want(begin.max(now.boot)),
            None => {}
        }
    }

    /// Whether this replica refreshes what others hand out too.
    pub(super) fn is_shared(&self) -> bool {
        self.reach == Reach::Everything && self.contact.is_some()
    }

    /// From when on this replica looks at the token because another one may have ended it.
    ///
    /// While nothing is heard that begins as soon as another one may have replaced it: WeChat ends a token
    /// at once if two are made after it, as happens when the answer of the first is lost.
    fn watchful_since(&self) -> Option<Moment> {
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
    fn alone_since(&self) -> Option<Moment> {
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

    /// Until when the token can be handed out without a doubt, if nothing is heard from now on.
    ///
    /// WeChat's word counts too, and so does its silence: whoever cannot reach anybody goes on.
    pub fn certain_until(&self) -> Option<Moment> {
        let since = self.doubtful_since()?;
        let asked = self.fetch.as_ref().filter(|fetch| fetch.reserved.is_some());
        let own = asked.map_or(since, |fetch| fetch.begun + self.policy.overlap);
        let heard = self.looks.heard_at();
        let heard = heard.filter(|at| *at >= since - self.lead());
        let trusted = heard.map(|at| at + self.doubt() * 2 + self.policy.timeout);
        Some(trusted.map_or(since.min(own), |until| until.max(since.min(own))))
    }

    /// The pause between two looks at a token that another replica may have ended.
    pub(super) fn doubt(&self) -> Duration {
        (self.policy.overlap / 60).max(self.policy.floor)
    }

    /// Looks begin so long before there is a doubt, so that there is an answer by then.
    fn lead(&self) -> Duration {
        (self.doubt() + self.policy.timeout).min(self.policy.overlap / 2)
    }

    /// Whether looks are this replica's to make.
    pub(super) fn looks_are_ours(&self, now: Now) -> bool {
        let doubtful = self.watchful_since().is_some_and(|at| now.boot >= at);
        self.reach != Reach::Following || doubtful || self.refused()
    }

    /// When something that is wanted `at` a time may be asked for.
    pub(super) fn within_reach(&self, at: Moment, now: Now) -> Option<Moment> {
        match self.reach {
            Reach::Everything | Reach::Harmless => Some(at),
            Reach::Following => self.before_the_end(at),
            Reach::CutOff { named: false } => None,
            Reach::CutOff { named: true } => self.last_resort(at, now),
        }
    }

    /// When a stable token is about to end because nobody refreshes: its replica may just have died, and WeChat
    /// renews such a token only shortly before its end.
    fn before_the_end(&self, at: Moment) -> Option<Moment> {
        let needed = self.policy.mode == Mode::Stable && self.trouble.is_none();
        let held = self.held.as_ref().filter(|_| needed)?;
        Some(at.max(held.token.expires_at - self.policy.overlap / 5))
    }

    /// The replica that refreshed last goes on doing so when it is plain that nobody else does, and not
    /// before the token is about to end: others that are cut off too keep theirs for longest like that.
    fn last_resort(&self, at: Moment, now: Now) -> Option<Moment> {
        let held = self.held.as_ref()?;
        let alone = match self.condition(now) {
            Condition::Lost => !held.dead,
            Condition::Dead => false,
            _ => self.looks.alive_at >= self.alone_since(),
        };
        let end = held.token.expires_at;
        let late = if alone {
            end - self.policy.overlap
        } else {
            end
        };
        (!held.dead).then_some(at.max(late))
    }

    /// The generation of a token that is asked for now. Without the claim it is the smallest possible one:
    /// what the others have numbered meanwhile by the time of day is above it.
    pub(super) fn next_generation(&self, now: Now) -> Generation {
        let without_claim = self.reach != Reach::Everything;
        match self.taken {
            Generation(taken) if without_claim && taken > 0 => Generation(taken.saturating_add(1)),
            Generation(taken) if self.is_shared() => {
                Generation(taken.saturating_add(ROOM)).next(now.wall)
            }
            taken => taken.next(now.wall),
        }
    }

    /// The highest generation that readers may have seen.
    pub fn taken(&self) -> Generation {
        self.taken
    }

    /// Readers of another replica have seen `generation`, which could not be saved. Whether the token has a
    /// higher number now, to be saved before readers see it; one that has expired is none of theirs any more. Not
    /// for a moment in which a fetch is under way: that has reserved its number.
    pub fn outnumbered(&mut self, generation: Generation, now: Now) -> bool {
        self.taken = self.taken.max(generation);
        let living = self.living(now).map(|held| held.token.generation);
        let behind = living.is_some_and(|living| living < generation);
        if behind {
            self.taken.0 = self.taken.0.saturating_add(1);
            self.renumber();
        }
        behind
    }
}
