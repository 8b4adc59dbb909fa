//! Everything fails at random: replicas, members of the store and its leader, the ways to the store and
//! to WeChat, WeChat. Callers never notice.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use wxtokend::sandbox::Settings;

use crate::{
    checker::{Account, Deliveries, Trouble, Troubles, ask_all_the_time, watch_all_the_time},
    engines::{Engine, Etcd, Redis},
    process::secret_of,
    replicas::{Fleet, Replica},
};

const APPS: [&str; 2] = ["classic", "stable"];

/// Lives and overlaps are those of WeChat, but faster. `WXTOKEND_LIFE` says another life, in seconds.
const LIFE: u64 = 24;
const OVERLAP: Duration = Duration::from_secs(5);

fn life() -> Duration {
    let secs = env::var("WXTOKEND_LIFE").map_or(LIFE, |secs| secs.parse().unwrap());
    Duration::from_secs(secs)
}

/// From the making of a token to the last replica, on a machine that is busy with all of this.
const MOMENT: Duration = Duration::from_millis(300);

/// The longest a fault lasts: longer than a lease.
const LONGEST: u64 = 8_000;

/// So long nothing happens at first.
const CALM: Duration = Duration::from_secs(5);

/// What one fault does.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill(usize),
    Stop(usize),
    Drain(usize),
    CutFromStore(usize),
    CutFromWeChat(usize),
    CutAllFromStore,
    KillMember(usize),
    StopMember(usize),
    CutMember(usize),
    StopLeader,
    KillLeader,
    CutLeader,
    WeChatDown,
}

impl Fault {
    fn any() -> Self {
        let n = fastrand::usize(..3);
        match fastrand::u8(..13) {
            0 => Self::Kill(n),
            1 => Self::Stop(n),
            2 => Self::Drain(n),
            3 => Self::CutFromStore(n),
            4 => Self::CutFromWeChat(n),
            5 => Self::CutAllFromStore,
            6 => Self::KillMember(n),
            7 => Self::StopMember(n),
            8 => Self::StopLeader,
            9 => Self::KillLeader,
            10 => Self::CutMember(n),
            11 => Self::CutLeader,
            _ => Self::WeChatDown,
        }
    }

    /// The replicas that it keeps from hearing of others.
    fn hits(self) -> Vec<usize> {
        match self {
            Self::Kill(n) | Self::Stop(n) | Self::Drain(n) | Self::CutFromStore(n) => vec![n],
            // It could not tell anybody what it has lost.
            Self::CutFromWeChat(_) | Self::WeChatDown => Vec::new(),
            _ => vec![0, 1, 2],
        }
    }

    /// The replica that cannot answer.
    fn mutes(self) -> Option<usize> {
        match self {
            Self::Kill(n) | Self::Stop(n) | Self::Drain(n) => Some(n),
            _ => None,
        }
    }
}

async fn strike(fault: Fault, pause: Duration, fleet: &mut Fleet, store: &mut Store) {
    match fault {
        Fault::Kill(n) => {
            fleet.replicas[n].kill().await;
            sleep(pause / 2).await;
            fleet.replicas[n].start().await;
        }
        Fault::Drain(n) => {
            fleet.replicas[n].drain().await;
            fleet.replicas[n].start().await;
        }
        Fault::Stop(n) => {
            let process = &fleet.replicas[n].server().process;
            process.signal("STOP").await;
            sleep(pause).await;
            process.signal("CONT").await;
        }
        Fault::CutFromStore(n) => {
            fleet.replicas[n].cut_from_the_store();
            sleep(pause).await;
            fleet.replicas[n].mend();
        }
        Fault::CutAllFromStore => {
            let all = fleet.replicas.iter();
            all.for_each(Replica::cut_from_the_store);
            sleep(pause).await;
            let all = fleet.replicas.iter();
            all.for_each(Replica::mend);
        }
        Fault::CutFromWeChat(n) => {
            fleet.replicas[n].to_wechat.cut();
            sleep(pause).await;
            fleet.replicas[n].mend();
        }
        Fault::WeChatDown => {
            let all = || fleet.replicas.iter().map(|replica| &replica.to_wechat);
            all().for_each(crate::links::Link::cut);
            sleep(pause / 4).await;
            all().for_each(crate::links::Link::mend);
        }
        Fault::CutMember(n) => cut_member(store, n, pause).await,
        Fault::CutLeader => {
            let leader = store.leader().await;
            cut_member(store, leader, pause).await;
        }
        Fault::KillMember(n) => kill_member(store, n, pause).await,
        Fault::StopMember(n) => stop_member(store, n, pause).await,
        Fault::StopLeader => {
            let leader = store.leader().await;
            stop_member(store, leader, pause).await;
        }
        Fault::KillLeader => {
            let leader = store.leader().await;
            kill_member(store, leader, pause).await;
        }
    }
}

/// What they share.
enum Store {
    Etcd(Etcd),
    Redis(Redis),
}

impl Store {
    async fn leader(&self) -> usize {
        match self {
            Self::Etcd(etcd) => etcd.leader().await.unwrap_or(0),
            Self::Redis(_) => 0,
        }
    }

    fn member(&mut self, n: usize) -> &mut Engine {
        let members = match self {
            Self::Etcd(etcd) => &mut etcd.members,
            Self::Redis(redis) => &mut redis.servers,
        };
        let count = members.len();
        &mut members[n % count]
    }
}

async fn kill_member(store: &mut Store, n: usize, pause: Duration) {
    store.member(n).kill();
    sleep(pause / 2).await;
    store.member(n).restart();
}

/// Replicas still reach it. With one server alone there is nothing to cut.
async fn cut_member(store: &mut Store, n: usize, pause: Duration) {
    let Store::Etcd(etcd) = store else { return };
    etcd.network.cut_off(n);
    sleep(pause).await;
    etcd.network.mend(n);
}

async fn stop_member(store: &mut Store, n: usize, pause: Duration) {
    store.member(n).signal("STOP");
    sleep(pause).await;
    store.member(n).signal("CONT");
}

fn settings() -> Settings {
    Settings {
        life: life(),
        overlap: OVERLAP,
        ..Settings::default()
    }
}

const REFRESH: &str = "overlap = '5s'\nfloor = '100ms'\nprobe_every = '2s'";

#[tokio::test(flavor = "multi_thread")]
async fn on_etcd_whatever_fails_callers_are_not_refused_and_no_token_is_burnt() {
    let etcd = Etcd::start(3).await;
    let fleet = Fleet::on_etcd(&etcd, 3, settings(), &APPS, REFRESH).await;
    live_through_faults(fleet, Store::Etcd(etcd)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_whatever_fails_callers_are_not_refused_and_no_token_is_burnt() {
    let redis = Redis::start().await;
    let fleet = Fleet::on_redis(&redis, 3, settings(), &APPS, REFRESH).await;
    live_through_faults(fleet, Store::Redis(redis)).await;
}

/// As long as `WXTOKEND_FAULTS` says, in seconds; in the order that `WXTOKEND_SEED` makes.
async fn live_through_faults(mut fleet: Fleet, mut store: Store) {
    let secs = env::var("WXTOKEND_FAULTS").map_or(30, |secs| secs.parse().unwrap());
    let seed = env::var("WXTOKEND_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    fastrand::seed(seed);
    println!("seed {seed}");
    fleet.start().await;
    for app in APPS {
        fleet.everybody_has(app, "is there").await;
    }

    let over = Arc::new(AtomicBool::new(false));
    let (mut callers, mut watchers) = (Vec::new(), Vec::new());
    for (n, replica) in fleet.replicas.iter().enumerate() {
        for app in APPS {
            let url = replica.server().url.clone();
            let (wechat, over) = (Arc::clone(&fleet.wechat), Arc::clone(&over));
            let history = replica.server().history.clone();
            let watcher = watch_all_the_time(url.clone(), app, history, Arc::clone(&over));
            watchers.push(tokio::spawn(watcher));
            callers.push(tokio::spawn(ask_all_the_time(url, (app, n), wechat, over)));
        }
    }
    sleep(CALM).await;
    let (begin, mut troubles) = (Instant::now(), Troubles::default());
    let mut told = Vec::new();
    let cut_short = |callers: &[JoinHandle<Account>]| callers.iter().any(JoinHandle::is_finished);
    while begin.elapsed() < Duration::from_secs(secs) && !cut_short(&callers) {
        let (fault, pause) = (
            Fault::any(),
            Duration::from_millis(fastrand::u64(500..LONGEST)),
        );
        let from = Instant::now();
        strike(fault, pause, &mut fleet, &mut store).await;
        troubles.add(Trouble {
            apart: fault.hits(),
            mute: fault.mutes(),
            from,
            to: Instant::now(),
        });
        told.push(format!(
            "{:?} {fault:?} for {:?}",
            from - begin,
            from.elapsed()
        ));
        sleep(Duration::from_millis(fastrand::u64(..3_000))).await;
    }
    panics_of(&mut callers, || logs(&fleet, &told)).await;
    // Every replica has a living token again, soon.
    for app in APPS {
        for token in fleet.everybody_has(app, "is there").await {
            assert!(token.generation > 0);
        }
    }
    over.store(true, Ordering::Relaxed);
    let mut accounts = Vec::new();
    for caller in callers {
        accounts.push(caller.await.unwrap());
    }
    judge_the_streams(watchers).await;
    judge(&accounts, &troubles, &fleet, begin, &told);
}

/// A stream that broke a rule has ended in a panic.
async fn judge_the_streams(watchers: Vec<JoinHandle<u64>>) {
    let mut messages = 0;
    for watcher in watchers {
        messages += watcher.await.expect("the streams keep the rules");
    }
    println!("{messages} messages of streams");
    assert!(messages > 0, "nobody was told anything");
}

/// A caller that has seen a promise broken says so; the logs say why.
async fn panics_of(callers: &mut [JoinHandle<Account>], logs: impl Fn() -> String) {
    if let Some(caller) = callers.iter_mut().find(|caller| caller.is_finished()) {
        let why = caller.await.expect_err("it is not over yet");
        panic!("{why}\n{}", logs());
    }
}

fn judge(
    accounts: &[Account],
    troubles: &Troubles,
    fleet: &Fleet,
    begin: Instant,
    told: &[String],
) {
    let log = || logs(fleet, told);
    for account in accounts {
        let (app, replica) = (&account.app, account.replica);
        let (answers, none) = (account.answered(), account.unanswered.len());
        let (wrong, well) = account.p99(troubles);
        let let_down = account.let_down(troubles);
        println!(
            "{app} at replica {replica}: {answers} answers, p99 {wrong:?} during faults, {well:?} between them; {none} without a token, {} of them while it could answer",
            let_down.len()
        );
        // A classic token is not to be had while the store is down and the others are not heard of.
        for run in let_down.chunk_by(|one, other| other.0 - one.0 < CALM) {
            let (first, last) = (&run[0], &run[run.len() - 1]);
            println!(
                "  from {:?} for {:?}: {}",
                first.0 - begin,
                last.0 - first.0,
                first.1
            );
        }
        let refusals = account.refusals(begin);
        // The token before the last dies in the moment in which a fetch is made up for that was lost.
        let (most, longest) = if app == "classic" {
            (moments(told), MOMENT)
        } else {
            (0, Duration::ZERO)
        };
        let fine = refusals.moments <= most && refusals.longest <= longest;
        assert!(fine, "{}\n{}", refusals.told, log());
    }
    let elapsed = begin.elapsed() + CALM;
    for app in APPS {
        let counts = fleet.wechat.counts(app);
        let (mints, fetches) = (counts.mints(), counts.fetches());
        println!("{app}: {mints} tokens and {fetches} fetches in {elapsed:?}");
        let planned = elapsed.as_secs() / (life().as_secs() / 2) + 2;
        assert!(
            mints <= planned + moments(told),
            "{mints} tokens\n{}",
            log()
        );
        // Each of the three may ask for a stable token as often as the one that refreshes.
        assert!(
            fetches <= elapsed.as_secs() * 8,
            "{fetches} fetches\n{}",
            log()
        );
    }
    let deliveries = Deliveries::of(accounts, troubles, begin);
    println!("{}", deliveries.told());
    let late = &deliveries.late;
    assert!(late.is_empty(), "{late:#?}\n{}", log());
    nothing_leaked(fleet);
}

/// What was done to them, and what they said.
fn logs(fleet: &Fleet, told: &[String]) -> String {
    let said: Vec<_> = fleet.replicas.iter().map(Replica::log).collect();
    format!("{}\n{}", told.join("\n"), said.join("---\n"))
}

fn nothing_leaked(fleet: &Fleet) {
    for app in APPS {
        let mut secrets = fleet.wechat.tokens(app);
        secrets.push(secret_of(app));
        for replica in &fleet.replicas {
            let said = replica.log();
            let leaked = secrets.iter().any(|secret| said.contains(secret));
            assert!(!leaked, "a secret of {app} is in a log");
        }
    }
}

/// Faults that may lose an answer of WeChat, or hold a fetch up until its claim is over.
fn moments(told: &[String]) -> u64 {
    let loses = |line: &&String| {
        ["Kill(", "Stop(", "WeChat"]
            .iter()
            .any(|f| line.contains(f))
    };
    told.iter().filter(loses).count() as u64
}
