//! What readers get meanwhile: the token in force, at once, until its last second.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use wxtokend::{
    domain::{Mode, Policy},
    sandbox::{Endpoint, Fault, Kind, Knobs, Outage, Settings},
    tokens::NoToken,
};

use super::shop::{BOTH, LIFE, Shop, every, incurious, policy, shortly_before_the_refresh};
use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// hashicorp/vault#10918: renewal gave up after a minute although the lease was still good, and revoked
/// it. Guard: `Slot::failed` keeps the token and always sets a next attempt, `domain/slot/outcome.rs`.
/// Without the guard (the token is dropped at the tenth failure): no token minutes before its end.
#[tokio::test(start_paused = true)]
async fn vault_10918_a_token_is_served_to_its_last_second_and_attempts_go_on() {
    for mode in BOTH {
        let start = Instant::now();
        let shop = Shop::open(mode).await;
        sleep(shortly_before_the_refresh(mode)).await;
        shop.wechat_is(Outage::Refuse);
        let last_minutes = start + LIFE - Duration::from_mins(4);
        while Instant::now() < last_minutes {
            assert!(shop.is_served().await, "{mode:?}");
            sleep(SECOND).await;
        }
        let before = shop.counts().fetches();
        sleep_until(start + LIFE - SECOND).await;
        assert!(shop.is_served().await, "{mode:?}");
        let attempts = shop.counts().fetches() - before;
        assert!(attempts >= 5, "{mode:?}: {attempts} in the last minutes");
        sleep(2 * SECOND).await;
        let told = shop.token().await;
        assert!(matches!(told, Err(NoToken::Missing { .. })), "{told:?}");
    }
}

/// linkerd/linkerd2#13136: proxies whose certificate had expired could not reach the service that gives
/// new ones. Guard: `Condition::Lost` asks with the AppSecret alone, `Slot::ask_at` in `domain/slot/mod.rs`.
/// Without the guard (only a living token is replaced): no token two minutes after the outage, nor later.
#[tokio::test(start_paused = true)]
async fn linkerd2_13136_to_recover_does_not_take_a_living_token() {
    for mode in BOTH {
        let shop = Shop::open(mode).await;
        shop.wechat_is(Outage::Cut);
        sleep(Duration::from_hours(24)).await;
        assert!(shop.token().await.is_err());
        shop.wechat_is(Outage::None);
        sleep(policy(mode).ceiling + policy(mode).timeout).await;
        assert!(shop.is_served().await, "{mode:?}");
    }
}

/// home-operations/kopiur#319: 50 restarts in 68 hours because one call of an API hung. Guard: fetches,
/// looks and saves run beside the loop, `App::start_what_is_due` in `refresher/app/mod.rs`.
/// Without the guard (nothing is started while anything is under way): the other app has no token after
/// its first one.
#[tokio::test(start_paused = true)]
async fn kopiur_319_an_app_whose_calls_hang_delays_no_other() {
    for mode in BOTH {
        fastrand::seed(1);
        let patient = Policy {
            timeout: Duration::from_hours(6),
            ..policy(mode)
        };
        let settings = Settings {
            hang: Duration::from_hours(12),
            ..Settings::default()
        };
        let apps = [("stuck", patient), ("shop", policy(mode))];
        let mut world = World::new(settings, &apps, 1);
        let (stuck, shop) = (world.apps[0].clone(), world.apps[1].clone());
        let at = world.at();
        let hang = Fault {
            appid: Some(stuck.account.appid.clone()),
            ..Fault::new(Kind::Hang)
        };
        let knobs = Knobs {
            faults: vec![hang],
            ..Knobs::default()
        };
        world.model().turn(at, &knobs).unwrap();
        world.start().await;
        every(
            Duration::from_secs(10),
            Duration::from_hours(24),
            || async {
                let issued = world.tokens().current(&shop.name, SECOND).await;
                let token = issued.expect("a token").token;
                assert!(world.alive(&shop, &token.value), "{mode:?}");
            },
        )
        .await;
    }
}

/// binarywang/WxJava#324: a forced refresh deleted the token first, so everybody else failed meanwhile.
/// Guard: a token is replaced only by a later one; `Slot::start_ask` leaves it where it is.
/// Without the guard (`start_ask` takes it away): no token while the answer is out.
#[tokio::test(start_paused = true)]
async fn wxjava_324_the_old_token_is_served_while_a_new_one_is_fetched() {
    for mode in BOTH {
        let shop = Shop::with(Settings::default(), incurious(mode)).await;
        let first = shop.generation().await;
        shop.strike(Fault::new(Kind::Hang));
        let refresh = shortly_before_the_refresh(mode) + Duration::from_mins(1);
        sleep(refresh + SECOND).await;
        every(SECOND, Duration::from_mins(1), || async {
            assert_eq!(shop.generation().await, first, "{mode:?}");
            assert!(shop.is_served().await, "{mode:?}");
        })
        .await;
        assert!(shop.counts().fetches() > 1, "it was asked meanwhile");
    }
}

/// binarywang/WxJava#3043: threads hung in `getAccessToken` while WeChat was slow, and nobody could log
/// in. Guard: the patience of `Tokens::current`, `tokens/mod.rs`.
/// Without the guard (it waits for the first outcome): 10 s instead of one.
#[tokio::test(start_paused = true)]
async fn wxjava_3043_before_the_first_token_a_caller_waits_as_long_as_it_says() {
    for mode in BOTH {
        let mut shop = Shop::closed(Settings::default(), policy(mode));
        shop.wechat_is(Outage::Hang);
        shop.world.start().await;
        for patience in [Duration::ZERO, SECOND, 3 * SECOND] {
            let asked = Instant::now();
            let told = shop.token_within(patience).await;
            assert!(matches!(told, Err(NoToken::Missing { .. })), "{told:?}");
            let took = asked.elapsed();
            assert!(took <= patience + SECOND / 100, "{took:?}");
        }
    }
}

/// binarywang/WxJava#1582: thousands of threads queued for the lock of a refresh that did not end.
/// Guard: readers look into memory and ask nobody, `Tokens::current` in `tokens/mod.rs`.
/// Without the guard (it waits for the next news as well): the readers are still there after a second.
#[tokio::test(start_paused = true)]
async fn wxjava_1582_ten_thousand_readers_wait_for_nobody_while_a_fetch_hangs() {
    for mode in BOTH {
        let shop = Shop::with(Settings::default(), incurious(mode)).await;
        shop.strike(Fault::new(Kind::Hang));
        let refresh = shortly_before_the_refresh(mode) + Duration::from_mins(1);
        sleep(refresh + SECOND).await;
        let asked = Instant::now();
        for _ in 0..10_000 {
            let token = shop.token_within(10 * SECOND).await;
            assert!(token.is_ok(), "{token:?}");
        }
        assert_eq!(asked.elapsed(), Duration::ZERO, "{mode:?}");
    }
}

/// binarywang/WxJava#3888: the second and third caller waited a minute for a lock in Redis; in #1845 its
/// pool was exhausted and everything stood still. Guards: readers never touch the store, and a save is
/// given up in time, `Adapters::save` in `refresher/obtain.rs`.
/// Without the guard (a save is waited for): no new token after the planned refresh.
#[tokio::test(start_paused = true)]
async fn wxjava_3888_a_store_that_does_not_answer_holds_up_neither_readers_nor_rotations() {
    for mode in BOTH {
        let shop = Shop::with(Settings::default(), incurious(mode)).await;
        let first = shop.generation().await;
        shop.world.disk.stuck.store(true, Ordering::Relaxed);
        sleep(shortly_before_the_refresh(mode)).await;
        every(SECOND, Duration::from_mins(2), || async {
            let asked = Instant::now();
            assert!(shop.is_served().await, "{mode:?}");
            assert_eq!(asked.elapsed(), Duration::ZERO);
        })
        .await;
        assert!(shop.generation().await > first, "{mode:?}");
    }
}

/// binarywang/WxJava#229: a token was checked, expired, and then read: null. Guard: token and expiry are
/// one view, judged at one moment, `View::usable` in `tokens/view.rs`.
/// Without the guard (`>=`): a token without any life is handed out at its last instant.
#[tokio::test(start_paused = true)]
async fn wxjava_229_a_token_that_is_handed_out_has_some_life_left() {
    let shop = Shop::open(Mode::Classic).await;
    shop.wechat_is(Outage::Refuse);
    let expires_at = shop.token().await.unwrap().token.expires_at;
    let edge = expires_at.since(shop.world.now().boot);
    sleep(edge.checked_sub(SECOND / 100).unwrap()).await;
    let mut seen = [false, false];
    for _ in 0..20 {
        let now = shop.world.now().boot;
        let told = shop.token().await;
        if let Ok(issued) = &told {
            assert!(issued.time_to_live > Duration::ZERO, "{issued:?}");
            assert_eq!(issued.time_to_live, expires_at.since(now));
        }
        assert_eq!(told.is_ok(), now < expires_at);
        seen[usize::from(told.is_ok())] = true;
        sleep(SECOND / 1000).await;
    }
    assert_eq!(seen, [true, true], "both sides of the edge");
}

/// w7corp/easywechat#129 and many more: SDKs that know no 42001 or no 40001 go on with a dead token. Guard:
/// the next one is there before that happens, `Policy::planned` in `domain/schedule.rs`.
/// Without the guard (planned at the expiry): a refused token after two hours.
#[tokio::test(start_paused = true)]
async fn easywechat_129_a_program_that_never_reports_never_meets_a_refused_token() {
    for mode in BOTH {
        let shop = Shop::open(mode).await;
        every(5 * SECOND, Duration::from_hours(48), || async {
            assert!(shop.is_served().await, "{mode:?}");
        })
        .await;
        assert!(shop.counts().mints() >= 24, "{mode:?}");
    }
}

/// liyiorg/weixin-popular PR#199: one refresh failed, nobody tried again, and the token died. Guard: the
/// next attempt that `Slot::failed` sets, `domain/slot/outcome.rs`.
/// Without the guard (it waits a day): the token of the beginning is still there a minute later.
#[tokio::test(start_paused = true)]
async fn weixin_popular_199_a_refresh_that_failed_is_tried_again_within_the_remaining_life() {
    for mode in BOTH {
        let shop = Shop::with(Settings::default(), incurious(mode)).await;
        let first = shop.generation().await;
        let endpoint = match mode {
            Mode::Classic => Endpoint::Classic,
            Mode::Stable => Endpoint::Stable,
        };
        shop.strike(Fault::errcode(-1).on(endpoint).times(3));
        sleep(shortly_before_the_refresh(mode) + Duration::from_mins(2)).await;
        assert!(shop.generation().await > first, "{mode:?}");
        assert!(shop.is_served().await, "{mode:?}");
    }
}
