//! One app in the refresher's care: its slot, its adapters, who waits for it, and what is to be saved.

mod claim;
mod looking;
mod relay;
mod replica;
mod reports;
mod saving;
mod secret;
mod stray;
mod warnings;

use std::{mem, sync::Arc};

use replica::Replica;
use reports::Waiting;
use saving::{Saving, restored};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use super::obtain::{Adapters, Obtained};
use crate::{
    clock::Clock,
    domain::{
        AppName, Generation, Mode, Moment, Now, Policy, Remedy, Sight, Slot, Trouble,
        protocol::{Heard, Protocol, Step},
        slot::{Reach, Rotation, Start},
    },
    failpoint,
    store::{
        Opened, StoreError,
        shared::{Letter, Reply},
    },
    telemetry::Refreshing,
    tokens::{Current, Publisher, View},
    upstream::Upstream,
};

/// What is wrong with a replica that does not hear of the others.
const CUT_OFF: &str = "the store that the replicas share cannot be reached";

/// What the refresher needs to know about an app.
#[derive(Debug)]
pub struct Managed {
    /// What it is called here.
    pub name: AppName,
    /// What WeChat and the store call it.
    pub appid: String,
    /// When to ask.
    pub policy: Policy,
    /// Whom to ask.
    pub upstream: Arc<dyn Upstream>,
}

/// What comes back from the tasks beside the loop.
#[derive(Debug)]
pub(super) enum Event {
    Obtained(Box<Obtained>),
    Looked(Generation, Sight),
    Saved(Option<Protocol>, Result<(), StoreError>),
    SecretChanged,
    Kept,
    Claimed,
    Released(Result<(), StoreError>),
    Judged(String, Letter, Reply),
}

#[derive(Debug)]
pub(super) struct App {
    name: AppName,
    policy: Policy,
    slot: Slot,
    adapters: Adapters,
    waiting: Vec<Waiting>,
    fetching: bool,
    look: Option<AbortHandle>,
    secret_poll: Option<AbortHandle>,
    saving: Saving,
    /// A new token is being saved before readers may see it.
    withheld: bool,
    trouble: Option<Arc<Trouble>>,
    /// The errcode that the last look got instead of a verdict.
    blur: Option<i64>,
    figures: Refreshing,
    /// If there are others.
    replica: Option<Replica>,
}

impl App {
    pub(super) async fn load(
        managed: Managed,
        store: &Opened,
        clock: Clock,
        figures: Refreshing,
    ) -> Self {
        let Managed {
            name,
            appid,
            policy,
            upstream,
        } = managed;
        let (slot, replica) = match store {
            Opened::Own(store) => (restored(&**store, &name, &appid, policy, clock).await, None),
            Opened::Shared(shared) => {
                let mut slot = Slot::new(policy, clock.now());
                let now = clock.now();
                slot.reaches(Reach::Following, now.boot, now);
                (slot, Some(Replica::new(Arc::clone(shared))))
            }
        };
        Self {
            policy,
            slot,
            adapters: Adapters {
                appid: appid.into(),
                upstream,
                store: store.store(),
                timeout: policy.timeout,
                clock,
            },
            name,
            waiting: Vec::new(),
            fetching: false,
            look: None,
            secret_poll: None,
            saving: Saving::default(),
            withheld: false,
            trouble: None,
            blur: None,
            figures,
            replica,
        }
    }

    /// What readers may know.
    pub(super) fn view(&self, now: Now) -> View {
        let slot = &self.slot;
        let current = slot.token().map(|token| Current {
            token: Arc::clone(token),
            keep_until: slot.keep_until(now).unwrap_or(token.expires_at),
            keep_at_most: slot.keep_at_most(),
            certain_until: slot.certain_until(),
            doubt: slot.doubt(now),
            published_at: now.boot,
            previous_expires_at: slot.previous_expires_at(),
            dead: slot.dead() || slot.certain_until().is_some_and(|until| until <= now.boot),
        });
        let cut_off = self.cut_off(now);
        // A classic token is not to be had from here: whoever waits for one had better be told.
        let helpless = cut_off && current.is_none() && self.policy.mode == Mode::Classic;
        let trouble = slot.trouble().cloned();
        View {
            current,
            trouble: trouble.or_else(|| helpless.then(out_of_touch)),
            retry_at: Some(slot.retry_at(now)),
            mirrored: !self.refreshes(),
            settled: slot.settled() || helpless,
            suspect: slot.suspect(),
            allowance: slot.allowance(),
            unsaved: self
                .saving
                .complaint()
                .or_else(|| cut_off.then(|| self.why_cut_off())),
        }
    }

    fn why_cut_off(&self) -> Arc<str> {
        let why = self
            .replica
            .as_ref()
            .and_then(|replica| replica.shared.why());
        why.map_or_else(|| CUT_OFF.into(), |why| format!("{CUT_OFF} ({why})").into())
    }

    /// When to call [`App::start_what_is_due`] next.
    pub(super) fn due(&self, now: Now) -> Option<Moment> {
        let expiry = self.slot.expires_at().filter(|at| *at > now.boot);
        // Whoever waits must hear of the token's death.
        let death = expiry.filter(|_| !self.waiting.is_empty());
        let idle = !self.saving.under_way && !self.fetching;
        let slot = self.slot.due(now).filter(|_| idle);
        let replica = self.replica_due(now);
        let save = self.saving.retry_at.filter(|_| idle);
        [death, slot, save, replica].into_iter().flatten().min()
    }

    /// Judges again what callers wait for: time alone may have answered them.
    pub(super) fn on_time(&mut self, now: Now) {
        for waiting in mem::take(&mut self.waiting) {
            self.judge(waiting, now);
        }
    }

    /// Whether a fetch or a save is under way that a stop has to wait for.
    pub(super) fn has_business(&self) -> bool {
        self.fetching || self.saving.under_way
    }

    pub(super) fn start_what_is_due(&mut self, now: Now, events: &mut JoinSet<(AppName, Event)>) {
        self.keep_within_reach(now, events);
        // One write at a time: a note must not overtake the record before it, nor a record the note
        // of a fetch that is under way.
        if self.saving.under_way || self.fetching {
            return;
        }
        if self.saving.retry_at.is_some_and(|at| at <= now.boot) {
            self.start_save(None, events);
            return;
        }
        while let Some(start) = self.slot.woke(now) {
            match start {
                Start::Ask(errand) => {
                    let (name, adapters) = (self.name.clone(), self.adapters.clone());
                    self.fetching = true;
                    self.drop_a_useless_look();
                    let claimed = self.refreshes();
                    if let Some(replica) = &mut self.replica {
                        replica.before = Some((*errand.before).clone());
                    }
                    events.spawn(async move {
                        let obtained = adapters.obtain(errand, claimed).await;
                        (name, Event::Obtained(Box::new(obtained)))
                    });
                }
                Start::Look(token) => self.start_look(token, events),
            }
        }
    }

    pub(super) fn on_event(
        &mut self,
        event: Event,
        now: Now,
        publisher: &Publisher,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        match event {
            Event::Obtained(obtained) => self.on_obtained(*obtained, now, publisher, events),
            Event::Looked(generation, sight) => self.on_looked(generation, sight, now, events),
            Event::Saved(protocol, result) => self.on_saved(protocol, result, now),
            Event::SecretChanged => {
                info!(app = %self.name, "the secret has changed; trying it");
                self.secret_poll = None;
                self.slot.nudged(now);
            }
            Event::Kept => self.on_kept(),
            Event::Claimed => self.on_claimed(now),
            Event::Released(released) => self.on_released(&released),
            Event::Judged(id, letter, reply) => self.on_judged(id, letter, reply),
        }
        self.show(now, publisher);
    }

    fn on_obtained(
        &mut self,
        obtained: Obtained,
        now: Now,
        publisher: &Publisher,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        let Obtained {
            mut protocol,
            claimed,
            sent,
            secret,
            result,
            note,
        } = obtained;
        self.fetching = false;
        if let Err(error) = note {
            self.warn_about_the_store(error);
        }
        let Some(result) = result else {
            return self.on_given_up(now);
        };
        let blocked = self.slot.blocked();
        let took = now.boot.since(sent.boot);
        let heard = match result {
            // Another replica was heard of meanwhile: nobody has this token, but it may have retired theirs.
            Ok(_) if !self.slot.asks() => Heard::Open,
            Ok(fetched) => {
                let rotation = self.slot.fetched(fetched, sent, now);
                self.figures.answered(rotation.is_some(), took);
                self.stop_secret_poll();
                match self.on_rotation(rotation.as_ref(), now) {
                    Heard::Nothing if blocked => Heard::Learned,
                    heard => heard,
                }
            }
            Err(trouble) => {
                let heard = heard_of(&trouble);
                self.figures.failed(&trouble, took);
                self.poll_secret_after(&trouble, secret, events);
                self.slot.failed(trouble, sent, now, fastrand::f64());
                heard
            }
        };
        let mut step = protocol.next(heard);
        if !self.refreshes() {
            return self.on_stray((claimed, !protocol.publishes_last()), heard, now, events);
        }
        if step == Step::Publish {
            failpoint::pass("publishing");
            self.show(now, publisher);
            failpoint::pass("published");
            step = protocol.next(Heard::Published);
        }
        if step == Step::Save {
            self.withheld = heard == Heard::Rotated && protocol.publishes_last();
            self.start_save(Some(protocol), events);
        } else {
            self.tell_a_new_trouble(now);
        }
    }

    /// WeChat was not asked, since the claim might have ended meanwhile, or others could not read the note.
    /// What may be there of it is withdrawn.
    fn on_given_up(&mut self, now: Now) {
        self.slot.gave_up(now);
        self.saving.retry_at = Some(now.boot).filter(|_| self.refreshes());
    }

    fn on_rotation(&mut self, rotation: Option<&Rotation>, now: Now) -> Heard {
        let Some(Rotation { token, foreign }) = rotation else {
            return Heard::Nothing;
        };
        if *foreign {
            self.figures.foreign_rotation();
            warn!(
                app = %self.name,
                "the token ended before its time, so somebody else probably fetched one for this appid: look for a second server, a test environment or a colleague with the debugging tool"
            );
        }
        let left = token.expires_at.since(now.boot).as_secs_f64().round();
        info!(app = %self.name, generation = token.generation.0, left_secs = left, "token rotated");
        self.drop_a_useless_look();
        Heard::Rotated
    }

    /// Shows readers what is known, then answers those who can be answered.
    fn show(&mut self, now: Now, publisher: &Publisher) {
        if self.keeps_back() {
            return;
        }
        publisher.publish(&self.name, self.view(now));
        self.warn_about_a_new_trouble();
        for waiting in mem::take(&mut self.waiting) {
            self.judge(waiting, now);
        }
    }

    pub(super) fn on_nudge(&mut self, now: Now) {
        self.slot.nudged(now);
    }

    pub(super) fn on_clock_set(&mut self, now: Now, publisher: &Publisher) {
        self.slot.clock_was_set(now);
        self.show(now, publisher);
    }
}

/// There is no token, nobody to hear of one from, and no right to ask for one.
fn out_of_touch() -> Arc<Trouble> {
    Arc::new(Trouble {
        remedy: Remedy::BackOff,
        errcode: None,
        definite: true,
        message: format!("{CUT_OFF}, and there is no local copy of a token").into(),
        hint: Some("look whether the store is up and can be reached from here".into()),
    })
}

fn heard_of(trouble: &Trouble) -> Heard {
    match trouble.remedy {
        Remedy::RiskRejected(_) => Heard::Learned,
        _ if trouble.definite => Heard::Nothing,
        _ => Heard::Open,
    }
}
