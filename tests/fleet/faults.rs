//! Everything fails at random: replicas, members of the store and its leader, the ways to the store and
//! to WeChat, WeChat. Callers never notice.
//!
//! Mischief and calm take turns. No token is refused, but for the moment in which a classic one is fetched again
//! because a fetch before may have been lost, and for one that dies while a replica that is cut off answers, and has
//! asked WeChat before. Each fetch that was not planned has a fault to explain it.

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
use wxtokend::sandbox::{Mint, Settings};

use crate::{
    checker::{Account, Deliveries, Trouble, Troubles, ask_all_the_time, watch_all_the_time},
    engines::{Etcd, Redis},
    mischief::{Fault, Mischief, Store},
    process::{WeChat, secret_of, since_epoch},
    replicas::{Fleet, Replica, lease, longest_fault},
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

/// So many answers of a replica that is cut off, and asks WeChat before, may be overtaken by the end of a token.
const ON_THEIR_WAY: usize = 2;

/// A classic fetch may lose its answer from the moment it is sent, until its result is saved.
const UNDER_WAY: Duration = Duration::from_secs(3);

/// So long after the last fault all is well: what a lost fetch left is made up for, and a claim is taken.
fn recovery() -> Duration {
    Duration::from_secs(lease()) + OVERLAP + Duration::from_secs(2)
}

/// So many calls of one caller may take too long while nothing is wrong.
const FEW: usize = 10;

/// Figures of less time say nothing.
const LONG: Duration = Duration::from_mins(10);

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
    fleet.stand_still_for(longest_fault());
    fleet.start().await;
    for app in APPS {
        fleet.everybody_has(app, "is there").await;
    }

    let over = Arc::new(AtomicBool::new(false));
    let (mut callers, watchers) = observe(&fleet, &over);
    sleep(recovery()).await;
    let (mut mischief, end) = (Mischief::new(), Instant::now() + Duration::from_secs(secs));
    let cut_short = |callers: &[JoinHandle<Account>]| callers.iter().any(JoinHandle::is_finished);
    while Instant::now() < end && !cut_short(&callers) {
        let span = (life() * 2).min(end - Instant::now());
        mischief.go_on(span, &mut fleet, &mut store).await;
        // With a rotation in the time in which nothing excuses anything any more.
        sleep(recovery() + life() / 2).await;
    }
    panics_of(&mut callers, || logs(&fleet, &mischief.told)).await;
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
    judge(&accounts, &mischief, &fleet);
}

/// Who asks and who watches each app at each replica.
fn observe(
    fleet: &Fleet,
    over: &Arc<AtomicBool>,
) -> (Vec<JoinHandle<Account>>, Vec<JoinHandle<u64>>) {
    let (mut callers, mut watchers) = (Vec::new(), Vec::new());
    for (n, replica) in fleet.replicas.iter().enumerate() {
        for app in APPS {
            let url = replica.server().url.clone();
            let (wechat, over) = (Arc::clone(&fleet.wechat), Arc::clone(over));
            let history = replica.server().history.clone();
            let watcher = watch_all_the_time(url.clone(), app, history, Arc::clone(&over));
            watchers.push(tokio::spawn(watcher));
            callers.push(tokio::spawn(ask_all_the_time(url, (app, n), wechat, over)));
        }
    }
    (callers, watchers)
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

fn judge(accounts: &[Account], mischief: &Mischief, fleet: &Fleet) {
    let (begin, troubles) = (mischief.begin, &mischief.troubles);
    let log = || logs(fleet, &mischief.told);
    let elapsed = begin.elapsed() + recovery();
    let made_up_for = made_up_for(&fleet.wechat, troubles, begin).unwrap_or_else(|unexplained| {
        panic!("{unexplained}\n{}", log());
    });
    for account in accounts {
        tell(account, troubles, begin);
        for refusal in account.refusals(begin) {
            println!("  {}", refusal.told);
            let moment = |at: &Instant| *at <= refusal.from && refusal.to <= *at + MOMENT;
            let made_up_for = made_up_for.iter().any(moment);
            // Or it could not hear of the others, and asked WeChat just before another one's token ended this one.
            let cut_off = !troubles.free(account.replica, refusal.from, refusal.from);
            let moment = refusal.to - refusal.from <= MOMENT;
            let cut_off = cut_off && moment && refusal.answers <= ON_THEIR_WAY;
            let excused = account.app == "classic" && (made_up_for || cut_off);
            assert!(excused, "{}\n{}", refusal.told, log());
        }
        // A machine that is busy with all of this keeps a call waiting now and then.
        let let_down = account.let_down_in_calm(troubles, recovery());
        let none = |(_, why): &&(Instant, String)| why.starts_with("there is no valid token");
        let well = let_down.len() <= FEW && !let_down.iter().copied().any(|d| none(&d));
        assert!(well, "{let_down:?}\n{}", log());
        let (wrong, well) = account.p99(troubles);
        let unmoved = wrong <= well * 2 || elapsed < LONG;
        assert!(unmoved, "{wrong:?} instead of {well:?}");
    }
    for app in APPS {
        let counts = fleet.wechat.counts(app);
        let (mints, fetches) = (counts.mints(), counts.fetches());
        println!("{app}: {mints} tokens and {fetches} fetches in {elapsed:?}");
        assert_eq!(counts.forced_fetches, 0, "{app}");
        // Each of the three may ask for a stable token as often as the one that refreshes.
        assert!(
            fetches <= elapsed.as_secs() * 8,
            "{fetches} fetches\n{}",
            log()
        );
    }
    let deliveries = Deliveries::of(accounts, troubles, begin);
    println!(
        "{}; {} classic tokens were made up for",
        deliveries.told(),
        made_up_for.len()
    );
    let late = &deliveries.late;
    assert!(late.is_empty(), "{late:#?}\n{}", log());
    nothing_leaked(fleet);
}

fn tell(account: &Account, troubles: &Troubles, begin: Instant) {
    let (app, replica) = (&account.app, account.replica);
    let (answers, none) = (account.answered(), account.unanswered.len());
    let (wrong, well) = account.p99(troubles);
    let let_down = account.let_down(troubles);
    println!(
        "{app} at replica {replica}: {answers} answers, p99 {wrong:?} during faults, {well:?} between them; {none} without a token, {} of them while it could answer",
        let_down.len()
    );
    // A classic token is not to be had while the store is down and the others are not heard of.
    for run in let_down.chunk_by(|one, other| other.0 - one.0 < OVERLAP) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        println!(
            "  from {:?} for {:?}: {}",
            first.0 - begin,
            last.0 - first.0,
            first.1
        );
    }
}

/// When classic tokens were made before they were due, because those before may have been lost. An error if nothing
/// can have lost them.
fn made_up_for(
    wechat: &WeChat,
    troubles: &Troubles,
    begin: Instant,
) -> Result<Vec<Instant>, String> {
    let (now, since) = (Instant::now(), since_epoch());
    let made = |mint: Mint| now - since.saturating_sub(mint.at);
    let mints: Vec<Instant> = wechat.mints("classic").into_iter().map(made).collect();
    // WeChat counts lives in whole seconds.
    let planned = (life() / 2).saturating_sub(Duration::from_secs(1));
    let held_up = |trouble: &Trouble| {
        matches!(
            trouble.fault,
            Fault::Stop(_) | Fault::CutFromWeChat(_) | Fault::WeChatDown
        )
    };
    let mut early = Vec::new();
    for pair in mints.windows(2) {
        // A life counts from the question, which may have waited for WeChat.
        let waited = troubles.met(pair[0], pair[0], MOMENT).any(held_up);
        let waited = if waited { UNDER_WAY } else { Duration::ZERO };
        if pair[1] - pair[0] >= planned.saturating_sub(waited) {
            continue;
        }
        // The answer of the first was lost, or what it said. Then nobody fetches before the overlap is over.
        let mut lost = troubles.met(pair[0], pair[0] + UNDER_WAY, Duration::ZERO);
        let lost = pair[1] - pair[0] + UNDER_WAY >= OVERLAP && lost.next().is_some();
        // Or whoever asked for one of them was held up before.
        let mut late = troubles.met(pair[1], pair[1], OVERLAP + UNDER_WAY);
        if !lost && !late.any(held_up) {
            let (one, other) = (pair[0] - begin, pair[1] - begin);
            return Err(format!(
                "tokens were made after {one:?} and {other:?}, and nothing explains that"
            ));
        }
        early.push(pair[1]);
    }
    let faults = troubles.count();
    if early.len() > faults {
        return Err(format!(
            "{} tokens were made up for after {faults} faults",
            early.len()
        ));
    }
    Ok(early)
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
