//! How far one of several replicas may go by itself, and how long it can trust what it holds.

use super::{Condition, Slot};
use crate::domain::{Generation, Mode, Moment, Now};

/// So many numbers are left to replicas that are cut off: theirs must not be those of other tokens.
const ROOM: u64 = 1000;

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
                let soon = now.boot + self.pause_in_doubt();
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
