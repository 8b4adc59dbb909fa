//! The seam between the one task that owns the tokens and everybody who reads them.
//!
//! [`channel`] makes two halves, as `mpsc::channel` does. [`Tokens`] is for readers: cheap to clone,
//! answers from memory, never waits for WeChat unless asked to. [`Publisher`] is for the owner: it
//! cannot be cloned, so there is exactly one. The owner is the refresher in a server and the mirror
//! in a sidecar; readers cannot tell which.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    clock::Clock,
    domain::{AppName, Moment, Now, Token, Trouble, report::StaleReport},
};

/// Stale reports that wait for the owner. Beyond that, reporters wait in line.
const REPORTS: usize = 1024;

/// The longest a reader waits for the first outcome.
pub const FIRST_OUTCOME: Duration = Duration::from_secs(10);

/// The owner's loop counts as stuck if it has not turned for this long.
const STUCK: Duration = Duration::from_mins(1);

/// The advice to a caller when nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is known about one app. A token and a trouble are two facts, not one `Result`: a failed
/// refresh must not hide a token that is still good.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The newest token and what may be said of it.
    pub current: Option<Current>,
    /// Why the last attempt failed, if it did.
    pub trouble: Option<Arc<Trouble>>,
    /// When the owner will try again.
    pub retry_at: Option<Moment>,
    /// Whether anything is known at all: a token, or why there is none.
    pub settled: bool,
}

/// The newest token of an app.
#[derive(Clone, Debug)]
pub struct Current {
    /// The token.
    pub token: Arc<Token>,
    /// How long a caller that does not watch may use it.
    pub keep_until: Moment,
    /// A shorter limit while its end may come at any moment.
    pub keep_at_most: Option<Duration>,
    /// Until when the token that it replaced works.
    pub previous_expires_at: Option<Moment>,
    /// When readers could first have it.
    pub published_at: Moment,
    /// WeChat refuses it, beyond doubt. It may come back to life: WeChat's servers disagree at times.
    pub dead: bool,
}

impl View {
    /// The token, if it may be handed out at `now`.
    pub fn usable(&self, now: Moment) -> Option<&Current> {
        let alive = |c: &&Current| !c.dead && c.token.expires_at > now;
        self.current.as_ref().filter(alive)
    }

    /// Whether a reader who knows `self` must hear of `other`. When the next attempt is planned, and
    /// how long the token may be kept, is read when it is asked for.
    fn differs(&self, other: &Self) -> bool {
        let seen = |view: &Self| {
            let current = view.current.as_ref();
            let token = current.map(|c| (c.token.generation, c.token.expires_at, c.dead));
            (token, view.settled, view.trouble.clone())
        };
        seen(self) != seen(other)
    }

    fn answer(&self, now: Now) -> Result<Issued, NoToken> {
        let usable = self.usable(now.boot);
        usable
            .map(|current| Issued::new(current, now))
            .ok_or_else(|| self.missing(now.boot))
    }

    /// Why there is nothing to hand out.
    pub fn missing(&self, now: Moment) -> NoToken {
        let wait = self.retry_at.map_or(RETRY_AFTER, |at| at.since(now));
        NoToken::Missing {
            gone: match &self.current {
                None => Gone::Never,
                Some(current) if current.dead => Gone::Refused,
                Some(_) => Gone::Expired,
            },
            trouble: self.trouble.clone(),
            retry_after: wait.max(RETRY_AFTER),
        }
    }
}

/// A token as it is handed out at one moment.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: Arc<Token>,
    /// The life it has left.
    pub time_to_live: Duration,
    /// How long a caller that does not watch may use it.
    pub keep_for: Duration,
    /// When readers could first have it.
    pub published_at: Moment,
    /// Until when the token that it replaced works, by the wall clock.
    pub previous_expire_time: Option<SystemTime>,
}

impl Issued {
    fn new(current: &Current, now: Now) -> Self {
        let previous = current.previous_expires_at;
        let keep_for = current.keep_until.since(now.boot);
        Self {
            token: Arc::clone(&current.token),
            time_to_live: current.token.expires_at.since(now.boot),
            keep_for: current
                .keep_at_most
                .map_or(keep_for, |most| most.min(keep_for)),
            published_at: current.published_at,
            previous_expire_time: previous.map(|at| now.wall_at(at)),
        }
    }
}

/// What a stale report led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reported token was not the current one any more.
    AlreadyNewer,
    /// There is a new token.
    Refreshed,
    /// WeChat accepts the reported token.
    StillValid,
}

/// Why a reader got no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoToken {
    /// The app is not configured here.
    #[error("no app named `{0}` is configured here")]
    UnknownApp(String),
    /// There is no usable token.
    #[error("there is no valid token: {}", .trouble.as_ref().map_or(gone.words(), |t| &t.message))]
    Missing {
        /// What became of the last one.
        gone: Gone,
        /// Why the last attempt failed, if one did.
        trouble: Option<Arc<Trouble>>,
        /// When the next attempt is planned.
        retry_after: Duration,
    },
    /// It cannot be told whether the reported token is dead.
    #[error("it cannot be told whether the token is dead, so it stays in force: {}", blur(*.errcode))]
    Inconclusive {
        /// When to report again, if WeChat still refuses the token.
        retry_after: Duration,
        /// WeChat's number, if it gave one.
        errcode: Option<i64>,
    },
    /// The app's tokens were replaced too often.
    #[error("the token may be replaced in {} s, not before: {}", .retry_after.as_secs(), .errcode.map_or("there were too many replacements".into(), |code| blur(Some(code))))]
    TooOften {
        /// When the next replacement is allowed.
        retry_after: Duration,
        /// WeChat's answer to the look, if that is why the token cannot be judged.
        errcode: Option<i64>,
    },
    /// The reported errcode is not about the token.
    #[error("errcode {0} is not cured by another token")]
    NotATokenError(i64),
    /// The owner is gone or about to go.
    #[error("the server is shutting down")]
    Draining,
}

/// What became of the last token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// There was none yet.
    Never,
    /// It reached the end of its life.
    Expired,
    /// WeChat refuses it.
    Refused,
}

impl Gone {
    fn words(self) -> &'static str {
        match self {
            Self::Never => "none has been fetched yet",
            Self::Expired => "the last one has expired and no other is here yet",
            Self::Refused => "WeChat refuses the last one and no other is here yet",
        }
    }
}

fn blur(errcode: Option<i64>) -> String {
    errcode.map_or("WeChat could not be asked".into(), |code| {
        format!("WeChat answers the look with errcode {code}, which says nothing about the token")
    })
}

/// A stale report on its way to the owner, with the way back.
#[derive(Debug)]
pub struct Reported {
    /// About which app.
    pub app: AppName,
    /// What is reported.
    pub report: StaleReport,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Outcome, NoToken>>,
}

/// Makes the two halves for a fixed set of apps, each with its name and its appid.
pub fn channel(
    apps: impl IntoIterator<Item = (AppName, String)>,
    clock: Clock,
) -> (Tokens, Publisher) {
    let (report, reports) = mpsc::channel(REPORTS);
    let (draining, is_draining) = watch::channel(false);
    let mut names = BTreeMap::new();
    let mut readers = BTreeMap::new();
    let mut writers = BTreeMap::new();
    for (app, appid) in apps {
        let (writer, reader) = watch::channel(View::default());
        names.insert(appid, app.clone());
        names.insert(app.as_str().to_owned(), app.clone());
        readers.insert(app.clone(), reader);
        writers.insert(app, writer);
    }
    let beat = Arc::new(AtomicI64::new(clock.now().boot.as_millis()));
    let stopping = Arc::new(AtomicBool::new(false));
    let tokens = Tokens {
        names: Arc::new(names),
        readers: Arc::new(readers),
        report,
        draining: is_draining,
        beat: Arc::clone(&beat),
        stopping: Arc::clone(&stopping),
        clock,
    };
    let publisher = Publisher {
        writers,
        draining,
        beat,
        stopping,
        reports,
    };
    (tokens, publisher)
}

/// The readers' half.
#[derive(Clone, Debug)]
pub struct Tokens {
    names: Arc<BTreeMap<String, AppName>>,
    readers: Arc<BTreeMap<AppName, watch::Receiver<View>>>,
    report: mpsc::Sender<Reported>,
    draining: watch::Receiver<bool>,
    beat: Arc<AtomicI64>,
    stopping: Arc<AtomicBool>,
    clock: Clock,
}

impl Tokens {
    /// The app that a caller means by a name or an appid.
    pub fn resolve(&self, name_or_appid: &str) -> Result<AppName, NoToken> {
        let app = self.names.get(name_or_appid).cloned();
        app.ok_or_else(|| NoToken::UnknownApp(name_or_appid.to_owned()))
    }

    /// All apps.
    pub fn apps(&self) -> impl Iterator<Item = &AppName> {
        self.readers.keys()
    }

    /// The present, by the clock that the tokens live by.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Everything that becomes known about `app`, beginning with what is known now. Ends when the
    /// owner does.
    pub fn watch(&self, app: &AppName) -> Result<watch::Receiver<View>, NoToken> {
        let reader = self.readers.get(app).cloned();
        reader.ok_or_else(|| NoToken::UnknownApp(app.to_string()))
    }

    /// What `view` offers a caller now.
    pub fn answer(&self, view: &View) -> Result<Issued, NoToken> {
        view.answer(self.clock.now())
    }

    /// The token in force. Waits only if nothing at all is known yet, at most for `patience`.
    pub async fn current(&self, app: &AppName, patience: Duration) -> Result<Issued, NoToken> {
        if let Some(view) = self.readers.get(app).map(watch::Receiver::borrow)
            && view.settled
        {
            return self.answer(&view);
        }
        let mut reader = self.watch(app)?;
        let patience = patience.min(FIRST_OUTCOME);
        match timeout(patience, reader.wait_for(|view| view.settled)).await {
            Ok(Ok(view)) => self.answer(&view),
            Ok(Err(_)) => Err(NoToken::Draining),
            Err(_) => Err(View::default().missing(self.clock.now().boot)),
        }
    }

    /// Reports a token that WeChat refused and returns the one to use now.
    pub async fn report(
        &self,
        app: &AppName,
        report: StaleReport,
    ) -> Result<(Issued, Outcome), NoToken> {
        let view = self.watch(app)?;
        let (reply, answer) = oneshot::channel();
        let app = app.clone();
        let reported = Reported { app, report, reply };
        let sent = self.report.send(reported).await;
        sent.map_err(|_| NoToken::Draining)?;
        let outcome = answer.await.map_err(|_| NoToken::Draining)??;
        let issued = self.answer(&view.borrow())?;
        Ok((issued, outcome))
    }

    /// Becomes true once, when the server begins to shut down.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.clone()
    }

    /// Whether the owner's loop turns.
    pub fn alive(&self) -> bool {
        let beat = Moment::from_millis(self.beat.load(Ordering::Relaxed));
        self.clock.now().boot.since(beat) < STUCK
    }

    /// Whether callers can be served: every app has had a first outcome, at least one has a usable
    /// token, and the server is not about to stop.
    pub fn ready(&self) -> bool {
        let settled = self.readers.values().all(|view| view.borrow().settled);
        let usable = self.readers.keys().any(|app| self.usable(app));
        settled && usable && !self.stopping.load(Ordering::Relaxed)
    }

    /// Whether `app` has a token that can be handed out.
    pub fn usable(&self, app: &AppName) -> bool {
        let now = self.clock.now().boot;
        let view = self.readers.get(app);
        view.is_some_and(|view| view.borrow().usable(now).is_some())
    }
}

/// The owner's half. Dropping it ends every watch.
#[derive(Debug)]
pub struct Publisher {
    writers: BTreeMap<AppName, watch::Sender<View>>,
    draining: watch::Sender<bool>,
    beat: Arc<AtomicI64>,
    stopping: Arc<AtomicBool>,
    /// What readers report.
    pub reports: mpsc::Receiver<Reported>,
}

impl Publisher {
    /// Replaces what is known about `app` and wakes its readers if it matters to them.
    pub fn publish(&self, app: &AppName, view: View) {
        let Some(writer) = self.writers.get(app) else {
            return;
        };
        writer.send_if_modified(|present| {
            let matters = present.differs(&view);
            *present = view;
            matters
        });
    }

    /// The owner's loop turned.
    pub fn beat(&self, now: Moment) {
        self.beat.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Callers had better go elsewhere: from now on the server counts as not ready.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Tells every reader that the end is here. Streams say so and end themselves.
    pub fn drain(&self) {
        self.stop();
        self.draining.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::domain::{
        Generation, Remedy, Secret,
        report::{Stale, StaleReport},
    };

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
}
