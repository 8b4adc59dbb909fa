//! What only a simulated clock can show about several replicas.

use std::time::Duration;

use tokio::time::sleep;
use wxtokend::{
    domain::{
        Mode, Policy,
        report::{Stale, StaleReport},
    },
    sandbox::{Knobs, Outage, Pool, Settings},
    tokens::Outcome,
};

use super::{Fleet, LEASE, links::Way, policy};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(start_paused = true)]
async fn an_hour_without_wechat_costs_three_replicas_no_more_fetches_than_one() {
    for mode in [Mode::Classic, Mode::Stable] {
        for outage in [Outage::Refuse, Outage::Cut, Outage::Hang, Outage::Gateway] {
            let mut fleet = Fleet::usual(mode);
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
    let mut fleet = Fleet::usual(Mode::Classic);
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

#[tokio::test(start_paused = true)]
async fn a_stable_token_is_renewed_although_the_one_that_refreshes_died_before_it_could_be() {
    let life = MINUTE;
    let policy = policy(Mode::Stable, life);
    let settings = Settings {
        life,
        overlap: policy.overlap,
        ..Settings::default()
    };
    let mut fleet = Fleet::new(settings, &[("app", policy)], LEASE, 1);
    fleet.start(0);
    fleet.everybody_has_a_token().await;
    fleet.start(1);
    fleet.start(2);
    // WeChat does not renew it yet, and its claim outlives the token.
    sleep(life.saturating_sub(policy.overlap + Duration::from_secs(1))).await;
    fleet.kill(0).await;
    for _ in 0..300 {
        for n in 1..3 {
            let tokens = fleet.tokens(n).expect("it runs");
            let app = &fleet.apps[0];
            let issued = tokens.current(&app.name, Duration::ZERO).await;
            let token = issued.expect("there is always one").token;
            assert!(fleet.alive(app, &token.value));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_clock_is_off_serves_right_lives_although_the_store_has_lost_count() {
    let mut fleet = Fleet::usual(Mode::Classic);
    fleet.start(0);
    fleet.everybody_has_a_token().await;
    sleep(MINUTE * 30).await;
    fleet.database.lose_count();
    sleep(MINUTE).await;
    for n in 1..3 {
        fleet.start(n);
        let left = fleet.left(n).await;
        let right = MINUTE * (120 - 31);
        assert!(left + MINUTE / 20 > right, "{left:?} at replica {n}");
        assert!(left < right + MINUTE / 20, "{left:?} at replica {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaked_token_is_killed_although_the_one_that_refreshes_dies_between_the_two_mints() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut fleet = Fleet::usual(mode);
        fleet.start(0);
        fleet.everybody_has_a_token().await;
        fleet.start(1);
        fleet.start(2);
        sleep(MINUTE).await;
        let leaked = fleet.token(1).await;
        let (tokens, app) = (fleet.tokens(1).expect("it runs").clone(), &fleet.apps[0]);
        let (app, stale) = (app.clone(), Stale::Generation(leaked.generation));
        let report = StaleReport {
            stale,
            errcode: 0,
            leaked: true,
        };
        let name = app.name.clone();
        let answer = tokio::spawn(async move { tokens.report(&name, report).await });
        while fleet.fetches(0).len() < 2 {
            sleep(MINUTE / 600).await;
        }
        sleep(MINUTE / 60).await;
        fleet.kill(0).await;
        let (_, outcome) = answer.await.expect("no panic").expect("it is answered");
        assert_eq!(outcome, Outcome::Refreshed, "{mode:?}");
        assert!(
            !fleet.alive(&app, &leaked.value),
            "{mode:?}: it still works"
        );
        assert_eq!(fleet.mints(&app).len(), 3, "{mode:?}");
    }
}

/// What was spent is a part of the record.
#[tokio::test(start_paused = true)]
async fn a_day_s_budget_is_the_fleet_s_although_each_replacement_is_made_by_another_replica() {
    const BUDGET: u32 = 3;
    let policy = Policy {
        daily_replacements: BUDGET,
        probe_every: MINUTE,
        ..policy(Mode::Classic, HOUR * 10)
    };
    let settings = Settings {
        life: HOUR * 10,
        overlap: policy.overlap,
        ..Settings::default()
    };
    let mut fleet = Fleet::new(settings, &[("app", policy)], LEASE, 1);
    fleet.start_all();
    fleet.everybody_has_a_token().await;
    let app = fleet.apps[0].clone();
    for replaced in 1..=BUDGET as usize + 2 {
        // Young ones are not judged yet, and none is replaced soon after another.
        sleep(HOUR / 2).await;
        let tokens = fleet.tokens(0).expect("it runs");
        if tokens.current(&app.name, Duration::ZERO).await.is_ok() {
            let at = fleet.at();
            let appid = &app.account.appid;
            fleet.model().revoke(at, appid, Pool::Classic);
        }
        sleep(HOUR / 2).await;
        assert_eq!(fleet.mints(&app).len(), 1 + replaced.min(BUDGET as usize));
        let refreshes = |n: &usize| {
            let name = format!("replica-{n}-{}", fleet.machines[*n].starts);
            let claim = fleet.database.claimed_for(&app.account.appid, &name);
            claim.is_some()
        };
        let holder = (0..3).find(refreshes).expect("one refreshes");
        fleet.kill(holder).await;
        sleep(LEASE * 2).await;
        fleet.start(holder);
    }
}
