//! A server without sockets: the real refresher over the sandbox's pure model, on a paused clock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use wxtokend::{
    clock::Clock,
    domain::{
        AppName, Ask, Fetched, Mode, Moment, Note, Now, Policy, Record, Secret, Sight,
        budget::Ledger,
    },
    grpc::Streams,
    refresher::{Managed, Refresher},
    sandbox::{Credentials, Model, Pool, Settings},
    store::{Store, StoreError},
    telemetry::Metrics,
    tokens::{self, Tokens},
    upstream::{FetchError, Upstream},
};

use crate::wire::{Wire, since_epoch};

/// A WeChat, a disk and a server, which can be killed and started again.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) apps: Vec<AppUnderTest>,
    pub(crate) metrics: Metrics,
    /// The way to the server, as long as one runs.
    pub(crate) door: watch::Sender<Option<Door>>,
    server: Option<Server>,
}

/// What readers have of a server.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) streams: Streams,
    pub(crate) tokens: Tokens,
}

#[derive(Clone, Debug)]
pub(crate) struct AppUnderTest {
    pub(crate) name: AppName,
    pub(crate) account: Credentials,
    pub(crate) policy: Policy,
    /// The most fetches that were ever under way at once.
    pub(crate) fetches: Arc<Concurrency>,
    /// What happened on the way to WeChat, in order, by boot time.
    log: Arc<Mutex<Vec<(Moment, Traffic)>>>,
}

/// What happened on the way to WeChat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    /// A fetch was sent; `noted` says whether a note could be written before.
    Sent { noted: bool },
    /// It brought a token.
    Brought,
    /// It was refused, or never written to the wire.
    Refused,
    /// Its outcome is open.
    Lost,
    /// A look got a reply; `refused` says that WeChat refuses the token.
    Replied { refused: bool },
    /// A look got none.
    Unanswered,
    /// The server is no more.
    Ended,
}

#[derive(Debug)]
struct Server {
    tokens: Tokens,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A Sunday noon in Beijing, so that budgets begin anew on the way.
pub(crate) fn sunday() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(498_676)
}

impl World {
    /// A WeChat with an account for each of `apps`; no server runs yet.
    pub(crate) fn new(settings: Settings, apps: &[(&str, Policy)], seed: u64) -> Self {
        let clock = Clock::simulated(Now {
            boot: Moment::since_boot(Duration::from_hours(1000)),
            wall: sunday(),
        });
        let apps: Vec<_> = apps
            .iter()
            .map(|(name, policy)| AppUnderTest::new(name, *policy))
            .collect();
        let settings = Settings {
            accounts: apps.iter().map(|app| app.account.clone()).collect(),
            ..settings
        };
        Self {
            clock,
            model: Arc::new(Mutex::new(Model::new(settings, seed))),
            disk: Arc::new(Disk::default()),
            apps,
            metrics: Metrics::new(),
            door: watch::Sender::new(None),
            server: None,
        }
    }

    /// Starts the server, or another one on the same disk.
    pub(crate) async fn start(&mut self) {
        assert!(self.server.is_none(), "one at a time");
        let names = self
            .apps
            .iter()
            .map(|app| (app.name.clone(), app.account.appid.clone()));
        let (tokens, publisher) = tokens::channel(names, self.clock);
        let managed = self.apps.iter().map(|app| Managed {
            name: app.name.clone(),
            appid: app.account.appid.clone(),
            policy: app.policy,
            upstream: Arc::new(Simulated {
                app: app.clone(),
                wire: self.wire(app),
                disk: Arc::clone(&self.disk),
            }),
        });
        let disk: Arc<dyn Store> = Arc::<Disk>::clone(&self.disk);
        let refresher = Refresher::new(publisher, managed, disk, self.clock, &self.metrics);
        let refresher = refresher.await;
        let stop = CancellationToken::new();
        let task = tokio::spawn(refresher.run(stop.clone(), Arc::default()));
        self.door.send_replace(Some(Door {
            streams: Streams::new(&tokens, &self.metrics),
            tokens: tokens.clone(),
        }));
        self.server = Some(Server { tokens, stop, task });
    }

    fn wire(&self, app: &AppUnderTest) -> Wire {
        Wire {
            account: app.account.clone(),
            mode: app.policy.mode,
            model: Arc::clone(&self.model),
            clock: self.clock,
            timeout: app.policy.timeout,
        }
    }

    /// `kill -9`: whatever was under way is lost.
    pub(crate) async fn kill(&mut self) {
        self.note_down_the_end();
        self.door.send_replace(None);
        let server = self.server.take().expect("a server runs");
        server.task.abort();
        let ended = server.task.await.expect_err("it was killed");
        assert!(ended.is_cancelled(), "the refresher crashed: {ended}");
    }

    fn note_down_the_end(&self) {
        for app in &self.apps {
            app.note_down(self.now().boot, Traffic::Ended);
        }
    }

    /// `SIGTERM`; returns how long it took.
    pub(crate) async fn stop(&mut self) -> Duration {
        let server = self.server.take().expect("a server runs");
        let begin = self.now().boot;
        server.stop.cancel();
        server.task.await.expect("the refresher ends in peace");
        self.note_down_the_end();
        self.door.send_replace(None);
        self.now().boot.since(begin)
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.server.as_ref().expect("a server runs").tokens
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// The time as the model counts it.
    pub(crate) fn at(&self) -> Duration {
        since_epoch(self.clock)
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model
            .lock()
            .expect("no test panics while it holds the model")
    }

    /// Whether WeChat would accept `token` of `app` now.
    pub(crate) fn alive(&self, app: &AppUnderTest, token: &Secret) -> bool {
        let at = self.at();
        self.model()
            .judge(at, &app.account.appid, token.expose())
            .is_ok()
    }
}

impl AppUnderTest {
    fn new(name: &str, policy: Policy) -> Self {
        let account = Credentials {
            appid: format!("wx-{name}"),
            secret: format!("secret-of-{name}"),
        };
        Self {
            name: AppName::parse(name).expect("a good name"),
            account,
            policy,
            fetches: Arc::default(),
            log: Arc::default(),
        }
    }

    /// While an outcome is open and a classic token lives, no fetch is sent before WeChat has
    /// answered a look or the overlap is over. A token that WeChat refuses has nothing to lose.
    pub(crate) fn check_that_no_fetch_was_blind(&self, life: Duration) {
        if self.policy.mode == Mode::Stable {
            return;
        }
        let (mut open, mut replied, mut dies) = (None::<Moment>, false, Moment::default());
        let (mut under_way, mut refuses) = (None, false);
        for (at, traffic) in self.log.lock().expect("no panic").iter() {
            match traffic {
                Traffic::Sent { noted } => {
                    // A crash hides how the one before ended; the note tells, if there is one.
                    if let Some((sent, true, _)) = under_way {
                        open = open.or(Some(sent));
                    }
                    if let Some(since) = open {
                        let over = *at >= since + self.policy.overlap || *at >= dies;
                        let late = at.since(since);
                        assert!(
                            replied || refuses || over,
                            "a blind fetch {late:?} after {since:?}"
                        );
                    }
                    under_way = Some((*at, *noted, replied));
                    replied = false;
                }
                Traffic::Replied { refused } => (replied, refuses) = (true, *refused),
                Traffic::Unanswered | Traffic::Ended => {}
                ended => {
                    let (sent, _, before) = under_way.take().expect("it was sent");
                    match ended {
                        Traffic::Brought => (open, dies, refuses) = (None, sent + life, false),
                        Traffic::Lost => open = open.or(Some(sent)),
                        _ => replied |= before,
                    }
                }
            }
        }
    }

    /// Whether three looks in a row, with nothing between them, have found the token dead by now.
    pub(crate) fn is_proven_dead(&self, now: Moment) -> bool {
        let log = self.log.lock().expect("no panic");
        let refusals = log
            .iter()
            .rev()
            .take_while(|(_, traffic)| *traffic == Traffic::Replied { refused: true });
        // The last one may be on its way to the slot at this very moment.
        refusals.clone().count() >= 3 && refusals.clone().all(|(at, _)| *at < now)
    }

    fn note_down(&self, at: Moment, traffic: Traffic) {
        self.log.lock().expect("no panic").push((at, traffic));
    }

    pub(crate) fn pool(&self) -> Pool {
        match self.policy.mode {
            Mode::Classic => Pool::Classic,
            Mode::Stable => Pool::Stable,
        }
    }
}

/// Counts how many of something are under way, and the most there ever were.
#[derive(Debug, Default)]
pub(crate) struct Concurrency {
    present: AtomicU32,
    pub(crate) most: AtomicU32,
}

struct Underway<'a>(&'a Concurrency);

impl Concurrency {
    fn begin(&self) -> Underway<'_> {
        let present = self.present.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(present, Ordering::Relaxed);
        Underway(self)
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way to WeChat, with a log of it.
#[derive(Debug)]
struct Simulated {
    app: AppUnderTest,
    wire: Wire,
    disk: Arc<Disk>,
}

impl Simulated {
    async fn ask(&self, ask: Ask) -> Result<Fetched, FetchError> {
        let _underway = self.app.fetches.begin();
        self.wire.fetch(ask).await
    }
}

#[async_trait]
impl Upstream for Simulated {
    async fn fetch(&self, ask: Ask) -> Result<Fetched, FetchError> {
        let noted = !self.disk.broken.load(Ordering::Relaxed);
        let log = |traffic| self.app.note_down(self.wire.clock.now().boot, traffic);
        log(Traffic::Sent { noted });
        let answer = self.ask(ask).await;
        log(match &answer {
            Ok(_) => Traffic::Brought,
            Err(error) if error.definite() => Traffic::Refused,
            Err(_) => Traffic::Lost,
        });
        answer
    }

    async fn look(&self, token: &Secret) -> Sight {
        let sight = self.wire.look(token).await;
        let traffic = match sight {
            Some(sight) => Traffic::Replied {
                refused: sight == Sight::Refused,
            },
            None => Traffic::Unanswered,
        };
        self.app.note_down(self.wire.clock.now().boot, traffic);
        sight.unwrap_or(Sight::Unreachable)
    }

    async fn secret_version(&self) -> Option<u64> {
        Some(0)
    }
}

/// A store that survives a killed server, takes its time and can break.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    records: Mutex<BTreeMap<String, Record>>,
    pub(crate) broken: AtomicBool,
    /// It takes orders and carries out none.
    pub(crate) stuck: AtomicBool,
}

impl Disk {
    /// All there is on it.
    pub(crate) fn backup(&self) -> BTreeMap<String, Record> {
        self.records.lock().expect("no panic").clone()
    }

    pub(crate) fn put_back(&self, backup: BTreeMap<String, Record>) {
        *self.records.lock().expect("no panic") = backup;
    }

    /// The note in the record of `appid`.
    pub(crate) fn note(&self, appid: &str) -> Option<Note> {
        self.records.lock().expect("no panic").get(appid)?.note
    }

    /// What the record of `appid` says was spent.
    pub(crate) fn ledger(&self, appid: &str) -> Ledger {
        let records = self.records.lock().expect("no panic");
        records
            .get(appid)
            .map(|record| record.ledger.clone())
            .unwrap_or_default()
    }
}

#[async_trait]
impl Store for Disk {
    async fn load(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.records.lock().expect("no panic").get(appid).cloned())
    }

    async fn save(&self, appid: &str, record: &Record) -> Result<(), StoreError> {
        sleep(Duration::from_millis(3)).await;
        if self.stuck.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.broken.load(Ordering::Relaxed) {
            let (place, action) = ("the disk".into(), "written");
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(StoreError::Io {
                place,
                action,
                source,
            });
        }
        let keep = (appid.to_owned(), record.clone());
        self.records.lock().expect("no panic").extend([keep]);
        sleep(Duration::from_millis(2)).await;
        Ok(())
    }
}
