//! A process that is stopped for a while, as SIGSTOP, a debugger or a busy hypervisor does it. It
//! cannot know; what it hands out afterwards must be true all the same.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use wxtokend::{
    pb,
    sandbox::{Knobs, Settings},
};

use crate::{
    process::{Home, PATIENCE, Server, WeChat, token, token_that, until, watch_request},
    seen::Seen,
    served::Client,
};

const BOTH: [&str; 2] = ["classic", "stable"];

/// How long a fetch may take, as [`Home`] has it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// For a machine that does something else.
const SLACK: Duration = Duration::from_secs(5);

fn settings() -> Settings {
    Settings {
        life: Duration::from_secs(6),
        overlap: Duration::from_secs(2),
        ..Settings::default()
    }
}

/// An answer, and between which times it was made.
struct Answer {
    not_before: Instant,
    token: pb::Token,
    lives: bool,
    judged_at: Instant,
}

/// Asks all the time, until it was answered after the time in `last`.
fn ask(
    mut client: Client,
    wechat: Arc<WeChat>,
    name: &'static str,
    last: watch::Receiver<Option<Instant>>,
) -> JoinHandle<Vec<Answer>> {
    tokio::spawn(async move {
        let (mut answers, mut seen) = (Vec::new(), Seen::default());
        loop {
            let not_before = Instant::now();
            if let Ok(token) = token(&mut client, name).await {
                seen.sees(name, &token, "around a pause");
                answers.push(Answer {
                    not_before,
                    lives: wechat.accepts(name, &token.access_token),
                    judged_at: Instant::now(),
                    token,
                });
                if last.borrow().is_some_and(|last| not_before > last) {
                    return answers;
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
}

/// Stops the server for `span`. Returns when it went on.
async fn pause(server: &Server, span: Duration) -> Instant {
    server.process.signal("STOP").await;
    sleep(span).await;
    let goes_on = Instant::now();
    server.process.signal("CONT").await;
    goes_on
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_for_longer_than_a_tokens_life_it_hands_out_no_expired_one() {
    let wechat = Arc::new(WeChat::start(&BOTH, settings()).await);
    let refresh = "overlap = '2s'\nfloor = '100ms'";
    let home = Home::new(&wechat.url(), refresh, &BOTH);
    let server = home.serve().await;
    let (answered_after, last) = watch::channel(None);
    let (mut before, mut streams, mut asking) = (Vec::new(), Vec::new(), Vec::new());
    for name in BOTH {
        let mut client = server.client().await;
        before.push(token_that(&mut client, name, "is there", |_| true).await);
        let stream = server.history.watch(&mut client, watch_request(name));
        streams.push(stream.await.unwrap());
        asking.push(ask(client, Arc::clone(&wechat), name, last.clone()));
    }
    let goes_on = pause(&server, Duration::from_secs(8)).await;

    for ((name, before), mut stream) in BOTH.into_iter().zip(&before).zip(streams) {
        let mut client = server.client().await;
        let lives = |token: &pb::Token| wechat.accepts(name, &token.access_token);
        token_that(&mut client, name, "lives", lives).await;
        let took = goes_on.elapsed();
        println!("{name}: a living token {took:?} after the pause");
        assert!(took < TIMEOUT + SLACK, "{name}: {took:?}");
        // The stream brings the new one, or ends because the old one did.
        let told = async {
            while let Ok(Some(message)) = stream.message().await {
                if message.token.unwrap().generation > before.generation {
                    return;
                }
            }
        };
        timeout(PATIENCE, told).await.expect("the stream is told");
    }
    answered_after.send_replace(Some(goes_on));
    for (name, asking) in BOTH.into_iter().zip(asking) {
        let answers = timeout(PATIENCE, asking).await;
        for answer in answers.expect("it is answered after the pause").unwrap() {
            // Nothing is answered while it is stopped.
            let made = if answer.judged_at > goes_on {
                answer.not_before.max(goes_on)
            } else {
                answer.not_before
            };
            let left = Duration::try_from(answer.token.time_to_live.unwrap()).unwrap();
            let expired_since = made + left <= answer.judged_at;
            assert!(!left.is_zero(), "{name}: an expired token");
            assert!(answer.lives || expired_since, "{name}: {left:?} left");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_while_wechat_is_asked_it_treats_the_outcome_as_open_and_recovers() {
    let wechat = WeChat::start(&["classic"], settings()).await;
    let refresh = "overlap = '2s'\nfloor = '100ms'";
    let home = Home::new(&wechat.url(), refresh, &["classic"]);
    let server = home.serve().await;
    let mut client = server.client().await;
    let first = token_that(&mut client, "classic", "is there", |_| true).await;
    home.saved("classic").await;
    let latency = |millis| Knobs {
        latency: Some(Duration::from_millis(millis)),
        ..Knobs::default()
    };
    wechat.turn(&latency(1000));
    until("it refreshes", || wechat.counts("classic").fetches() == 2).await;
    // Longer than the fetch may take, and than the old token lives beside the new one.
    let goes_on = pause(&server, Duration::from_secs(4)).await;
    wechat.turn(&latency(0));

    let mut seen = Seen::default();
    loop {
        let took = goes_on.elapsed();
        assert!(took < TIMEOUT + SLACK, "no living token after {took:?}");
        if let Ok(token) = token(&mut client, "classic").await {
            seen.sees("classic", &token, "after the pause");
            let kept = Duration::try_from(token.keep_for.unwrap()).unwrap();
            if wechat.accepts("classic", &token.access_token) {
                assert!(token.generation > first.generation);
                println!("a living token {took:?} after the pause");
                break;
            }
            // It cannot know yet that the old one is dead, but tells nobody to keep it.
            assert_eq!(kept, Duration::ZERO, "a dead token to be kept");
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(
        wechat.counts("classic").mints() <= 3,
        "one more than needed at most"
    );
}
