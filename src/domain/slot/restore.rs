//! What survives a restart, and how a slot goes on after one.

use std::{sync::Arc, time::Duration};

use super::{Slot, Suspect};
use crate::domain::{Generation, Mode, Moment, Note, Now, Record, Remedy, Secret, Token, Trouble};

/// The longest that a first look is waited for before WeChat is asked all the same.
pub(super) const FIRST_LOOK: Duration = Duration::from_secs(5);

impl Slot {
    /// Goes on where `record` ended. A token that lives is in force without asking WeChat; only if
    /// its outcome has been open for longer than the overlap is it looked at before.
    pub fn restored(&mut self, record: Record, now: Now) {
        self.taken = record.taken();
        if record.note.is_some() {
            // The one above was given to the old token, by whoever found the note before; see `renumber`.
            self.taken = Generation(self.taken.0.saturating_add(1));
        }
        if record.mode != self.policy.mode {
            return;
        }
        self.ledger = record.ledger;
        if let Some(until) = record.blocked_until.filter(|until| *until > now.boot) {
            self.block(until, now);
        }
        let Some(token) = record.token.filter(|t| t.expires_at > now.boot) else {
            return;
        };
        let minted_at = self.ledger.minted_at.unwrap_or(token.asked_at);
        let planned = self.policy.planned(&token, minted_at.min(now.boot));
        self.settled = true;
        let settled_at = token.asked_at + self.policy.settle();
        self.hold(token.shown_by(now), None, now);
        if let Some(held) = &mut self.held {
            held.dead = record.dead;
        }
        self.plan(planned, now);
        self.next_ask = self.next_ask.max(self.blocked_until.unwrap_or(now.boot));
        self.looks.want(settled_at.max(now.boot));
        if let Some(note) = record.note {
            self.looks.want(now.boot);
            self.restored_note(note, now);
        }
    }

    pub(super) fn restored_note(&mut self, note: Note, now: Now) {
        self.unfinished = true;
        self.renumber();
        if self.policy.mode == Mode::Stable {
            self.next_ask = now.boot;
            return;
        }
        let since = note.asked_at.min(now.boot);
        self.suspect = Some(Suspect::new(since));
        self.next_ask = now.boot;
        if now.boot >= since + self.policy.overlap {
            // If WeChat made a token, ours is dead by now. The look tells.
            self.settled = false;
            self.next_ask = now.boot + self.policy.timeout.min(FIRST_LOOK);
        }
    }

    /// The token that the note is about may have been handed out before its record was saved. A
    /// generation above it keeps the order that readers see.
    pub(super) fn renumber(&mut self) {
        let Some(held) = &self.held else { return };
        let token = Token {
            value: Secret::new(held.token.value.expose()),
            generation: self.taken,
            ..*held.token
        };
        self.number(Arc::new(token));
    }

    /// The token that is held is this one, under another number. A look that is under way speaks of the old one.
    pub(super) fn number(&mut self, token: Arc<Token>) {
        let Some(held) = &mut self.held else { return };
        held.token = token;
        if std::mem::take(&mut self.looks.flying) {
            self.looks.due = Some(Moment::default());
        }
    }

    fn block(&mut self, until: Moment, now: Now) {
        self.blocked_until = Some(until);
        self.next_ask = until;
        self.settled = true;
        self.trouble = Some(Arc::new(Trouble {
            remedy: Remedy::RiskRejected(until.since(now.boot)),
            errcode: None,
            definite: true,
            message: "the account's administrator rejected this server before it was restarted"
                .into(),
            hint: Some("ask the administrator to accept the next request, then send SIGHUP".into()),
        }));
    }

    /// What must survive a restart.
    pub fn record(&self) -> Record {
        let note = self.suspect.map(|suspect| Note {
            asked_at: suspect.since,
            reserved: self.taken,
        });
        Record {
            mode: self.policy.mode,
            token: self.held.as_ref().map(|h| Arc::clone(&h.token)),
            dead: self.dead(),
            generation: self.taken,
            note,
            ledger: self.ledger.clone(),
            blocked_until: self.blocked_until,
            trouble: self.trouble.clone(),
        }
    }
}
