//! The life of a token against a model of it that was written from the house's rules alone.
//!
//! `domain::slot` decides; `known.rs` beside it knows, as naively as possible, what anybody could know: which
//! token there is, what looks have shown of it, what was spent and when. From that follow limits: what may
//! be shown, when WeChat may be asked at the earliest and when it must be at the latest, what a caller may be
//! told. `life.rs` lives random lives (`events.rs`) and compares after every step, a step being any moment
//! at which something is due. Nothing of the implementation is used but its words.
//!
//! A failure prints the shortest life that shows it. `PROPTEST_CASES=N` lives N lives.

mod events;
mod known;
mod life;

use std::env;

use events::{Event, Kind};
use life::Life;
use proptest::{prelude::*, strategy::Union, test_runner::Config as Settings};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

/// Lives that every run of the tests goes through.
const LIVES: u32 = 1000;

fn settings() -> Settings {
    let mut settings = Settings {
        failure_persistence: None,
        ..Settings::default()
    };
    if env::var_os("PROPTEST_CASES").is_none() {
        settings.cases = LIVES;
    }
    settings
}

prop_state_machine! {
    #![proptest_config(settings())]

    #[test]
    fn any_life_of_a_token_keeps_the_rules(sequential 1..80 => Any);
}

/// Any life of any kind of app. What may happen does not depend on what has happened: an answer to
/// nobody is none.
struct Any;

impl ReferenceStateMachine for Any {
    type State = Kind;
    type Transition = Event;

    fn init_state() -> BoxedStrategy<Kind> {
        Kind::any().boxed()
    }

    fn transitions(_: &Kind) -> BoxedStrategy<Event> {
        Union::new_weighted(Event::any()).boxed()
    }

    fn apply(kind: Kind, _: &Event) -> Kind {
        kind
    }
}

impl StateMachineTest for Any {
    type SystemUnderTest = Life;
    type Reference = Self;

    fn init_test(kind: &Kind) -> Life {
        Life::new(*kind)
    }

    fn apply(mut life: Life, _: &Kind, event: Event) -> Life {
        life.happens(event);
        life
    }
}
