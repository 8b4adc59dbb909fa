//! One app in the eyes of one of several replicas: another one refreshes it, or we do so from now on.

use std::{sync::Arc, time::Duration};

use super::{Reach, Slot, Suspect, looks::Looks};
use crate::domain::{Mode, Moment, Note, Now, Record, Token};

/// Two statements of one token's end that differ by less are the same.
const ROUNDING: Duration = Duration::from_secs(2);

impl Slot {
    /// Another replica refreshes from now on. What was under way here is forgotten; the token stays.
    pub fn stepped_down(&mut self) {
        (self.fetch, self.drill) = (None, None);
        (self.doubted, self.unfinished, self.failures) = (false, false, 0);
        (self.failed_at, self.repeated_at) = (None, None);
        self.looks = Looks::default();
        self.reach = Reach::Following;
    }

    /// The replica that refreshes has saved `record`.
    pub fn followed(&mut self, record: Record, now: Now) {
        self.taken = self.taken.max(record.taken());
        if record.mode != self.policy.mode {
            return;
        }
        self.ledger = record.ledger;
        self.blocked_until = record.blocked_until.filter(|until| *until > now.boot);
        self.trouble = record.trouble;
        self.settled |= self.trouble.is_some();
        // A token that this replica handed out in a former life may be the one that the note is about.
        // Until that is settled nothing can be shown without the risk of going back.
        if record.note.is_some() && self.held.is_none() {
            return;
        }
        let since = |note: Note| Suspect {
            since: note.asked_at.min(now.boot),
            replied: false,
        };
        if let Some(token) = record.token.filter(|token| token.expires_at > now.boot) {
            self.follow_token(&token, record.dead, now);
        }
        self.suspect = record.note.map(since);
    }

    fn follow_token(&mut self, token: &Arc<Token>, dead: bool, now: Now) {
        let held = self.held.as_ref().map(|held| &held.token);
        if held.is_some_and(|held| held.generation > token.generation) {
            return;
        }
        let same = held.is_some_and(|held| held.generation == token.generation);
        if !same {
            let previous = self.retired_at(token, now);
            self.hold(token.shown_by(now), previous, now);
        }
        if let Some(held) = &mut self.held {
            held.dead = dead;
            let (one, other) = (token.expires_at, held.token.expires_at);
            if same && one.since(other).max(other.since(one)) > ROUNDING {
                held.token = token.shown_by(now);
            }
        }
        self.settled = true;
        self.looks = Looks::default();
        let minted_at = self.ledger.minted_at.unwrap_or(token.asked_at);
        self.planned = self.policy.planned(token, minted_at.min(now.boot));
        self.next_ask = self.planned;
    }

    /// Until when the token that is held works although `token` replaces it.
    fn retired_at(&self, token: &Token, now: Now) -> Option<Moment> {
        let held = self.living(now).filter(|held| !held.dead)?;
        let certain = self.suspect.is_none() && held.token.value != token.value;
        let end = token.asked_at + self.policy.overlap;
        certain.then(|| held.token.expires_at.min(end))
    }

    /// The claim is ours from now on; `record` is what the store knew when it was taken.
    pub fn took_over(&mut self, record: Option<Record>, now: Now) {
        self.reach = Reach::Everything;
        let Some(record) = record else {
            return self.go_on(now);
        };
        let Some(held) = &self.held else {
            return self.restored(record, now);
        };
        // What could not be saved is known here, and is saved now.
        if held.token.generation < record.taken() {
            let note = record.note;
            self.followed(record, now);
            if let Some(note) = note {
                // As after a restart: the token that the note is about may be in use.
                self.taken.0 = self.taken.0.saturating_add(1);
                self.go_on(now);
                return self.restored_note(note, now);
            }
        }
        self.go_on(now);
    }

    fn go_on(&mut self, now: Now) {
        let Some(held) = &self.held else {
            self.next_ask = self.blocked_until.unwrap_or(now.boot);
            return;
        };
        let settled_at = held.token.asked_at + self.policy.settle();
        let minted_at = self.ledger.minted_at.unwrap_or(held.token.asked_at);
        let planned = self.policy.planned(&held.token, minted_at.min(now.boot));
        self.plan(planned, now);
        self.next_ask = self.next_ask.max(self.blocked_until.unwrap_or(now.boot));
        self.looks.want(settled_at.max(now.boot));
    }

    /// The fetch that is under way was not sent: the claim does not last long enough.
    pub fn gave_up(&mut self, now: Now) {
        let Some(fetch) = self.fetch.take() else {
            return;
        };
        if fetch.replacement {
            self.ledger.refund(self.policy.mode);
        }
        self.next_ask = now.boot + self.policy.floor;
    }

    /// A fetch of another replica outlived its claim and has just brought a token that nobody has: it may
    /// have retired ours, as late as now.
    pub fn strayed(&mut self, now: Now) {
        if self.fetch.is_some() || self.suspect.is_some() {
            return;
        }
        if self.policy.mode == Mode::Stable {
            self.next_ask = self.next_ask.min(now.boot);
            return;
        }
        if self.living(now).is_none() {
            return;
        }
        let (since, replied) = (now.boot, false);
        self.ledger.minted_at = Some(now.boot);
        self.suspect = Some(Suspect { since, replied });
        self.next_ask = now.boot;
        self.looks.want(now.boot);
    }
}
