//! Which token wins: the later one, whoever fetched it, whenever its news arrives.

use std::{fs, sync::atomic::Ordering, time::Duration};

use tokio::{task::JoinSet, time::sleep};
use wxtokend::{
    clock::Clock,
    config,
    domain::{Generation, Mode, Record, Secret, Token, report::Stale},
    sandbox::{Knobs, Settings},
    store,
    tokens::Outcome,
};

use super::shop::{BOTH, Shop, incurious, policy};

/// binarywang/WxJava#369: instances fetched at the same time and the older answer overwrote the newer one.
/// Guard: one fetch at a time, `Slot::ask_at` and `App::fetching`.
/// Without the guard (both ignored): 11 fetches at once.
#[tokio::test(start_paused = true)]
async fn wxjava_369_there_is_one_fetch_at_a_time_whatever_callers_do() {
    for mode in BOTH {
        let shop = Shop::open(mode).await;
        shop.turn(&Knobs {
            latency: Some(Duration::from_secs(3)),
            ..Knobs::default()
        });
        let (mut crowd, mut last) = (JoinSet::new(), Generation::default());
        for second in 0..1200 {
            if second % 100 == 20 {
                shop.revoke();
            }
            if let Ok(issued) = shop.token().await {
                assert!(issued.token.generation >= last, "{mode:?}");
                last = issued.token.generation;
            }
            let reports = shop.crowd(3, last);
            crowd.spawn(reports.join_all());
            sleep(Duration::from_secs(1)).await;
        }
        assert!(shop.counts().mints() > 5, "{mode:?}");
        let most = shop.app().fetches.most.load(Ordering::Relaxed);
        assert_eq!(most, 1, "{mode:?}");
        let answers: Vec<_> = crowd.join_all().await;
        assert_eq!(answers.len(), 1200, "everybody is answered");
    }
}

/// binarywang/WxJava#963: who waited for the lock fetched again after its holder had. Guard: a report is
/// judged anew after everything that happens, `App::show` and the first question of `Slot::reported`.
/// Without the guard (any report is about the token in force): `StillValid`, after a look at the new one.
#[tokio::test(start_paused = true)]
async fn wxjava_963_who_waited_for_a_fetch_takes_its_result() {
    let shop = Shop::with(Settings::default(), incurious(Mode::Classic)).await;
    sleep(Duration::from_mins(10)).await;
    let dead = shop.generation().await;
    shop.turn(&Knobs {
        latency: Some(Duration::from_secs(3)),
        ..Knobs::default()
    });
    shop.revoke();
    let first = shop.crowd(100, dead);
    let before = shop.counts();
    while shop.counts().classic_fetches == before.classic_fetches {
        sleep(Duration::from_millis(100)).await;
    }
    // The fetch is under way.
    let second = shop.crowd(100, dead);
    for answers in [first, second] {
        for answer in answers.join_all().await {
            let (issued, outcome) = answer.unwrap();
            assert_eq!(outcome, Outcome::Refreshed);
            assert!(issued.token.generation > dead);
        }
    }
    sleep(Duration::from_mins(2)).await;
    assert_eq!(shop.counts().mints(), before.mints() + 1);
}

/// binarywang/WxJava#1300: a late 40001 expired a token that had been renewed already, and so on for
/// ever. Guard: compare and refresh, the first question of `Slot::reported` in `domain/slot/reported.rs`.
/// Without the guard: WeChat is asked, and the answer is `StillValid` instead of `AlreadyNewer`.
#[tokio::test(start_paused = true)]
async fn wxjava_1300_a_late_complaint_does_not_touch_a_renewed_token() {
    for mode in BOTH {
        let shop = Shop::with(Settings::default(), incurious(mode)).await;
        let old = shop.generation().await;
        sleep(Duration::from_mins(119)).await;
        let renewed = shop.generation().await;
        assert!(renewed > old);
        let before = shop.counts();
        for answer in shop.crowd(1000, old).join_all().await {
            let (issued, outcome) = answer.unwrap();
            assert_eq!(outcome, Outcome::AlreadyNewer, "{mode:?}");
            assert_eq!(issued.token.generation, renewed);
        }
        sleep(Duration::from_secs(20)).await;
        assert_eq!(shop.counts(), before, "{mode:?}: WeChat was asked");
    }
}

/// ArtisanCloud/PowerWeChat#244 asked for `RefreshAccessToken(oldToken)`: whoever holds a token and no
/// number names it by itself. Guard: `Stale::means`, `domain/report.rs`.
/// Without the guard (a value means whatever is in force): `StillValid` for a token long gone.
#[tokio::test(start_paused = true)]
async fn power_wechat_244_a_token_can_be_reported_by_itself() {
    for mode in BOTH {
        let shop = Shop::with(Settings::default(), incurious(mode)).await;
        let old = shop.token().await.unwrap().token;
        let by_itself = |token: &Token| Stale::Value(Secret::new(token.value.expose()));
        sleep(Duration::from_mins(119)).await;
        let (issued, outcome) = shop.report_as(by_itself(&old)).await.unwrap();
        assert_eq!(outcome, Outcome::AlreadyNewer, "{mode:?}");
        let before = shop.counts().mints();
        let present = by_itself(&issued.token);
        let (_, outcome) = shop.report_as(present).await.unwrap();
        assert_eq!(outcome, Outcome::StillValid, "{mode:?}");
        assert_eq!(shop.counts().mints(), before);
    }
}

/// binarywang/WxJava#866 and a third of all threads: a test system, or a colleague, fetches with the same
/// appid, our token dies young and nobody knows why (silenceper/wechat#790). Guards: the looks, and
/// `Slot::somebody_else_did` in `domain/slot/outcome.rs`.
/// Without the guards: a dead token until the planned refresh (no looks); nothing is counted (the other).
#[tokio::test(start_paused = true)]
async fn wxjava_866_a_token_that_somebody_else_retired_is_replaced_and_that_is_told() {
    for mode in BOTH {
        let shop = Shop::open(mode).await;
        sleep(Duration::from_mins(10)).await;
        // The second one ends a classic token on the spot.
        shop.foreign_fetch();
        sleep(Duration::from_secs(31)).await;
        shop.foreign_fetch();
        sleep(policy(mode).probe_every + Duration::from_secs(5)).await;
        assert!(shop.is_served().await, "{mode:?}");
        let page = crate::figures::counted(&shop.world.metrics, &["foreign_rotations_total"]);
        assert!(page.values().sum::<u64>() >= 1, "{mode:?}: {page:?}");
    }
}

/// gravitational/teleport#17866: a database was rolled back and everybody was locked out every few days.
/// Guards: a look after each start, and generations that count from the clock, `Generation::next`.
/// Without the guard (one more than the last): the order of the tokens goes back.
#[tokio::test(start_paused = true)]
async fn teleport_17866_a_store_from_a_backup_costs_seconds_and_turns_no_order_around() {
    let mut shop = Shop::open(Mode::Classic).await;
    let backup = shop.world.disk.backup();
    // Two rotations later its token is dead.
    sleep(Duration::from_mins(121)).await;
    let seen = shop.generation().await;
    shop.world.kill().await;
    shop.world.disk.put_back(backup.clone());
    shop.world.start().await;
    sleep(Duration::from_secs(10)).await;
    assert!(shop.is_served().await);
    assert!(shop.generation().await > seen);

    // One rotation later the copy claims that its token lives, and it does not.
    let backup = shop.world.disk.backup();
    sleep(Duration::from_mins(70)).await;
    let seen = shop.generation().await;
    shop.world.kill().await;
    shop.world.disk.put_back(backup);
    shop.world.start().await;
    sleep(Duration::from_secs(10)).await;
    assert!(shop.is_served().await);
    assert!(shop.generation().await > seen);
}

/// binarywang/WxJava#1473: a key without the appid, so one app got the token of another. Guard: the appid
/// inside each file, `snapshot::read` in `store/snapshot.rs`.
/// Without the guard: the record of the other app is loaded.
#[tokio::test]
async fn wxjava_1473_a_state_file_under_the_name_of_another_app_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let settings = config::Store::File { path };
    let store = store::open(&settings, Vec::new(), Clock::SYSTEM)
        .unwrap()
        .store();
    let record = record(Secret::new("70_token-of-wx1"));
    store.save("wx1", &record).await.unwrap();
    let file = |appid: &str| folder.path().join(format!("{appid}.json"));
    fs::copy(file("wx1"), file("wx2")).unwrap();
    assert!(store.load("wx2").await.unwrap().is_none());
    assert!(store.load("wx1").await.unwrap().is_some());
}

fn record(value: Secret) -> Record {
    let now = Clock::SYSTEM.now();
    let life = Duration::from_hours(2);
    let token = Token {
        value,
        generation: Generation(7),
        asked_at: now.boot,
        expires_at: now.boot + life,
        issue_time: now.wall,
        expire_time: now.wall + life,
    };
    Record {
        token: Some(token.into()),
        generation: Generation(7),
        ..Record::new(Mode::Stable)
    }
}
