//! What every store must do, and what every one that replicas share.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep, timeout},
};
use wxtokend::{
    clock::Clock,
    domain::{Generation, Mode, Note, Now, Record, Remedy, Secret, Token, Trouble, budget::Ledger},
    store::{
        Store, StoreError,
        shared::{Holder, Reply, Request, Seen, Shared},
    },
};

/// How long a claim outlives its replica in these stores.
pub(crate) const LEASE: Duration = Duration::from_secs(5);

/// An app's appid.
pub(crate) const APP: &str = "wx0123456789abcdef";

const OTHER_APP: &str = "wx-other_APP";
const MINUTE: Duration = Duration::from_mins(1);

/// What must come comes much sooner.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store to share.
pub(crate) struct Place {
    /// A name that no other test has.
    pub(crate) name: &'static str,
    /// What replicas read the time from.
    pub(crate) clock: Clock,
    /// What a new replica with these apps and this clock has of it.
    pub(crate) join: Join,
}

pub(crate) type Join = Box<dyn Fn(Vec<String>, Clock) -> Arc<Shared> + Send + Sync>;

/// One replica's share, and what it is told.
struct Share {
    shared: Arc<Shared>,
    changes: UnboundedReceiver<Seen>,
}

impl Place {
    fn join(&self) -> Share {
        self.join_by(self.clock)
    }

    fn join_by(&self, clock: Clock) -> Share {
        let apps = vec![APP.to_owned(), OTHER_APP.to_owned()];
        let shared = (self.join)(apps, clock);
        let changes = shared.changes().unwrap();
        Share { shared, changes }
    }
}

impl Share {
    /// What is told of the app until it `fits`.
    async fn until(&mut self, what: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
        let waiting = async {
            loop {
                let seen = self.changes.recv().await.unwrap();
                if seen.appid == APP && fits(&seen) {
                    return seen;
                }
            }
        };
        let seen = timeout(PATIENCE, waiting).await;
        seen.unwrap_or_else(|_| panic!("it was not told that {what}"))
    }

    async fn claim(&mut self) {
        self.until("nobody has the claim", |seen| seen.holder == Holder::Nobody)
            .await;
        self.shared.claim(APP).await.unwrap();
        self.until("the claim is ours", |seen| seen.holder == Holder::Us)
            .await;
    }
}

/// A record with something in every field, 20 minutes after its token was asked for.
pub(crate) fn full(generation: u64, now: Now) -> Record {
    let (asked_at, expires_at) = (now.boot - 20 * MINUTE, now.boot + 100 * MINUTE);
    Record {
        mode: Mode::Classic,
        token: Some(Arc::new(Token {
            value: Secret::new(format!("70_token-{generation}")),
            generation: Generation(generation),
            asked_at,
            expires_at,
            issue_time: now.wall_at(asked_at),
            expire_time: now.wall_at(expires_at),
        })),
        dead: true,
        generation: Generation(generation),
        note: Some(Note {
            asked_at: now.boot - MINUTE,
            reserved: Generation(generation + 1),
        }),
        ledger: Ledger {
            day: 20_000,
            replacements: 3,
            forced: 4,
            replaced_at: Some(asked_at),
            streak: 2,
            minted_at: Some(asked_at),
        },
        blocked_until: Some(now.boot + MINUTE),
        trouble: Some(Arc::new(Trouble {
            remedy: Remedy::IpList,
            errcode: Some(40164),
            definite: true,
            message: "the address is not on the list".into(),
            hint: Some("add it".into()),
        })),
    }
}

/// Fails where `store`, which is empty and may be written to, does not give back what was saved last for each app.
pub(crate) async fn keeps_what_is_saved(store: &dyn Store, clock: Clock) {
    assert!(store.load(APP).await.unwrap().is_none(), "{store:?}");
    assert!(store.may_ask(APP, Duration::from_millis(100)).await);
    for generation in [3, 5] {
        let saved = full(generation, clock.now());
        store.save(APP, &saved).await.unwrap();
        for read in [store.load(APP).await, store.read(APP).await] {
            let read = read.unwrap().expect("a record");
            let (token, sent) = (read.token.unwrap(), saved.token.clone().unwrap());
            assert_eq!(token.value.expose(), sent.value.expose());
            assert_eq!(token.generation, Generation(generation));
            assert_eq!((read.mode, read.dead), (saved.mode, true));
            assert_eq!(read.note.unwrap().reserved, Generation(generation + 1));
            assert_eq!(read.ledger.replacements, saved.ledger.replacements);
            let left = token.expires_at.since(clock.now().boot);
            let wrong = left.abs_diff(100 * MINUTE);
            assert!(wrong < Duration::from_secs(3), "{store:?}: {left:?}");
        }
        assert!(store.load(OTHER_APP).await.unwrap().is_none(), "{store:?}");
    }
}

/// Fails where `place` does not.
pub(crate) async fn keeps_the_contract(place: &Place) {
    what_one_saves_arrives_at_the_other(place).await;
    one_at_a_time_has_the_claim(place).await;
    a_claim_that_is_given_up_is_free_at_once(place).await;
    all_claims_of_a_replica_last(place).await;
    a_claim_ends_with_its_replica(place).await;
    letters_are_delivered_and_answered(place).await;
}

async fn what_one_saves_arrives_at_the_other(place: &Place) {
    let mut one = place.join();
    one.claim().await;
    keeps_what_is_saved(&*one.shared, place.clock).await;
    let now = place.clock.now();
    let record = full(7, now);
    one.shared.save(APP, &record).await.unwrap();

    // This one's clock is ten minutes fast, and its machine was started at another time.
    let there = Now {
        boot: now.boot + 7 * MINUTE,
        wall: now.wall + 10 * MINUTE,
    };
    let clock = Clock::simulated(there);
    let mut other = place.join_by(clock);
    let seen = other
        .until("there is a record", |seen| {
            let record = seen.record.as_ref();
            record.is_some_and(|record| record.generation == Generation(7))
        })
        .await;
    assert_eq!(seen.holder, Holder::Other(one.shared.me().to_owned()));
    assert!(!seen.own);
    let read = seen.record.unwrap();
    let (token, saved) = (read.token.unwrap(), record.token.unwrap());
    assert_eq!(token.value.expose(), saved.value.expose());
    assert_eq!((read.dead, read.generation), (true, Generation(7)));
    assert_eq!(read.trouble, record.trouble);
    assert_eq!(read.note.unwrap().reserved, Generation(8));
    let here = clock.now();
    let left = token.expires_at.since(here.boot);
    assert!(
        left.abs_diff(100 * MINUTE) < Duration::from_secs(3),
        "{left:?}"
    );
    let spent = here.boot.since(read.ledger.minted_at.unwrap());
    assert!(
        spent.abs_diff(20 * MINUTE) < Duration::from_secs(3),
        "{spent:?}"
    );

    one.shared.save(APP, &full(9, now)).await.unwrap();
    let newer = |seen: &Seen| {
        let record = seen.record.as_ref();
        record.is_some_and(|record| record.generation == Generation(9))
    };
    other.until("the record was replaced", newer).await;
    let loaded = other.shared.load(APP).await.unwrap().unwrap();
    assert_eq!(loaded.generation, Generation(9));
    assert!(other.shared.load(OTHER_APP).await.unwrap().is_none());
    one.shared.leave().await.unwrap();
}

async fn one_at_a_time_has_the_claim(place: &Place) {
    let mut one = place.join();
    one.claim().await;
    let now = place.clock.now();
    let mut other = place.join();
    let first = Holder::Other(one.shared.me().to_owned());
    other
        .until("it is taken", |seen| seen.holder == first)
        .await;
    other.shared.claim(APP).await.unwrap();
    other
        .until("it is still taken", |seen| seen.holder == first)
        .await;
    let refused = other.shared.save(APP, &full(1, now)).await;
    assert!(matches!(refused, Err(StoreError::Lost)), "{refused:?}");

    assert!(one.shared.may_ask(APP, LEASE / 2).await);
    assert!(one.shared.may_ask(APP, LEASE * 9 / 10).await);
    assert!(!one.shared.may_ask(APP, LEASE * 2).await);
    assert!(!other.shared.may_ask(APP, LEASE / 5).await);

    one.shared.leave().await.unwrap();
    other.claim().await;
    // Also before it has heard that it has lost the claim.
    let refused = one.shared.save(APP, &full(2, now)).await;
    assert!(matches!(refused, Err(StoreError::Lost)), "{refused:?}");
    other.shared.save(APP, &full(3, now)).await.unwrap();
    let kept = one.shared.load(APP).await.unwrap().unwrap();
    assert_eq!(kept.generation, Generation(3));
    other.shared.leave().await.unwrap();
}

async fn a_claim_that_is_given_up_is_free_at_once(place: &Place) {
    let (mut one, mut other) = (place.join(), place.join());
    one.claim().await;
    let first = Holder::Other(one.shared.me().to_owned());
    let taken = |seen: &Seen| seen.holder == first;
    other.until("it is taken", taken).await;
    other.shared.release(APP).await.unwrap();
    assert_eq!(
        other.shared.holder(APP).await.unwrap(),
        first,
        "not its own"
    );
    let now = place.clock.now();
    one.shared.save(APP, &full(1, now)).await.unwrap();
    one.shared.release(APP).await.unwrap();
    let refused = one.shared.save(APP, &full(2, now)).await;
    assert!(matches!(refused, Err(StoreError::Lost)), "{refused:?}");
    assert_eq!(one.shared.claim_until(APP), None);
    let began = Instant::now();
    other.claim().await;
    assert!(began.elapsed() < LEASE / 2, "{:?}", began.elapsed());
    other.shared.leave().await.unwrap();
}

async fn all_claims_of_a_replica_last(place: &Place) {
    let mut one = place.join();
    one.claim().await;
    one.shared.claim(OTHER_APP).await.unwrap();
    sleep(LEASE * 3 / 2).await;
    let other = place.join();
    for app in [APP, OTHER_APP] {
        let holder = other.shared.holder(app).await.unwrap();
        assert_eq!(holder, Holder::Other(one.shared.me().to_owned()), "{app}");
    }
    one.shared.leave().await.unwrap();
}

async fn a_claim_ends_with_its_replica(place: &Place) {
    let mut one = place.join();
    one.claim().await;
    let mut other = place.join();
    let first = Holder::Other(one.shared.me().to_owned());
    other
        .until("it is taken", |seen| seen.holder == first)
        .await;
    let began = Instant::now();
    drop(one);
    other.claim().await;
    let took = began.elapsed();
    println!(
        "{}: taken over {took:?} after the last sign of life or less",
        place.name
    );
    assert!(took > LEASE / 2, "{took:?}: before the end of the lease");
    assert!(took < LEASE + Duration::from_secs(4), "{took:?}");
    other.shared.leave().await.unwrap();
}

async fn letters_are_delivered_and_answered(place: &Place) {
    let (mut one, mut other) = (place.join(), place.join());
    one.claim().await;
    let request = Request::Stale {
        generation: 7,
        leaked: true,
    };
    // The lease of the one that asks has to be there first.
    assert!(other.shared.wait_for_contact(PATIENCE).await);
    while other
        .shared
        .ask(APP, "id-1", request.clone())
        .await
        .is_err()
    {
        sleep(Duration::from_millis(50)).await;
    }
    let seen = one
        .until("there is a letter", |seen| !seen.letters.is_empty())
        .await;
    let mut letter = seen.letters["id-1"].clone();
    assert_eq!(letter.from, other.shared.me());
    assert_eq!((&letter.request, &letter.reply), (&request, &None));
    letter.reply = Some(Reply::StillValid);
    one.shared.answer(APP, "id-1", &letter).await.unwrap();
    let answered = |seen: &Seen| {
        let letter = seen.letters.get("id-1");
        letter.is_some_and(|letter| letter.reply.is_some())
    };
    other.until("it is answered", answered).await;
    other.shared.discard(APP, "id-1").await.unwrap();
    one.until("it is gone", |seen| seen.letters.is_empty())
        .await;
    one.shared.answer(APP, "id-1", &letter).await.unwrap();
    // An answer to nobody brings nothing back.
    let mut third = place.join();
    let seen = third.until("how it stands", |_| true).await;
    assert!(seen.letters.is_empty(), "{:?}", seen.letters);
    one.shared.leave().await.unwrap();
}
