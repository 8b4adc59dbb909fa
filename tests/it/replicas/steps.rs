//! What may happen next, and what it changes.

use wxtokend::domain::{
    Mode,
    protocol::{Heard, Step},
};

use super::{
    stories::{Disk, Flaw, Story},
    world::{Id, Late, Named, Number, Replica, Reply, Request, Run, WeChat, World},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The token in force has become old.
    Due,
    Claim(Id),
    /// The claim of a holder that is down ends.
    Expire,
    /// A fault: the holder stands still, or is cut off from the store, until its claim has ended. That it
    /// does nothing meanwhile needs no action: no replica ever has to do anything at once.
    Outlive,
    Begin(Id),
    /// A note or a record.
    Write(Id),
    /// A fault.
    FailToWrite(Id),
    /// A fault: a write takes longer than its sender waits for it.
    Delay(Id),
    /// It arrives all the same, or never does.
    ArriveLate,
    LoseLate,
    Ask(Id),
    Publish(Id),
    /// What is owed to the store since a write failed.
    WriteLater(Id),
    /// What another replica has saved.
    Adopt(Id),
    Arrive(usize),
    /// A fault: WeChat answers that it makes no token.
    Refuse(usize),
    /// A request that nobody waits for never arrives.
    Vanish(usize),
    Deliver(usize),
    /// A fault: the answer is lost, or later than anybody waits, or so is the request.
    GiveUp(Id),
    /// A fault.
    Crash(Id),
    Start(Id),
}

impl Story {
    /// Whether `action` need not happen.
    pub(super) fn is_chance(&self, action: Action) -> bool {
        match action {
            Action::FailToWrite(_) => self.disk != Disk::Dead,
            Action::Due
            | Action::Outlive
            | Action::Refuse(_)
            | Action::GiveUp(_)
            | Action::Delay(_)
            | Action::Crash(_) => true,
            _ => false,
        }
    }

    pub(super) fn all_actions(&self, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        if !world.wechat.due && world.faults.dues < self.dues {
            actions.push(Action::Due);
        }
        match world.store.claim {
            Some(holder) if !world.replicas[holder].up => actions.push(Action::Expire),
            Some(_) if world.faults.pauses < self.pauses => actions.push(Action::Outlive),
            _ => {}
        }
        if world.store.late.is_some() {
            actions.extend([Action::ArriveLate, Action::LoseLate]);
        }
        for (id, replica) in world.replicas.iter().enumerate() {
            if replica.up {
                self.actions_between_fetches(world, id, &mut actions);
                self.actions_of_a_fetch(world, id, &mut actions);
            } else {
                actions.push(Action::Start(id));
            }
        }
        let may_refuse = world.faults.losses < self.losses;
        for (at, request) in world.requests.iter().enumerate() {
            actions.push(Action::Arrive(at));
            if !world.is_awaited(*request) {
                actions.push(Action::Vanish(at));
            } else if may_refuse {
                actions.push(Action::Refuse(at));
            }
        }
        actions.extend((0..world.replies.len()).map(Action::Deliver));
        actions
    }

    fn actions_between_fetches(&self, world: &World, id: Id, actions: &mut Vec<Action>) {
        let (replica, store) = (&world.replicas[id], &world.store);
        if world.faults.crashes < self.crashes {
            actions.push(Action::Crash(id));
        }
        let idle = replica.run.is_none();
        if store.claim.is_none() && (idle || self.flaw == Flaw::ClaimDuringAFetch) {
            actions.push(Action::Claim(id));
        }
        // A new number for a token that only was not saved comes before everything else.
        if idle && self.wants(world, id) && !self.is_ahead(world, id) {
            actions.push(Action::Begin(id));
        }
        if idle && self.owes(world, id) && self.disk != Disk::Dead {
            actions.push(Action::WriteLater(id));
        }
        let shown = replica.shown.map(|(shown, _)| shown);
        let news = shown.is_none_or(|shown| shown < store.record.0);
        let safe = shown.is_some() || store.note.is_none();
        if idle && news && safe && !world.holds_the_claim(id) {
            actions.push(Action::Adopt(id));
        }
    }

    fn actions_of_a_fetch(&self, world: &World, id: Id, actions: &mut Vec<Action>) {
        let Some(run) = &world.replicas[id].run else {
            return;
        };
        if run.asked.is_some() && world.faults.losses < self.losses {
            actions.push(Action::GiveUp(id));
        }
        match world.step(id) {
            Some(Step::Note | Step::Save) => {
                if self.disk != Disk::Dead {
                    actions.push(Action::Write(id));
                }
                if self.disk.may_fail(world.faults.disk) {
                    actions.push(Action::FailToWrite(id));
                }
                let room = world.store.late.is_none() && world.faults.delays < self.delays;
                if room && world.holds_the_claim(id) {
                    actions.push(Action::Delay(id));
                }
                if self.flaw == Flaw::PublishFirst && run.got.is_some() {
                    actions.push(Action::Publish(id));
                }
            }
            Some(Step::Ask) => actions.push(Action::Ask(id)),
            Some(Step::Publish) => actions.push(Action::Publish(id)),
            Some(Step::Done) | None => {}
        }
    }

    /// Whether a replica asks WeChat now. That its token is none any more it learns by a look.
    fn wants(&self, world: &World, id: Id) -> bool {
        let replica = &world.replicas[id];
        let mine = self.flaw == Flaw::NoClaim || world.holds_the_claim(id);
        let WeChat { current, due } = world.wechat;
        let old = |(_, token): (Number, Number)| due || replica.open || token != current;
        mine && replica.shown.is_some_and(old)
    }

    /// Whether the store does not know yet what the holder knows.
    fn owes(&self, world: &World, id: Id) -> bool {
        let (replica, store) = (&world.replicas[id], &world.store);
        let newer = replica.shown.is_some_and(|(own, _)| own > store.record.0);
        let withdrawn = store.note.is_some() && !replica.open;
        world.holds_the_claim(id) && self.flaw != Flaw::NeverLater && (newer || withdrawn)
    }

    pub(super) fn act(&self, world: &mut World, action: Action) {
        match action {
            Action::Due => {
                world.wechat.due = true;
                world.faults.dues += 1;
            }
            Action::Claim(id) => self.take_over(world, id),
            Action::Expire => world.store.claim = None,
            Action::Outlive => {
                world.store.claim = None;
                world.faults.pauses += 1;
            }
            Action::Begin(id) => self.begin(world, id),
            Action::Write(id) => self.write(world, id),
            Action::FailToWrite(id) => fail_to_write(world, id),
            Action::Delay(id) => self.delay(world, id),
            Action::ArriveLate => self.arrive_late(world),
            Action::LoseLate => world.store.late = None,
            Action::Ask(id) => self.ask(world, id),
            Action::Publish(id) => publish(world, id),
            Action::WriteLater(id) => self.write_later(world, id),
            Action::Adopt(id) => world.show(id, world.store.record),
            Action::Arrive(at) => {
                let request = world.requests.remove(at);
                let token = self.answer(world, request);
                world.replies.push((request, Reply::Token(token)));
            }
            Action::Refuse(at) => {
                let request = world.requests.remove(at);
                world.replies.push((request, Reply::Refusal));
                world.faults.losses += 1;
            }
            Action::Vanish(at) => drop(world.requests.remove(at)),
            Action::Deliver(at) => self.deliver(world, at),
            Action::GiveUp(id) => {
                world.faults.losses += 1;
                if let Some(run) = &mut world.replicas[id].run {
                    run.asked = None;
                    // A stable token is simply asked for again.
                    run.open = self.mode == Mode::Classic;
                }
                world.hear(id, Heard::Open);
            }
            Action::Crash(id) => {
                world.faults.crashes += 1;
                let Replica { seen, unnoted, .. } = world.replicas[id];
                world.replicas[id] = Replica {
                    seen,
                    unnoted,
                    ..Replica::default()
                };
            }
            Action::Start(id) => self.start(world, id),
        }
    }

    fn start(&self, world: &mut World, id: Id) {
        (world.replicas[id].up, world.replicas[id].unnoted) = (true, false);
        // Its claim died with its former life.
        world.store.claim = world.store.claim.filter(|holder| *holder != id);
        if world.store.note.is_none() || self.flaw == Flaw::ShowInDoubt {
            world.show(id, world.store.record);
        }
    }

    /// A replica takes the claim and learns what the store knows.
    fn take_over(&self, world: &mut World, id: Id) {
        world.store.claim = Some(id);
        world.store.epoch += 1;
        let (generation, token) = world.store.record;
        if self.is_ahead(world, id) {
            // The note is about a token that has arrived: it only was not saved.
            world.replicas[id].open = false;
            return;
        }
        world.replicas[id].open = world.store.note.is_some();
        if let Some(reserved) = self.reserved(world) {
            world.show(id, (1 + reserved.max(generation), token));
        } else if world.replicas[id]
            .shown
            .is_none_or(|(shown, _)| shown < generation)
        {
            world.show(id, (generation, token));
        }
    }

    /// Whether a replica has a token that came after everything in the store.
    fn is_ahead(&self, world: &World, id: Id) -> bool {
        let (generation, token) = world.store.record;
        let (reserved, shown) = (self.reserved(world), world.replicas[id].shown);
        reserved.zip(shown).is_some_and(|(reserved, (own, newer))| {
            own >= reserved.max(generation) && newer > token
        })
    }

    fn reserved(&self, world: &World) -> Option<Number> {
        let note = world.store.note;
        note.filter(|_| self.flaw != Flaw::ReuseReserved)
    }

    fn begin(&self, world: &mut World, id: Id) {
        let mut protocol = self.protocol();
        let step = protocol.next(Heard::Begun);
        let shown = world.replicas[id].shown.map_or(0, |(shown, _)| shown);
        let taken = shown.max(world.store.record.0);
        // The one above a reserved one may be in use as well.
        let reserved = self.reserved(world).map_or(0, |reserved| reserved + 1);
        world.replicas[id].run = Some(Run {
            protocol,
            step,
            generation: 1 + taken.max(reserved),
            asked: None,
            got: None,
            // A refusal of this one does not tell what became of the one before.
            open: world.replicas[id].open,
        });
    }

    /// Writes the note, or the record. It is refused to whoever has lost the claim: the new holder knows
    /// better.
    fn write(&self, world: &mut World, id: Id) {
        if !world.holds_the_claim(id) && self.flaw != Flaw::NoFence {
            world.replicas[id].run = None;
            return;
        }
        let Some(run) = world.replicas[id].run.clone() else {
            return;
        };
        let noting = run.step == Step::Note;
        if !noting {
            world.replicas[id].unnoted = false;
        }
        if !(noting && self.flaw == Flaw::NoNote) {
            let (named, note) = self.entry(world, id, &run);
            world.save(named, note);
        }
        let heard = if noting { Heard::Noted } else { Heard::Saved };
        world.hear(id, heard);
    }

    /// What a replica writes at this step of its fetch.
    fn entry(&self, world: &World, id: Id, run: &Run) -> (Named, Option<Number>) {
        if run.step == Step::Note {
            return (world.store.record, Some(run.generation));
        }
        let got = run.got.map(|token| (run.generation, token));
        let newest = got.or(world.replicas[id].shown);
        let noted = run.open && self.flaw != Flaw::ClearTheNote;
        let note = noted.then_some(run.generation);
        (newest.unwrap_or(world.store.record), note)
    }

    /// A write is given up by its sender, and is still under way.
    fn delay(&self, world: &mut World, id: Id) {
        let Some(run) = world.replicas[id].run.clone() else {
            return;
        };
        world.faults.delays += 1;
        let (record, note) = self.entry(world, id, &run);
        world.store.late = Some(Late {
            record,
            note,
            epoch: world.store.epoch,
            outdated: false,
        });
        fail_to_write(world, id);
    }

    /// A write arrives that nobody waits for: it counts if nothing has changed since it was sent.
    fn arrive_late(&self, world: &mut World) {
        let Some(late) = world.store.late.take() else {
            return;
        };
        let claimed = world.store.claim.is_some() && world.store.epoch == late.epoch;
        let current = !late.outdated || self.flaw == Flaw::NoVersion;
        if current && (claimed || self.flaw == Flaw::NoFence) {
            world.save(late.record, late.note);
        }
    }

    fn ask(&self, world: &mut World, id: Id) {
        let claimed = world.holds_the_claim(id);
        let replica = &mut world.replicas[id];
        let Some(run) = &mut replica.run else {
            return;
        };
        if !claimed && self.flaw != Flaw::NoClaim {
            replica.run = None;
            return;
        }
        world.asked += 1;
        run.asked = Some(world.asked);
        let needed = self.mode == Mode::Classic;
        replica.unnoted = needed && world.store.note != Some(run.generation);
        let forgone = replica.unnoted && world.faults.disk < 2;
        world.requests.push(Request {
            number: world.asked,
            id,
            epoch: world.store.epoch,
            claimed,
        });
        if forgone {
            world.breaks("WeChat was asked without a note");
        }
    }

    /// What is owed to the store is written. A token that is ahead of it gets another number: whoever had
    /// the claim in between gave the old token the one above the reserved one.
    fn write_later(&self, world: &mut World, id: Id) {
        let Some(mut shown) = world.replicas[id].shown else {
            return;
        };
        let ahead = self.is_ahead(world, id) && self.flaw != Flaw::KeepTheNumber;
        if ahead {
            shown.0 += 2;
        }
        let replica = &mut world.replicas[id];
        replica.unnoted = false;
        let reserved = world.store.note.unwrap_or(0).max(shown.0);
        let note = world.replicas[id].open.then_some(reserved);
        world.save(shown, note);
        if ahead {
            world.show(id, shown);
        }
    }

    /// WeChat carries out a request.
    fn answer(&self, world: &mut World, request: Request) -> Number {
        let stray = world.is_stray(request);
        let WeChat { current, due } = world.wechat;
        if self.mode == Mode::Stable && !due {
            return current;
        }
        if !due && !stray && world.is_at_hand(current, request.id) {
            world.breaks("a living token was burnt without need");
        }
        world.wechat = WeChat {
            current: current + 1,
            due: false,
        };
        world.stray |= stray;
        current + 1
    }

    fn deliver(&self, world: &mut World, at: usize) {
        let (request, reply) = world.replies.remove(at);
        let replica = &mut world.replicas[request.id];
        let Some(run) = &mut replica.run else {
            return;
        };
        run.asked = None;
        run.open &= reply == Reply::Refusal;
        let known = replica.shown.map(|(_, token)| token);
        let heard = match reply {
            Reply::Token(token) if Some(token) != known => {
                run.got = Some(token);
                Heard::Rotated
            }
            Reply::Refusal if self.mode == Mode::Stable => Heard::Learned,
            Reply::Token(_) | Reply::Refusal => Heard::Nothing,
        };
        world.hear(request.id, heard);
    }
}

fn fail_to_write(world: &mut World, id: Id) {
    world.faults.disk = (world.faults.disk + 1).min(Disk::MANY);
    // The store would have refused it.
    world.forgotten |= !world.holds_the_claim(id);
    let noting = world.step(id) == Some(Step::Note);
    let failed = if noting {
        Heard::NoteFailed
    } else {
        Heard::SaveFailed
    };
    world.hear(id, failed);
}

fn publish(world: &mut World, id: Id) {
    let Some(run) = world.replicas[id].run.clone() else {
        return;
    };
    if let Some(token) = run.got {
        world.show(id, (run.generation, token));
    }
    if run.step == Step::Publish {
        world.hear(id, Heard::Published);
    }
}
