//! Time: lives are spans that begin when WeChat is asked, whatever a clock on a wall shows.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use wxtokend::{
    clock::Clock,
    domain::{AppName, Generation, Moment, Now, Secret, Token},
    sandbox::{Knobs, Settings},
    tokens::{self, Current, View},
};

use super::shop::{BOTH, Shop, incurious};

/// linkerd/linkerd2#3980: certificates "not yet valid" on a node whose clock was wrong. Guard: lives are
/// measured by boot time, `View::usable` in `tokens/view.rs`; wall time is shown and never asked.
/// Without the guard (`expire_time` against the wall clock): no token, once the clock was set forward.
#[tokio::test(start_paused = true)]
async fn linkerd2_3980_a_wrong_wall_clock_neither_ends_nor_prolongs_a_life() {
    let year = Duration::from_hours(365 * 24);
    let life = Duration::from_hours(2);
    let boot = Moment::since_boot(year);
    let set = SystemTime::UNIX_EPOCH + 50 * year;
    // What the clock showed when the token came.
    for wall in [set - year, set, set + year] {
        let shop = AppName::parse("shop").unwrap();
        let clock = Clock::simulated(Now { boot, wall: set });
        let (tokens, publisher) = tokens::channel([(shop.clone(), "wx1".into())], clock);
        let token = Token {
            value: Secret::new("70_token"),
            generation: Generation(1),
            asked_at: boot,
            expires_at: boot + life,
            issue_time: wall,
            expire_time: wall + life,
        };
        let current = Current {
            token: token.into(),
            keep_until: boot + life,
            keep_at_most: None,
            certain_until: None,
            doubt: None,
            previous_expires_at: None,
            published_at: boot,
            dead: false,
        };
        let view = View {
            current: Some(current),
            settled: true,
            ..View::default()
        };
        publisher.publish(&shop, view);
        sleep(life / 2).await;
        let issued = tokens.current(&shop, Duration::ZERO).await.unwrap();
        assert_eq!(issued.time_to_live, life / 2);
        sleep(life / 2).await;
        assert!(tokens.current(&shop, Duration::ZERO).await.is_err());
    }
}

/// node-webot/wechat-oauth PR#28: the life was counted from the answer, so the token died earlier than its
/// holder believed. Guard: `expires_at` begins at the sending, `Slot::fetched` in `domain/slot/outcome.rs`.
/// Without the guard (it begins at the arrival): 7,200 s left after an answer that took 4 s.
#[tokio::test(start_paused = true)]
async fn wechat_oauth_28_a_life_is_counted_from_the_request_and_not_from_the_answer() {
    for mode in BOTH {
        let slow = Duration::from_secs(4);
        let mut shop = Shop::closed(Settings::default(), incurious(mode));
        shop.turn(&Knobs {
            latency: Some(slow),
            ..Knobs::default()
        });
        shop.world.start().await;
        let issued = shop.token_within(Duration::from_secs(10)).await.unwrap();
        let longest = Duration::from_hours(2).abs_diff(slow);
        assert!(issued.time_to_live <= longest, "{:?}", issued.time_to_live);
        // Whatever we say, WeChat agrees.
        sleep(issued.time_to_live.abs_diff(Duration::from_millis(1))).await;
        let alive = shop.world.alive(shop.app(), &issued.token.value);
        let replaced = shop.generation().await > issued.token.generation;
        assert!(alive || replaced, "{mode:?}");
    }
}
