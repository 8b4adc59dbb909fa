//! One app at one of several replicas: who refreshes it, and what is to be done about that.
//!
//! The store tells how things stand, and everything here follows from the last that it told and from
//! the time, so it does not matter which of several tellings got lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::{App, Event, relay::Asked};
use crate::{
    clock::Clock,
    domain::{AppName, Generation, Mode, Moment, Now, Record, Remedy, Trouble, slot::Reach},
    store::shared::{Holder, Request, Seen, Shared},
    tokens::Publisher,
};

/// A store that was not heard of for so long counts as unreachable, however short the overlap is.
const LEAST_SILENCE: Duration = Duration::from_secs(3);

/// How often it is seen whether the store could not be reached, once it is silent.
const ASKING: Duration = Duration::from_millis(500);

/// What one of several replicas keeps beside its slot.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Replica {
    pub(super) shared: Arc<Shared>,
    /// Whether this replica refreshes the app.
    pub(super) holds: bool,
    /// Whether it did so when it heard of the store last.
    pub(super) named: bool,
    /// Whether the slot only follows what another replica saves.
    pub(super) follows: bool,
    /// What the store told last.
    pub(super) last: Option<Seen>,
    /// When to try to take the claim, if it is free.
    pub(super) claim_at: Option<Moment>,
    pub(super) claiming: bool,
    /// The claim is being given up.
    pub(super) releasing: bool,
    /// When it was given up last because another replica had better try.
    pub(super) gave_up_at: Option<Moment>,
    /// What the slot knew before the fetch that is under way.
    pub(super) before: Option<Record>,
    /// When WeChat last answered, or did not answer, a fetch that had no claim and may have retired what
    /// others have.
    pub(super) alone_at: Option<Moment>,
    /// The replica that refreshes was told that its record, of this generation, is behind what readers here
    /// have seen.
    pub(super) ahead_of: Option<(String, Generation)>,
    /// Readers of another replica have seen this generation.
    pub(super) outnumbered: Option<Generation>,
    /// When the one that refreshes was told last that WeChat refuses its token here.
    pub(super) reported_at: Option<Moment>,
    /// The token has a new number, which readers may see only once it is saved.
    pub(super) renumbering: bool,
    /// Until when the token is certain, as readers know it, and whether that is over.
    said: (Option<Moment>, bool),
    /// Whether this replica refreshes, and whether it is cut off, as probes and metrics know it.
    stands: (bool, bool),
    /// The trouble that was saved last.
    told: Option<Told>,
    /// What was asked of the replica that refreshes.
    pub(super) asked: BTreeMap<Request, Asked>,
    /// The letters of others that are being answered.
    pub(super) answering: BTreeSet<String>,
}

/// What tells one trouble from another.
type Told = (Remedy, Option<i64>);

impl Replica {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            holds: false,
            named: false,
            follows: true,
            last: None,
            claim_at: None,
            claiming: false,
            releasing: false,
            gave_up_at: None,
            before: None,
            alone_at: None,
            ahead_of: None,
            outnumbered: None,
            reported_at: None,
            renumbering: false,
            said: (None, false),
            stands: (false, false),
            told: None,
            asked: BTreeMap::new(),
            answering: BTreeSet::new(),
        }
    }

    pub(super) fn last(&self) -> Option<&Seen> {
        self.last.as_ref()
    }

    /// When the store counts as unreachable if nothing is heard of it any more.
    fn silent_at(&self, overlap: Duration) -> Option<Moment> {
        let silence = (overlap / 2).min(self.shared.lease()).max(LEAST_SILENCE);
        Some(self.shared.contact()? + silence)
    }

    /// Silence alone shows nothing: it may be this process that stood still. The store was asked since.
    fn cut_off(&self, overlap: Duration, now: Now) -> bool {
        let missed = self.shared.missed();
        let silent_at = self.silent_at(overlap);
        silent_at.is_none_or(|at| at <= now.boot && missed >= Some(at))
    }

    /// When it may have become plain that the store cannot be reached.
    fn cut_off_at(&self, overlap: Duration, now: Now) -> Option<Moment> {
        let silent_at = self.silent_at(overlap)?;
        let due = !self.cut_off(overlap, now);
        due.then(|| silent_at.max(now.boot + ASKING))
    }
}

impl App {
    /// Whether this server refreshes the app, or would if there were a token to refresh.
    pub(super) fn refreshes(&self) -> bool {
        self.replica.as_ref().is_none_or(|replica| replica.holds)
    }

    /// Whether the store cannot be reached, so that nothing is known of other replicas.
    pub(super) fn cut_off(&self, now: Now) -> bool {
        let overlap = self.policy.overlap;
        let replica = self.replica.as_ref().filter(|replica| !replica.holds);
        replica.is_some_and(|replica| replica.cut_off(overlap, now))
    }

    /// Goes on with the local copy, if that is all there is or ahead of the store: readers here have seen it.
    pub(in crate::refresher) async fn load_copy(&mut self, reached: bool, clock: Clock) {
        let (Some(replica), appid) = (&mut self.replica, &self.adapters.appid) else {
            return;
        };
        let record = match replica.shared.copy(appid).await {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                return warn!(app = %self.name, error, "the local copy cannot be read");
            }
        };
        let saved = if reached {
            replica.shared.look(appid).await.ok()
        } else {
            None
        };
        if let Some(Some(saved)) = &saved
            && saved.taken() >= record.taken()
        {
            return;
        }
        info!(app = %self.name, "going on with the local copy");
        if reached {
            self.slot.restored(record, clock.now());
        } else {
            self.slot.restored_copy(record, clock.now());
        }
        replica.follows = saved.is_some();
    }

    /// The store tells how the app stands.
    pub(in crate::refresher) fn on_seen(
        &mut self,
        seen: Seen,
        now: Now,
        publisher: &Publisher,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        let Some(replica) = &mut self.replica else {
            return;
        };
        match seen.holder {
            Holder::Nobody => {
                replica.named = seen.own;
                self.plan_to_claim(seen.record.as_ref(), now);
            }
            Holder::Us => replica.claim_at = None,
            Holder::Other(_) => (replica.named, replica.claim_at) = (false, None),
        }
        let ours = seen.holder == Holder::Us;
        if let Some(replica) = &mut self.replica {
            replica.last = Some(seen);
        }
        if !ours {
            self.step_down(now);
            self.follow(now);
        }
        self.take_over_if_ours(now, events);
        self.read_letters(now, events);
        self.show(now, publisher);
    }

    pub(super) fn follow(&mut self, now: Now) {
        let last = self.replica.as_ref().and_then(Replica::last);
        let Some(record) = last.and_then(|seen| seen.record.clone()) else {
            return;
        };
        let known = self.slot.token().map(|token| token.generation);
        self.slot.followed(record, now);
        self.drop_a_useless_look();
        let token = self.slot.token();
        if let Some(token) = token.filter(|token| Some(token.generation) != known) {
            let left = token.expires_at.since(now.boot).as_secs_f64().round();
            info!(app = %self.name, generation = token.generation.0, left_secs = left, "token received");
        }
    }

    /// From now on another replica refreshes, or nobody.
    pub(super) fn step_down(&mut self, now: Now) {
        let Some(replica) = &mut self.replica else {
            return;
        };
        replica.outnumbered = None;
        if std::mem::take(&mut replica.holds) {
            info!(app = %self.name, "another replica may refresh the app from now on");
        }
        if !std::mem::replace(&mut replica.follows, true) {
            self.slot.stepped_down();
            if let Some(look) = self.look.take() {
                look.abort();
            }
            self.stop_secret_poll();
            self.saving.retry_at = None;
        }
        self.judge_all(now);
    }

    /// Takes the claim in use, once nothing of a former one is under way.
    pub(super) fn take_over_if_ours(&mut self, now: Now, events: &mut JoinSet<(AppName, Event)>) {
        let busy = self.has_business();
        let Some(replica) = &mut self.replica else {
            return;
        };
        let ours = replica.last().is_some_and(|seen| seen.holder == Holder::Us);
        let lasts = replica.shared.claim_until(&self.adapters.appid);
        let lasts = lasts.is_some_and(|until| until > now.boot);
        if replica.holds || replica.releasing || !ours || !lasts || busy {
            return;
        }
        (replica.holds, replica.named, replica.follows) = (true, true, false);
        let record = replica.last.as_mut().and_then(|seen| seen.record.take());
        replica.told = record
            .as_ref()
            .and_then(|record| record.trouble.as_deref())
            .map(told);
        let saved = record.as_ref().map(Record::taken);
        replica.renumbering = self.slot.took_over(record, now);
        info!(app = %self.name, "this replica refreshes the app from now on");
        // What only this replica knows, a new number of an old token as well.
        if self.slot.record().token.is_some() && Some(self.slot.record().taken()) != saved {
            self.saving.retry_at = Some(now.boot);
            self.save_now(events);
        }
        self.judge_all(now);
    }

    /// Lets the slot do what may be done now, and tries to take a claim that is free.
    pub(super) fn keep_within_reach(&mut self, now: Now, events: &mut JoinSet<(AppName, Event)>) {
        self.take_over_if_ours(now, events);
        if !self.cut_off(now) {
            self.own_up(now);
        }
        let (mode, overlap, busy) = (self.policy.mode, self.policy.overlap, self.has_business());
        let Some(replica) = &mut self.replica else {
            return;
        };
        let until = replica.shared.claim_until(&self.adapters.appid);
        if replica.holds && until.is_none_or(|until| until <= now.boot) {
            replica.holds = false;
            warn!(app = %self.name, "the store was not reached for as long as a claim lasts; only what harms nobody is done until it is");
        }
        let contact = replica
            .shared
            .contact()
            .max(until.filter(|_| replica.named));
        // The time before this replica began is unknown to it.
        let contact = contact.unwrap_or_default();
        if replica.holds {
            self.slot.reaches(Reach::Everything, contact, now);
            self.number_above_the_others(now);
            return self.let_another_try(now, events);
        }
        let cut_off = replica.cut_off(overlap, now);
        let reach = match (cut_off, mode) {
            (false, _) => Reach::Following,
            (true, Mode::Stable) => Reach::Harmless,
            (true, Mode::Classic) => Reach::CutOff {
                named: replica.named,
            },
        };
        if cut_off {
            replica.follows = false;
        } else if !replica.follows && !busy {
            // In touch again: what the others have said counts.
            self.step_down(now);
            self.follow(now);
        }
        let Some(replica) = &mut self.replica else {
            return;
        };
        let free = replica
            .last()
            .is_some_and(|seen| seen.holder == Holder::Nobody);
        let due = replica.claim_at.is_some_and(|at| at <= now.boot);
        let may_work = !cut_off || replica.shared.read_only();
        if free && due && may_work && !busy && !replica.claiming {
            replica.claiming = true;
            let (name, appid) = (self.name.clone(), Arc::clone(&self.adapters.appid));
            let shared = Arc::clone(&replica.shared);
            events.spawn(async move {
                if let Err(error) = shared.claim(&appid).await {
                    debug!(app = %name, %error, "the claim cannot be taken yet");
                }
                (name, Event::Claimed)
            });
        }
        self.slot.reaches(reach, contact, now);
        self.report_what_was_refused(now);
        self.give_up_waiting(now);
    }

    /// Tells anew for how long the token is certain, when that has become much longer, and when it is certain no
    /// more; and how this replica stands, when that is another.
    pub(in crate::refresher) fn say_how_certain(&mut self, now: Now, publisher: &Publisher) {
        let stands = (self.refreshes(), self.cut_off(now));
        let Some(replica) = &mut self.replica else {
            return;
        };
        let until = self.slot.certain_until();
        let over = until.is_some_and(|until| until <= now.boot);
        let (said, was_over) = replica.said;
        let longer = until > said.map(|said| said + self.policy.overlap / 4);
        if longer || until < said || over != was_over || stands != replica.stands {
            (replica.said, replica.stands) = ((until, over), stands);
            self.show(now, publisher);
        }
    }

    /// When something is due at this replica beside what the slot wants.
    pub(super) fn replica_due(&self, now: Now) -> Option<Moment> {
        let replica = self.replica.as_ref()?;
        // Half of what is certain is over: say how long it is by now.
        let end = self.slot.certain_until();
        let half = end.map(|end| end - self.policy.overlap / 2);
        let ahead = |at: &Moment| *at > now.boot;
        let certain = half.filter(ahead).or(end.filter(ahead));
        if replica.holds {
            let claim = replica.shared.claim_until(&self.adapters.appid);
            return [claim, certain].into_iter().flatten().min();
        }
        let silent = replica.cut_off_at(self.policy.overlap, now);
        let idle = !replica.claiming && !self.has_business();
        let may_work = silent.is_some() || replica.shared.read_only();
        let claim = replica.claim_at.filter(|_| idle && may_work);
        let expiry = replica.asked.values().map(Asked::expires_at).min();
        [silent, claim, expiry, certain].into_iter().flatten().min()
    }

    /// Whether a save is waited for before readers may see what it is about.
    pub(super) fn keeps_back(&self) -> bool {
        let renumbering = self.replica.as_ref().is_some_and(|r| r.renumbering);
        self.withheld || renumbering
    }
}

impl App {
    /// What others are told of is saved with the record.
    pub(super) fn remember_the_trouble(&mut self, record: &Record) {
        if let Some(replica) = &mut self.replica {
            replica.told = record.trouble.as_deref().map(told);
        }
    }

    /// Others answer their callers as this one does: they must hear why there is no newer token.
    pub(super) fn tell_a_new_trouble(&mut self, now: Now) {
        let trouble = self.slot.trouble().map(|trouble| told(trouble));
        let news = self.replica.as_ref().is_some_and(|r| r.told != trouble);
        if news && self.saving.retry_at.is_none() {
            self.saving.retry_at = Some(now.boot);
        }
    }
}

fn told(trouble: &Trouble) -> Told {
    (trouble.remedy, trouble.errcode)
}
