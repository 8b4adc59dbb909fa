//! The actor that owns every token of this server.
//!
//! One task, one loop. It decides nothing (`domain::slot` does) and it waits for nobody: fetches,
//! looks and saves run beside it and come back as events, so one slow app cannot delay another.

mod app;
mod obtain;

use std::{
    collections::BTreeMap,
    panic::resume_unwind,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use app::Managed;
use app::{App, Event};
use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock::Clock,
    domain::{AppName, Moment, Now, time::was_set},
    store::{Opened, Shared, shared::Seen},
    telemetry::Metrics,
    tokens::{Publisher, Reported},
};

/// The longest nap. Timers stand still while a machine is suspended, so the actor looks at the time
/// at least this often.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Of each kind of news, at most so many are taken up before it is seen what is due.
const AT_ONCE: usize = 256;

/// A fetch that is under way when the server stops is waited for, but not longer.
const LAST_FETCH: Duration = Duration::from_secs(8);

/// So many apps are loaded at a time.
const LOADED_AT_ONCE: usize = 16;

/// A shared store is waited for at a start, but not longer: without it there is the local copy.
const CONTACT: Duration = Duration::from_secs(3);

/// To give up the claims.
const LEAVE: Duration = Duration::from_secs(1);

/// The owner of all tokens.
#[derive(Debug)]
pub struct Refresher {
    publisher: Publisher,
    apps: BTreeMap<AppName, App>,
    /// By appid.
    names: BTreeMap<String, AppName>,
    /// If there are other replicas: what they do.
    shared: Option<Arc<Shared>>,
    changes: Option<mpsc::UnboundedReceiver<Seen>>,
    events: JoinSet<(AppName, Event)>,
    clock: Clock,
    /// The time of day at which the machine was started, as the wall clock had it last.
    epoch: SystemTime,
}

impl Refresher {
    /// An owner that goes on where the records in `store` ended. A record that cannot be read costs a
    /// warning and a fetch.
    pub async fn new(
        publisher: Publisher,
        apps: impl IntoIterator<Item = Managed>,
        store: impl Into<Opened>,
        clock: Clock,
        metrics: &Metrics,
    ) -> Self {
        let store = store.into();
        let shared = match &store {
            Opened::Own(_) => None,
            Opened::Shared(shared) => Some(Arc::clone(shared)),
        };
        let reached = match &shared {
            Some(shared) => {
                info!(replica = shared.me(), "sharing a store with other replicas");
                shared.wait_for_contact(CONTACT).await
            }
            None => true,
        };
        let (mut owned, mut names) = (BTreeMap::new(), BTreeMap::new());
        let load = async |managed: Managed| {
            let (name, appid) = (managed.name.clone(), managed.appid.clone());
            let figures = metrics.refreshing(&name);
            let mut app = App::load(managed, &store, clock, figures).await;
            app.load_copy(reached, clock).await;
            (name, appid, app)
        };
        let mut loaded = pin!(stream::iter(apps).map(load).buffered(LOADED_AT_ONCE));
        while let Some((name, appid, app)) = loaded.next().await {
            publisher.publish(&name, app.view(clock.now()));
            names.insert(appid, name.clone());
            owned.insert(name, app);
        }
        Self {
            publisher,
            apps: owned,
            names,
            changes: shared.as_ref().and_then(|shared| shared.changes()),
            shared,
            events: JoinSet::new(),
            clock,
            epoch: epoch(clock.now()),
        }
    }

    /// Runs until `stop`. Dropping the publisher on the way out ends every watch. `nudge` makes apps
    /// in trouble try again at once.
    pub async fn run(mut self, stop: CancellationToken, nudge: Arc<Notify>) {
        self.take_up_what_was_told();
        loop {
            // Here and not in an arm below, so that no flood of events can delay a refresh.
            let now = self.clock.now();
            self.publisher.beat(now.boot);
            self.notice_a_set_clock(now);
            self.look_for_readers(now);
            for app in self.apps.values_mut() {
                app.start_what_is_due(now, &mut self.events);
                app.say_how_certain(now, &self.publisher);
            }
            let nap = self.nap(self.clock.now());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.events.join_next() => self.on_event(done),
                Some(seen) = next(&mut self.changes) => self.on_seen(seen),
                Some(reported) = self.publisher.reports.recv() => self.on_report(reported),
                () = self.publisher.doubts.wanted() => {}
                () = nudge.notified() => self.on_nudge(),
                () = sleep(nap) => self.on_time(),
            }
            self.catch_up();
        }
        self.finish().await;
    }

    /// Some readers wait for WeChat's word on a token that may have ended.
    fn look_for_readers(&mut self, now: Now) {
        for name in self.publisher.doubts.take() {
            if let Some(app) = self.apps.get_mut(&name) {
                app.on_doubt(now, &self.publisher, &mut self.events);
            }
        }
    }

    /// While the apps were loaded, the store has told of each what was true before it was asked, perhaps, and what was
    /// true then. Readers of a former life may know more than the first.
    fn take_up_what_was_told(&mut self) {
        let mut last = BTreeMap::new();
        while let Some(seen) = self.changes.as_mut().and_then(|c| c.try_recv().ok()) {
            last.insert(seen.appid.clone(), seen);
        }
        for seen in last.into_values() {
            self.on_seen(seen);
        }
    }

    /// Takes up what else has happened, from each source in turn. Each round of the loop looks at all apps: if one of
    /// many waited for a round of its own, the news of others would wait for ever.
    fn catch_up(&mut self) {
        for _ in 0..AT_ONCE {
            let mut idle = true;
            if let Some(done) = self.events.try_join_next() {
                self.on_event(done);
                idle = false;
            }
            if let Some(seen) = self.changes.as_mut().and_then(|c| c.try_recv().ok()) {
                self.on_seen(seen);
                idle = false;
            }
            if let Ok(reported) = self.publisher.reports.try_recv() {
                self.on_report(reported);
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    /// No new fetch starts. One that was sent is awaited, published and saved: its token may be the
    /// only living one.
    async fn finish(mut self) {
        self.publisher.stop();
        for app in self.apps.values_mut() {
            app.save_now(&mut self.events);
        }
        let last = async {
            while self.apps.values().any(App::has_business) {
                let Some(done) = self.events.join_next().await else {
                    break;
                };
                self.on_event(done);
            }
        };
        if timeout(LAST_FETCH, last).await.is_err() {
            warn!("stopping although a fetch or a save is still under way");
        }
        if let Some(shared) = &self.shared {
            // Otherwise the others would have to wait for the end of the lease.
            let _ = timeout(LEAVE, shared.leave()).await;
        }
        self.publisher.drain();
    }

    fn nap(&self, now: Now) -> Duration {
        let due = self.apps.values().filter_map(|app| app.due(now)).min();
        due.map_or(HEARTBEAT, |due: Moment| due.since(now.boot).min(HEARTBEAT))
    }

    fn on_event(&mut self, done: Result<(AppName, Event), JoinError>) {
        let (name, event) = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return,
            // A panic in a task is a panic of the owner: the process must not go on without it.
            Err(error) => resume_unwind(error.into_panic()),
        };
        let now = self.clock.now();
        if let Some(app) = self.apps.get_mut(&name) {
            app.on_event(event, now, &self.publisher, &mut self.events);
        }
    }

    fn on_seen(&mut self, seen: Seen) {
        let now = self.clock.now();
        let app = self.names.get(&seen.appid);
        if let Some(app) = app.and_then(|name| self.apps.get_mut(name)) {
            app.on_seen(seen, now, &self.publisher, &mut self.events);
        }
    }

    fn on_report(&mut self, reported: Reported) {
        let now = self.clock.now();
        if let Some(app) = self.apps.get_mut(&reported.app) {
            app.on_report(reported, now);
        }
    }

    fn on_time(&mut self) {
        let now = self.clock.now();
        for app in self.apps.values_mut() {
            app.on_time(now);
        }
    }

    fn on_nudge(&mut self) {
        info!("trying again at once, as asked to");
        let now = self.clock.now();
        for app in self.apps.values_mut() {
            app.on_nudge(now);
        }
    }

    fn notice_a_set_clock(&mut self, now: Now) {
        let epoch = epoch(now);
        if !was_set(self.epoch, epoch) {
            return;
        }
        self.epoch = epoch;
        for app in self.apps.values_mut() {
            app.on_clock_set(now, &self.publisher);
        }
        warn!("the wall clock was set; no token is affected, but each is looked at");
    }
}

/// The next change; never, if there are no other replicas.
async fn next(changes: &mut Option<mpsc::UnboundedReceiver<Seen>>) -> Option<Seen> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

fn epoch(now: Now) -> SystemTime {
    now.wall_at(Moment::default())
}
