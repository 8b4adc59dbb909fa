//! Fetches that had no claim, or outlived it: what they brought, and what they may have retired.

use std::sync::Arc;

use tokio::{task::JoinSet, time::timeout};
use tracing::{info, warn};

use super::{super::obtain::SAVE, App, Event};
use crate::{
    domain::{AppName, Now, Slot, protocol::Heard, slot::Reach},
    store::shared::{Holder, Request, Seen, millis},
};

impl App {
    /// WeChat was asked, and now there is nothing to save the outcome to but the local copy. Readers may
    /// know: while nobody else is heard of, it is all there is.
    pub(super) fn on_stray(
        &mut self,
        (claimed, noted): (bool, bool),
        heard: Heard,
        now: Now,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        self.tell_of_a_stray(claimed && noted, now);
        let made = matches!(heard, Heard::Rotated | Heard::Open);
        if let Some(replica) = self.replica.as_mut().filter(|_| !claimed && noted && made) {
            replica.alone_at = Some(now.boot);
        }
        if heard == Heard::Rotated {
            self.keep_a_copy(events);
        }
    }

    /// A restart must know what readers have seen, even one that does not reach the store.
    fn keep_a_copy(&mut self, events: &mut JoinSet<(AppName, Event)>) {
        let Some(replica) = &self.replica else {
            return;
        };
        (self.withheld, self.saving.under_way) = (true, true);
        let (name, appid) = (self.name.clone(), Arc::clone(&self.adapters.appid));
        let (shared, record) = (Arc::clone(&replica.shared), self.slot.record());
        events.spawn(async move {
            let _ = timeout(SAVE, shared.keep(&appid, &record)).await;
            (name, Event::Kept)
        });
    }

    pub(super) fn on_kept(&mut self) {
        (self.withheld, self.saving.under_way) = (false, false);
    }

    /// A fetch that was `noted` and outlived its claim may have retired what another replica has obtained.
    pub(super) fn tell_of_a_stray(&mut self, noted: bool, now: Now) {
        if noted {
            warn!(app = %self.name, "a fetch outlived the claim of this replica; the one that refreshes now is told");
            self.ask(Request::Stray { ago_ms: 0 }, now);
        }
    }

    /// Tells the replica that refreshes what happened here while nothing was heard of the others.
    pub(super) fn own_up(&mut self, now: Now) {
        self.tell_of_a_fetch(now);
        self.tell_what_readers_have_seen(now);
    }

    /// It may have given the next token a lower number. Said once for each token that stands in the store.
    fn tell_what_readers_have_seen(&mut self, now: Now) {
        let Some(replica) = &mut self.replica else {
            return;
        };
        let Some(Seen {
            holder: Holder::Other(holder),
            record: Some(record),
            ..
        }) = replica.last.as_ref()
        else {
            return;
        };
        let (seen, saved) = (self.slot.taken(), record.taken());
        if seen <= saved {
            return;
        }
        let about = (holder.clone(), saved);
        if replica.ahead_of.as_ref() != Some(&about) {
            replica.ahead_of = Some(about);
            self.ask(Request::Ahead { generation: seen.0 }, now);
        }
    }

    /// Gives the token a generation above those that readers of other replicas have seen. A fetch or a save
    /// that is under way ends with the number that it began with.
    pub(super) fn number_above_the_others(&mut self, now: Now) {
        let busy = self.has_business();
        let Some(replica) = self.replica.as_mut().filter(|_| !busy) else {
            return;
        };
        let seen = replica.outnumbered.take();
        if seen.is_some_and(|seen| self.slot.outnumbered(seen, now)) {
            info!(app = %self.name, "another replica has shown a higher generation, so the token gets a new one");
            replica.renumbering = true;
            self.saving.retry_at = Some(now.boot);
        }
    }

    /// It may have retired what they have.
    fn tell_of_a_fetch(&mut self, now: Now) {
        let Some(replica) = &mut self.replica else {
            return;
        };
        let holder = replica.last().map(|seen| &seen.holder);
        let others = matches!(holder, Some(Holder::Other(_)));
        // While nobody has the claim this replica may take it, and save what it has.
        let settled = others || holder == Some(&Holder::Us);
        let Some(at) = replica.alone_at.take_if(|_| settled) else {
            return;
        };
        if others {
            let ago_ms = millis(now.boot.since(at));
            info!(app = %self.name, "a token was fetched while no other replica was heard of; the one that refreshes is told");
            self.ask(Request::Stray { ago_ms }, now);
        }
    }

    /// A save was refused because the claim is over.
    pub(super) fn on_lost(&mut self, noted: bool, now: Now) {
        let withheld = std::mem::take(&mut self.withheld);
        let Some(replica) = &mut self.replica else {
            return;
        };
        let noted = noted && !withheld;
        if withheld {
            // Nobody has seen the token: it is as if it had never come.
            let before = replica.before.take();
            self.slot = Slot::new(self.policy, now);
            if let Some(before) = before {
                self.slot.followed(before, now);
            }
            replica.follows = true;
            self.slot.reaches(Reach::Following, now.boot, now);
        }
        self.tell_of_a_stray(noted, now);
        self.follow(now);
    }
}
