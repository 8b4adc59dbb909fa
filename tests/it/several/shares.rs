//! What a replica has of the store. The database in memory stands for etcd and Redis, so it does what they do.

use std::{
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use wxtokend::{
    clock::Clock,
    domain::{AppName, Ask, Fetched, Generation, Moment, Now, Policy, Record, Secret, Sight},
    refresher::{Managed, Refresher},
    store::{
        Opened, Store,
        shared::{Shared, Sharing},
    },
    telemetry::Metrics,
    tokens,
    upstream::{FetchError, Upstream},
};

use super::{
    database::Database,
    links::{Link, State, Way},
};
use crate::{
    contract::{APP, LEASE, Place, full, keeps_the_contract},
    world::{Disk, sunday},
};

/// What `me` has of `database`, by this way.
fn join(
    link: Arc<Link>,
    database: &Arc<Database>,
    me: String,
    apps: Vec<String>,
    clock: Clock,
    cache: Option<Arc<dyn Store>>,
) -> Shared {
    let client = database.client(&me, LEASE, link);
    let sharing = Sharing {
        me,
        apps,
        lease: LEASE,
        cache,
        boot_id: String::new(),
        clock,
    };
    Shared::begin(Arc::new(client), sharing)
}

fn clock() -> Clock {
    Clock::simulated(Now {
        boot: Moment::since_boot(Duration::from_hours(1000)),
        wall: sunday(),
    })
}

#[tokio::test(start_paused = true)]
async fn the_database_in_memory_keeps_the_contract() {
    let database = Database::new();
    let joined = AtomicU32::new(0);
    let place = Place {
        name: "memory",
        clock: clock(),
        join: Box::new(move |apps, clock| {
            let me = format!("replica-{}", joined.fetch_add(1, Ordering::Relaxed));
            Arc::new(join(Arc::default(), &database, me, apps, clock, None))
        }),
    };
    keeps_the_contract(&place).await;
}

#[tokio::test(start_paused = true)]
async fn the_local_copy_follows_the_store_but_never_to_what_is_older_than_readers_have_seen() {
    let (database, disk, clock) = (Database::new(), Arc::new(Disk::default()), clock());
    let copy = || disk.backup().get(APP).map(|record| record.generation);
    let apps = || vec![APP.to_owned()];
    let cache = Some(Arc::clone(&disk) as Arc<dyn Store>);
    let reader = join(
        Arc::default(),
        &database,
        "reader".into(),
        apps(),
        clock,
        cache,
    );
    let _changes = reader.changes();
    let holder = join(
        Arc::default(),
        &database,
        "holder".into(),
        apps(),
        clock,
        None,
    );
    let _changes = holder.changes();
    assert!(holder.wait_for_contact(LEASE).await);
    holder.claim(APP).await.unwrap();
    let save = async |generation| {
        while holder
            .save(APP, &full(generation, clock.now()))
            .await
            .is_err()
        {
            sleep(LEASE / 50).await;
        }
        sleep(LEASE / 5).await;
    };
    save(7).await;
    assert_eq!(copy(), Some(Generation(7)));
    reader.keep(APP, &full(9, clock.now())).await;
    save(8).await;
    assert_eq!(copy(), Some(Generation(9)));
    save(11).await;
    assert_eq!(copy(), Some(Generation(11)));
}

#[tokio::test(start_paused = true)]
async fn hints_that_have_fallen_silent_are_begun_anew_and_others_are_not() {
    for (deaf, watches) in [(true, 2), (false, 1)] {
        let (database, link) = (Database::new(), Arc::<Link>::default());
        link.set(State {
            deaf,
            ..State::default()
        });
        let apps = vec![APP.to_owned()];
        let shared = join(link, &database, "one".into(), apps, clock(), None);
        assert!(shared.wait_for_contact(LEASE).await);
        for _ in 0..3 {
            database.scribble(APP);
            sleep(Duration::from_secs(5)).await;
        }
        assert_eq!(database.watches(), watches, "deaf: {deaf}");
    }
}

/// What reads a board is dropped when hints end, perhaps while a copy of it is written.
#[tokio::test(start_paused = true)]
async fn what_was_read_and_could_not_be_told_is_told_by_a_later_comparison() {
    let (database, disk, clock) = (Database::new(), Arc::new(Disk::default()), clock());
    let (apps, link) = (|| vec![APP.to_owned()], Arc::<Link>::default());
    let cache = Some(Arc::clone(&disk) as Arc<dyn Store>);
    let (way, me) = (Arc::clone(&link), "reader".to_owned());
    let reader = join(way, &database, me, apps(), clock, cache);
    let mut changes = reader.changes().unwrap();
    let me = "holder".to_owned();
    let holder = join(Arc::default(), &database, me, apps(), clock, None);
    assert!(holder.wait_for_contact(LEASE).await);
    holder.claim(APP).await.unwrap();
    sleep(LEASE / 5).await;

    disk.stuck.store(true, Ordering::SeqCst);
    holder.save(APP, &full(7, clock.now())).await.unwrap();
    sleep(LEASE / 50).await;
    link.set(State {
        to_store: Way::Closed,
        ..State::default()
    });
    database.scribble("wx-another");
    sleep(LEASE / 50).await;
    link.set(State::default());
    disk.stuck.store(false, Ordering::SeqCst);
    let told = async {
        while let Some(seen) = changes.recv().await {
            let record = seen.record.map(|record| record.generation);
            if record == Some(Generation(7)) {
                return;
            }
        }
    };
    timeout(LEASE, told).await.expect("it is told");
}

/// Nobody refreshes here.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Upstream for Nobody {
    async fn fetch(&self, _: Ask) -> Result<Fetched, FetchError> {
        pending().await
    }

    async fn look(&self, _: &Secret) -> Sight {
        pending().await
    }

    async fn secret_version(&self) -> Option<u64> {
        Some(0)
    }
}

/// What is logged.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Its readers have seen what was saved last, and what the store held before is told first.
#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_while_another_one_saves_follows_only_what_it_was_told_last() {
    let (database, disk, clock) = (Database::new(), Arc::new(Disk::default()), clock());
    let record = |generation| Record {
        note: None,
        dead: false,
        ..full(generation, clock.now())
    };
    let apps = || vec![APP.to_owned()];
    let me = "holder".to_owned();
    let holder = join(Arc::default(), &database, me, apps(), clock, None);
    assert!(holder.wait_for_contact(LEASE).await);
    holder.claim(APP).await.unwrap();
    sleep(LEASE / 5).await;
    holder.save(APP, &record(7)).await.unwrap();

    disk.save(APP, &record(8)).await.unwrap();
    let (me, cache) = ("reader".to_owned(), Some(disk as Arc<dyn Store>));
    let reader = join(Arc::default(), &database, me, apps(), clock, cache);
    assert!(reader.wait_for_contact(LEASE).await);
    holder.save(APP, &record(8)).await.unwrap();
    sleep(LEASE / 5).await;

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _logged = tracing::subscriber::set_default(subscriber.finish());
    let name = AppName::parse("shop").unwrap();
    let (tokens, publisher) = tokens::channel([(name.clone(), APP.to_owned())], clock);
    let managed = Managed {
        name: name.clone(),
        appid: APP.to_owned(),
        policy: Policy::default(),
        upstream: Arc::new(Nobody),
    };
    let opened = Opened::Shared(Arc::new(reader));
    let refresher = Refresher::new(publisher, [managed], opened, clock, &Metrics::new()).await;
    let running = refresher.run(CancellationToken::new(), Arc::default());
    assert!(timeout(LEASE / 5, running).await.is_err());
    let issued = tokens.current(&name, Duration::ZERO).await.unwrap();
    assert_eq!(issued.token.generation, Generation(8));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("generation=8"), "{log}");
    assert!(!log.contains("generation=7"), "{log}");
}
