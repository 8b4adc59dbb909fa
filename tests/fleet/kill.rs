//! The death of the replica that refreshes, before and after each step that the others depend on.
//!
//! It kills itself with SIGKILL at a failpoint, at its first fetch or at a rotation. Two others are there,
//! go on with what it left in the store, and it comes back as one of them.

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
    deaths::{CLASSIC, Death, STABLE, all, deaths, read_until_the_end},
    engines::{Etcd, Redis},
    process::{Server, WeChat, token, token_that, until},
    replicas::Fleet,
    seen::Seen,
    served::Client,
};

/// What a replica says when it has taken the claim.
const TAKEN: &str = "this replica refreshes the app from now on";

/// A dead token may be handed out for a moment.
const SHORT: Duration = Duration::from_millis(500);

/// Where they live together.
enum Store {
    Etcd(Etcd),
    Redis(Redis),
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_etcd_the_others_go_on_when_the_one_that_refreshes_dies_at_any_step() {
    go_through_all(Store::Etcd(Etcd::start(1).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_redis_the_others_go_on_when_the_one_that_refreshes_dies_at_any_step() {
    go_through_all(Store::Redis(Redis::start().await)).await;
}

async fn go_through_all(store: Store) {
    let store = Arc::new(store);
    for (mode, steps) in [("classic", &CLASSIC[..]), ("stable", &STABLE[..])] {
        let overcome = |death| {
            let store = Arc::clone(&store);
            async move { die_and_be_replaced(&store, mode, death).await }
        };
        all(mode, deaths(steps, 2), overcome).await;
    }
}

/// For how long two tokens are good at a time: longer than it takes to replace the replica that refreshes.
const OVERLAP: Duration = Duration::from_secs(8);

/// A token is renewed while it is watched, and none thereafter.
fn settings(mode: &str) -> Settings {
    let secs = if mode == "classic" { 60 } else { 16 };
    Settings {
        life: Duration::from_secs(secs),
        overlap: OVERLAP,
        latency: Duration::from_millis(30),
        ..Settings::default()
    }
}

/// Three replicas with an app that nothing else in this store has. The first renews its tokens soon, the
/// others take their time.
async fn three(store: &Store, mode: &str, app: &str) -> Fleet {
    let (settings, apps) = (settings(mode), [app]);
    let refresh = "overlap = '8s'\nfloor = '100ms'\nprobe_every = '1s'\nat = 0.1";
    let mut fleet = match store {
        Store::Etcd(etcd) => Fleet::on_etcd(etcd, 3, settings, &apps, refresh).await,
        Store::Redis(redis) => Fleet::on_redis(redis, 3, settings, &apps, refresh).await,
    };
    for replica in &mut fleet.replicas[1..] {
        replica.home.change("at = 0.1", "at = 0.8");
    }
    fleet
}

/// Returns how long it took until all others served a living token again.
async fn die_and_be_replaced(store: &Store, mode: &str, death: Death) -> Duration {
    let app = format!("{mode}-{}-{}", death.point, death.passes);
    let place = format!("{mode}, {}", death.place());
    let mut fleet = three(store, mode, &app).await;
    let wechat = Arc::clone(&fleet.wechat);

    let kill = death.failpoints();
    let first = &fleet.replicas[0].home;
    let mut first = first.serve_with(&[("FAILPOINTS", &kill)]).await;
    taken_by(&mut first).await;
    let mut readers = Vec::new();
    for replica in &mut fleet.replicas[1..] {
        replica.start().await;
        let client = replica.client().await;
        readers.push(Reader::begin(client, &app, &wechat, &place));
    }
    let tokens = read_until_the_end(first, &app, &place).await;
    let (minted, began) = (wechat.counts(&app).mints(), Instant::now());
    let mut seen = Seen::default();
    for token in tokens {
        seen.sees(&app, &token, &place);
    }

    let all_serve = || readers.iter().all(Reader::serves);
    until("the others have a living token", all_serve).await;
    let took = began.elapsed();
    let lost = lost(mode, death);
    let replaced = || wechat.counts(&app).mints() >= minted + lost;
    until(&format!("the token is replaced, {place}"), replaced).await;

    // It comes back, as one of them, and its readers go on from where they were.
    wechat.turn(&Knobs {
        life: Some(Duration::from_hours(1)),
        ..Knobs::default()
    });
    let first = &mut fleet.replicas[0];
    first.home.change("at = 0.1", "at = 0.8");
    first.start().await;
    let mut client = first.client().await;
    let lives = |token: &pb::Token| wechat.accepts(&app, &token.access_token);
    let token = token_that(&mut client, &app, "lives", lives).await;
    seen.sees(&app, &token, &place);
    let same = || readers.iter().all(|reader| reader.has(&token));
    until(&format!("all have the same, {place}"), same).await;
    for reader in readers {
        reader.end().await;
    }
    let fetched = wechat.counts(&app).mints() - minted;
    if mode == "classic" {
        assert_eq!(fetched, lost, "mints, {place}");
    } else {
        // WeChat repeats a stable token, so none can be lost.
        assert!(fetched <= 1, "{fetched} mints, {place}");
    }
    took
}

/// How many tokens have to be fetched for the one that was, or may have been, lost with the first replica.
fn lost(mode: &str, Death { point, passes }: Death) -> u64 {
    match (mode, point) {
        ("stable", _) | (_, "saved") => 0,
        // There was one before, and it is not due.
        (_, "noting") if passes > 0 => 0,
        _ => 1,
    }
}

/// Until `server` refreshes, or is dead already: then nobody has heard what it said last.
async fn taken_by(server: &mut Server) {
    let pause = Duration::from_millis(20);
    while !server.process.stderr().contains(TAKEN) {
        if timeout(pause, server.process.ended()).await.is_ok() {
            return;
        }
    }
}

/// A caller of one replica, who asks all the time.
struct Reader {
    now: watch::Receiver<Option<(u64, bool)>>,
    task: JoinHandle<()>,
}

impl Reader {
    fn begin(mut client: Client, app: &str, wechat: &Arc<WeChat>, place: &str) -> Self {
        let (tell, now) = watch::channel(None);
        let (app, wechat, place) = (app.to_owned(), Arc::clone(wechat), place.to_owned());
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut good_at = Instant::now();
            while !tell.is_closed() {
                if let Ok(token) = token(&mut client, &app).await {
                    seen.sees(&app, &token, &place);
                    let lives = wechat.accepts(&app, &token.access_token);
                    good_at = if lives { Instant::now() } else { good_at };
                    assert!(good_at.elapsed() < SHORT, "a dead token, {place}");
                    tell.send_replace(Some((token.generation, lives)));
                } else {
                    good_at = Instant::now();
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self { now, task }
    }

    fn serves(&self) -> bool {
        self.now.borrow().is_some_and(|(_, lives)| lives)
    }

    fn has(&self, token: &pb::Token) -> bool {
        self.now
            .borrow()
            .is_some_and(|(generation, _)| generation == token.generation)
    }

    async fn end(self) {
        drop(self.now);
        self.task.await.unwrap();
    }
}
