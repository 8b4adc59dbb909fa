//! Several replicas on one store, without a socket: the real refreshers, a database in memory, the
//! sandbox's model of WeChat, and the ways between them, which can be cut.

mod alone;
mod database;
mod links;
mod shares;
mod stories;
mod way;
mod weeks;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use wxtokend::{
    clock::Clock,
    domain::{AppName, Mode, Moment, Now, Policy, Secret, Token},
    refresher::{Managed, Refresher},
    sandbox::{Credentials, Knobs, Model, Pool, Settings},
    store::{
        Opened, Store,
        shared::{Shared, Sharing},
    },
    telemetry::Metrics,
    tokens::{self, Tokens},
};

use self::{
    database::Database,
    links::{Link, State},
    way::{Fetch, Fetches, Way},
};
use crate::{
    wire::{Wire, since_epoch},
    world::{Disk, sunday},
};

/// How long a claim outlives its replica, if nothing else is said.
const LEASE: Duration = Duration::from_secs(15);

/// What they share, and they.
#[derive(Debug)]
struct Fleet {
    clock: Clock,
    model: Arc<Mutex<Model>>,
    database: Arc<Database>,
    lease: Duration,
    apps: Vec<App>,
    machines: Vec<Machine>,
}

#[derive(Clone, Debug)]
struct App {
    name: AppName,
    account: Credentials,
    policy: Policy,
    fetches: Fetches,
}

/// Where one replica runs, now and after a restart.
#[derive(Debug)]
struct Machine {
    clock: Clock,
    copy: Option<Arc<Disk>>,
    /// How its ways are; its processes come and go.
    state: State,
    starts: usize,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    link: Arc<Link>,
    tokens: Tokens,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// As for two hours, if tokens live for `life`.
fn policy(mode: Mode, life: Duration) -> Policy {
    let overlap = (life / 6).min(Duration::from_mins(5));
    let floor = Duration::from_secs(1).min(overlap / 50);
    Policy {
        mode,
        overlap,
        floor,
        probe_every: life / 20,
        ceiling: (life / 12).min(Duration::from_mins(1)).max(floor),
        timeout: (life / 30).min(Duration::from_secs(10)),
        ..Policy::default()
    }
}

impl Fleet {
    /// With one app, as they are without any settings.
    fn usual(mode: Mode) -> Self {
        let policy = Policy {
            mode,
            ..Policy::default()
        };
        Self::new(Settings::default(), &[("app", policy)], LEASE, 1)
    }

    /// Three machines whose clocks differ by ten minutes; no replica runs yet.
    fn new(settings: Settings, apps: &[(&str, Policy)], lease: Duration, seed: u64) -> Self {
        let apps: Vec<_> = apps
            .iter()
            .map(|(name, policy)| App::new(name, *policy))
            .collect();
        let settings = Settings {
            accounts: apps.iter().map(|app| app.account.clone()).collect(),
            ..settings
        };
        let machine = |n: u32| Machine {
            clock: Clock::simulated(Now {
                boot: Moment::since_boot(Duration::from_hours(100) * (n + 1)),
                wall: sunday() + Duration::from_mins(10) * n,
            }),
            copy: Some(Arc::default()),
            state: State::default(),
            starts: 0,
            process: None,
        };
        Self {
            clock: machine(0).clock,
            model: Arc::new(Mutex::new(Model::new(settings, seed))),
            database: Database::new(),
            lease,
            apps,
            machines: (0..3).map(machine).collect(),
        }
    }

    /// Starts the replica of a machine.
    fn start(&mut self, n: usize) {
        self.machines[n].starts += 1;
        let machine = &self.machines[n];
        assert!(machine.process.is_none(), "one at a time");
        let clock = machine.clock;
        let name = format!("replica-{n}-{}", machine.starts);
        let link = Arc::new(Link::default());
        link.set(machine.state);
        let client = self.database.client(&name, self.lease, Arc::clone(&link));
        let copy = machine.copy.clone().map(|disk| disk as Arc<dyn Store>);
        let appids = self.apps.iter().map(|app| app.account.appid.clone());
        let sharing = Sharing {
            me: name.clone(),
            apps: appids.collect(),
            lease: self.lease,
            cache: copy,
            boot_id: String::new(),
            clock,
        };
        let shared = Arc::new(Shared::begin(Arc::new(client), sharing));
        let names = self
            .apps
            .iter()
            .map(|app| (app.name.clone(), app.account.appid.clone()));
        let (tokens, publisher) = tokens::channel(names, clock);
        let managed = self.apps.iter().map(|app| Managed {
            name: app.name.clone(),
            appid: app.account.appid.clone(),
            policy: app.policy,
            upstream: Arc::new(Way {
                wire: self.wire(app),
                replica: n,
                name: name.clone(),
                link: Arc::clone(&link),
                database: Arc::clone(&self.database),
                fetches: Arc::clone(&app.fetches),
            }),
        });
        let managed: Vec<_> = managed.collect();
        let metrics = Metrics::new();
        let stop = CancellationToken::new();
        let (stopped, frozen) = (stop.clone(), Arc::clone(&link));
        let task = tokio::spawn(async move {
            let refresher =
                Refresher::new(publisher, managed, Opened::Shared(shared), clock, &metrics);
            let refresher = refresher.await;
            frozen.freezes(refresher.run(stopped, Arc::default())).await;
        });
        self.machines[n].process = Some(Process {
            link,
            tokens,
            stop,
            task,
        });
    }

    fn start_all(&mut self) {
        for n in 0..self.machines.len() {
            self.start(n);
        }
    }

    fn wire(&self, app: &App) -> Wire {
        Wire {
            account: app.account.clone(),
            mode: app.policy.mode,
            model: Arc::clone(&self.model),
            clock: self.clock,
            timeout: app.policy.timeout,
        }
    }

    /// `kill -9`: whatever was under way is lost.
    async fn kill(&mut self, n: usize) {
        let process = self.machines[n].process.take().expect("it runs");
        process.link.kill();
        process.task.abort();
        let ended = process.task.await.expect_err("it was killed");
        assert!(ended.is_cancelled(), "the refresher crashed: {ended}");
    }

    /// `SIGTERM`.
    async fn stop(&mut self, n: usize) {
        let process = self.machines[n].process.take().expect("it runs");
        process.stop.cancel();
        process.task.await.expect("the refresher ends in peace");
        process.link.kill();
    }

    /// Changes how a machine's ways are.
    fn set(&mut self, n: usize, change: impl FnOnce(&mut State)) {
        let machine = &mut self.machines[n];
        change(&mut machine.state);
        if let Some(process) = &machine.process {
            process.link.set(machine.state);
        }
    }

    fn tokens(&self, n: usize) -> Option<&Tokens> {
        self.machines[n]
            .process
            .as_ref()
            .map(|process| &process.tokens)
    }

    /// What replica `n` hands out of the first app.
    async fn token(&self, n: usize) -> Arc<Token> {
        let tokens = self.tokens(n).expect("it runs");
        let app = &self.apps[0].name;
        let issued = tokens.current(app, Duration::from_mins(1)).await;
        issued.expect("there is one").token
    }

    /// How long replica `n` says that the token of the first app lives.
    async fn left(&self, n: usize) -> Duration {
        let expires_at = self.token(n).await.expires_at;
        expires_at.since(self.machines[n].clock.now().boot)
    }

    /// How long it is until replica `n` replaces the token of the first app, if nothing happens before.
    fn planned_in(&self, n: usize) -> Duration {
        let tokens = self.tokens(n).expect("it runs");
        let at = tokens.view(&self.apps[0].name).retry_at;
        at.expect("it is planned").since(tokens.now().boot)
    }

    /// The time as the model counts it.
    fn at(&self) -> Duration {
        since_epoch(self.clock)
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model
            .lock()
            .expect("no test panics while it holds the model")
    }

    fn turn(&self, knobs: &Knobs) {
        let at = self.at();
        self.model().turn(at, knobs).expect("sound knobs");
    }

    /// Whether WeChat would accept `token` of `app` now.
    fn alive(&self, app: &App, token: &Secret) -> bool {
        let at = self.at();
        self.model()
            .judge(at, &app.account.appid, token.expose())
            .is_ok()
    }

    /// What was asked for an app, by all.
    fn fetches(&self, app: usize) -> Vec<Fetch> {
        self.apps[app].fetches.lock().expect("no panic").clone()
    }

    /// When WeChat made each token of `app`.
    fn mints(&self, app: &App) -> Vec<Duration> {
        let model = self.model();
        let account = model.account(&app.account.appid).expect("it exists");
        account.mints(app.pool()).map(|mint| mint.at).collect()
    }

    /// Until every replica that runs hands out a token of every app.
    async fn everybody_has_a_token(&self) {
        for machine in &self.machines {
            let Some(process) = &machine.process else {
                continue;
            };
            for app in &self.apps {
                let mut patience = 600;
                while process
                    .tokens
                    .current(&app.name, Duration::ZERO)
                    .await
                    .is_err()
                {
                    sleep(Duration::from_millis(100)).await;
                    patience -= 1;
                    assert!(patience > 0, "{} has no token", app.name);
                }
            }
        }
    }
}

impl App {
    fn new(name: &str, policy: Policy) -> Self {
        Self {
            name: AppName::parse(name).expect("a good name"),
            account: Credentials {
                appid: format!("wx-{name}"),
                secret: format!("secret-of-{name}"),
            },
            policy,
            fetches: Arc::default(),
        }
    }

    fn pool(&self) -> Pool {
        match self.policy.mode {
            Mode::Classic => Pool::Classic,
            Mode::Stable => Pool::Stable,
        }
    }
}
