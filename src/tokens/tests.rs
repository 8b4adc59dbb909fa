//! The seam on a paused clock.

use std::time::SystemTime;

use tokio::time::{Instant, advance};

use super::*;
use crate::domain::{Generation, Remedy, Secret, Token, Trouble, report::Stale, slot::Doubt};

fn shop() -> AppName {
    AppName::parse("shop").unwrap()
}

fn pair() -> (Tokens, Publisher) {
    let apps = [
        (shop(), "wx1".to_owned()),
        (AppName::parse("other").unwrap(), "wx2".to_owned()),
    ];
    let start = Now {
        boot: Moment::since_boot(Duration::from_secs(500)),
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(9001),
    };
    channel(apps, Clock::simulated(start))
}

/// A token with a life of 100 s, and what may be said of it.
fn alive(now: Now, generation: u64) -> View {
    let life = Duration::from_secs(100);
    let token = Token {
        value: Secret::new("t"),
        generation: Generation(generation),
        asked_at: now.boot,
        expires_at: now.boot + life,
        issue_time: now.wall,
        expire_time: now.wall + life,
    };
    let current = Current {
        keep_at_most: None,
        certain_until: None,
        doubt: None,
        token: Arc::new(token),
        keep_until: now.boot + Duration::from_secs(40),
        published_at: now.boot,
        previous_expires_at: Some(now.boot + Duration::from_secs(5)),
        dead: false,
    };
    View {
        current: Some(current),
        settled: true,
        ..View::default()
    }
}

fn failed() -> View {
    let trouble = Trouble {
        remedy: Remedy::BackOff,
        errcode: Some(-1),
        definite: true,
        message: "WeChat is busy".into(),
        hint: None,
    };
    View {
        trouble: Some(Arc::new(trouble)),
        settled: true,
        ..View::default()
    }
}

fn report(generation: u64) -> StaleReport {
    StaleReport {
        stale: Stale::Generation(Generation(generation)),
        errcode: 40001,
        leaked: false,
    }
}

#[test]
fn an_app_answers_to_its_name_and_to_its_appid() {
    let (tokens, _publisher) = channel([(shop(), "wx1".to_owned())], Clock::SYSTEM);
    assert_eq!(tokens.resolve("shop").unwrap(), shop());
    assert_eq!(tokens.resolve("wx1").unwrap(), shop());
    let error = tokens.resolve("shop2").unwrap_err();
    assert_eq!(error.to_string(), "no app named `shop2` is configured here");
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_the_first_outcome_and_never_again() {
    let (tokens, publisher) = pair();
    let (app, start) = (shop(), Instant::now());
    let patience = Duration::from_secs(3);
    let error = tokens.current(&app, patience).await.unwrap_err();
    assert!(matches!(error, NoToken::Missing { trouble: None, .. }));
    assert_eq!(start.elapsed(), patience);
    let error = tokens.current(&app, Duration::MAX).await;
    assert!(error.is_err() && start.elapsed() == patience + FIRST_OUTCOME);

    let waiting = tokens.current(&app, FIRST_OUTCOME);
    let late = async {
        advance(Duration::from_secs(2)).await;
        publisher.publish(&app, failed());
    };
    let (answer, ()) = tokio::join!(waiting, late);
    let error = answer.unwrap_err();
    assert_eq!(error.to_string(), "there is no valid token: WeChat is busy");
    let now = Instant::now();
    assert!(tokens.current(&app, FIRST_OUTCOME).await.is_err());
    assert_eq!(now.elapsed(), Duration::ZERO, "an outcome is known");
}

#[tokio::test(start_paused = true)]
async fn spans_are_those_of_the_moment_of_asking() {
    let (tokens, publisher) = pair();
    publisher.publish(&shop(), alive(tokens.now(), 1));
    advance(Duration::from_secs(30)).await;
    let issued = tokens.current(&shop(), Duration::ZERO).await.unwrap();
    assert_eq!(issued.time_to_live, Duration::from_secs(70));
    assert_eq!(issued.keep_for, Duration::from_secs(10));
    let previous = SystemTime::UNIX_EPOCH + Duration::from_secs(9006);
    assert_eq!(issued.previous_expire_time, Some(previous));
    advance(Duration::from_secs(30)).await;
    let issued = tokens.current(&shop(), Duration::ZERO).await.unwrap();
    assert_eq!(issued.keep_for, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn neither_an_expired_nor_a_dead_token_is_handed_out() {
    let (tokens, publisher) = pair();
    let mut view = alive(tokens.now(), 1);
    publisher.publish(&shop(), view.clone());
    assert!(tokens.usable(&shop()));
    view.current.as_mut().unwrap().dead = true;
    publisher.publish(&shop(), view);
    assert!(!tokens.usable(&shop()));
    assert!(tokens.current(&shop(), Duration::ZERO).await.is_err());

    publisher.publish(&shop(), alive(tokens.now(), 2));
    advance(Duration::from_millis(99_999)).await;
    assert!(tokens.current(&shop(), Duration::ZERO).await.is_ok());
    advance(Duration::from_millis(1)).await;
    assert!(tokens.current(&shop(), Duration::ZERO).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_token_is_still_answered_while_an_attempt_has_failed_and_the_owner_is_gone() {
    let (tokens, publisher) = pair();
    let trouble = failed().trouble;
    let view = View {
        trouble,
        ..alive(tokens.now(), 1)
    };
    publisher.publish(&shop(), view);
    drop(publisher);
    assert!(tokens.current(&shop(), Duration::ZERO).await.is_ok());
    let other = AppName::parse("other").unwrap();
    let error = tokens.current(&other, FIRST_OUTCOME).await.unwrap_err();
    assert!(matches!(error, NoToken::Draining), "nothing will come");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_time_to_the_next_attempt_but_never_zero() {
    let (tokens, _publisher) = pair();
    let wait = |retry_at| {
        let view = View {
            retry_at,
            ..failed()
        };
        match tokens.answer(&view) {
            Err(NoToken::Missing { retry_after, .. }) => retry_after.as_millis(),
            other => panic!("{other:?}"),
        }
    };
    let now = tokens.now().boot;
    assert_eq!(wait(Some(now + Duration::from_secs(7))), 7000);
    assert_eq!(wait(Some(now - Duration::from_secs(7))), 1000);
    assert_eq!(wait(None), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_report_is_answered_with_the_token_in_force_afterwards() {
    let (tokens, mut publisher) = pair();
    publisher.publish(&shop(), alive(tokens.now(), 1));
    let app = shop();
    let owner = async {
        let reported = publisher.reports.recv().await.unwrap();
        assert_eq!(reported.app, shop());
        publisher.publish(&shop(), alive(tokens.now(), 2));
        reported.reply.send(Ok(Outcome::Refreshed)).unwrap();
    };
    let (answer, ()) = tokio::join!(tokens.report(&app, report(1)), owner);
    let (issued, outcome) = answer.unwrap();
    assert_eq!(outcome, Outcome::Refreshed);
    assert_eq!(issued.token.generation, Generation(2));

    let owner = async {
        let reported = publisher.reports.recv().await.unwrap();
        reported
            .reply
            .send(Err(NoToken::NotATokenError(1)))
            .unwrap();
    };
    let (answer, ()) = tokio::join!(tokens.report(&app, report(1)), owner);
    assert!(matches!(answer, Err(NoToken::NotATokenError(1))));
}

#[tokio::test(start_paused = true)]
async fn a_report_to_an_owner_that_ends_is_told_so() {
    let (tokens, mut publisher) = pair();
    let app = shop();
    let owner = async { drop(publisher.reports.recv().await.unwrap()) };
    let (answer, ()) = tokio::join!(tokens.report(&app, report(1)), owner);
    assert!(matches!(answer, Err(NoToken::Draining)), "dropped unread");
    drop(publisher);
    let answer = tokens.report(&app, report(1)).await;
    assert!(matches!(answer, Err(NoToken::Draining)), "nobody listens");
}

#[tokio::test(start_paused = true)]
async fn ready_needs_every_app_settled_one_usable_and_no_end_in_sight() {
    let (tokens, publisher) = pair();
    let other = AppName::parse("other").unwrap();
    publisher.publish(&shop(), alive(tokens.now(), 1));
    assert!(!tokens.ready(), "nothing is known of `other`");
    publisher.publish(&other, failed());
    assert!(tokens.ready());
    publisher.publish(&shop(), failed());
    assert!(!tokens.ready(), "no token is usable");
    publisher.publish(&other, alive(tokens.now(), 1));
    assert!(tokens.ready());
    publisher.drain();
    assert!(!tokens.ready() && *tokens.draining().borrow());
}

#[tokio::test(start_paused = true)]
async fn the_owner_counts_as_stuck_after_a_minute_without_a_turn() {
    let (tokens, publisher) = pair();
    advance(Duration::from_secs(59)).await;
    assert!(tokens.alive());
    advance(Duration::from_secs(1)).await;
    assert!(!tokens.alive());
    publisher.beat(tokens.now().boot);
    assert!(tokens.alive());
}

#[tokio::test(start_paused = true)]
async fn a_token_counts_as_published_when_its_generation_came_and_not_when_more_is_said_of_it() {
    let (tokens, publisher) = pair();
    let seen = || tokens.view(&shop()).current.unwrap().published_at;
    let first = tokens.now().boot;
    publisher.publish(&shop(), alive(tokens.now(), 1));
    assert_eq!(seen(), first);
    advance(Duration::from_secs(5)).await;
    let mut dead = alive(tokens.now(), 1);
    dead.current.as_mut().unwrap().dead = true;
    publisher.publish(&shop(), dead);
    assert_eq!(seen(), first, "the same token");
    advance(Duration::from_secs(5)).await;
    publisher.publish(&shop(), alive(tokens.now(), 2));
    assert_eq!(seen(), first + Duration::from_secs(10));
}

/// A token that has been in doubt for ten seconds; the last look at it was sent `ago`, and may be two seconds old.
fn in_doubt(now: Now, ago: u64) -> View {
    let mut view = alive(now, 1);
    if let Some(current) = &mut view.current {
        current.doubt = Some(Doubt {
            since: now.boot - Duration::from_secs(10),
            accepted: Some(now.boot - Duration::from_secs(ago)),
            age: Duration::from_secs(2),
        });
    }
    view
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_a_token_in_doubt_gets_it_once_wechat_has_accepted_it_again() {
    const LOOK: Duration = Duration::from_millis(300);
    let (tokens, publisher) = pair();
    publisher.publish(&shop(), in_doubt(tokens.now(), 3));
    for alive in [true, false] {
        let owner = async {
            publisher.doubts.wanted().await;
            assert_eq!(publisher.doubts.take(), [shop()]);
            // What does not matter to them wakes nobody for good.
            publisher.publish(&shop(), in_doubt(tokens.now(), 3));
            advance(LOOK).await;
            let mut view = in_doubt(tokens.now(), 0);
            view.current.as_mut().unwrap().dead = !alive;
            publisher.publish(&shop(), view);
        };
        let asked = Instant::now();
        let app = shop();
        let readers = tokio::join!(
            tokens.current(&app, FIRST_OUTCOME),
            tokens.current(&app, FIRST_OUTCOME),
            owner
        );
        assert_eq!(asked.elapsed(), LOOK);
        assert_eq!(readers.0.is_ok(), alive);
        assert_eq!(readers.1.is_ok(), alive);
        publisher.publish(&shop(), in_doubt(tokens.now(), 3));
        publisher.doubts.take();
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_word_that_is_fresh_or_not_to_come_and_an_aging_one_is_renewed() {
    // When the last look was sent, how long a patient reader waits, and whether the owner hears of it.
    let table = [
        (Some(0), Duration::ZERO, false),
        (Some(1), Duration::ZERO, false),
        (Some(2), Duration::ZERO, true),
        (Some(3), WORD, true),
        (None, WORD, true),
    ];
    for (ago, waits, heard) in table {
        let (tokens, publisher) = pair();
        let mut view = in_doubt(tokens.now(), ago.unwrap_or_default());
        if ago.is_none() {
            view.current
                .as_mut()
                .unwrap()
                .doubt
                .as_mut()
                .unwrap()
                .accepted = None;
        }
        publisher.publish(&shop(), view);
        let asked = Instant::now();
        let issued = tokens.current(&shop(), FIRST_OUTCOME).await;
        assert!(issued.is_ok(), "silence stops nobody");
        assert_eq!(asked.elapsed(), waits, "{ago:?} s ago");
        assert_eq!(publisher.doubts.take() == [shop()], heard, "{ago:?} s ago");

        let asked = Instant::now();
        let hurried = tokens.current(&shop(), Duration::ZERO).await;
        assert!(hurried.is_ok() && asked.elapsed() == Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_word_on_a_token_that_has_expired() {
    let (tokens, publisher) = pair();
    publisher.publish(&shop(), in_doubt(tokens.now(), 3));
    advance(Duration::from_secs(100)).await;
    let asked = Instant::now();
    assert!(tokens.current(&shop(), FIRST_OUTCOME).await.is_err());
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(
        publisher.doubts.take().is_empty(),
        "the owner has nothing to do"
    );
}
