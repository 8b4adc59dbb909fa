//! A look is sent, came back, or is wanted no more.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::{App, Event};
use crate::{
    domain::{AppName, Generation, Now, Sight, Token, slot::Looked},
    store::shared::Request,
    tokens::Publisher,
};

/// The pause between two reports that WeChat refuses a token to this replica.
const REPORTS: Duration = Duration::from_secs(30);

impl App {
    /// Ends a look whose answer nobody wants any more.
    pub(super) fn drop_a_useless_look(&mut self) {
        if !self.slot.looking()
            && let Some(look) = self.look.take()
        {
            look.abort();
        }
    }

    /// Readers wait for WeChat's word on the token, or for what makes it needless.
    pub(in crate::refresher) fn on_doubt(
        &mut self,
        now: Now,
        publisher: &Publisher,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        self.keep_within_reach(now, events);
        if !self.slot.asked_for_a_word(now) {
            return self.show(now, publisher);
        }
        // A save that takes long, as there is no store, keeps nobody waiting.
        let writes = self.saving.under_way && !self.refreshes();
        if writes && let Some(token) = self.slot.due_look(now) {
            self.start_look(token, events);
        }
    }

    pub(super) fn start_look(&mut self, token: Arc<Token>, events: &mut JoinSet<(AppName, Event)>) {
        let (name, upstream) = (self.name.clone(), Arc::clone(&self.adapters.upstream));
        let look = events.spawn(async move {
            let sight = upstream.look(&token.value).await;
            (name, Event::Looked(token.generation, sight))
        });
        self.look = Some(look);
    }

    pub(super) fn on_looked(
        &mut self,
        generation: Generation,
        sight: Sight,
        now: Now,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        debug!(app = %self.name, generation = generation.0, ?sight, "looked at the token");
        self.warn_about_a_new_blur(sight);
        match self.slot.looked(generation, sight, now, fastrand::f64()) {
            Looked::Died => {
                let wait = self.slot.retry_at(now).since(now.boot).as_secs();
                if self.refreshes() {
                    warn!(app = %self.name, generation = generation.0, wait_secs = wait, "WeChat refuses the token although it was not replaced here; it is replaced after the wait");
                } else {
                    warn!(app = %self.name, generation = generation.0, "WeChat refuses the token; the replica that refreshes is told when it can be");
                }
            }
            Looked::Revived => {
                info!(app = %self.name, generation = generation.0, "WeChat accepts the token again");
            }
            Looked::Unchanged => return,
        }
        // A restart must not hand out a token that is known to be dead.
        if self.refreshes() {
            self.saving.retry_at = Some(now.boot);
            self.save_now(events);
        }
    }

    /// WeChat refused the token while nothing was heard of the one that refreshes, which may not know it yet.
    pub(super) fn report_what_was_refused(&mut self, now: Now) {
        let Some(replica) = self.replica.as_mut().filter(|replica| replica.follows) else {
            return;
        };
        let record = replica.last().and_then(|seen| seen.record.as_ref());
        let unknown = record.is_some_and(|record| !record.dead);
        let token = self.slot.token().filter(|_| self.slot.refused() && unknown);
        let again = replica
            .reported_at
            .is_none_or(|at| at + REPORTS <= now.boot);
        let Some(generation) = token.map(|token| token.generation.0).filter(|_| again) else {
            return;
        };
        replica.reported_at = Some(now.boot);
        let leaked = false;
        self.ask(Request::Stale { generation, leaked }, now);
    }
}
