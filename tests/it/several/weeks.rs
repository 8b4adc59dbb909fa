//! Random simulated weeks of three replicas: everything fails, one or two things at a time, and what the
//! house promises is checked all the time.
//!
//! Everything follows from the seed, which a failure prints (`seeds.rs`).

use std::{collections::HashMap, ops::AddAssign, time::Duration};

use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};
use wxtokend::{
    domain::{
        Generation, Mode, Policy,
        report::{Stale, StaleReport},
    },
    sandbox::{Knobs, Outage, Settings},
    tokens::Issued,
};

use super::{
    App, Fleet,
    database::PATIENCE,
    links::Way,
    policy,
    way::{Fetch, Outcome},
};
use crate::seeds::live_through;

/// Weeks that every run of the tests goes through.
const SEEDS: u64 = 60;

/// A week has so many lives of a token.
const LIVES: u32 = 24;

/// From the publication of a token until every replica in touch with the store has it.
const DELIVERY: Duration = Duration::from_secs(1);

/// The longest a caller waits for an answer.
const ASKING: Duration = Duration::from_secs(5);

#[test]
fn in_any_week_of_three_replicas_all_promises_hold() {
    let lived: Lived = live_through(&[], SEEDS, |seed| Week::new(seed).live());
    let Lived {
        hours,
        faults,
        fetches,
        answers,
    } = lived;
    println!("{hours} hours, {faults} faults, {fetches} fetches, {answers} answers");
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
struct Lived {
    hours: u64,
    faults: usize,
    fetches: usize,
    answers: u64,
}

impl AddAssign for Lived {
    fn add_assign(&mut self, other: Self) {
        self.hours += other.hours;
        self.faults += other.faults;
        self.fetches += other.fetches;
        self.answers += other.answers;
    }
}

/// What can be wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A process was killed, and starts again when this is over.
    Killed(usize),
    /// The same in peace.
    Ended(usize),
    /// It stands still.
    Frozen(usize),
    NoWayToStore(usize, Way),
    NoWayFromStore(usize, Way),
    StoreDown(Way),
    /// Changes are not told.
    Deaf,
    NoWayToWeChat(usize, Way),
    NoWayFromWeChat(usize, Way),
    WeChatDown(Outage),
    /// Somebody else has fetched.
    Foreign,
}

impl Fault {
    fn any(dice: &mut Rng) -> Self {
        let n = dice.usize(..3);
        let way = [Way::Closed, Way::Silent][dice.usize(..2)];
        let outages = [Outage::Refuse, Outage::Cut, Outage::Hang, Outage::Gateway];
        match dice.u32(..11) {
            0 => Self::Killed(n),
            1 => Self::Ended(n),
            2 => Self::Frozen(n),
            3 => Self::NoWayToStore(n, way),
            4 => Self::NoWayFromStore(n, way),
            5 => Self::StoreDown(way),
            6 => Self::Deaf,
            7 => Self::NoWayToWeChat(n, way),
            8 => Self::NoWayFromWeChat(n, way),
            9 => Self::WeChatDown(outages[dice.usize(..4)]),
            _ => Self::Foreign,
        }
    }

    /// Whether it is an excuse for replica `n` to be late, or without a token.
    fn excuses(self, n: usize) -> bool {
        match self {
            Self::Killed(m)
            | Self::Ended(m)
            | Self::Frozen(m)
            | Self::NoWayToStore(m, _)
            | Self::NoWayFromStore(m, _) => n == m,
            Self::StoreDown(_) => true,
            _ => false,
        }
    }

    /// Whether it may cost a token before its time: it was made, but is not saved, or somebody else made one.
    fn burns(self) -> bool {
        matches!(self, Self::Killed(_) | Self::Foreign)
    }
}

/// A fault, from its begin until its end and beyond.
#[derive(Clone, Copy, Debug)]
struct Struck {
    fault: Fault,
    begin: Instant,
    end: Option<Instant>,
}

struct Week {
    fleet: Fleet,
    dice: Rng,
    life: Duration,
    begin: Instant,
    answers: u64,
    /// All that were there.
    faults: Vec<Struck>,
    /// When the present ones end.
    ends: Vec<(usize, Instant)>,
    /// What callers of each replica have seen of each app.
    seen: HashMap<(usize, usize), Generation>,
    /// What a replica without trouble was the first to have, and since when.
    newest: HashMap<usize, (Generation, Instant)>,
}

impl Week {
    fn new(seed: u64) -> Self {
        let mut dice = Rng::with_seed(seed);
        let life = Duration::from_secs([60, 120, 600, 1800, 7200][dice.usize(..5)]);
        let quick = policy(Mode::Classic, life);
        let policy = |mode: Mode, dice: &mut Rng| Policy {
            mode,
            probe_every: [life / 60, life / 20][dice.usize(..2)],
            ..quick
        };
        let apps = [
            ("classic", policy(Mode::Classic, &mut dice)),
            ("stable", policy(Mode::Stable, &mut dice)),
        ];
        let settings = Settings {
            life,
            overlap: quick.overlap,
            classic_per_day: u64::MAX,
            ..Settings::default()
        };
        let lease = Duration::from_secs([5, 15][dice.usize(..2)]);
        let lease = lease.max(quick.timeout + Duration::from_secs(3));
        let fleet = Fleet::new(settings, &apps, lease, dice.u64(..));
        Self {
            fleet,
            dice,
            life,
            begin: Instant::now(),
            answers: 0,
            faults: Vec::new(),
            ends: Vec::new(),
            seen: HashMap::new(),
            newest: HashMap::new(),
        }
    }

    async fn live(mut self) -> Lived {
        self.fleet.start_all();
        self.fleet.everybody_has_a_token().await;
        let lives = if self.life > Duration::from_hours(1) {
            LIVES / 4
        } else {
            LIVES
        };
        let end = self.begin + self.life * lives;
        let mut next = Instant::now();
        while Instant::now() < end {
            if Instant::now() >= next && self.ends.len() < 2 {
                self.strike().await;
                next = Instant::now() + self.life.mul_f64(self.dice.f64());
            }
            self.end_what_is_over(Instant::now()).await;
            self.call_everywhere().await;
            sleep(self.life.mul_f64(0.02 * self.dice.f64())).await;
        }
        self.end_what_is_over(end + self.life * 100).await;
        self.recover().await;
        self.check_the_fetches();
        let apps = 0..self.fleet.apps.len();
        Lived {
            hours: self.begin.elapsed().as_secs() / 3600,
            faults: self.faults.len(),
            fetches: apps.map(|app| self.fleet.fetches(app).len()).sum(),
            answers: self.answers,
        }
    }

    async fn strike(&mut self) {
        let fault = Fault::any(&mut self.dice);
        let taken = |(n, _): &(usize, Instant)| overlaps(self.faults[*n].fault, fault);
        if self.ends.iter().any(taken) {
            return;
        }
        let span = self.life.mul_f64(self.dice.f64() * self.dice.f64());
        let begin = Instant::now();
        self.ends.push((self.faults.len(), begin + span));
        self.faults.push(Struck {
            fault,
            begin,
            end: None,
        });
        self.turn(fault, true).await;
    }

    async fn end_what_is_over(&mut self, now: Instant) {
        let over: Vec<_> = self.ends.extract_if(.., |(_, end)| *end <= now).collect();
        for (n, _) in over {
            self.turn(self.faults[n].fault, false).await;
            self.faults[n].end = Some(Instant::now());
        }
    }

    /// Begins a fault, or ends it.
    async fn turn(&mut self, fault: Fault, on: bool) {
        let fleet = &mut self.fleet;
        let unless = |way: Way| if on { way } else { Way::Open };
        match fault {
            Fault::Killed(n) if on => fleet.kill(n).await,
            Fault::Ended(n) if on => fleet.stop(n).await,
            Fault::Killed(n) | Fault::Ended(n) => fleet.start(n),
            Fault::Frozen(n) => fleet.set(n, |state| state.stopped = on),
            Fault::NoWayToStore(n, way) => fleet.set(n, |state| state.to_store = unless(way)),
            Fault::NoWayFromStore(n, way) => {
                fleet.set(n, |state| state.back_from_store = unless(way));
            }
            Fault::StoreDown(way) => {
                (0..3).for_each(|n| fleet.set(n, |state| state.to_store = unless(way)));
            }
            Fault::Deaf => (0..3).for_each(|n| fleet.set(n, |state| state.deaf = on)),
            Fault::NoWayToWeChat(n, way) => fleet.set(n, |state| state.to_wechat = unless(way)),
            Fault::NoWayFromWeChat(n, way) => {
                fleet.set(n, |state| state.back_from_wechat = unless(way));
            }
            Fault::WeChatDown(outage) => fleet.turn(&Knobs {
                outage: Some(if on { outage } else { Outage::None }),
                ..Knobs::default()
            }),
            Fault::Foreign if on => {
                let app = &fleet.apps[self.dice.usize(..2)];
                let at = fleet.at();
                let _ = fleet
                    .model()
                    .foreign_fetch(at, &app.account.appid, app.pool());
            }
            Fault::Foreign => {}
        }
    }

    async fn call_everywhere(&mut self) {
        for n in 0..3 {
            for a in 0..self.fleet.apps.len() {
                self.call(n, a).await;
            }
        }
    }

    async fn call(&mut self, n: usize, a: usize) {
        let app = self.fleet.apps[a].clone();
        let Some(tokens) = self.fleet.tokens(n).cloned() else {
            return;
        };
        if self.fleet.machines[n].state.stopped {
            return;
        }
        let issued = match tokens.current(&app.name, ASKING).await {
            Ok(issued) => issued,
            Err(why) => {
                assert!(
                    !self.must_serve(n, &app),
                    "{} at {n} has none: {why}\n{}",
                    app.name,
                    self.story(&app)
                );
                return;
            }
        };
        self.answers += 1;
        let (generation, now) = (issued.token.generation, Instant::now());
        let before = self.seen.insert((n, a), generation);
        assert!(
            before.is_none_or(|before| before <= generation),
            "{} at {n}: {generation:?} after {before:?}\n{}",
            app.name,
            self.story(&app)
        );
        if self.fine(n, now - DELIVERY * 8, now) {
            let mut newest = *self.newest.entry(a).or_insert((generation, now));
            if generation > newest.0 {
                newest = (generation, now);
                self.newest.insert(a, newest);
            }
            let late = now - newest.1;
            assert!(
                generation >= newest.0
                    || late <= DELIVERY
                    || helped_themselves(&app, self.fleet.lease, now),
                "{} at {n} is {late:?} late: {generation:?} instead of {:?}\n{}",
                app.name,
                newest.0,
                self.story(&app)
            );
        }
        if !self.fleet.alive(&app, &issued.token.value) {
            self.dead(n, &app, &issued).await;
        }
    }

    /// A dead token was handed out: that is over soon.
    async fn dead(&mut self, n: usize, app: &App, issued: &Issued) {
        let Some(tokens) = self.fleet.tokens(n).cloned() else {
            return;
        };
        let now = Instant::now();
        // What the probes and the callers have to find out.
        let foreign =
            self.since(|fault| fault == Fault::Foreign, now) <= self.life + app.policy.overlap;
        if foreign || went_alone(app, now) || lost_twice(app) {
            let report = StaleReport {
                stale: Stale::Generation(issued.token.generation),
                errcode: 40001,
                leaked: false,
            };
            if self.dice.f64() < 0.3 && self.ends.is_empty() {
                let answer = tokens.report(&app.name, report);
                let answer = timeout(Duration::from_mins(1), answer).await;
                assert!(
                    answer.is_ok(),
                    "a report was never answered\n{}",
                    self.story(app)
                );
            }
            return;
        }
        // Whoever hears of the others hears of the next token at once. Who hears of WeChat alone asks that,
        // and who hears of nobody goes on.
        let fine = self.fine(n, now - DELIVERY * 8, now);
        if !fine && self.is_deaf_to_wechat(n, app) {
            return;
        }
        let mut patience = DELIVERY;
        if !fine && ended_at_once(app, now) {
            patience += app.policy.overlap / 30 + app.policy.floor * 2 + self.unheard(app);
        }
        sleep(patience).await;
        let again = tokens.current(&app.name, ASKING).await;
        let alive = again
            .as_ref()
            .is_ok_and(|again| self.fleet.alive(app, &again.token.value));
        let over = self.fleet.tokens(n).is_none() || again.is_err() || alive;
        assert!(
            over,
            "{} at {n}: {:?} is dead\n{}",
            app.name,
            issued.token.generation,
            self.story(app)
        );
    }

    /// How long it takes a replica to find that it does not hear of the others.
    fn unheard(&self, app: &App) -> Duration {
        let silence = (app.policy.overlap / 2).min(self.fleet.lease);
        silence.max(Duration::from_secs(3)) + PATIENCE * 2
    }

    /// Whether WeChat's answers may not have reached replica `n` lately.
    fn is_deaf_to_wechat(&self, n: usize, app: &App) -> bool {
        let lately = Instant::now() - app.policy.overlap / 10 - app.policy.timeout * 2;
        let mut present = self
            .faults
            .iter()
            .filter(|struck| struck.end.is_none_or(|end| lately <= end));
        present.any(|struck| match struck.fault {
            Fault::NoWayToWeChat(m, _) | Fault::NoWayFromWeChat(m, _) => n == m,
            Fault::WeChatDown(_) => true,
            _ => false,
        })
    }

    /// How long ago the last such fault was.
    fn since(&self, which: impl Fn(Fault) -> bool, now: Instant) -> Duration {
        let last = self.faults.iter().rev().find(|struck| which(struck.fault));
        last.map_or(Duration::MAX, |struck| {
            struck.end.map_or(Duration::ZERO, |end| now - end)
        })
    }

    /// Whether replica `n` was in touch with the store from a time to another.
    fn fine(&self, n: usize, from: Instant, to: Instant) -> bool {
        let meets =
            |struck: &&Struck| struck.begin <= to && struck.end.is_none_or(|end| from <= end);
        let mut present = self.faults.iter().rev().filter(meets);
        !present.any(|struck| struck.fault.excuses(n))
    }

    /// Nothing is an excuse for having no token.
    fn must_serve(&self, n: usize, app: &App) -> bool {
        let now = Instant::now();
        let policy = &app.policy;
        let recovery = self.fleet.lease
            + policy.ceiling
            + policy.timeout * 3
            + policy.overlap
            + Duration::from_secs(10);
        let calm = |struck: &Struck| struck.end.is_some_and(|end| end + recovery < now);
        self.fine(n, now - recovery, now) && self.faults.iter().rev().take(20).all(calm)
    }

    async fn recover(&mut self) {
        let policy = self.fleet.apps[0].policy;
        sleep(
            self.fleet.lease
                + policy.ceiling
                + policy.timeout * 3
                + policy.overlap * 2
                + policy.probe_every
                + Duration::from_secs(70),
        )
        .await;
        self.fleet.everybody_has_a_token().await;
        for app in self.fleet.apps.clone() {
            let mut all = self.held_by_all(&app).await;
            if all.iter().any(|one| *one != all[0]) {
                // The newest was on its way.
                sleep(DELIVERY).await;
                all = self.held_by_all(&app).await;
            }
            assert!(
                all.iter().all(|one| *one == all[0]),
                "{all:?}\n{}",
                self.story(&app)
            );
        }
    }

    /// What each replica hands out, which must work.
    async fn held_by_all(&self, app: &App) -> Vec<Generation> {
        let mut all = Vec::new();
        for n in 0..3 {
            let tokens = self.fleet.tokens(n).expect("all run");
            let issued = tokens
                .current(&app.name, Duration::ZERO)
                .await
                .expect("there is one");
            assert!(
                self.fleet.alive(app, &issued.token.value),
                "{} is dead\n{}",
                app.name,
                self.story(app)
            );
            all.push(issued.token.generation);
        }
        all
    }

    fn check_the_fetches(&self) {
        for app in &self.fleet.apps {
            let fetches = app.fetches.lock().expect("no panic").clone();
            for fetch in &fetches {
                self.check_the_right(app, fetch);
            }
            // Whoever counts its claim as over, a moment before the store does, asks without one.
            let claimed: Vec<_> = fetches
                .iter()
                .filter(|fetch| fetch.lasts(app.policy.timeout))
                .collect();
            for pair in claimed.windows(2) {
                let ended = pair[0].ended.unwrap_or(pair[1].sent);
                assert!(
                    ended <= pair[1].sent,
                    "two fetches at once: {pair:?}\n{}",
                    self.story(app)
                );
            }
            if app.policy.mode == Mode::Classic {
                self.check_the_mints(app, &fetches);
            }
        }
    }

    /// Only who has the claim asks, and it lasts until the answer; or nobody can have it. A stable token that is
    /// about to end is asked for by all who need it.
    fn check_the_right(&self, app: &App, fetch: &Fetch) {
        let lasts = fetch.lasts(app.policy.timeout);
        let alone = !self.fine(fetch.replica, fetch.sent - self.fleet.lease, fetch.sent);
        let at = (fetch.sent - self.begin).as_millis();
        let needed = app.policy.mode == Mode::Stable && self.is_about_to_end(app, fetch.sent);
        assert!(
            lasts || alone || needed,
            "fetch of {} at {at}: {fetch:?}\n{}",
            app.name,
            self.story_at(app, fetch.sent)
        );
    }

    /// Whether the last token of which everybody must have heard by then is near its end, or past it.
    fn is_about_to_end(&self, app: &App, at: Instant) -> bool {
        let mut mints = self.mints(app).into_iter().rev();
        let heard = |mint: Instant| {
            let (from, to) = (mint - self.fleet.lease, mint + DELIVERY);
            to <= at && (0..3).all(|n| self.fine(n, from, to))
        };
        let known = mints.find(|mint| heard(*mint));
        let near = app.policy.overlap / 5 + Duration::from_secs(1);
        known.is_none_or(|mint| mint + self.life <= at + near)
    }

    /// When WeChat made each token of `app`.
    fn mints(&self, app: &App) -> Vec<Instant> {
        let zero = self.fleet.at().checked_sub(self.begin.elapsed());
        let zero = zero.expect("later");
        let mints = self.fleet.mints(app).into_iter();
        let mints = mints.map(|at| self.begin + at.saturating_sub(zero));
        mints.collect()
    }

    /// No classic token is replaced before its time, unless something was lost.
    fn check_the_mints(&self, app: &App, fetches: &[Fetch]) {
        let mints = self.mints(app);
        for pair in mints.windows(2) {
            let planned = pair[0] + self.life.mul_f64(app.policy.at);
            let early = pair[1] + Duration::from_secs(1) < planned;
            let from = pair[0] - self.life;
            // An answer was lost, or nobody else was heard of.
            let lost = fetches.iter().any(|fetch| {
                let open = matches!(fetch.outcome, Outcome::Open | Outcome::Lost);
                let touch = self.fine(fetch.replica, fetch.sent - self.fleet.lease, fetch.sent);
                (open || !touch) && from <= fetch.sent && fetch.sent <= pair[1]
            });
            let burnt = self.faults.iter().any(|struck| {
                struck.fault.burns()
                    && struck.begin <= pair[1]
                    && struck.end.is_none_or(|end| from <= end)
            });
            assert!(
                !early || lost || burnt,
                "a token was burnt after {:?}\n{}",
                pair[1] - pair[0],
                self.story_at(app, pair[1])
            );
        }
    }

    /// What happened lately.
    fn story(&self, app: &App) -> String {
        self.story_at(app, Instant::now())
    }

    /// What happened in the last lives before then, and soon after.
    fn story_at(&self, app: &App, then: Instant) -> String {
        let near = |at: Instant| then < at + self.life * 2 && at < then + self.life / 10;
        let mut told = vec![(then, "here".to_owned())];
        for struck in &self.faults {
            told.push((struck.begin, format!("{:?} begins", struck.fault)));
            if let Some(end) = struck.end {
                told.push((end, format!("{:?} ends", struck.fault)));
            }
        }
        for fetch in app.fetches.lock().expect("no panic").iter() {
            let (replica, claimed) = (fetch.replica, fetch.claimed);
            let sent = format!("replica {replica} fetches, claimed for {claimed:?}");
            told.push((fetch.sent, sent));
            if let Some(ended) = fetch.ended {
                told.push((ended, format!("replica {replica}: {:?}", fetch.outcome)));
            }
        }
        told.retain(|(at, _)| near(*at));
        told.sort_by_key(|(at, _)| *at);
        let since = |at: Instant| (at - self.begin).as_millis();
        let lines = told
            .iter()
            .map(|(at, text)| format!("{:>10} {text}", since(*at)));
        let lines: Vec<_> = lines.collect();
        let (life, lease) = (self.life, self.fleet.lease);
        format!(
            "{}\nlife {life:?}, lease {lease:?}, {:?}",
            lines.join("\n"),
            app.policy
        )
    }
}

/// Whether a replica lately fetched without a claim, because nobody was heard of.
fn went_alone(app: &App, now: Instant) -> bool {
    let lately = now - app.policy.overlap - app.policy.probe_every - app.policy.timeout;
    let fetches = app.fetches.lock().expect("no panic");
    fetches
        .iter()
        .rev()
        .any(|fetch| fetch.claimed.is_none() && fetch.sent >= lately)
}

/// Whether replicas lately asked for a stable token that was about to end: one that could not has it once there is
/// one that refreshes.
fn helped_themselves(app: &App, lease: Duration, now: Instant) -> bool {
    // Whoever has the claim may have died with it.
    let lately = now - app.policy.overlap.max(lease + DELIVERY * 4);
    let fetches = app.fetches.lock().expect("no panic");
    let mut recent = fetches
        .iter()
        .rev()
        .take_while(|fetch| fetch.sent >= lately);
    app.policy.mode == Mode::Stable && recent.any(|fetch| fetch.claimed.is_none())
}

/// Whether WeChat lately made two tokens within an overlap, of which the first did not arrive: the second ends
/// what everybody has.
fn ended_at_once(app: &App, now: Instant) -> bool {
    let lately = now - app.policy.overlap * 2;
    let fetches = app.fetches.lock().expect("no panic");
    let mut pairs = fetches.windows(2).rev();
    pairs.any(|pair| {
        let lost = matches!(pair[0].outcome, Outcome::Open | Outcome::Lost);
        lost && pair[1].sent >= lately && pair[0].sent + app.policy.overlap >= pair[1].sent
    })
}

/// Whether the answers of the last two fetches were lost: each may have made a token, and WeChat ends all but
/// the last two at once.
fn lost_twice(app: &App) -> bool {
    let fetches = app.fetches.lock().expect("no panic");
    let lost = |fetch: &&Fetch| matches!(fetch.outcome, Outcome::Open | Outcome::Lost);
    let not_refused = fetches
        .iter()
        .rev()
        .filter(|fetch| fetch.outcome != Outcome::Refused);
    not_refused.take(2).filter(lost).count() == 2
}

/// Whether two faults cannot be there at once.
fn overlaps(one: Fault, other: Fault) -> bool {
    let replica = |fault| match fault {
        Fault::Killed(n) | Fault::Ended(n) | Fault::Frozen(n) => Some(n),
        _ => None,
    };
    let kind = std::mem::discriminant::<Fault>;
    kind(&one) == kind(&other)
        || (replica(one).is_some() && replica(one) == replica(other))
        || matches!(
            (one, other),
            (Fault::StoreDown(_), Fault::NoWayToStore(..))
                | (Fault::NoWayToStore(..), Fault::StoreDown(_))
        )
}
