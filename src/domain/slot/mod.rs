//! The life of one app's token.
//!
//! A state machine without I/O: one method per thing that can happen. The actor in `refresher/` is
//! its only caller; it owns the timers and the sockets, and this file owns every decision.
//!
//! A token is in one of five conditions, and the condition says when WeChat may be asked:
//!
//! | condition | what is known | when to ask |
//! |---|---|---|
//! | `Lost` | there is no token, or it has expired | at the next attempt |
//! | `Dead` | three looks say that WeChat refuses it | at the next attempt, within the budget |
//! | `Suspect` | an outcome is open (classic) | once WeChat answers a look, or when the overlap is over |
//! | `Leaked` | an operator wants it dead | at once, and again after the gap |
//! | `Healthy` | – | as planned |

mod ability;
mod doubt;
mod leak;
mod looked;
mod looks;
mod nudge;
mod outcome;
mod reach;
mod replica;
mod reported;
mod restore;
mod shown;
mod suspect;

use std::{sync::Arc, time::Duration};

use ability::Ability;
pub use doubt::Doubt;
use leak::{Before, Drill};
use looks::Looks;
pub use reach::Reach;
pub use reported::Verdict;
use suspect::Suspect;

use super::{
    Ask, Generation, Mode, Moment, Note, Now, Policy, Token, Trouble, budget::Ledger,
    protocol::Errand,
};

/// Later than anything that is planned.
const NEVER: Duration = Duration::from_hours(24);

/// The life of one app's token.
#[derive(Debug)]
pub struct Slot {
    policy: Policy,
    held: Option<Held>,
    looks: Looks,
    fetch: Option<Fetch>,
    /// When the next attempt may be made, if the condition allows it.
    next_ask: Moment,
    /// When the next token is due if nothing happens before.
    planned: Moment,
    failures: u32,
    ability: Ability,
    /// When the last fetch failed.
    failed_at: Option<Moment>,
    /// When WeChat last repeated the token that is held.
    repeated_at: Option<Moment>,
    ledger: Ledger,
    /// Classic: replace the token although nothing proves it dead, because WeChat does not let us look.
    doubted: bool,
    drill: Option<Drill>,
    /// A fetch of our own was under way when the server ended: its token is no stranger's.
    unfinished: bool,
    trouble: Option<Arc<Trouble>>,
    suspect: Option<Suspect>,
    taken: Generation,
    /// The token that other replicas know, if there are any.
    known: Generation,
    blocked_until: Option<Moment>,
    settled: bool,
    reach: Reach,
    /// Until when it is known what other replicas did, if there are any.
    contact: Option<Moment>,
}

/// The token in force.
#[derive(Debug)]
struct Held {
    token: Arc<Token>,
    /// The number that it had first, by which callers may know it.
    first: Generation,
    since: Moment,
    dead: bool,
    /// Since when looks of this replica say that it is dead, if none has said since that it is not.
    refused: Option<Moment>,
    /// The store does not know that it is dead.
    unsaid: bool,
    previous_expires_at: Option<Moment>,
    before: Before,
}

/// Two statements of one token's end that differ by less are the same: WeChat and the store that replicas share
/// round to whole seconds, and the rest is the way.
const ROUNDING: Duration = Duration::from_secs(3);

/// A fetch that is under way.
#[derive(Debug)]
struct Fetch {
    ask: Ask,
    reserved: Option<Generation>,
    replacement: bool,
    begun: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Lost,
    Dead,
    Suspect(Moment, bool),
    Leaked(Moment),
    Healthy,
}

/// What to start.
#[derive(Debug)]
pub enum Start {
    /// Ask WeChat for a token. A look that is under way does not matter any more.
    Ask(Errand),
    /// Look at this token.
    Look(Arc<Token>),
}

/// A new token is in force.
#[derive(Debug)]
pub struct Rotation {
    /// The token.
    pub token: Arc<Token>,
    /// Somebody else made WeChat replace the one before.
    pub foreign: bool,
}

/// What a look changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nothing that readers see.
    Unchanged,
    /// The token is proven dead, although it was not replaced here.
    Died,
    /// A token that counted as dead works again.
    Revived,
}

impl Slot {
    /// An app that nothing is known about.
    pub fn new(policy: Policy, now: Now) -> Self {
        Self {
            policy,
            held: None,
            looks: Looks::default(),
            fetch: None,
            next_ask: now.boot,
            planned: now.boot,
            failures: 0,
            ability: Ability::default(),
            failed_at: None,
            repeated_at: None,
            ledger: Ledger::default(),
            doubted: false,
            drill: None,
            unfinished: false,
            trouble: None,
            suspect: None,
            taken: Generation::default(),
            known: Generation::default(),
            blocked_until: None,
            settled: false,
            reach: Reach::default(),
            contact: None,
        }
    }

    /// When to call [`Slot::woke`] next; `None` while a fetch is under way, and while another replica
    /// refreshes.
    pub fn due(&self, now: Now) -> Option<Moment> {
        let look = self.looks.due.filter(|_| self.may_look(now));
        [self.ask_at(now), look].into_iter().flatten().min()
    }

    /// Whether a fetch is under way whose outcome matters.
    pub fn asks(&self) -> bool {
        self.fetch.is_some()
    }

    /// Time has passed. Returns what to start, if something is due.
    pub fn woke(&mut self, now: Now) -> Option<Start> {
        if self.ask_at(now).is_some_and(|at| at <= now.boot) {
            return Some(Start::Ask(self.start_ask(now)));
        }
        self.due_look(now).map(Start::Look)
    }

    fn condition(&self, now: Now) -> Condition {
        let Some(held) = self.living(now) else {
            return Condition::Lost;
        };
        match (self.suspect, self.drill) {
            _ if held.dead => Condition::Dead,
            (_, Some(drill)) => Condition::Leaked(drill.next),
            (Some(suspect), _) => Condition::Suspect(suspect.last, suspect.replied),
            _ => Condition::Healthy,
        }
    }

    /// When WeChat may be asked for a token; `None` while it is being asked, and while that is not for
    /// us to do.
    fn ask_at(&self, now: Now) -> Option<Moment> {
        if self.fetch.is_some() {
            return None;
        }
        self.within_reach(self.wanted_at(now), now)
    }

    fn wanted_at(&self, now: Now) -> Moment {
        let at = match self.condition(now) {
            Condition::Lost | Condition::Healthy => return self.next_ask,
            Condition::Dead => self.replace_at(now),
            Condition::Leaked(next) => next.max(self.forced_at(now)).min(self.regular_at(next)),
            Condition::Suspect(last, replied) => {
                let blind = if replied {
                    now.boot
                } else {
                    last + self.policy.overlap
                };
                blind.max(self.ledger.budget_at(&self.policy, now))
            }
        };
        // Once it has expired there is nothing left to protect.
        let expiry = self.held.as_ref().map_or(at, |h| h.token.expires_at);
        self.next_ask.max(at.min(expiry))
    }

    /// When a dead token may be replaced. A stable one is asked for normally first, and again and
    /// again while force is not allowed.
    fn replace_at(&self, now: Now) -> Moment {
        let replacement = match self.policy.mode {
            Mode::Stable => self.forced_at(now),
            Mode::Classic => self.ledger.replacement_at(&self.policy, now),
        };
        match (self.policy.mode, self.repeated_at) {
            (Mode::Stable, Some(at)) if self.asked_since_the_proof() => {
                replacement.min(at + self.policy.step(self.policy.overlap))
            }
            (Mode::Stable, _) => now.boot,
            (Mode::Classic, _) => replacement,
        }
    }

    /// Whether the stable token has to be replaced by force, and may be.
    fn needs_force(&self, now: Now) -> bool {
        self.asked_since_the_proof() && self.forced_at(now) <= now.boot
    }

    /// When a stable token may be replaced by force.
    fn forced_at(&self, now: Now) -> Moment {
        match self.policy.mode {
            Mode::Stable if self.reach != Reach::Everything => now.boot + NEVER,
            Mode::Stable => self.ledger.replacement_at(&self.policy, now),
            Mode::Classic => now.boot,
        }
    }

    /// When the token is asked for whatever becomes of its drill: a drill that has to wait for tomorrow
    /// must not hold a stable token's planned refresh back.
    fn regular_at(&self, next: Moment) -> Moment {
        match self.policy.mode {
            Mode::Stable => self.planned,
            Mode::Classic => next,
        }
    }

    /// Whether WeChat repeated the token when its proof of death began, or later.
    fn asked_since_the_proof(&self) -> bool {
        let settle = self.policy.settle();
        let began = self.looks.began.map(|began| began - settle);
        self.repeated_at.is_some() && self.repeated_at >= began
    }

    fn start_ask(&mut self, now: Now) -> Errand {
        let condition = self.condition(now);
        let stable = self.policy.mode == Mode::Stable;
        let forced = match condition {
            Condition::Dead => self.needs_force(now),
            Condition::Leaked(next) => next.max(self.forced_at(now)) <= now.boot,
            _ => false,
        };
        let replacement = match condition {
            Condition::Lost => false,
            Condition::Healthy => self.doubted,
            Condition::Dead | Condition::Leaked(_) => !stable || forced,
            Condition::Suspect(..) => true,
        };
        let ask = if stable && forced {
            Ask::Forced
        } else {
            Ask::Normal
        };
        if replacement {
            self.ledger.spend(self.policy.mode, now);
        }
        if replacement || !stable {
            self.looks.drop_proof();
        }
        // Asking for a stable token in normal mode retires nothing, so nothing has to be noted.
        let noted = !stable || forced;
        let reserved = noted.then(|| self.next_generation(now));
        let record = self.record();
        self.taken = reserved.unwrap_or(self.taken);
        self.fetch = Some(Fetch {
            ask,
            reserved,
            replacement,
            begun: now.boot,
        });
        let note = reserved.map(|reserved| self.note(now.boot, reserved));
        let works = !matches!(condition, Condition::Lost | Condition::Dead);
        Errand {
            shared: works && self.is_shared(),
            ..Errand::new(ask, record, note)
        }
    }

    /// The oldest open outcome counts.
    fn note(&self, sent: Moment, reserved: Generation) -> Note {
        let asked_at = self.suspect.map_or(sent, |s| s.since.min(sent));
        Note { asked_at, reserved }
    }

    fn hold(&mut self, token: Arc<Token>, previous_expires_at: Option<Moment>, now: Now) {
        self.looks
            .at_new_token(&self.policy, token.asked_at, now.boot);
        let before = match self.held.take() {
            None => Before::Unknown,
            Some(held) if held.dead => Before::Nothing,
            Some(held) => Before::Was(held.token, held.first),
        };
        self.held = Some(Held {
            first: token.generation,
            token,
            since: now.boot,
            dead: false,
            refused: None,
            unsaid: false,
            previous_expires_at,
            before,
        });
    }

    /// Sets the next attempt after a success. A stable token is asked for at each regular look too:
    /// that harms nothing, and shows a refresh that somebody else forced before the old token dies.
    fn plan(&mut self, planned: Moment, now: Now) {
        self.planned = planned;
        let mut next = planned.max(now.boot + self.policy.floor);
        if self.policy.mode == Mode::Stable && !self.policy.probe_every.is_zero() {
            next = next.min(now.boot + self.policy.probe_every);
        }
        if self.drill.is_some() || self.dead() {
            next = now.boot;
        }
        self.next_ask = next;
    }

    /// When a classic token that works may be replaced: some time after the last possible mint.
    fn spaced_at(&self, token: &Token, now: Now) -> Moment {
        let minted_at = self.ledger.minted_at.unwrap_or(token.asked_at);
        minted_at.min(now.boot) + self.policy.spacing(token.life())
    }

    /// The life that a token which works has left; zero if there is none.
    fn left(&self, now: Now) -> Duration {
        let living = self.living(now).filter(|h| !h.dead);
        living.map_or(Duration::ZERO, |h| h.token.expires_at.since(now.boot))
    }

    /// The token that is held, if it has not expired.
    fn living(&self, now: Now) -> Option<&Held> {
        let held = self.held.as_ref();
        held.filter(|h| h.token.expires_at > now.boot)
    }
}

#[cfg(test)]
mod tests;
