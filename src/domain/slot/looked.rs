//! A look is due, or came back.

use std::{mem::take, sync::Arc, time::Duration};

use super::{
    Held, Looked, Slot, Suspect,
    looks::{AT_THE_DEAD, Proof},
};
use crate::domain::{Generation, Now, Remedy, Sight, Token};

impl Held {
    /// What this replica's own looks say counts here until they say something else.
    fn remember(&mut self, proof: Proof, now: Now) {
        match proof {
            Proof::Dead => self.refused = self.refused.or(Some(now.boot)),
            Proof::Alive => (self.refused, self.unsaid) = (None, false),
            Proof::Pending | Proof::None => {}
        }
    }
}

impl Slot {
    /// The token to look at, if that is due.
    pub fn due_look(&mut self, now: Now) -> Option<Arc<Token>> {
        let due = self.looks.due.filter(|_| self.may_look(now))?;
        if due > now.boot {
            return None;
        }
        let held = self.held.as_ref()?;
        self.looks.sent(held.dead, now.boot);
        Some(Arc::clone(&held.token))
    }

    pub(super) fn may_look(&self, now: Now) -> bool {
        let idle = self.fetch.is_none() && !self.looks.flying;
        idle && self.looks_are_ours(now) && self.living(now).is_some()
    }

    /// A look at the token of `generation` came back.
    pub fn looked(&mut self, generation: Generation, sight: Sight, now: Now, roll: f64) -> Looked {
        let Some(held) = self
            .held
            .as_mut()
            .filter(|h| h.token.generation == generation)
        else {
            return Looked::Unchanged;
        };
        if !self.looks.flying {
            return Looked::Unchanged;
        }
        let was_dead = held.dead;
        let mut proof = self.looks.saw(sight, was_dead, &self.policy, now.boot);
        self.looked_for_recovery(sight);
        if self.is_doubted(now) {
            proof = self.looked_at_doubtful(sight, proof, now);
        } else if let Some(suspect) = self.suspect {
            proof = self.looked_at_suspect(suspect, sight, proof, now, roll);
        }
        self.settled = true;
        let Some(held) = &mut self.held else {
            return Looked::Unchanged;
        };
        held.remember(proof, now);
        match proof {
            Proof::Dead if !was_dead => {
                held.dead = true;
                // What WeChat refuses, it refuses for a dead token too: its pause is kept. But the plan
                // of a token that came back to life in between is none for a dead one.
                let remedy = self.trouble.as_ref().map(|trouble| trouble.remedy);
                let pause = match remedy {
                    None | Some(Remedy::BackOff) => Duration::ZERO,
                    Some(other) => {
                        let left = self.left(now);
                        self.policy
                            .pause(other, self.failures, left, now.wall, roll)
                    }
                };
                self.next_ask = self.next_ask.min(now.boot + pause);
                Looked::Died
            }
            Proof::Alive if was_dead => {
                held.dead = false;
                // While an outcome is open the token may yet die of it: the recovery does not wait.
                if self.suspect.is_none() {
                    self.back_to_plan(now);
                }
                Looked::Revived
            }
            _ if was_dead && sight == Sight::Refused && take(&mut held.unsaid) => {
                self.next_ask = self.next_ask.min(now.boot);
                Looked::Died
            }
            _ => Looked::Unchanged,
        }
    }

    /// While another replica may have ended the token, one refusal is enough: nothing is done about it
    /// but not to hand it out.
    fn looked_at_doubtful(&mut self, sight: Sight, proof: Proof, now: Now) -> Proof {
        if sight != Sight::Refused {
            // Between two of them it may die: nobody else would tell.
            let told = sight == Sight::Alive;
            let pause = self.pause_in_doubt();
            let pause = if told { pause } else { self.policy.floor };
            self.looks.want_if_allowed(now.boot + pause);
            return proof;
        }
        self.looks.drop_proof();
        self.looks.want(now.boot + AT_THE_DEAD);
        Proof::Dead
    }

    /// While an outcome is open, a look tells two things more: that WeChat can be talked to, and,
    /// once the overlap is over, whether it made a token.
    fn looked_at_suspect(
        &mut self,
        suspect: Suspect,
        sight: Sight,
        proof: Proof,
        now: Now,
        roll: f64,
    ) -> Proof {
        let overdue = now.boot >= suspect.since + self.policy.overlap;
        match (proof, sight) {
            (Proof::Alive, _) if now.boot >= suspect.last + self.policy.overlap => {
                self.suspect = None;
                self.ledger.minted_at = None;
                self.back_to_plan(now);
                Proof::Alive
            }
            (Proof::Alive, _) if overdue => {
                // The first fetch made nothing. The last one may have.
                self.suspect = Some(Suspect {
                    since: suspect.last,
                    replied: true,
                    ..suspect
                });
                Proof::Alive
            }
            (_, Sight::Refused) if overdue => {
                self.looks.drop_proof();
                self.looks.want(now.boot + AT_THE_DEAD);
                Proof::Dead
            }
            _ => {
                let replied = suspect.replied || sight.replied();
                self.suspect = Some(Suspect { replied, ..suspect });
                if proof != Proof::Pending && !replied {
                    let left = self.left(now);
                    self.looks
                        .plan_insistent(&self.policy, left, roll, now.boot);
                }
                proof
            }
        }
    }

    /// Nothing is wrong with the token after all.
    fn back_to_plan(&mut self, now: Now) {
        let Some(held) = &self.held else { return };
        let planned = self.policy.planned(&held.token, held.token.asked_at);
        self.plan(planned, now);
    }
}
