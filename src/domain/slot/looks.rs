//! Looking at a token: when, and what several looks together prove.
//!
//! WeChat's servers disagree for a while after a change, so one refusal proves nothing: a token is
//! dead if three looks over two seconds all say so. One success proves that it lives.

use std::time::Duration;

use crate::domain::{Moment, Policy, Sight};

/// Refusals in a row that prove death.
const PROOF: u32 = 3;

/// The pause between the looks of one proof.
const BETWEEN: Duration = Duration::from_secs(1);

/// The pause between looks at a token that is proven dead and has no successor.
pub(super) const AT_THE_DEAD: Duration = Duration::from_secs(5);

/// The pause of the unasked looks after WeChat said that there were too many.
const TOO_MANY: Duration = Duration::from_hours(1);

/// WeChat's daily quota of an interface is used up.
const QUOTA: i64 = 45009;

/// The looks at one token.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks {
    /// When the next one is due.
    pub(super) due: Option<Moment>,
    /// Whether one is under way.
    pub(super) flying: bool,
    /// When the last one was sent.
    sent_at: Option<Moment>,
    /// When the first look of the present or last proof was sent.
    pub(super) began: Option<Moment>,
    /// When WeChat last accepted the token.
    pub(super) alive_at: Option<Moment>,
    /// When it was asked then.
    pub(super) accepted: Option<Moment>,
    /// When a look last ended without a verdict, and why.
    pub(super) blur: Option<(Moment, Blur)>,
    /// Refusals of the present proof.
    refused: u32,
    /// Looks without a reply, in a row.
    pub(super) unanswered: u32,
    /// No unasked look before.
    quiet_until: Option<Moment>,
}

/// Why a look gave no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blur {
    /// WeChat could not be asked.
    Unreachable,
    /// WeChat answered with an errcode about something else.
    Answered(i64),
}

/// What the looks prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing yet: another look follows.
    Pending,
    /// The token works.
    Alive,
    /// The token does not work.
    Dead,
    /// Nothing, and no further look follows at once.
    None,
}

impl Looks {
    /// Begins anew for a token that was asked for at `born`.
    pub(super) fn at_new_token(&mut self, policy: &Policy, born: Moment, now: Moment) {
        let quiet_until = self.quiet_until;
        *self = Self {
            quiet_until,
            ..Self::default()
        };
        self.plan_unasked(policy, now);
        self.due = self.due.map(|due| due.max(born + policy.settle()));
    }

    /// Wants a look at `when` or sooner.
    pub(super) fn want(&mut self, when: Moment) {
        self.due = Some(self.due.map_or(when, |due| due.min(when)));
    }

    /// Wants a look at `when` or sooner, but none while WeChat says that there were too many.
    pub(super) fn want_if_allowed(&mut self, when: Moment) {
        self.want(self.quiet_until.map_or(when, |quiet| quiet.max(when)));
    }

    /// Wants the next look at a token that is proven dead and has no successor.
    pub(super) fn want_at_the_dead(&mut self, now: Moment) {
        self.want_if_allowed(now + AT_THE_DEAD);
    }

    /// Whether WeChat has said that there were too many.
    pub(super) fn quiet(&self, now: Moment) -> bool {
        self.quiet_until.is_some_and(|until| until > now)
    }

    /// When WeChat was heard of last, or could not be asked. That it does not want to be is as good.
    pub(super) fn heard_at(&self) -> Option<Moment> {
        let blurred = self.blur.map(|(at, _)| at);
        let heard = self.alive_at.max(blurred)?;
        Some(self.quiet_until.map_or(heard, |quiet| quiet.max(heard)))
    }

    /// Whether a proof is being made.
    pub(super) fn busy(&self) -> bool {
        self.flying || self.refused > 0
    }

    /// A look is sent; one at a token that is proven `dead` is no part of a proof.
    pub(super) fn sent(&mut self, dead: bool, now: Moment) {
        (self.flying, self.sent_at, self.due) = (true, Some(now), None);
        if self.refused == 0 && !dead {
            self.began = Some(now);
        }
    }

    /// Drops the proof that is being made: the token is being replaced anyway.
    pub(super) fn drop_proof(&mut self) {
        (self.flying, self.refused, self.due) = (false, 0, None);
    }

    /// A look came back. Plans the next unasked one; `dead` says that death is proven already.
    pub(super) fn saw(&mut self, sight: Sight, dead: bool, policy: &Policy, now: Moment) -> Proof {
        self.flying = false;
        self.unanswered = match sight {
            Sight::Unreachable => self.unanswered.saturating_add(1),
            _ => 0,
        };
        self.plan_unasked(policy, now);
        if dead {
            self.want(now + AT_THE_DEAD);
        }
        match sight {
            Sight::Alive => {
                self.refused = 0;
                (self.alive_at, self.blur) = (Some(now), None);
                self.accepted = self.sent_at;
                Proof::Alive
            }
            Sight::Refused if dead => Proof::None,
            Sight::Refused => self.saw_refusal(now),
            Sight::NoVerdict { errcode } => self.saw_nothing(Blur::Answered(errcode), now),
            Sight::Busy | Sight::Unreachable => self.saw_nothing(Blur::Unreachable, now),
        }
    }

    fn saw_refusal(&mut self, now: Moment) -> Proof {
        self.refused += 1;
        if self.refused < PROOF {
            self.want(now + BETWEEN);
            return Proof::Pending;
        }
        self.refused = 0;
        (self.alive_at, self.accepted) = (None, None);
        self.want(now + AT_THE_DEAD);
        Proof::Dead
    }

    fn saw_nothing(&mut self, blur: Blur, now: Moment) -> Proof {
        self.refused = 0;
        self.blur = Some((now, blur));
        if blur == Blur::Answered(QUOTA) {
            self.quiet_until = Some(now + TOO_MANY);
            self.due = self.due.and(self.quiet_until);
        }
        Proof::None
    }

    /// Plans the next look that nobody asks for.
    pub(super) fn plan_unasked(&mut self, policy: &Policy, now: Moment) {
        let regular = now + policy.probe_every;
        let regular = self.quiet_until.map_or(regular, |quiet| quiet.max(regular));
        self.due = (!policy.probe_every.is_zero()).then_some(regular);
    }

    /// Plans the next look while an outcome is open and WeChat has not answered since.
    pub(super) fn plan_insistent(
        &mut self,
        policy: &Policy,
        left: Duration,
        roll: f64,
        now: Moment,
    ) {
        self.due = Some(now + policy.back_off(self.unanswered, left, roll));
    }
}
