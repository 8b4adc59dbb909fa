//! One app in the eyes of one of several replicas: another one refreshes it, or we do so from now on.

use std::sync::Arc;

use super::{Before, ROUNDING, Reach, Slot, Suspect, looks::Looks, restore::FIRST_LOOK};
use crate::domain::{Generation, Mode, Moment, Note, Now, Record, Token};

impl Slot {
    /// Another replica refreshes from now on. What was under way here is forgotten; the token stays.
    pub fn stepped_down(&mut self) {
        (self.fetch, self.drill) = (None, None);
        (self.doubted, self.unfinished, self.failures) = (false, false, 0);
        (self.failed_at, self.repeated_at) = (None, None);
        self.looks = Looks::default();
        self.reach = Reach::Following;
    }

    /// Goes on with this replica's copy of `record`, out of touch with the others, who may have ended its token since
    /// the copy was made. Then it is looked at before the first answer.
    pub fn restored_copy(&mut self, record: Record, now: Now) {
        self.restored(record, now);
        (self.reach, self.contact) = (Reach::Following, Some(Moment::default()));
        let in_doubt = self.doubtful_since().is_some_and(|since| since <= now.boot);
        if in_doubt && self.living(now).is_some() {
            self.settled = false;
            self.looks.want(now.boot);
        }
    }

    /// The replica that refreshes has saved `record`.
    pub fn followed(&mut self, record: Record, now: Now) {
        let unsaved = self.is_ahead_of(&record);
        self.taken = self.taken.max(record.taken());
        self.known = record
            .token
            .as_ref()
            .map_or(self.known, |token| token.generation);
        if record.mode != self.policy.mode {
            return self.follow_the_other_mode(record, now);
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
        let since = |note: Note| Suspect::new(note.asked_at.min(now.boot));
        if let Some(token) = record.token.filter(|token| token.expires_at > now.boot) {
            self.follow_token(&token, record.dead, now);
        }
        // What a note is about may have arrived here already: then it only was not saved.
        let open = record.note.filter(|_| !unsaved);
        self.suspect = open.map(since);
    }

    /// An update changes the mode, and one that still has the former refreshes. Its token works as well; what it
    /// knows beside that is of no use here.
    fn follow_the_other_mode(&mut self, record: Record, now: Now) {
        let living = record.token.filter(|token| token.expires_at > now.boot);
        if let Some(token) = living.filter(|_| record.note.is_none() || self.held.is_some()) {
            self.follow_token(&token, record.dead, now);
            self.unfinished = true;
        }
    }

    fn follow_token(&mut self, token: &Arc<Token>, dead: bool, now: Now) {
        let held = self.held.as_ref().map(|held| &held.token);
        if held.is_some_and(|held| held.generation > token.generation) {
            return;
        }
        let same = held.is_some_and(|held| held.generation == token.generation);
        let renumbered = held.is_some_and(|held| held.value == token.value);
        if renumbered && !same {
            self.number(token.shown_by(now));
        } else if !same {
            let previous = self.retired_at(token, now);
            self.hold(token.shown_by(now), previous, now);
            if let Some(held) = &mut self.held {
                // There may have been others in between.
                held.before = Before::Unknown;
            }
        }
        if let Some(held) = &mut self.held {
            // What WeChat refused here is not handed out because nobody else has noticed yet.
            held.dead = dead || held.refused.is_some();
            let (one, other) = (token.expires_at, held.token.expires_at);
            if same && one.since(other).max(other.since(one)) > ROUNDING {
                held.token = token.shown_by(now);
            }
        }
        self.settled = true;
        if !self.refused() {
            self.looks = Looks::default();
        }
        let minted_at = self.ledger.minted_at.unwrap_or(token.asked_at);
        self.planned = self.policy.planned(token, minted_at.min(now.boot));
        self.next_ask = self.planned.max(now.boot + self.policy.floor);
    }

    /// The store holds the token of `generation`, so that other replicas know it.
    pub fn told(&mut self, generation: Generation) {
        self.known = self.known.max(generation);
    }

    /// The replica that refreshes was asked `at` that time about the token, and says that WeChat accepts it. Its
    /// last look may be a while older than the question.
    pub fn vouched(&mut self, generation: Generation, at: Moment) {
        let settle = self.policy.settle();
        let held = self.held.as_mut();
        if let Some(held) = held.filter(|held| held.token.generation == generation) {
            held.refused.take_if(|since| *since + settle <= at);
        }
    }

    /// Until when the token that is held works although `token` replaces it.
    fn retired_at(&self, token: &Token, now: Now) -> Option<Moment> {
        let held = self.living(now).filter(|held| !held.dead)?;
        let certain = self.suspect.is_none() && held.token.value != token.value;
        let end = token.asked_at + self.policy.overlap;
        certain.then(|| held.token.expires_at.min(end))
    }

    /// The claim is ours from now on; `record` is what the store knew when it was taken. Whether the token
    /// has a new number now that readers may see only once it is saved.
    pub fn took_over(&mut self, record: Option<Record>, now: Now) -> bool {
        let renumbered = self.took_up(record, now);
        self.begins_to_refresh(now);
        renumbered
    }

    fn took_up(&mut self, record: Option<Record>, now: Now) -> bool {
        self.reach = Reach::Everything;
        let Some(record) = record else {
            self.go_on(now);
            return false;
        };
        if self.held.is_none() {
            self.restored(record, now);
            return false;
        }
        let (note, unsaved) = (record.note, self.is_ahead_of(&record));
        let saved = record.token.as_ref().map(|token| token.generation);
        let known_dead = record.dead;
        self.followed(record, now);
        // The one that was saved may have no life left to be followed for, but its number was seen.
        let behind = saved.is_some_and(|saved| self.outnumbered(saved, now));
        self.take_up(note, unsaved, now);
        if self.refused() && !known_dead {
            self.look_again(now);
        }
        behind || (unsaved && note.is_some())
    }

    /// One refusal was enough not to hand the token out. To replace it, and to tell the others, takes another.
    fn look_again(&mut self, now: Now) {
        self.looks.want(now.boot);
        self.next_ask = self.next_ask.max(now.boot + FIRST_LOOK);
        if let Some(held) = &mut self.held {
            held.unsaid = true;
        }
    }

    fn take_up(&mut self, note: Option<Note>, unsaved: bool, now: Now) {
        match note {
            // Whoever had the claim in between gave the old token the number above the reserved one.
            Some(_) if unsaved => {
                self.taken.0 = self.taken.0.saturating_add(2);
                self.renumber();
                self.go_on(now);
            }
            // As after a restart: the token that the note is about may be in use.
            Some(note) => {
                self.taken = note.reserved.max(self.taken);
                if self.held_generation() <= note.reserved {
                    self.taken.0 = self.taken.0.saturating_add(1);
                }
                self.go_on(now);
                self.restored_note(note, now);
            }
            None => self.go_on(now),
        }
    }

    pub(super) fn held_generation(&self) -> Generation {
        let held = self.held.as_ref().map(|held| held.token.generation);
        held.unwrap_or_default()
    }

    /// Whether a token is held that came after everything in `record`, but could not be saved.
    fn is_ahead_of(&self, record: &Record) -> bool {
        let Some(held) = &self.held else { return false };
        let saved = record.token.as_ref().map(|token| &token.value);
        held.token.generation >= record.taken() && saved != Some(&held.token.value)
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

    /// A fetch of another replica, which had no claim to it any more, was answered `at` that time, or was
    /// not: WeChat may have made a token that nobody has, and retired ours. Whether that matters.
    pub fn strayed(&mut self, at: Moment, now: Now) -> bool {
        if self.fetch.is_some() || self.suspect.is_some() {
            return false;
        }
        if self.policy.mode == Mode::Stable {
            self.next_ask = self.next_ask.min(now.boot);
            return true;
        }
        // One that came later has retired the stray.
        let older = |token: &Token| token.asked_at <= at;
        if !self.living(now).is_some_and(|held| older(&held.token)) {
            return false;
        }
        self.ledger.minted_at = Some(now.boot);
        self.suspect = Some(Suspect::new(at.min(now.boot)));
        self.next_ask = now.boot;
        self.looks.want(now.boot);
        true
    }
}
