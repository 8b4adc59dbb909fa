//! Several replicas on one store, checked exhaustively: claim, note, ask, publish, save.
//!
//! The order of the steps is decided by `domain::protocol` itself; around it stands the smallest model
//! of everything that can go wrong: replicas crash at any point, pause for longer than their claim,
//! requests and answers are lost or overtake each other, the disk fails. WeChat keeps two tokens in
//! classic mode and repeats the one in force in stable mode.
//!
//! The rules of the replicas, which the shared stores will have to keep:
//!
//! - A claim is checked before asking, and every write is refused to whoever has lost it. A replica takes no
//!   claim while a fetch of its former one is under way.
//! - A replica that starts and finds a note shows nothing before it holds the claim or the note is gone:
//!   its readers may have seen the token that the note is about.
//! - Whoever takes a claim and finds a note gives the old token the generation above the reserved one, and
//!   the next fetch one more: the reserved one may be in use.

use std::{collections::BTreeMap, time::Instant};

use stateright::{Checker, Model, Property};
use wxtokend::domain::{
    Ask, Generation, Mode, Moment, Note, Record,
    protocol::{Errand, Heard, Protocol, Step},
};

type Id = usize;
type Number = u8;

/// Who asks, and under which claim.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    id: Id,
    /// Whether the sender held the claim at all.
    claimed: bool,
    epoch: u8,
}

/// A generation and the token it names.
type Named = (Number, Number);

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// The note is said to be written and is not.
    NoNote,
    /// Readers get the result before it is saved although nothing is noted.
    PublishFirst,
    /// WeChat is asked by whoever thinks it is time.
    NoClaim,
    /// The store takes what a former holder writes.
    NoFence,
    /// The generation that a note reserves is used again.
    ReuseReserved,
}

/// How much may happen: what makes the number of states finite.
#[derive(Clone, Debug)]
struct Story {
    mode: Mode,
    flaw: Flaw,
    replicas: Id,
    dues: u8,
    crashes: u8,
    pauses: u8,
    losses: u8,
    disk_failures: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct World {
    replicas: Vec<Replica>,
    record: Named,
    /// The generation that is reserved.
    note: Option<Number>,
    claim: Option<Id>,
    /// How often a claim was taken: tells a request of one claim from those of the next.
    epoch: u8,
    wechat: WeChat,
    /// In any order: nothing says that the first that was sent arrives first.
    requests: Vec<Request>,
    replies: Vec<(Request, Option<Number>)>,
    /// Which token each generation that a reader saw was given to.
    names: BTreeMap<Number, Number>,
    happened: Happened,
    violated: Option<&'static str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct WeChat {
    current: Number,
    previous: Option<Number>,
    /// The token in force is old: a new one is due.
    due: bool,
}

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
struct Happened {
    dues: u8,
    crashes: u8,
    pauses: u8,
    losses: u8,
    disk_failures: u8,
    /// A request reached WeChat after its sender had lost the claim.
    outlived: bool,
}

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
struct Replica {
    up: bool,
    paused: bool,
    /// What readers are given; nothing before it is safe to say.
    shown: Option<Named>,
    /// The newest that its readers ever saw, before a crash as well.
    seen: Number,
    run: Option<Run>,
    /// The outcome of an earlier request is open.
    open: bool,
}

/// One fetch.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Run {
    protocol: Protocol,
    step: Step,
    generation: Number,
    got: Option<Number>,
    /// The request that is on its way.
    asked: Option<Request>,
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Due,
    Claim(Id),
    Expire,
    Begin(Id),
    Note(Id),
    Ask(Id),
    Publish(Id),
    Save(Id),
    FailToSave(Id),
    Adopt(Id),
    Arrive(usize),
    LoseRequest(usize),
    Deliver(usize),
    LoseReply(usize),
    Crash(Id),
    Start(Id),
    Pause(Id),
    Resume(Id),
}

impl World {
    fn works(&self, id: Id) -> bool {
        self.replicas[id].up && !self.replicas[id].paused
    }

    fn step(&self, id: Id) -> Option<Step> {
        let run = self.replicas[id].run.as_ref();
        run.filter(|run| run.asked.is_none()).map(|run| run.step)
    }

    fn hear(&mut self, id: Id, heard: Heard) {
        let replica = &mut self.replicas[id];
        let Some(run) = &mut replica.run else {
            return;
        };
        run.step = run.protocol.next(heard);
        if run.step == Step::Done {
            replica.open = run.open;
            replica.run = None;
        }
    }

    /// Readers of `id` are given `named`.
    fn show(&mut self, id: Id, named: Named) {
        let (generation, token) = named;
        let replica = &mut self.replicas[id];
        if generation < replica.seen {
            self.violated = Some("a generation fell");
        }
        replica.seen = replica.seen.max(generation);
        replica.shown = Some(named);
        if *self.names.entry(generation).or_insert(token) != token {
            self.violated = Some("a generation names two tokens");
        }
    }

    /// Whether anybody who can still tell knows the token in force.
    fn is_known(&self, token: Number) -> bool {
        let got = |replica: &Replica| replica.run.as_ref().and_then(|run| run.got);
        let shown = |replica: &Replica| replica.shown.map(|(_, token)| token);
        let replicas = self.replicas.iter().filter(|replica| replica.up);
        let mut known = replicas.flat_map(|replica| [got(replica), shown(replica)]);
        let coming = |&(request, reply): &(Request, Option<Number>)| {
            let waiting = self.replicas[request.id].run.as_ref();
            reply == Some(token) && waiting.is_some_and(|run| run.asked == Some(request))
        };
        self.record.1 == token
            || known.any(|known| known == Some(token))
            || self.replies.iter().any(coming)
    }
}

impl Story {
    fn protocol(&self) -> Protocol {
        let note = (self.mode == Mode::Classic).then(|| Note {
            asked_at: Moment::default(),
            reserved: Generation(1),
        });
        Errand::new(Ask::Normal, Record::new(self.mode), note).protocol()
    }

    fn fenced(&self, world: &World, id: Id) -> bool {
        self.flaw != Flaw::NoFence && world.claim != Some(id)
    }

    /// WeChat carries out a request.
    fn mint(&self, world: &mut World, request: Request) -> Number {
        let outlived = world.claim != Some(request.id) || world.epoch != request.epoch;
        world.happened.outlived |= request.claimed && outlived;
        let wechat = &world.wechat;
        if self.mode == Mode::Stable && !wechat.due {
            return wechat.current;
        }
        if !wechat.due && !world.happened.outlived && world.is_known(wechat.current) {
            world.violated = Some("a living token was burnt without need");
        }
        let wechat = &mut world.wechat;
        wechat.previous = Some(wechat.current);
        wechat.current += 1;
        wechat.due = false;
        wechat.current
    }

    fn reserved(&self, world: &World) -> Option<Number> {
        world.note.filter(|_| self.flaw != Flaw::ReuseReserved)
    }

    /// A replica takes the claim and learns what the store knows.
    fn take_over(&self, world: &mut World, id: Id) {
        world.claim = Some(id);
        world.epoch += 1;
        let (generation, token) = world.record;
        let above = self.reserved(world).map(|reserved| reserved + 1);
        let generation = above.unwrap_or(generation);
        world.replicas[id].open = world.note.is_some();
        let shown = world.replicas[id].shown;
        if shown.is_none_or(|(shown, _)| shown < generation) {
            world.show(id, (generation, token));
        }
    }

    fn expire(world: &mut World, holder: Id) {
        let run = world.replicas[holder].run.as_ref();
        world.happened.outlived |= run.is_some_and(|run| run.asked.is_some() || run.got.is_some());
        world.claim = None;
    }

    fn begin(&self, world: &mut World, id: Id) {
        let mut protocol = self.protocol();
        let mut step = protocol.next(Heard::Begun);
        if self.flaw == Flaw::NoNote && step == Step::Note {
            step = protocol.next(Heard::Noted);
        }
        let shown = world.replicas[id].shown.map_or(0, |(shown, _)| shown);
        let highest = shown.max(world.record.0);
        let above = self.reserved(world).map_or(0, |reserved| reserved + 1);
        let generation = 1 + highest.max(above);
        world.replicas[id].run = Some(Run {
            protocol,
            step,
            generation,
            got: None,
            asked: None,
            open: false,
        });
    }

    fn save(&self, world: &mut World, id: Id) {
        if self.fenced(world, id) {
            world.replicas[id].run = None; // the new holder knows better
            return;
        }
        let Some(run) = &world.replicas[id].run else {
            return;
        };
        if let Some(token) = run.got {
            world.record = (run.generation, token);
        }
        if !run.open {
            world.note = None;
        }
        world.hear(id, Heard::Saved);
    }

    fn wants(&self, world: &World, id: Id) -> bool {
        let replica = &world.replicas[id];
        let mine = self.flaw == Flaw::NoClaim || world.claim == Some(id);
        let old = replica.shown.is_some_and(|(_, token)| {
            world.wechat.due || replica.open || token < world.wechat.current
        });
        mine && replica.run.is_none() && old
    }

    fn deliver(world: &mut World, at: usize) {
        let (request, token) = world.replies.remove(at);
        let id = request.id;
        let newest = world.replicas[id].shown.map(|(_, token)| token);
        let run = world.replicas[id].run.as_mut();
        let Some(run) = run.filter(|run| run.asked == Some(request)) else {
            return; // nobody waits for it any more
        };
        run.asked = None;
        run.got = token.filter(|_| token > newest);
        run.open = token.is_none();
        let heard = match token {
            None => Heard::Open,
            Some(_) if run.got.is_some() => Heard::Rotated,
            Some(_) => Heard::Nothing,
        };
        world.hear(id, heard);
    }
}

impl Model for Story {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let replica = Replica {
            up: true,
            shown: Some((1, 1)),
            seen: 1,
            ..Replica::default()
        };
        vec![World {
            replicas: vec![replica; self.replicas],
            record: (1, 1),
            note: None,
            claim: None,
            epoch: 0,
            wechat: WeChat {
                current: 1,
                previous: None,
                due: false,
            },
            requests: Vec::new(),
            replies: Vec::new(),
            names: BTreeMap::from([(1, 1)]),
            happened: Happened::default(),
            violated: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let happened = &world.happened;
        if !world.wechat.due && happened.dues < self.dues {
            actions.push(Action::Due);
        }
        if let Some(holder) = world.claim {
            if !world.works(holder) {
                actions.push(Action::Expire);
            }
        }
        for id in 0..self.replicas {
            self.actions_of(world, id, actions);
        }
        for at in 0..world.requests.len() {
            actions.push(Action::Arrive(at));
            if happened.losses < self.losses {
                actions.push(Action::LoseRequest(at));
            }
        }
        for (at, (request, token)) in world.replies.iter().enumerate() {
            if !world.replicas[request.id].paused {
                actions.push(Action::Deliver(at));
            }
            if token.is_some() && happened.losses < self.losses {
                actions.push(Action::LoseReply(at));
            }
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        self.act(&mut world, action);
        world.requests.sort_unstable();
        world.replies.sort_unstable();
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("no promise is broken", |_, w| w.violated.is_none()),
            Property::<Self>::always("one request at a time under a claim", |_, w| {
                let held = |r: &&Request| w.claim == Some(r.id) && w.epoch == r.epoch;
                w.requests.iter().filter(held).count() <= 1
            }),
            Property::<Self>::sometimes("everybody has a fresh token", |_, w| {
                let fresh = |r: &Replica| r.shown.is_some_and(|(_, t)| t == w.wechat.current);
                w.wechat.current > 2 && w.replicas.iter().all(fresh)
            }),
        ];
        if self.crashes > 0 {
            properties.push(Property::sometimes(
                "a fresh token after a crash",
                |_, w: &World| w.happened.crashes > 0 && w.note.is_none() && w.record.1 > 1,
            ));
        }
        if self.losses > 0 {
            properties.push(Property::sometimes(
                "a fresh token after a loss",
                |_, w: &World| {
                    w.happened.losses > 0
                        && w.note.is_none()
                        && w.record.1 == w.wechat.current
                        && w.record.1 > 1
                },
            ));
        }
        properties
    }
}

impl Story {
    fn actions_of(&self, world: &World, id: Id, actions: &mut Vec<Action>) {
        let (happened, replica) = (&world.happened, &world.replicas[id]);
        if !replica.up {
            actions.push(Action::Start(id));
            return;
        }
        if happened.crashes < self.crashes {
            actions.push(Action::Crash(id));
        }
        if replica.paused {
            actions.push(Action::Resume(id));
            return;
        }
        if happened.pauses < self.pauses && world.claim == Some(id) {
            actions.push(Action::Pause(id));
        }
        if world.claim.is_none() && replica.run.is_none() {
            actions.push(Action::Claim(id));
        }
        if self.wants(world, id) {
            actions.push(Action::Begin(id));
        }
        let settled = world.claim != Some(id) && replica.run.is_none();
        let news = replica
            .shown
            .is_none_or(|(shown, _)| shown < world.record.0);
        let safe = replica.shown.is_some() || world.note.is_none();
        if settled && news && safe {
            actions.push(Action::Adopt(id));
        }
        let publish_first = self.flaw == Flaw::PublishFirst;
        match world.step(id) {
            Some(Step::Note) => actions.push(Action::Note(id)),
            Some(Step::Ask) => actions.push(Action::Ask(id)),
            Some(Step::Publish) => actions.push(Action::Publish(id)),
            Some(Step::Save) => {
                actions.push(Action::Save(id));
                if happened.disk_failures < self.disk_failures {
                    actions.push(Action::FailToSave(id));
                }
                if publish_first {
                    actions.push(Action::Publish(id));
                }
            }
            Some(Step::Done) | None => {}
        }
    }

    fn act(&self, world: &mut World, action: Action) {
        match action {
            Action::Due => {
                world.wechat.due = true;
                world.happened.dues += 1;
            }
            Action::Expire => {
                if let Some(holder) = world.claim {
                    Self::expire(world, holder);
                }
            }
            Action::Claim(id) => self.take_over(world, id),
            Action::Begin(id) => self.begin(world, id),
            Action::Note(id) if self.fenced(world, id) => world.replicas[id].run = None,
            Action::Note(id) => {
                let run = world.replicas[id].run.as_ref();
                world.note = run.map(|run| run.generation);
                world.hear(id, Heard::Noted);
            }
            Action::Ask(id) => {
                let claimed = world.claim == Some(id);
                let epoch = world.epoch;
                let request = Request { id, claimed, epoch };
                let replica = &mut world.replicas[id];
                if self.flaw != Flaw::NoClaim && !claimed {
                    replica.run = None; // not any more
                } else if let Some(run) = &mut replica.run {
                    run.asked = Some(request);
                    world.requests.push(request);
                }
            }
            Action::Publish(id) => {
                let run = world.replicas[id].run.clone();
                if let Some((run, token)) = run.and_then(|run| Some((run.clone(), run.got?))) {
                    world.show(id, (run.generation, token));
                    if run.step == Step::Publish {
                        world.hear(id, Heard::Published);
                    }
                } else {
                    world.hear(id, Heard::Published);
                }
            }
            Action::Save(id) => self.save(world, id),
            Action::FailToSave(id) => {
                world.happened.disk_failures += 1;
                world.hear(id, Heard::SaveFailed);
            }
            Action::Adopt(id) => world.show(id, world.record),
            Action::Arrive(at) => {
                let request = world.requests.remove(at);
                let token = self.mint(world, request);
                world.replies.push((request, Some(token)));
            }
            Action::LoseRequest(at) => {
                let request = world.requests.remove(at);
                world.happened.losses += 1;
                world.replies.push((request, None));
            }
            Action::LoseReply(at) => {
                world.replies[at].1 = None;
                world.happened.losses += 1;
            }
            Action::Deliver(at) => Self::deliver(world, at),
            Action::Crash(id) => {
                world.happened.crashes += 1;
                let seen = world.replicas[id].seen;
                world.replicas[id] = Replica {
                    seen,
                    ..Replica::default()
                };
            }
            Action::Start(id) => {
                world.replicas[id].up = true;
                // Its lease died with its former life.
                world.claim = world.claim.filter(|holder| *holder != id);
                if world.note.is_none() {
                    world.show(id, world.record);
                }
            }
            Action::Pause(id) => {
                world.happened.pauses += 1;
                world.replicas[id].paused = true;
            }
            Action::Resume(id) => world.replicas[id].paused = false,
        }
    }
}

fn story(mode: Mode) -> Story {
    Story {
        mode,
        flaw: Flaw::None,
        replicas: 2,
        dues: 2,
        crashes: 1,
        pauses: 1,
        losses: 1,
        disk_failures: 0,
    }
}

fn check(story: Story) {
    let began = Instant::now();
    let checker = story.clone().checker().threads(2).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{states} states in {:?}: {story:?}", began.elapsed());
    checker.assert_properties();
}

/// What the checker says of a story with a flaw.
fn finds(mode: Mode, flaw: Flaw) -> Option<&'static str> {
    let story = Story {
        flaw,
        ..story(mode)
    };
    let checker = story.checker().threads(2).spawn_bfs().join();
    let path = checker.discovery("no promise is broken")?;
    path.last_state().violated
}

#[test]
fn two_replicas_break_no_promise_whatever_happens_to_them() {
    for mode in [Mode::Classic, Mode::Stable] {
        check(story(mode));
    }
}

#[test]
fn three_replicas_break_no_promise_when_one_crashes_or_pauses() {
    for mode in [Mode::Classic, Mode::Stable] {
        for (crashes, pauses) in [(1, 0), (0, 1)] {
            check(Story {
                replicas: 3,
                dues: 2,
                losses: 0,
                crashes,
                pauses,
                ..story(mode)
            });
        }
    }
}

#[test]
fn a_failing_disk_breaks_no_promise_while_the_holder_lives() {
    for mode in [Mode::Classic, Mode::Stable] {
        check(Story {
            crashes: 0,
            pauses: 0,
            disk_failures: 2,
            ..story(mode)
        });
    }
}

#[test]
fn the_checker_finds_what_is_broken_on_purpose() {
    let table = [
        (Mode::Classic, Flaw::NoNote),
        (Mode::Stable, Flaw::PublishFirst),
        (Mode::Classic, Flaw::NoClaim),
        (Mode::Classic, Flaw::NoFence),
        (Mode::Classic, Flaw::ReuseReserved),
    ];
    for (mode, flaw) in table {
        let found = finds(mode, flaw);
        println!("{flaw:?}: {found:?}");
        assert!(found.is_some(), "{flaw:?}");
    }
}
