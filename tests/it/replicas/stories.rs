//! How much happens, and what is found then.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};
use tokio::time::Instant;
use wxtokend::domain::{
    Ask, Generation, Mode, Moment, Note, Record,
    protocol::{Errand, Protocol},
};

use super::{
    promises::{FRESH, KNOWN_TO_THE_STORE, NOTHING_BROKEN, ONE_AT_A_TIME, OPEN_IS_NOTED},
    steps::Action,
    world::World,
};

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// The note is said to be written and is not.
    NoNote,
    /// Readers get the result before it is saved although nothing is noted.
    PublishFirst,
    /// WeChat is asked by whoever thinks it is time.
    NoClaim,
    /// The store takes what a former holder writes.
    NoFence,
    /// The store takes a write that was overtaken by a later one.
    NoVersion,
    /// A claim is taken while the fetch of an earlier one is under way.
    ClaimDuringAFetch,
    /// The generation that a note reserves is used again.
    ReuseReserved,
    /// A token that could not be saved keeps its number although another replica may have gone beyond.
    KeepTheNumber,
    /// A replica that finds a note when it starts shows the old token at once.
    ShowInDoubt,
    /// The note is cleared although the outcome is open.
    ClearTheNote,
    /// What could not be saved is never saved.
    NeverLater,
}

/// How the disk behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// At most so many writes fail.
    Fails(u8),
    /// All do.
    Dead,
}

impl Disk {
    /// More failures than are told apart.
    pub(super) const MANY: u8 = 3;

    pub(super) fn may_fail(self, failures: u8) -> bool {
        match self {
            Self::Fails(most) => failures < most,
            Self::Dead => true,
        }
    }
}

/// How much may happen: what makes the number of states finite.
#[derive(Clone, Copy, Debug)]
pub(super) struct Story {
    pub(super) mode: Mode,
    pub(super) flaw: Flaw,
    pub(super) replicas: usize,
    /// How often a token becomes old.
    pub(super) dues: u8,
    pub(super) crashes: u8,
    /// Pauses longer than a claim.
    pub(super) pauses: u8,
    /// Lost or late requests and answers, and refusals.
    pub(super) losses: u8,
    pub(super) disk: Disk,
    /// Writes that arrive after their sender has given them up.
    pub(super) delays: u8,
}

impl Story {
    /// In a classic fetch, or a forced one, the note comes first.
    pub(super) fn protocol(&self) -> Protocol {
        let note = (self.mode == Mode::Classic).then(|| Note {
            asked_at: Moment::default(),
            reserved: Generation(1),
        });
        let errand = Errand::new(Ask::Normal, Record::new(self.mode), note);
        let shared = self.replicas > 1;
        Errand { shared, ..errand }.protocol()
    }

    fn check(self) {
        let began = Instant::now();
        let failure = HasDiscoveries::AnyFailures;
        let checker = self.checker().threads(2).finish_when(failure);
        let checker = checker.spawn_bfs().join();
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        let seconds = began.elapsed().as_secs_f64();
        println!("{states} states, {depth} deep, in {seconds:.1} s: {self:?}");
        checker.assert_properties();
    }

    /// What the last state shows of the shortest way to break `promise`, if there is one.
    fn breaks(self, promise: &'static str) -> Option<&'static str> {
        let found = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
        let checker = self.checker().finish_when(found).spawn_bfs().join();
        let path = checker.discovery(promise)?;
        Some(path.last_state().broken.unwrap_or(promise))
    }
}

impl Model for Story {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.replicas)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(self.all_actions(world));
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        self.act(&mut world, action);
        Some(world.settled())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.promises()
    }
}

const BOTH: [Mode; 2] = [Mode::Classic, Mode::Stable];

/// Two replicas to whom everything happens once.
fn story(mode: Mode) -> Story {
    Story {
        mode,
        flaw: Flaw::None,
        replicas: 2,
        dues: 2,
        crashes: 1,
        pauses: 1,
        losses: 1,
        disk: Disk::Fails(0),
        delays: 0,
    }
}

#[test]
fn one_server_with_its_own_disk_breaks_no_promise() {
    for mode in BOTH {
        Story {
            replicas: 1,
            pauses: 0,
            disk: Disk::Fails(3),
            ..story(mode)
        }
        .check();
    }
}

#[test]
fn two_replicas_break_no_promise_whatever_happens_to_them() {
    for mode in BOTH {
        story(mode).check();
    }
}

#[test]
fn two_replicas_break_no_promise_when_the_store_fails_as_well() {
    for mode in BOTH {
        Story {
            dues: 1,
            losses: 0,
            disk: Disk::Fails(2),
            ..story(mode)
        }
        .check();
    }
}

#[test]
fn two_replicas_break_no_promise_when_writes_arrive_that_nobody_waits_for_any_more() {
    for mode in BOTH {
        Story {
            dues: 1,
            delays: 1,
            ..story(mode)
        }
        .check();
    }
}

#[test]
fn three_replicas_break_no_promise_whatever_happens_to_them() {
    for mode in BOTH {
        Story {
            replicas: 3,
            dues: 1,
            ..story(mode)
        }
        .check();
    }
}

#[test]
fn a_dead_disk_keeps_no_token_from_the_readers() {
    for mode in BOTH {
        Story {
            replicas: 1,
            crashes: 0,
            pauses: 0,
            losses: 2,
            disk: Disk::Dead,
            ..story(mode)
        }
        .check();
    }
}

#[test]
fn the_checker_finds_what_is_broken_on_purpose() {
    use Flaw::*;
    use Mode::{Classic, Stable};
    let table = [
        (
            Classic,
            NoNote,
            NOTHING_BROKEN,
            "WeChat was asked without a note",
        ),
        (Stable, PublishFirst, KNOWN_TO_THE_STORE, KNOWN_TO_THE_STORE),
        (Classic, NoClaim, ONE_AT_A_TIME, ONE_AT_A_TIME),
        (
            Classic,
            NoFence,
            NOTHING_BROKEN,
            "an older token was saved over a newer one",
        ),
        (
            Classic,
            NoVersion,
            NOTHING_BROKEN,
            "an older token was saved over a newer one",
        ),
        (
            Classic,
            ClaimDuringAFetch,
            NOTHING_BROKEN,
            "WeChat was asked without a note",
        ),
        (Classic, ReuseReserved, NOTHING_BROKEN, "a generation fell"),
        (
            Classic,
            KeepTheNumber,
            KNOWN_TO_THE_STORE,
            KNOWN_TO_THE_STORE,
        ),
        (Classic, ShowInDoubt, NOTHING_BROKEN, "a generation fell"),
        (Classic, ClearTheNote, OPEN_IS_NOTED, OPEN_IS_NOTED),
        (Stable, NeverLater, FRESH, FRESH),
    ];
    for (mode, flaw, promise, words) in table {
        let disk = Disk::Fails(u8::from(flaw == NeverLater));
        let story = Story {
            flaw,
            disk,
            delays: u8::from(flaw == NoVersion),
            ..story(mode)
        };
        let found = story.breaks(promise);
        println!("{flaw:?}: {found:?}");
        assert_eq!(found, Some(words), "{flaw:?}");
    }
}
