//! What a sidecar makes of what servers say.

use std::{fs, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wxtokend::{
    clock::Clock,
    config::Agent,
    domain::{
        Generation, Remedy, Secret,
        access::{Consumer, Grant, Right},
        report::{Stale, StaleReport},
    },
    mirror::Mirror,
    tokens::{self, Current, Gone, NoToken, Outcome, Tokens, View},
};

use crate::served::{Running, app, eventually, failed, serve, serve_with, settings, within};

const LIFE: Duration = Duration::from_hours(2);

struct Sidecar {
    tokens: Tokens,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// Follows the app `shop` at `urls`.
fn follow(urls: &[&str]) -> Sidecar {
    follow_with(urls, "")
}

fn follow_with(urls: &[&str], more: &str) -> Sidecar {
    let text = format!("[agent]\nservers = {urls:?}\napps = ['shop']\n{more}");
    let settings = Agent::parse(&text, "agent.toml", []).unwrap();
    let names = [(app("shop"), "shop".to_owned())];
    let (tokens, publisher) = tokens::channel(names, Clock::SYSTEM);
    let stop = CancellationToken::new();
    let mirror = Mirror::new(publisher, &settings, Clock::SYSTEM);
    Sidecar {
        tokens,
        stop: stop.clone(),
        running: tokio::spawn(mirror.run(stop, Arc::default())),
    }
}

impl Sidecar {
    fn view(&self) -> View {
        self.tokens.view(&app("shop"))
    }

    fn generation(&self) -> u64 {
        let current = self.view().current;
        current.map_or(0, |current| current.token.generation.0)
    }

    async fn has(&self, generation: u64) {
        let it_has = || async { self.generation() == generation };
        eventually(it_has, &format!("generation {generation} arrives")).await;
    }

    async fn report(&self, stale: Stale) -> Result<(u64, Outcome), NoToken> {
        let report = StaleReport {
            stale,
            errcode: 40001,
            leaked: false,
        };
        let answer = within(self.tokens.report(&app("shop"), report), "an answer").await;
        answer.map(|(issued, outcome)| (issued.token.generation.0, outcome))
    }
}

fn held(server: &Running) -> Current {
    server.tokens.view(&app("shop")).current.unwrap()
}

#[tokio::test]
async fn it_has_what_the_server_has_and_each_rotation() {
    let server = serve().await;
    server.publish(5);
    let sidecar = follow(&[&server.url]);
    for generation in 5..8 {
        server.publish(generation);
        sidecar.has(generation).await;
    }
    let (here, there) = (sidecar.view().current.unwrap(), held(&server));
    assert_eq!(here.token.value, there.token.value);
    assert_eq!(here.token.expire_time, there.token.expire_time);
    let near = |one: wxtokend::domain::Moment, other| {
        one.since(other) < Duration::from_secs(1) && other.since(one) < Duration::from_secs(1)
    };
    assert!(near(here.token.expires_at, there.token.expires_at));
    assert!(near(here.token.asked_at, there.token.asked_at));
    assert!(near(here.keep_until, there.keep_until));
    let previous = there.previous_expires_at.unwrap();
    assert!(near(here.previous_expires_at.unwrap(), previous));

    sidecar.stop.cancel();
    within(sidecar.running, "it ends").await.unwrap();
    assert!(*sidecar.tokens.draining().borrow(), "its streams were told");
}

#[tokio::test]
async fn a_server_that_is_gone_takes_nothing_with_it_and_the_next_one_is_followed() {
    let (one, other) = (serve().await, serve().await);
    // Until then nobody knows which of the two is followed.
    one.publish(5);
    other.publish(5);
    let sidecar = follow(&[&one.url, &other.url]);
    sidecar.has(5).await;
    other.publish(6);
    one.drain_and_stop().await;
    sidecar.has(6).await;
    other.drain_and_stop().await;
    let troubled = || async { sidecar.view().trouble.is_some() };
    eventually(troubled, "it is known that nobody answers").await;
    let issued = sidecar.tokens.current(&app("shop"), Duration::ZERO).await;
    assert_eq!(issued.unwrap().token.generation, Generation(6), "it lives");
}

#[tokio::test]
async fn a_server_that_lags_behind_sets_nothing_back() {
    let (one, other) = (serve().await, serve().await);
    one.publish(9);
    other.publish(9);
    let sidecar = follow(&[&one.url, &other.url]);
    sidecar.has(9).await;
    let is_followed = |server: &Running| server.metrics.watching(&app("shop")).streams.get() > 0;
    let followed = || async { is_followed(&one) || is_followed(&other) };
    eventually(followed, "one of them is followed").await;
    let (ahead, behind) = if is_followed(&one) {
        (one, other)
    } else {
        (other, one)
    };
    behind.publish(8);
    ahead.drain_and_stop().await;
    eventually(
        || async { is_followed(&behind) },
        "the other one is followed",
    )
    .await;
    let known = sidecar.report(Stale::Generation(Generation(8))).await;
    assert_eq!(known.unwrap(), (9, Outcome::AlreadyNewer));
    behind.publish(10);
    sidecar.has(10).await;
}

#[tokio::test]
async fn servers_that_have_lost_what_they_knew_are_believed_once_the_token_is_dead() {
    let (before, after) = (serve().await, serve().await);
    for server in [&before, &after] {
        let view = server.alive(9, Duration::from_secs(3));
        server.publisher.publish(&app("shop"), view);
    }
    let sidecar = follow(&[&before.url, &after.url]);
    sidecar.has(9).await;
    let death = sidecar.view().current.unwrap().token.expires_at;
    after.publish(5);
    before.drain_and_stop().await;
    sidecar.has(5).await;
    // A little early, so that there never is none.
    let early = Duration::from_millis(200);
    assert!(sidecar.tokens.now().boot + early >= death, "not before");
}

#[tokio::test]
async fn a_server_that_does_not_know_it_is_left_for_one_that_does() {
    let orders = Consumer {
        key: Secret::new("key-of-orders"),
        grant: Arc::new(Grant::all()),
    };
    let strict = serve_with(settings(), vec![orders], Duration::from_secs(1)).await;
    let good = serve().await;
    good.publish(5);
    strict.publish(9);
    // Which one comes first is random.
    for _ in 0..4 {
        let sidecar = follow(&[&strict.url, &good.url]);
        sidecar.has(5).await;
        sidecar.stop.cancel();
    }
}

#[tokio::test]
async fn a_token_that_the_server_knows_to_be_dead_is_handed_out_no_more() {
    let server = serve().await;
    server.publish(5);
    let sidecar = follow(&[&server.url]);
    sidecar.has(5).await;
    let mut view = server.alive(5, LIFE);
    view.current.as_mut().unwrap().dead = true;
    server.publisher.publish(&app("shop"), view);
    let refused = || async {
        let current = sidecar.tokens.current(&app("shop"), Duration::ZERO).await;
        matches!(
            current,
            Err(NoToken::Missing {
                gone: Gone::Refused(Generation(5)),
                ..
            })
        )
    };
    eventually(refused, "it is refused here too").await;
    server.publish(6);
    sidecar.has(6).await;
}

#[tokio::test]
async fn who_has_no_token_yet_is_told_why() {
    let server = serve().await;
    let soon = server.tokens.now().boot + Duration::from_mins(1);
    server
        .publisher
        .publish(&app("shop"), failed(Remedy::IpList, soon));
    for url in [&*server.url, "http://127.0.0.1:9"] {
        let sidecar = follow(&[url]);
        let shop = app("shop");
        let waiting = sidecar.tokens.current(&shop, Duration::from_mins(1));
        // The server waits 10 s for a token before it says that there is none.
        let error = tokio::time::timeout(Duration::from_secs(15), waiting).await;
        let error = error.expect("an answer").unwrap_err();
        assert!(
            matches!(
                error,
                NoToken::Missing {
                    trouble: Some(_),
                    ..
                }
            ),
            "{url}: {error}"
        );
    }
}

#[tokio::test]
async fn a_report_goes_to_the_server_and_its_token_is_here_before_the_answer() {
    let mut server = serve().await;
    server.publish(5);
    let sidecar = follow(&[&server.url]);
    sidecar.has(5).await;
    // What is older than ours needs no asking.
    let known = sidecar.report(Stale::Generation(Generation(4))).await;
    assert_eq!(known.unwrap(), (5, Outcome::AlreadyNewer));

    for (stale, next) in [
        (Stale::Generation(Generation(5)), 6),
        (Stale::Value(Secret::new("token-6")), 7),
    ] {
        let (view, judge) = (server.alive(next, LIFE), &mut server.publisher);
        let judged = async {
            let reported = within(judge.reports.recv(), "the report").await.unwrap();
            assert_eq!(reported.report.errcode, 40001);
            judge.publish(&app("shop"), view);
            reported.reply.send(Ok(Outcome::Refreshed)).unwrap();
        };
        let (answer, ()) = tokio::join!(sidecar.report(stale), judged);
        assert_eq!(answer.unwrap(), (next, Outcome::Refreshed));
    }
}

#[tokio::test]
async fn who_may_not_report_is_told_so() {
    let reads = Grant {
        rights: [Right::Read].into(),
        ..Grant::all()
    };
    let reader = Consumer {
        key: Secret::new("key-of-reader"),
        grant: Arc::new(reads),
    };
    let server = serve_with(settings(), vec![reader], Duration::from_secs(1)).await;
    server.publish(5);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "key-of-reader").unwrap();
    let sidecar = follow_with(&[&server.url], &format!("key_file = {key:?}"));
    sidecar.has(5).await;
    let answer = sidecar.report(Stale::Generation(Generation(5))).await;
    let error = answer.unwrap_err();
    assert!(matches!(error, NoToken::NotAllowed(_)), "{error:?}");
    let said = "the sidecar may not do this: the caller lacks the right `refresh`";
    assert_eq!(error.to_string(), said);
}

#[tokio::test]
async fn what_a_server_says_against_a_report_is_said_here() {
    let mut server = serve().await;
    server.publish(5);
    let sidecar = follow(&[&server.url]);
    sidecar.has(5).await;
    let (retry_after, errcode) = (Duration::from_secs(7), Some(45009));
    for no in [
        NoToken::TooOften {
            retry_after,
            errcode,
        },
        NoToken::Inconclusive {
            retry_after,
            errcode: None,
        },
        NoToken::NotATokenError(40001),
    ] {
        let expected = format!("{no:?}");
        let judged = async {
            let reported = within(server.publisher.reports.recv(), "the report").await;
            reported.unwrap().reply.send(Err(no)).unwrap();
        };
        let stale = Stale::Generation(Generation(5));
        let (answer, ()) = tokio::join!(sidecar.report(stale), judged);
        assert_eq!(format!("{:?}", answer.unwrap_err()), expected);
    }
    server.drain_and_stop().await;
    let answer = sidecar.report(Stale::Generation(Generation(5))).await;
    assert!(
        matches!(answer, Err(NoToken::Inconclusive { .. })),
        "{answer:?}"
    );
}
