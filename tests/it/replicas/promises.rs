//! What must hold in every world, and what must be reached in some.
//!
//! That everybody gets a fresh token in the end is said as: where nothing is left to happen but faults,
//! everybody has one. `stateright`'s own `eventually` looks only at paths that cannot go on, and a fault
//! can nearly always still happen. It is enough, because no run goes on for ever: each step takes a
//! claim, adopts a higher generation, or moves one request on, and there are no more requests than
//! reasons for one (`WeChat is asked no more often than there is a reason`).

use stateright::Property;
use wxtokend::domain::{Mode, protocol::Step};

use super::{
    stories::{Disk, Story},
    world::{Id, Number, Replica, Reply, Request, World},
};

pub(super) const NOTHING_BROKEN: &str = "no promise is broken";
pub(super) const ONE_AT_A_TIME: &str = "one request at a time is waited for under a claim";
pub(super) const KNOWN_TO_THE_STORE: &str = "the store knows a generation before readers do";
pub(super) const OPEN_IS_NOTED: &str = "an open outcome is on disk";
pub(super) const NOT_KEPT_BACK: &str = "no new classic token waits for the disk";
pub(super) const NOTED: &str = "no replica asks without a note that the others can read";
pub(super) const REASONS: &str = "WeChat is asked no more often than there is a reason";
pub(super) const FRESH: &str = "in the end everybody has the token in force";

impl Story {
    pub(super) fn promises(&self) -> Vec<Property<Self>> {
        let mut promises = vec![
            Property::always(NOTHING_BROKEN, |_, world: &World| world.broken.is_none()),
            Property::always(ONE_AT_A_TIME, |_, world: &World| world.awaited() <= 1),
            Property::always(KNOWN_TO_THE_STORE, |_, world: &World| {
                let known = world.store.known();
                let at_fault = world.faults.disk > 0;
                at_fault || world.replicas.iter().all(|r| r.seen <= known)
            }),
            Property::always(OPEN_IS_NOTED, |story: &Self, world: &World| {
                let noted = world.store.note.is_some() || world.faults.disk > 0;
                let holder = world.store.claim.map(|id| &world.replicas[id]);
                story.mode == Mode::Stable || noted || !holder.is_some_and(|r| r.open)
            }),
            Property::always(NOT_KEPT_BACK, |story: &Self, world: &World| {
                story.mode == Mode::Stable || !world.replicas.iter().any(Replica::keeps_back)
            }),
            Property::always(NOTED, |story: &Self, world: &World| {
                // What nobody else hands out may be retired without a note.
                story.replicas == 1 || !world.replicas.iter().any(|r| r.unnoted)
            }),
            Property::always(REASONS, |_, world: &World| {
                let faults = &world.faults;
                // After each of these one asks again, and once more if the first request was late.
                let again = faults.crashes + faults.pauses + faults.losses;
                world.asked <= faults.dues + 2 * again
            }),
            Property::always(FRESH, |story: &Self, world: &World| {
                let at_rest = |world| {
                    let mut actions = story.all_actions(world).into_iter();
                    actions.all(|action| story.is_chance(action))
                };
                story.all_is_well(world) || !at_rest(world)
            }),
        ];
        promises.extend(self.reached());
        promises
    }

    /// What shows that the faults of the story really strike.
    fn reached(&self) -> Vec<Property<Self>> {
        let fresh = |story: &Self, world: &World| {
            world.wechat.current > story.dues && story.all_is_well(world)
        };
        let mut reached = vec![Property::sometimes("every due token arrives", fresh)];
        let mut add = |wanted: bool, name, condition: fn(&Self, &World) -> bool| {
            if wanted {
                reached.push(Property::sometimes(name, condition));
            }
        };
        let classic = self.mode == Mode::Classic;
        add(
            classic && self.crashes > 0,
            "a crash leaves a note",
            |_, w| w.store.note.is_some() && w.replicas.iter().any(|r| !r.up),
        );
        add(classic && self.losses > 0, "a late request", |_, w| {
            w.stray && w.faults.crashes + w.faults.pauses == 0
        });
        add(
            classic && self.pauses > 0,
            "a fetch outlives its claim",
            |_, w| w.stray && w.faults.crashes + w.faults.losses == 0,
        );
        add(
            classic && self.disk.may_fail(1) && self.replicas == 1,
            "a fetch without a note",
            |_, w| w.replicas.iter().any(|r| r.unnoted),
        );
        reached
    }

    /// Whether readers have the token in force, and a restart would not change that.
    fn all_is_well(&self, world: &World) -> bool {
        let current = world.wechat.current;
        let fresh = |id: Id| {
            let shown = world.replicas[id].shown;
            shown.is_some_and(|(_, token)| token == current)
        };
        let saved = world.store.record.1 == current && world.store.note.is_none();
        let everybody = (0..world.replicas.len()).all(fresh);
        // A generation that was given twice stands in the way of the record, and of those that wait for it.
        let holder = world.forgotten && world.store.claim.is_some_and(fresh);
        let kept = everybody && (saved || self.disk == Disk::Dead);
        !world.wechat.due && (kept || holder)
    }
}

impl World {
    /// How many requests are waited for by senders that have not lost their claim since.
    fn awaited(&self) -> usize {
        let sent = self.requests.iter().copied();
        let answered = self.replies.iter().map(|(request, _)| *request);
        let awaited = |request: &_| self.is_awaited(*request) && !self.is_stray(*request);
        sent.chain(answered).filter(awaited).count()
    }

    /// Whether `token` is in the hands of somebody who would have to use it: the store, the sender of a
    /// request, or the holder of the claim.
    pub(super) fn is_at_hand(&self, token: Number, sender: Id) -> bool {
        let hands = [Some(sender), self.store.claim].into_iter().flatten();
        let mut hands = hands.map(|id| &self.replicas[id]);
        let coming = |&(request, reply): &(Request, Reply)| {
            self.holds_the_claim(request.id) && reply == Reply::Token(token)
        };
        self.store.record.1 == token
            || hands.any(|replica| replica.has(token))
            || self.replies.iter().any(coming)
    }
}

impl Replica {
    fn has(&self, token: Number) -> bool {
        let got = self.run.as_ref().and_then(|run| run.got);
        let shown = self.shown.map(|(_, shown)| shown);
        got == Some(token) || shown == Some(token)
    }

    /// Whether the disk is waited for while readers do not have the new token.
    fn keeps_back(&self) -> bool {
        let run = self.run.as_ref().filter(|run| run.step == Step::Save);
        let got = run.and_then(|run| run.got);
        got.is_some() && got != self.shown.map(|(_, token)| token)
    }
}
