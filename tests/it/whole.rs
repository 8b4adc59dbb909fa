//! The whole program at work: real processes, real sockets, a simulated WeChat, short lives.
//!
//! What callers see while WeChat rotates, fails, is slow to answer or is asked by somebody else.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};
use wxtokend::{
    pb::{self, Cause, Outcome},
    sandbox::{Counts, Endpoint, Fault, Kind, Knobs, Outage, Pool, Settings},
};

use crate::{
    history::History,
    process::{
        Home, PATIENCE, Server, WeChat, appid, row, secret_of, since_epoch, stale, time, token,
        token_that, watch_request,
    },
    served::Client,
};

const BOTH: [&str; 2] = ["classic", "stable"];

fn lives(life: u64, overlap: f64) -> Settings {
    Settings {
        life: Duration::from_secs(life),
        overlap: Duration::from_secs_f64(overlap),
        ..Settings::default()
    }
}

fn fault(fault: Fault) -> Knobs {
    Knobs {
        faults: vec![fault],
        ..Knobs::default()
    }
}

fn outage(outage: Outage) -> Knobs {
    Knobs {
        outage: Some(outage),
        ..Knobs::default()
    }
}

/// Programs that use the token they get at once, and what they met.
struct Fleet {
    wechat: Arc<WeChat>,
    overlap: Duration,
    /// A fetch that follows a lost one cuts the token before both off on the spot. Who held that one
    /// is helped by the one report that the contract asks for.
    may_report: bool,
    over: AtomicBool,
    uses: AtomicU64,
    rotations: AtomicU64,
}

impl Fleet {
    fn new(wechat: Arc<WeChat>, overlap: Duration) -> Self {
        Self {
            wechat,
            overlap,
            may_report: false,
            over: AtomicBool::new(false),
            uses: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Uses a token and checks that WeChat accepts it. A use that this machine was too busy to make at
    /// once says nothing.
    async fn use_at_once(&self, client: &mut Client, token: &pb::Token) {
        let begun = Instant::now();
        let errcode = self.wechat.use_token(&token.access_token).await;
        if begun.elapsed() < self.overlap / 2 {
            let (app, generation) = (&token.app_id, token.generation);
            if errcode != 0 && self.may_report {
                return self.report(client, token).await;
            }
            assert_eq!(errcode, 0, "WeChat refused {app} {generation}");
            self.uses.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn report(&self, client: &mut Client, refused: &pb::Token) {
        let request = stale(&refused.app_id, &refused.access_token);
        let answer = client.force_refresh(request).await.unwrap().into_inner();
        let newer = answer.token.unwrap();
        assert!(
            newer.generation > refused.generation,
            "{:?}",
            answer.outcome
        );
        let errcode = self.wechat.use_token(&newer.access_token).await;
        assert_eq!(errcode, 0, "WeChat refused {} too", newer.generation);
    }

    /// Asks again and again.
    async fn call(self: Arc<Self>, mut client: Client, name: &'static str) {
        let mut last = 0;
        while !self.is_over() {
            let asked = Instant::now();
            let token = token(&mut client, name).await.unwrap();
            assert!(
                token.generation >= last,
                "{name}: {} after {last}",
                token.generation
            );
            last = token.generation;
            if asked.elapsed() < self.overlap / 4 {
                self.use_at_once(&mut client, &token).await;
            }
            sleep(Duration::from_millis(fastrand::u64(150..350))).await;
        }
    }

    /// Watches and uses each token that comes.
    async fn watch(self: Arc<Self>, history: History, mut client: Client, name: &'static str) {
        let stream = history.watch(&mut client, watch_request(name)).await;
        let mut stream = stream.unwrap();
        let mut last = 0;
        while !self.is_over() {
            let Ok(message) = timeout(Duration::from_millis(500), stream.message()).await else {
                continue;
            };
            let message = message.unwrap().expect("the stream goes on");
            let cause = message.cause();
            let token = message.token.unwrap();
            assert!(
                token.generation > last,
                "{name}: {} after {last}",
                token.generation
            );
            assert_eq!(cause == Cause::Current, last == 0, "{cause:?}");
            last = token.generation;
            self.use_at_once(&mut client, &token).await;
            if cause == Cause::Rotated {
                self.rotations.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// So many callers and watchers of each app, over a few connections.
    async fn begin(
        self: &Arc<Self>,
        server: &Server,
        names: &[&'static str],
        each: usize,
    ) -> JoinSet<()> {
        let mut programs = JoinSet::new();
        for turn in 0..each {
            for name in names {
                if turn % 16 == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
                let client = server.client().await;
                programs.spawn(Arc::clone(self).call(client.clone(), name));
                let history = server.history.clone();
                programs.spawn(Arc::clone(self).watch(history, client, name));
            }
        }
        programs
    }

    async fn end(&self, mut programs: JoinSet<()>) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = programs.join_next().await {
            ended.unwrap();
        }
    }

    /// Until every watcher has seen so many rotations; a program that failed ends it at once.
    async fn until_rotations(&self, programs: &mut JoinSet<()>, rotations: u64) {
        let seen = async {
            while self.rotations.load(Ordering::Relaxed) < rotations {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            seen = timeout(3 * PATIENCE, seen) => seen.expect("it rotates"),
            Some(ended) = programs.join_next() => ended.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_program_meets_a_refused_token_over_several_rotations() {
    let wechat = Arc::new(WeChat::start(&BOTH, lives(6, 2.0)).await);
    let home = Home::new(&wechat.url(), "overlap = '2s'\nfloor = '100ms'", &BOTH);
    let server = home.serve().await;
    let fleet = Arc::new(Fleet::new(Arc::clone(&wechat), Duration::from_secs(2)));
    let mut programs = fleet.begin(&server, &BOTH, 64).await;
    fleet.until_rotations(&mut programs, 3 * 64 * 2).await;
    fleet.end(programs).await;
    assert!(fleet.uses.load(Ordering::Relaxed) > 4 * 64 * 2);
    assert!(
        wechat.counts("classic").classic_fetches <= 10,
        "{:?}",
        wechat.counts("classic")
    );
}

/// Programs that complain at the same time.
const ALL: usize = 2000;

/// What `count` callers are answered who report the same token at the same time.
async fn report(
    server: &Server,
    name: &'static str,
    stale_token: &str,
    count: usize,
) -> BTreeMap<(i32, u64), usize> {
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(server.client().await);
    }
    let mut reports = JoinSet::new();
    for turn in 0..count {
        let (mut client, request) = (clients[turn % 8].clone(), stale(name, stale_token));
        reports.spawn(async move { client.force_refresh(request).await });
    }
    let mut answers = BTreeMap::new();
    while let Some(answer) = reports.join_next().await {
        let answer = answer.unwrap().unwrap().into_inner();
        let generation = answer.token.unwrap().generation;
        *answers.entry((answer.outcome, generation)).or_default() += 1;
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_reports_of_one_token_cost_at_most_one_new_token() {
    let wechat = WeChat::start(&BOTH, lives(3600, 1.0)).await;
    let home = Home::new(&wechat.url(), "overlap = '1s'\nprobe_every = '0s'", &BOTH);
    let server = home.serve().await;
    tokio::join!(
        report_living_dead_and_outdated(&wechat, &server, "classic", Pool::Classic),
        report_living_dead_and_outdated(&wechat, &server, "stable", Pool::Stable),
    );
}

async fn report_living_dead_and_outdated(
    wechat: &WeChat,
    server: &Server,
    name: &'static str,
    pool: Pool,
) {
    let mut client = server.client().await;
    let first = token_that(&mut client, name, "is there", |_| true).await;
    let before = wechat.counts(name);
    let living = report(server, name, &first.access_token, ALL).await;
    let valid = Outcome::StillValid.into();
    assert_eq!(
        living,
        BTreeMap::from([((valid, first.generation), ALL)]),
        "{name}"
    );
    let after = wechat.counts(name);
    assert_eq!(after.mints(), before.mints(), "{name}");
    // One look, unless the reports take longer to arrive than a success is believed.
    assert!(after.looks <= before.looks + 10, "{name}: {after:?}");
    assert_eq!(after.classic_fetches, before.classic_fetches);
    let asked = after.stable_fetches - before.stable_fetches;
    assert!(asked <= 3, "{name}: reports must not hammer: {after:?}");

    // A look that succeeded is believed for as long as the overlap.
    sleep(Duration::from_secs(1)).await;
    wechat.revoke(name, pool);
    let before = wechat.counts(name);
    let dead = report(server, name, &first.access_token, ALL).await;
    let second = token(&mut client, name).await.unwrap();
    // Who is very late finds a newer one in force.
    let fine = [Outcome::Refreshed, Outcome::AlreadyNewer]
        .map(|outcome| (outcome.into(), second.generation));
    assert!(
        dead.keys().all(|answer| fine.contains(answer)),
        "{name}: {dead:?}"
    );
    assert!(dead[&fine[0]] > ALL / 2, "{name}: {dead:?}");
    assert!(second.generation > first.generation);
    assert!(wechat.accepts(name, &second.access_token));
    let after = wechat.counts(name);
    assert_eq!(after.mints(), before.mints() + 1, "{name}");
    assert_eq!(
        after.looks,
        before.looks + 3,
        "{name}: three looks prove a death"
    );

    let outdated = report(server, name, &first.access_token, ALL).await;
    let newer = Outcome::AlreadyNewer.into();
    assert_eq!(
        outdated,
        BTreeMap::from([((newer, second.generation), ALL)]),
        "{name}"
    );
    assert_eq!(wechat.counts(name), after, "{name}: WeChat was not asked");
}

/// More than 40 % of a life of 8 s.
const OUTAGE: Duration = Duration::from_millis(3300);

/// An outage from before the planned refresh.
async fn live_through(kind: Outage) {
    let wechat = WeChat::start(&["classic"], lives(8, 2.0)).await;
    let refresh = "overlap = '2s'\nfloor = '100ms'\nceiling = '1s'";
    let home = Home::new(&wechat.url(), refresh, &["classic"])
        .replace("'2s'\n[refresh]", "'600ms'\n[refresh]");
    let server = home.serve().await;
    let mut client = server.client().await;
    let first = token_that(&mut client, "classic", "is there", |_| true).await;
    // Business calls are down as well; what callers get is judged by the truth.
    let outage_at = time(first.issue_time) + Duration::from_millis(3400);
    sleep(outage_at.saturating_sub(since_epoch())).await;
    wechat.turn(&Knobs {
        outage_for: Some(OUTAGE),
        ..outage(kind)
    });
    let mut last = first.generation;
    let began = Instant::now();
    while last == first.generation {
        let asked = Instant::now();
        let token = token(&mut client, "classic").await.unwrap();
        if asked.elapsed() < Duration::from_millis(500) {
            assert!(wechat.accepts("classic", &token.access_token), "{kind:?}");
        }
        last = token.generation;
        sleep(Duration::from_millis(20)).await;
    }
    assert!(last > first.generation);
    let took = began.elapsed();
    assert!(
        took + Duration::from_millis(200) > OUTAGE,
        "{kind:?}: it was an outage"
    );
    server
        .process
        .until_stderr("WeChat gives tokens again")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_wechat_is_down_for_two_fifths_of_a_life() {
    tokio::join!(
        live_through(Outage::Refuse),
        live_through(Outage::Cut),
        live_through(Outage::Hang),
        live_through(Outage::Gateway),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_outage_is_noticed_when_the_token_dies_and_not_after_it() {
    let wechat = WeChat::start(&BOTH, lives(4, 1.0)).await;
    let refresh = "overlap = '1s'\nfloor = '100ms'\nceiling = '500ms'";
    let home = Home::new(&wechat.url(), refresh, &BOTH);
    let server = home.serve().await;
    let mut client = server.client().await;
    let mut deaths = BTreeMap::new();
    for name in BOTH {
        let first = token_that(&mut client, name, "is there", |_| true).await;
        deaths.insert(name, time(first.expire_time));
    }
    wechat.turn(&outage(Outage::Gateway));
    let out = Instant::now();
    while since_epoch() < *deaths.values().max().unwrap() + Duration::from_secs(1) {
        assert!(out.elapsed() < PATIENCE, "tokens come during the outage");
        for name in BOTH {
            let asked = since_epoch();
            let answer = token(&mut client, name).await;
            let answered = since_epoch();
            match answer {
                // On a slow machine a rotation may have come between the first token and the
                // outage, so the death is that of the token at hand.
                Ok(token) => {
                    let death = time(token.expire_time);
                    assert!(asked <= death, "{name}: a token after its death");
                    deaths.insert(name, death);
                }
                Err(status) => {
                    assert!(
                        answered >= deaths[name],
                        "{name}: before the death {status:?}"
                    );
                    let (code, reason, errcode) = row(&status);
                    assert_eq!((code, &*reason), (Code::Unavailable, "NO_VALID_TOKEN"));
                    assert_eq!(errcode, None, "a gateway gives no errcode");
                    assert!(retry_after(&status) <= Duration::from_secs(1));
                }
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    wechat.turn(&outage(Outage::None));
    let lifted = Instant::now();
    for name in BOTH {
        let token = token_that(&mut client, name, "lives", |_| true).await;
        assert!(wechat.accepts(name, &token.access_token), "{name}");
    }
    let took = lifted.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

fn retry_after(status: &Status) -> Duration {
    use tonic_types::StatusExt;
    let retry = status.get_details_retry_info().unwrap();
    retry.retry_delay.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_somebody_else_fetches_a_living_token_is_out_soon() {
    let wechat = WeChat::start(&BOTH, lives(3600, 1.0)).await;
    let home = Home::new(&wechat.url(), "overlap = '1s'\nprobe_every = '1s'", &BOTH);
    let server = home.serve().await;
    let mut client = server.client().await;
    let mut before = BTreeMap::new();
    for name in BOTH {
        let token = token_that(&mut client, name, "is there", |_| true).await;
        before.insert(name, token.generation);
    }
    // The second one in a row kills our classic token on the spot.
    wechat.foreign_fetch("classic", Pool::Classic);
    wechat.foreign_fetch("classic", Pool::Classic);
    wechat.foreign_fetch("stable", Pool::Stable);
    let began = Instant::now();
    for name in BOTH {
        let newer = |token: &pb::Token| token.generation > before[name];
        let token = token_that(&mut client, name, "is newer", newer).await;
        assert!(wechat.accepts(name, &token.access_token), "{name}");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1 + 5), "{took:?}");
    server
        .process
        .until_stderr("somebody else probably fetched")
        .await;
    assert_eq!(
        wechat.counts("classic").classic_fetches,
        2,
        "one at the start, one now"
    );
    assert_eq!(wechat.counts("stable").forced_fetches, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_reply_there_is_a_new_token_and_one_report_helps_who_held_the_old_one() {
    let kinds = [
        ("clost", Kind::Lost),
        ("ccut", Kind::Cut),
        ("chalf", Kind::Truncated),
    ];
    let names = kinds.map(|(name, _)| name);
    let wechat = Arc::new(WeChat::start(&names, lives(6, 2.0)).await);
    let refresh = "overlap = '2s'\nfloor = '100ms'\nceiling = '1s'";
    let home = Home::new(&wechat.url(), refresh, &names);
    let server = home.serve().await;
    let mut client = server.client().await;
    let mut first = BTreeMap::new();
    for (name, kind) in kinds {
        let token = token_that(&mut client, name, "is there", |_| true).await;
        first.insert(name, token.generation);
        let lost = Fault::new(kind).on(Endpoint::Classic).times(1);
        wechat.turn(&fault(Fault {
            appid: Some(appid(name)),
            ..lost
        }));
    }
    let fleet = Arc::new(Fleet {
        may_report: true,
        ..Fleet::new(Arc::clone(&wechat), Duration::from_secs(2))
    });
    let mut programs = fleet.begin(&server, &names, 8).await;
    fleet.until_rotations(&mut programs, 8 * 3).await;
    fleet.end(programs).await;
    for name in names {
        let token = token(&mut client, name).await.unwrap();
        assert!(token.generation > first[name], "{name}");
        let mints = wechat.counts(name).classic_mints;
        assert_eq!(mints, 3, "{name}: the first, the lost one, one recovery");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_file_is_tried_at_once() {
    let wechat = WeChat::start(&BOTH, lives(3600, 1.0)).await;
    let home = Home::new(&wechat.url(), "", &BOTH);
    for name in BOTH {
        home.write(name, "the wrong one");
    }
    let server = home.serve().await;
    let mut client = server.client().await;
    for name in BOTH {
        let status = token(&mut client, name).await.unwrap_err();
        let refused = (
            Code::FailedPrecondition,
            "NEEDS_OPERATOR".into(),
            Some("40125".into()),
        );
        assert_eq!(row(&status), refused, "{name}");
    }
    // As editors and Kubernetes do it: a new file in the place of the old one.
    for name in BOTH {
        home.write("new", &secret_of(name));
        std::fs::rename(home.path("new"), home.path(name)).unwrap();
    }
    let began = Instant::now();
    for name in BOTH {
        token_that(&mut client, name, "is there", |_| true).await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert!(wechat.counts("classic").classic_fetches <= 3, "it hammers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_token_is_dead_when_the_call_returns() {
    let wechat = WeChat::start(&["classic"], lives(3600, 1.0)).await;
    let home = Home::new(&wechat.url(), "overlap = '1s'", &["classic"]);
    let server = home.serve().await;
    let mut client = server.client().await;
    let first = token_that(&mut client, "classic", "is there", |_| true).await;
    let request = pb::ForceRefreshRequest {
        app_id: appid("classic"),
        stale_generation: first.generation,
        leaked: true,
        ..Default::default()
    };
    let answer = client.force_refresh(request).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), Outcome::Refreshed);
    assert!(!wechat.accepts("classic", &first.access_token));
    assert!(wechat.accepts("classic", &answer.token.unwrap().access_token));
    assert_eq!(
        wechat.counts("classic").mints(),
        3,
        "the first, and the drill's two"
    );
}

/// What WeChat answers to a fetch, and what the caller of `GetToken` then sees.
const REPLIES: [(&str, i64, &str); 26] = [
    ("busy", -1, "NO_VALID_TOKEN"),
    ("minute", 45011, "NO_VALID_TOKEN"),
    ("day", 45009, "NEEDS_OPERATOR"),
    ("ip", 40164, "NEEDS_OPERATOR"),
    ("ip-platform", 61004, "NEEDS_OPERATOR"),
    ("pending", 89501, "NEEDS_OPERATOR"),
    ("pending-call", 89503, "NEEDS_OPERATOR"),
    ("rejected-twice", 89506, "NEEDS_OPERATOR"),
    ("rejected", 89507, "NEEDS_OPERATOR"),
    ("wrong-secret", 40001, "NEEDS_OPERATOR"),
    ("wrong-secret-too", 40125, "NEEDS_OPERATOR"),
    ("appid", 40013, "NEEDS_OPERATOR"),
    ("frozen", 40243, "NEEDS_OPERATOR"),
    ("grant", 40002, "NEEDS_OPERATOR"),
    ("no-appid", 41002, "NEEDS_OPERATOR"),
    ("no-secret", 41004, "NEEDS_OPERATOR"),
    ("method", 43002, "NEEDS_OPERATOR"),
    ("no-body", 44002, "NEEDS_OPERATOR"),
    ("format", 47001, "NEEDS_OPERATOR"),
    ("no-right", 48001, "NEEDS_OPERATOR"),
    ("banned", 48004, "NEEDS_OPERATOR"),
    ("limited", 50002, "NEEDS_OPERATOR"),
    ("punished", 50004, "NEEDS_OPERATOR"),
    ("account", 50007, "NEEDS_OPERATOR"),
    ("platform", 61024, "NEEDS_OPERATOR"),
    ("future", 99_999, "NO_VALID_TOKEN"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_errcode_reaches_the_caller_as_the_contract_says() {
    for mode in ["classic", "stable"] {
        let names: Vec<String> = REPLIES
            .iter()
            .map(|(what, ..)| format!("{mode}-{what}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let wechat = WeChat::start(&names, Settings::default()).await;
        for (name, (_, errcode, _)) in names.iter().zip(REPLIES) {
            wechat.turn(&fault(Fault {
                appid: Some(appid(name)),
                ..Fault::errcode(errcode)
            }));
        }
        let home = Home::new(&wechat.url(), "floor = '10s'", &names);
        let server = home.serve().await;
        let mut client = server.client().await;
        for (name, (_, errcode, reason)) in names.iter().zip(REPLIES) {
            let status = token(&mut client, name).await.unwrap_err();
            let code = match reason {
                "NO_VALID_TOKEN" => Code::Unavailable,
                _ => Code::FailedPrecondition,
            };
            let expected = (code, reason.to_owned(), Some(errcode.to_string()));
            assert_eq!(row(&status), expected, "{name}");
            check_advice(name, errcode, &status);
            assert_eq!(wechat.counts(name).fetches(), 1, "{name}: it hammers");
        }
    }
}

/// Waiting has a time, a person has a hint.
fn check_advice(name: &str, errcode: i64, status: &Status) {
    use tonic_types::StatusExt;
    assert!(
        status.message().contains(&errcode.to_string()),
        "{status:?}"
    );
    let info = status.get_details_error_info().unwrap();
    if status.code() == Code::Unavailable {
        assert!(retry_after(status) > Duration::ZERO, "{name}");
        return;
    }
    let hint = &info.metadata["hint"];
    assert!(hint.len() > 20, "{name}: {hint}");
    if errcode == 40164 {
        assert!(
            status.message().contains("127.0.0.1"),
            "the address that WeChat saw: {status:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_no_answer_has_no_errcode_and_waiting_helps() {
    let kinds = [
        ("cut", Kind::Cut),
        ("cgateway", Kind::Gateway),
        ("cempty", Kind::Empty),
        ("chalf", Kind::Truncated),
        ("sgateway", Kind::Gateway),
        ("sempty", Kind::Empty),
        ("slost", Kind::Lost),
        ("shang", Kind::Hang),
    ];
    let names = kinds.map(|(name, _)| name);
    let wechat = WeChat::start(&names, Settings::default()).await;
    for (name, kind) in kinds {
        wechat.turn(&fault(Fault {
            appid: Some(appid(name)),
            ..Fault::new(kind)
        }));
    }
    let home = Home::new(&wechat.url(), "", &names);
    let server = home.serve().await;
    let mut client = server.client().await;
    for name in names {
        let status = token(&mut client, name).await.unwrap_err();
        let expected = (Code::Unavailable, "NO_VALID_TOKEN".to_owned(), None);
        assert_eq!(row(&status), expected, "{name}");
        assert!(retry_after(&status) > Duration::ZERO, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_looks_alone_leaves_the_token_in_force() {
    let wechat = WeChat::start(&BOTH, lives(3600, 1.0)).await;
    let home = Home::new(&wechat.url(), "overlap = '1s'\nprobe_every = '0s'", &BOTH);
    let server = home.serve().await;
    let mut client = server.client().await;
    for name in BOTH {
        let first = token_that(&mut client, name, "is there", |_| true).await;
        wechat.turn(&fault(Fault::new(Kind::Gateway).on(Endpoint::Business)));
        let before: Counts = wechat.counts(name);
        let report = client.force_refresh(stale(name, &first.access_token));
        let status = report.await.unwrap_err();
        let expected = (Code::Unavailable, "PROBE_INCONCLUSIVE".to_owned(), None);
        assert_eq!(row(&status), expected, "{name}");
        assert_eq!(wechat.counts(name).mints(), before.mints(), "{name}");
        let still = token(&mut client, name).await.unwrap();
        assert_eq!(still.generation, first.generation, "{name}");
        wechat.turn(&Knobs {
            clear_faults: true,
            ..Knobs::default()
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_no_refresh_cures_is_refused_without_asking() {
    let wechat = WeChat::start(&["classic"], lives(3600, 1.0)).await;
    let home = Home::new(&wechat.url(), "probe_every = '0s'", &["classic"]);
    let server = home.serve().await;
    let mut client = server.client().await;
    let first = token_that(&mut client, "classic", "is there", |_| true).await;
    let before = wechat.counts("classic");
    let request = pb::ForceRefreshRequest {
        errcode: 48001,
        ..stale("classic", &first.access_token)
    };
    let status = client.force_refresh(request).await.unwrap_err();
    let (code, reason, _) = row(&status);
    assert_eq!(
        (code, &*reason),
        (Code::FailedPrecondition, "NOT_A_TOKEN_ERROR")
    );
    assert_eq!(wechat.counts("classic"), before);
}
