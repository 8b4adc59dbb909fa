//! What only a simulated clock can show about several replicas.

use std::time::Duration;

use tokio::time::sleep;
use wxtokend::{
    domain::{Generation, Mode, Policy},
    sandbox::{Knobs, Outage, Settings},
};

use super::{Fleet, links::Way};

const LEASE: Duration = Duration::from_secs(15);
const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

fn fleet(mode: Mode) -> Fleet {
    let policy = Policy {
        mode,
        ..Policy::default()
    };
    Fleet::new(Settings::default(), &[("app", policy)], LEASE, 1)
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_wechat_costs_three_replicas_no_more_fetches_than_one() {
    for mode in [Mode::Classic, Mode::Stable] {
        for outage in [Outage::Refuse, Outage::Cut, Outage::Hang, Outage::Gateway] {
            let mut fleet = fleet(mode);
            fleet.start_all();
            fleet.everybody_has_a_token().await;
            // In its middle the token is to be replaced, or it dies.
            sleep(
                HOUR.mul_f64(0.5)
                    + if mode == Mode::Stable {
                        HOUR
                    } else {
                        Duration::ZERO
                    },
            )
            .await;
            let before = fleet.fetches(0).len();
            fleet.turn(&Knobs {
                outage: Some(outage),
                ..Knobs::default()
            });
            sleep(HOUR).await;
            let fetches = fleet.fetches(0).len() - before;
            assert!(fetches > 5, "{mode:?}, {outage:?}: {fetches} fetches");
            assert!(fetches <= 80, "{mode:?}, {outage:?}: {fetches} fetches");
            fleet.turn(&Knobs {
                outage: Some(Outage::None),
                ..Knobs::default()
            });
            sleep(Duration::from_mins(3)).await;
            fleet.everybody_has_a_token().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_given_up_is_taken_again_although_there_is_other_news_about_the_app() {
    let mut fleet = fleet(Mode::Classic);
    // Nobody else is there to take it.
    fleet.set(0, |state| state.to_wechat = Way::Closed);
    fleet.start(0);
    let appid = fleet.apps[0].account.appid.clone();
    let claimed = |fleet: &Fleet| fleet.database.claimed_for(&appid, "replica-0-1").is_some();
    while !claimed(&fleet) {
        sleep(Duration::from_millis(100)).await;
    }
    while claimed(&fleet) {
        sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..20 {
        fleet.database.scribble(&appid);
        sleep(Duration::from_millis(200)).await;
    }
    assert!(claimed(&fleet), "nobody refreshes");
}

/// Cut off from the store are, from before the planned refresh until five minutes before the token's end,
/// all replicas; the one that had refreshed has just fetched alone when this returns, if it is `left_alone`.
async fn out_of_touch(left_alone: bool) -> Fleet {
    let mut fleet = fleet(Mode::Classic);
    fleet.start(0);
    fleet.everybody_has_a_token().await;
    fleet.start(1);
    fleet.start(2);
    sleep(MINUTE * 59).await;
    for n in 0..3 {
        fleet.set(n, |state| state.to_store = Way::Closed);
    }
    sleep(MINUTE * 55).await;
    if !left_alone {
        for n in 1..3 {
            fleet.set(n, |state| state.to_store = Way::Open);
        }
        sleep(MINUTE / 2).await;
    }
    while fleet.fetches(0).last().expect("one").replica != 0 || fleet.fetches(0).len() == 1 {
        sleep(MINUTE / 60).await;
    }
    fleet
}

/// The generation that each replica hands out, of a token that WeChat accepts.
async fn in_force(fleet: &Fleet) -> Vec<Generation> {
    let app = &fleet.apps[0];
    let mut all = Vec::new();
    for n in 0..3 {
        let tokens = fleet.tokens(n).expect("it runs");
        let issued = tokens.current(&app.name, Duration::ZERO).await;
        let token = issued.expect("there is one").token;
        assert!(
            fleet.alive(app, &token.value),
            "replica {n} hands out a dead one"
        );
        all.push(token.generation);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn whoever_went_on_alone_gets_the_claim_and_no_token_is_fetched_again() {
    let mut fleet = out_of_touch(true).await;
    for n in [2, 1, 0] {
        fleet.set(n, |state| state.to_store = Way::Open);
        // It does not matter who finds the store first.
        sleep(Duration::from_millis(300)).await;
    }
    sleep(MINUTE / 6).await;
    let all = in_force(&fleet).await;
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    assert_eq!(fleet.fetches(0).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_without_a_claim_is_told_to_the_one_that_refreshes_before_its_token_dies_of_it() {
    let mut fleet = out_of_touch(false).await;
    assert_eq!(fleet.fetches(0).len(), 3, "another replica had done so too");
    sleep(MINUTE / 2).await;
    fleet.set(0, |state| state.to_store = Way::Open);
    sleep(MINUTE / 6).await;
    assert_eq!(fleet.fetches(0).len(), 4, "one that nobody has to lose");
    for _ in 0..600 {
        let all = in_force(&fleet).await;
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        sleep(MINUTE / 60).await;
    }
}
