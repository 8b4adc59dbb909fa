//! Replicas that hear of nobody and go on alone.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use wxtokend::{
    domain::Mode,
    sandbox::{Knobs, Settings},
};

use super::{Fleet, LEASE, links::Way, policy, way::Fetch};
use crate::wire::WAY;

const MINUTE: Duration = Duration::from_mins(1);

/// The one that refreshes first. Its clock is twenty minutes ahead of another's, and so are its numbers.
const FIRST: usize = 2;

const TWO_HOURS: Duration = Duration::from_hours(2);

/// Cut off from the store are, from before the planned refresh until an overlap before the token's end, all
/// replicas; the first is about to fetch alone when this returns. Unless it is `left_alone`, another one has
/// done so by then.
async fn out_of_touch(life: Duration, left_alone: bool) -> Fleet {
    let policy = policy(Mode::Classic, life);
    let (overlap, moment) = (policy.overlap, policy.overlap / 5);
    let settings = Settings {
        life,
        overlap,
        ..Settings::default()
    };
    let mut fleet = Fleet::new(settings, &[("app", policy)], LEASE, 1);
    fleet.start(FIRST);
    fleet.everybody_has_a_token().await;
    fleet.start(0);
    fleet.start(1);
    let middle = Instant::now() + life / 2;
    sleep_until(middle - moment).await;
    for n in 0..3 {
        fleet.set(n, |state| state.to_store = Way::Silent);
    }
    sleep_until(middle + life / 2 - overlap - moment).await;
    if !left_alone {
        for n in 0..2 {
            fleet.set(n, |state| state.to_store = Way::Open);
        }
        sleep(moment / 2).await;
    }
    fleet
}

/// Until WeChat is asked by the first without a claim.
async fn fetch_alone(fleet: &Fleet) {
    let alone = |fetch: &Fetch| fetch.replica == FIRST && fetch.claimed.is_none();
    let mut patience = 600;
    while !fleet.fetches(0).iter().any(alone) {
        sleep(MINUTE / 60).await;
        patience -= 1;
        assert!(patience > 0, "{:#?}", fleet.fetches(0));
    }
}

/// Every replica hands out the same token, and WeChat accepts it.
async fn all_have_the_same(fleet: &Fleet) {
    let mut all = Vec::new();
    for n in 0..3 {
        let token = fleet.token(n).await;
        let alive = fleet.alive(&fleet.apps[0], &token.value);
        assert!(alive, "replica {n} hands out a dead one");
        all.push(token.generation);
    }
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn who_goes_on_alone_does_not_wait_for_the_store() {
    let begin = Instant::now();
    let fleet = out_of_touch(TWO_HOURS, true).await;
    fetch_alone(&fleet).await;
    let asked = fleet.fetches(0).last().expect("two").sent - begin;
    let planned = TWO_HOURS.saturating_sub(MINUTE * 5);
    assert!(asked >= planned, "{asked:?}");
    assert!(asked < planned + MINUTE / 60, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_went_on_alone_gets_the_claim_and_no_token_is_fetched_again() {
    let mut fleet = out_of_touch(TWO_HOURS, true).await;
    fetch_alone(&fleet).await;
    for n in [0, 1, FIRST] {
        fleet.set(n, |state| state.to_store = Way::Open);
        // It does not matter who finds the store first.
        sleep(Duration::from_millis(300)).await;
    }
    sleep(MINUTE / 6).await;
    all_have_the_same(&fleet).await;
    assert_eq!(fleet.fetches(0).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_without_a_claim_is_told_to_the_one_that_refreshes_before_its_token_dies_of_it() {
    let mut fleet = out_of_touch(TWO_HOURS, false).await;
    fetch_alone(&fleet).await;
    assert_eq!(fleet.fetches(0).len(), 3, "another replica had done so too");
    sleep(MINUTE / 2).await;
    fleet.set(FIRST, |state| state.to_store = Way::Open);
    sleep(MINUTE / 6).await;
    assert_eq!(fleet.fetches(0).len(), 4, "one that nobody has to lose");
    for _ in 0..600 {
        all_have_the_same(&fleet).await;
        sleep(MINUTE / 60).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_without_a_claim_is_told_as_well_if_the_others_are_heard_of_before_its_answer() {
    let mut fleet = out_of_touch(TWO_HOURS, false).await;
    fleet.turn(&Knobs {
        latency: Some(MINUTE / 20),
        ..Knobs::default()
    });
    fetch_alone(&fleet).await;
    fleet.set(FIRST, |state| state.to_store = Way::Open);
    sleep(MINUTE / 4).await;
    let last = fleet.fetches(0).pop().expect("several");
    assert!(last.replica != FIRST && last.claimed.is_some(), "{last:?}");
    sleep(MINUTE).await;
    all_have_the_same(&fleet).await;
}

#[tokio::test(start_paused = true)]
async fn two_replicas_that_do_not_hear_of_each_other_never_give_two_tokens_one_number() {
    // The numbers are ahead of the others' clocks until the end.
    let fleet = out_of_touch(MINUTE * 15, false).await;
    fetch_alone(&fleet).await;
    sleep(MINUTE / 60).await;
    let (one, other) = (fleet.token(FIRST).await, fleet.token(0).await);
    assert_ne!(one.value, other.value);
    assert_ne!(one.generation, other.generation);
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_what_readers_have_seen_although_the_store_knows_less() {
    let mut fleet = out_of_touch(TWO_HOURS, true).await;
    fetch_alone(&fleet).await;
    sleep(MINUTE / 60).await;
    let seen = fleet.token(FIRST).await.generation;
    fleet.kill(FIRST).await;
    fleet.set(FIRST, |state| state.to_store = Way::Open);
    fleet.start(FIRST);
    assert_eq!(fleet.token(FIRST).await.generation, seen);
    sleep(MINUTE).await;
    assert_eq!(fleet.token(FIRST).await.generation, seen);
    assert_eq!(fleet.fetches(0).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_can_only_be_read_is_as_good_as_none() {
    for (mode, serving) in [(Mode::Stable, 0..3), (Mode::Classic, FIRST..3)] {
        let mut fleet = Fleet::usual(mode);
        fleet.start(FIRST);
        fleet.everybody_has_a_token().await;
        fleet.start(0);
        fleet.start(1);
        sleep(MINUTE * 50).await;
        for n in 0..3 {
            fleet.set(n, |state| state.read_only = true);
        }
        for _ in 0..300 {
            sleep(MINUTE).await;
            for n in serving.clone() {
                let token = fleet.token(n).await;
                assert!(fleet.alive(&fleet.apps[0], &token.value), "{mode:?}, {n}");
            }
        }
        for n in 0..3 {
            fleet.set(n, |state| state.read_only = false);
        }
        sleep(MINUTE * 2).await;
        all_have_the_same(&fleet).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_a_token_that_was_replaced_from_a_replica_that_is_cut_off() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Story {
        Plain,
        /// The one that refreshes is killed, and its successor has to wait for the end of its claim.
        Killed,
        /// The one that is cut off starts anew from its copy, so many seconds later.
        Restarted(u32),
    }
    let restarts = (0..5).map(Story::Restarted);
    for story in [Story::Plain, Story::Killed].into_iter().chain(restarts) {
        let mut fleet = Fleet::usual(Mode::Classic);
        fleet.start(FIRST);
        fleet.everybody_has_a_token().await;
        fleet.start(0);
        fleet.start(1);
        let old = fleet.token(1).await;
        sleep(MINUTE * 50).await;
        fleet.set(1, |state| state.to_store = Way::Silent);
        sleep(fleet.planned_in(FIRST).saturating_sub(MINUTE / 20)).await;
        if story == Story::Killed {
            fleet.kill(FIRST).await;
        }
        let app = fleet.apps[0].clone();
        sleep(MINUTE * 4).await;
        let mints = fleet.mints(&app);
        assert_eq!(mints.len(), 2, "the others replace it");
        let death = mints[1] + app.policy.overlap;
        assert!(fleet.at() < death);
        // It may die while the answer is under way, or a look counts for longer.
        let mut grace = WAY;
        if let Story::Restarted(after) = story {
            fleet.kill(1).await;
            sleep(MINUTE / 60 * after).await;
            fleet.start(1);
            grace += app.policy.overlap / 300;
        }

        let tokens = fleet.tokens(1).expect("it runs");
        let mut answers = 0;
        while fleet.at() < death + MINUTE {
            if let Ok(issued) = tokens.current(&app.name, MINUTE).await {
                let late = fleet.at().saturating_sub(death);
                assert!(late <= grace, "{story:?}: dead for {late:?}");
                assert_eq!(issued.token.value, old.value);
                answers += 1;
            }
            sleep(MINUTE / 3000).await;
        }
        assert!(answers > 100, "{answers} answers");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_reaches_nobody_hands_out_nothing_once_the_others_may_have_replaced_it() {
    let mut fleet = Fleet::usual(Mode::Classic);
    fleet.start(FIRST);
    fleet.everybody_has_a_token().await;
    fleet.start(1);
    let app = fleet.apps[0].clone();
    sleep(MINUTE * 50).await;
    fleet.set(1, |state| {
        (state.to_store, state.to_wechat) = (Way::Silent, Way::Silent);
    });
    let tokens = fleet.tokens(1).expect("it runs");
    let (mut answers, mut none) = (0, 0);
    for _ in 0..300 {
        match tokens.current(&app.name, MINUTE).await {
            Ok(issued) => {
                assert!(fleet.alive(&app, &issued.token.value), "a dead one");
                answers += 1;
            }
            Err(_) => none += 1,
        }
        sleep(MINUTE / 12).await;
    }
    assert_eq!(fleet.mints(&app).len(), 2, "the other one replaces it");
    assert!(answers > 100 && none > 50, "{answers} answers, {none} none");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_lives_on_is_handed_out_all_the_time_without_many_looks() {
    const LATENCY: Duration = Duration::from_millis(50);
    let mut fleet = Fleet::usual(Mode::Classic);
    fleet.start_all();
    fleet.everybody_has_a_token().await;
    fleet.turn(&Knobs {
        latency: Some(LATENCY),
        ..Knobs::default()
    });
    sleep(MINUTE * 50).await;
    for n in 0..3 {
        fleet.set(n, |state| state.to_store = Way::Silent);
    }
    let app = fleet.apps[0].clone();
    let looks = || {
        let model = fleet.model();
        let account = model.account(&app.account.appid).expect("it exists");
        account.counts().looks
    };
    let mut busy = 0;
    // The plan is over in ten minutes at the latest, and so is its overlap in another five.
    for _ in 0..25 {
        let before = looks();
        let tokens = fleet.tokens(1).expect("it runs");
        let end = Instant::now() + MINUTE;
        while Instant::now() < end {
            let asked = Instant::now();
            let issued = tokens.current(&app.name, MINUTE).await;
            issued.expect("it works");
            assert!(asked.elapsed() <= LATENCY * 2, "{:?}", asked.elapsed());
            sleep(MINUTE / 3000).await;
        }
        busy += usize::from(looks() - before > 400);
    }
    // Each reader has its own only while another replica may have been due.
    assert!(busy <= 2, "many looks in {busy} minutes");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_wechat_refused_to_a_cut_off_replica_is_not_handed_out_there_again() {
    let mut fleet = Fleet::usual(Mode::Classic);
    fleet.start(FIRST);
    fleet.everybody_has_a_token().await;
    fleet.start(0);
    fleet.start(1);
    sleep(MINUTE * 50).await;
    // Nobody who could replace the token reaches WeChat, and who reaches it hears of nobody.
    fleet.set(0, |state| state.to_store = Way::Silent);
    for n in [1, FIRST] {
        fleet.set(n, |state| state.to_wechat = Way::Closed);
    }
    let app = fleet.apps[0].clone();
    let dead = fleet.token(0).await;
    sleep(MINUTE * 30).await;
    for _ in 0..2 {
        let at = fleet.at();
        let appid = &app.account.appid;
        let fetched = fleet.model().foreign_fetch(at, appid, app.pool());
        fetched.expect("WeChat lets anybody");
    }
    assert!(!fleet.alive(&app, &dead.value));
    sleep(MINUTE / 4).await;
    for n in 0..3 {
        fleet.set(n, |state| {
            (state.to_store, state.to_wechat) = (Way::Open, Way::Open);
        });
    }
    for _ in 0..100 {
        let issued = fleet.tokens(0).expect("it runs");
        if let Ok(issued) = issued.current(&app.name, Duration::ZERO).await {
            assert!(fleet.alive(&app, &issued.token.value), "handed out again");
        }
        sleep(MINUTE / 600).await;
    }
    all_have_the_same(&fleet).await;
}
