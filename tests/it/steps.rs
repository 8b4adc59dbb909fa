//! What the refresher does between the steps of a fetch, on a paused clock: the store fails, the server
//! is killed or stopped, time passes.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::sleep;
use wxtokend::{
    domain::{
        Generation, Mode, Policy,
        report::{Stale, StaleReport},
    },
    sandbox::{Endpoint, Fault, Kind, Knobs, Settings},
};

use crate::world::World;

const SHOP: &str = "shop";

async fn world(mode: Mode) -> World {
    let policy = Policy {
        mode,
        probe_every: Duration::ZERO,
        ceiling: Duration::from_secs(5),
        ..Policy::default()
    };
    let mut world = World::new(Settings::default(), &[(SHOP, policy)], 1);
    world.start().await;
    world
        .tokens()
        .current(&world.apps[0].name, Duration::from_secs(1))
        .await
        .unwrap();
    world
}

fn strike(world: &World, fault: Fault) {
    let knobs = Knobs {
        faults: vec![fault],
        ..Knobs::default()
    };
    world.model().turn(world.at(), &knobs).unwrap();
}

async fn generation(world: &World) -> Generation {
    let app = &world.apps[0].name;
    let current = world.tokens().current(app, Duration::ZERO).await;
    current.unwrap().token.generation
}

#[tokio::test(start_paused = true)]
async fn a_late_save_does_not_take_the_note_of_the_next_fetch_away() {
    fastrand::seed(1);
    let world = world(Mode::Classic).await;
    let app = world.apps[0].clone();
    // The save after the next rotation fails, and is tried again every few seconds.
    world.disk.broken.store(true, Ordering::Relaxed);
    sleep(Duration::from_mins(90)).await;
    strike(&world, Fault::new(Kind::Hang).on(Endpoint::Classic));
    let watch = world.tokens().watch(&app.name).unwrap();
    let due = watch.borrow().retry_at.unwrap();
    let shortly_before = due - Duration::from_millis(100);
    sleep(shortly_before.since(world.now().boot)).await;
    world.disk.broken.store(false, Ordering::Relaxed);
    while world.disk.note(&app.account.appid).is_none() {
        sleep(Duration::from_millis(10)).await;
    }
    // The fetch hangs for ten seconds; no save may come between.
    for _ in 0..95 {
        sleep(Duration::from_millis(100)).await;
        let note = world.disk.note(&app.account.appid);
        assert!(note.is_some(), "the note is gone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_saves_what_could_not_be_saved_before() {
    let mut world = world(Mode::Classic).await;
    world.disk.broken.store(true, Ordering::Relaxed);
    sleep(Duration::from_mins(90)).await;
    let seen = generation(&world).await;
    world.disk.broken.store(false, Ordering::Relaxed);
    world.stop().await;
    world.start().await;
    assert_eq!(generation(&world).await, seen);
}

#[tokio::test(start_paused = true)]
async fn a_report_is_answered_when_the_token_it_is_about_dies_of_age() {
    let world = world(Mode::Stable).await;
    let app = world.apps[0].clone();
    let stale = Stale::Generation(generation(&world).await);
    strike(&world, Fault::errcode(99999).on(Endpoint::Stable));
    sleep(Duration::from_secs(7199)).await;
    world
        .model()
        .revoke(world.at(), &app.account.appid, app.pool());
    let report = StaleReport {
        stale,
        errcode: 40001,
        leaked: false,
    };
    let answer = world.tokens().report(&app.name, report);
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
    assert!(answer.expect("there is an answer").is_err());
}
