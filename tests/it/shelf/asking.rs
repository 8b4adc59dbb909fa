//! How often WeChat is asked: whatever fails, whatever it answers, and whoever complains.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wxtokend::{
    domain::{Mode, Policy, Remedy, trouble::Refused},
    sandbox::{Endpoint, Fault, Kind, Outage, Settings},
};

use super::shop::{BOTH, LIFE, Shop, every, incurious, shortly_before_the_refresh};

const HOUR: Duration = Duration::from_hours(1);

/// hashicorp/vault#20645: the back-off was computed and thrown away, so a failed renewal was tried
/// again with no pause at all. Guard: `Policy::back_off`, `domain/schedule.rs`.
/// Without the guard (it returns the floor): 3,454 fetches in the hour.
#[tokio::test(start_paused = true)]
async fn vault_20645_a_failing_upstream_is_asked_no_more_than_the_formula_allows() {
    for mode in BOTH {
        for outage in [Outage::Refuse, Outage::Cut, Outage::Gateway, Outage::Hang] {
            let shop = Shop::open(mode).await;
            sleep(shortly_before_the_refresh(mode)).await;
            shop.wechat_is(outage);
            let before = shop.counts();
            sleep(HOUR).await;
            let after = shop.counts();
            let fetches = after.fetches() - before.fetches();
            let looks = after.looks - before.looks;
            assert!(
                (10..=80).contains(&fetches) && looks <= 90,
                "{mode:?} {outage:?}: {fetches} fetches, {looks} looks"
            );
        }
    }
}

/// hashicorp/consul PR #12607: the same storm by another slip, a pause of zero. Guard: the last `max` of
/// `Policy::back_off`, `domain/schedule.rs`.
/// Without the guard (no `max`): a pause of 0.95 s after the first failure, and of 0 s for a dying token.
#[test]
fn consul_12607_no_pause_after_a_failure_is_shorter_than_the_floor() {
    let floor = Policy::default().floor;
    let noon = std::time::SystemTime::UNIX_EPOCH + 20_000 * 24 * HOUR + 4 * HOUR;
    let remedies = [
        Remedy::BackOff,
        Remedy::NextMinute,
        Remedy::Slowly,
        Remedy::Refused(Refused::Credential),
        Remedy::IpList,
        Remedy::RiskPending,
        Remedy::DayQuota,
    ];
    for remedy in remedies {
        for failures in (0..70).chain([u32::MAX]) {
            for left in [0, 1, 500, 3000, 7_200_000].map(Duration::from_millis) {
                for (roll, second) in [(0.0, 0), (0.5, 59), (0.999, 12 * 3600 - 1)] {
                    let now = noon + Duration::from_secs(second);
                    let pause = Policy::default().pause(remedy, failures, left, now, roll);
                    assert!(pause >= floor, "{remedy:?} {failures} {left:?}: {pause:?}");
                }
            }
        }
    }
}

/// cert-manager#3396: a renewal point computed into the past made 50,000 requests in a month. Guards:
/// `life` in `upstream/reply.rs` believes no life that is none; `Slot::plan` keeps the floor.
/// Without the guards: 3,512 fetches an hour after a life of 0.
#[tokio::test(start_paused = true)]
async fn cert_manager_3396_no_stated_life_makes_the_refresher_spin() {
    // (what WeChat says, fetches an hour, whether there is a token)
    let table = [
        (r#","expires_in":0"#, 80, false),
        (r#","expires_in":-7200"#, 80, false),
        (r#","expires_in":"soon""#, 80, false),
        (r#","expires_in":7200.5"#, 80, false),
        (r#","expires_in":null"#, 80, false),
        ("", 80, false),
        // As often as the floor allows: nothing else keeps callers supplied.
        (r#","expires_in":1"#, 3601, true),
        (r#","expires_in":7200"#, 1, true),
        (r#","expires_in":"7200""#, 1, true),
        (r#","expires_in":1000000000"#, 1, true),
        (r#","expires_in":18446744073709551615"#, 1, true),
    ];
    for mode in BOTH {
        for (life, most, good) in table {
            let mut shop = Shop::closed(Settings::default(), incurious(mode));
            shop.strike(Fault {
                body: format!(r#"{{"access_token":"70_simulated"{life}}}"#),
                ..Fault::new(Kind::Reply)
            });
            shop.world.start().await;
            sleep(HOUR.abs_diff(Duration::from_secs(1))).await;
            let fetches = shop.counts().fetches();
            assert!(
                (1..=most).contains(&fetches),
                "{mode:?} {life}: {fetches} fetches"
            );
            let mut seen = false;
            for _ in 0..20 {
                seen |= shop.token().await.is_ok();
                sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(seen, good, "{mode:?} {life}");
        }
    }
}

/// google-auth-library-java#749: the client refreshed before the server changed the token, got the same
/// one again and took it for news. Guard: the comparison in `Slot::fetched`, `domain/slot/outcome.rs`.
/// Without the guard (every answer is a rotation): the generation has changed after the first repetition.
#[tokio::test(start_paused = true)]
async fn google_auth_749_a_token_that_wechat_repeats_is_no_rotation() {
    let shop = Shop::open(Mode::Stable).await;
    let first = shop.generation().await;
    let mut news = shop.world.tokens().watch(&shop.app().name).unwrap();
    news.mark_unchanged();
    // WeChat changes it five minutes before its end.
    sleep(Duration::from_mins(114)).await;
    let asked = shop.counts().stable_fetches;
    assert!((100..=120).contains(&asked), "{asked} fetches");
    assert_eq!(shop.generation().await, first);
    assert!(!news.has_changed().unwrap(), "readers were woken");
    sleep(Duration::from_mins(2)).await;
    assert!(shop.generation().await > first);
    let asked = shop.counts().stable_fetches - asked;
    assert!(asked <= 6, "{asked} fetches around the change");
}

/// AzureAD/microsoft-authentication-library-for-dotnet#4196: refreshes in a convoy, so many that the
/// identity provider answered 429 for good. Guard: reports join what is under way and take its result,
/// `Slot::reported` in `domain/slot/reported.rs`.
/// Without the guard (any report is about the token in force): a fourth look, at the new token.
#[tokio::test(start_paused = true)]
async fn msal_dotnet_4196_a_thousand_reports_of_a_dead_token_are_one_fetch() {
    for mode in BOTH {
        let shop = Shop::with(Settings::default(), incurious(mode)).await;
        sleep(Duration::from_mins(10)).await;
        let dead = shop.generation().await;
        shop.revoke();
        let before = shop.counts();
        for answer in shop.crowd(1000, dead).join_all().await {
            let (issued, _) = answer.expect("there is a new one");
            assert!(issued.token.generation > dead);
        }
        let after = shop.counts();
        assert_eq!(after.looks - before.looks, 3, "{mode:?}");
        // Stable: first in the way that harms nothing.
        let fetches = after.fetches() - before.fetches();
        assert!(fetches <= 2, "{mode:?}: {fetches}");
        assert_eq!(after.mints() - before.mints(), 1, "{mode:?}");
    }
}

/// node-webot/wechat-api#179: everybody who met the expired token fetched, and the day's quota was gone.
/// Guard: a report without a token to judge hurries nothing, `Slot::without_token` in
/// `domain/slot/reported.rs`.
/// Without the guard (a report sets the next attempt to now): 3,514 fetches in half an hour.
#[tokio::test(start_paused = true)]
async fn wechat_api_179_callers_at_the_edge_of_expiry_cost_no_fetch() {
    for mode in BOTH {
        let shop = Shop::open(mode).await;
        let last = shop.generation().await;
        sleep(shortly_before_the_refresh(mode)).await;
        shop.wechat_is(Outage::Refuse);
        sleep(LIFE.abs_diff(shortly_before_the_refresh(mode))).await;
        let before = shop.counts().fetches();
        every(Duration::from_secs(1), HOUR / 2, || async {
            for answer in shop.crowd(10, last).join_all().await {
                assert!(answer.is_err(), "there is no token");
            }
        })
        .await;
        let fetches = shop.counts().fetches() - before;
        assert!((20..=40).contains(&fetches), "{mode:?}: {fetches} fetches");
    }
}

/// silenceper/wechat#762: Redis had a hiccup, so every request fetched until the daily quota was gone.
/// Guard: a token that cannot be saved is served from memory and saved later, `App::on_saved` in
/// `refresher/app/saving.rs`.
/// Without the guard (what cannot be saved is forgotten): no token after the planned refresh.
#[tokio::test(start_paused = true)]
async fn silenceper_762_a_failing_store_costs_no_fetch_and_no_token() {
    let shop = Shop::with(Settings::default(), incurious(Mode::Classic)).await;
    shop.world.disk.broken.store(true, Ordering::Relaxed);
    every(
        Duration::from_secs(10),
        Duration::from_mins(100),
        || async {
            assert!(shop.is_served().await);
        },
    )
    .await;
    assert_eq!(shop.counts().fetches(), 2, "the first, and the planned one");
}

/// wechatpy PR#152: a central server handed out a bad token; the SDK asked, failed and asked again until
/// the web server was down. Guards: the growing gap between replacements and the day's budget,
/// `domain/budget.rs`.
/// Without the guards (a gap of 0 s): 203 new tokens in six hours.
#[tokio::test(start_paused = true)]
async fn wechatpy_152_programs_that_report_every_token_cannot_make_it_loop() {
    for mode in BOTH {
        let shop = Shop::open(mode).await;
        shop.strike(Fault::errcode(40001).on(Endpoint::Business));
        let end = Instant::now() + 6 * HOUR;
        while Instant::now() < end {
            if let Ok(issued) = shop.token().await {
                // Whatever the answer is, they come again at once.
                drop(shop.report(issued.token.generation).await);
            }
            sleep(Duration::from_secs(1)).await;
        }
        let counts = shop.counts();
        let mints = counts.mints();
        assert!((5..=90).contains(&mints), "{mode:?}: {mints} mints");
        let fetches = counts.fetches();
        assert!(fetches <= 800, "{mode:?}: {fetches} fetches");
    }
}

/// royalrick/weapp#105: 45009, and no way to use the account until midnight. Guards: the class of 45009 in
/// `upstream/errcode.rs`, its pause in `Policy::pause`; the token in force stays.
/// Without the guard (an errcode like -1): `UNAVAILABLE`, as if it were to pass, and a fetch a minute.
#[tokio::test(start_paused = true)]
async fn weapp_105_a_used_up_day_quota_is_asked_about_hourly_and_ends_at_midnight() {
    let settings = Settings {
        classic_per_day: 1,
        ..Settings::default()
    };
    // At noon in Beijing.
    let start = Instant::now();
    let shop = Shop::with(settings, incurious(Mode::Classic)).await;
    sleep_until(start + LIFE - Duration::from_secs(1)).await;
    assert!(shop.is_served().await, "the last token works");
    sleep(Duration::from_secs(2)).await;
    let status = Status::from(shop.token().await.unwrap_err());
    assert_eq!(status.code(), Code::FailedPrecondition);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["errcode"], "45009");
    assert!(info.metadata["hint"].contains("clear_quota"), "{info:?}");
    sleep_until(start + 12 * HOUR - Duration::from_secs(5)).await;
    let fetches = shop.counts().fetches();
    assert!((5..=13).contains(&fetches), "{fetches} fetches");
    sleep(Duration::from_secs(15)).await;
    assert!(shop.is_served().await, "a new day");
}

/// The same page of WeChat's community as above: the 21st forced refresh of a day is refused with 45009. Guards:
/// `FORCED_A_DAY` and `FORCED_GAP` in `domain/budget.rs`, in a ledger that the note of each fetch holds.
/// Without the guards (a budget of 1000, a gap of 1 s): forced refreshes 13 s apart.
#[tokio::test(start_paused = true)]
async fn weapp_105_forced_refreshes_are_20_a_day_and_30_s_apart_across_restarts() {
    let mut shop = Shop::with(Settings::default(), incurious(Mode::Stable)).await;
    let (mut forced, mut forced_at) = (0, None::<Instant>);
    for round in 0..100 {
        sleep(Duration::from_secs(11)).await;
        shop.revoke();
        if let Ok(issued) = shop.token().await {
            drop(shop.report(issued.token.generation).await);
        }
        let now = shop.counts().forced_fetches;
        if now > forced {
            let apart = forced_at.map_or(Duration::MAX, |at| at.elapsed());
            assert!(apart >= Duration::from_secs(30), "{apart:?} apart");
            assert_eq!(now, forced + 1);
            (forced, forced_at) = (now, Some(Instant::now()));
        }
        if round % 7 == 6 {
            shop.restart().await;
        }
    }
    assert_eq!(forced, 20);
}

/// node-webot/co-wechat-api#12: every process that started fetched, and killed the token of the running
/// ones. Guard: `Slot::restored`, `domain/slot/restore.rs`.
/// Without the guard (it keeps the generation only): no token at the start, and one more fetch.
#[tokio::test(start_paused = true)]
async fn co_wechat_api_12_a_new_start_fetches_nothing_and_moves_no_expiry() {
    for mode in BOTH {
        let mut shop = Shop::with(Settings::default(), incurious(mode)).await;
        let first = shop.token().await.unwrap().token;
        for _ in 0..10 {
            sleep(Duration::from_mins(1)).await;
            shop.restart().await;
            let again = shop.token().await.unwrap().token;
            assert_eq!(again.value, first.value);
            assert_eq!(again.generation, first.generation);
            assert_eq!(again.expires_at, first.expires_at);
        }
        assert_eq!(shop.counts().fetches(), 1, "{mode:?}");
    }
}
