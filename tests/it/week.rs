//! Random simulated weeks: the real refresher and the real streams, the sandbox's model, every fault
//! it knows, crashes, restarts and broken disks, and the invariants of the house checked all the time.
//!
//! Everything follows from the seed, which a failure prints (`seeds.rs`).

mod watchers;

use std::{collections::HashMap, fmt, ops::AddAssign, sync::atomic::Ordering, time::Duration};

use fastrand::Rng;
use tokio::time::sleep;
use wxtokend::{
    domain::{
        Generation, Mode, Moment, Policy, Remedy,
        report::{Stale, StaleReport},
    },
    sandbox::{Fault, Kind, Knobs, Outage, Settings},
    tokens::{Issued, NoToken},
};

use self::watchers::Watchers;
use crate::{
    history::Seen,
    seeds::live_through,
    world::{AppUnderTest, World},
};

/// A real token lives two hours, so a week has as many lives.
const LIVES: u32 = 84;

/// Where a life is shorter, so is the week, and there is time for more of them.
const SHORTER: u32 = 24;

/// Weeks that every run of the tests goes through.
const SEEDS: u64 = 200;

/// Weeks that failed once, and what they found. They go first.
const KEPT: [(u64, &str); 0] = [];

#[test]
fn in_any_week_all_invariants_hold() {
    let kept = KEPT.map(|(seed, _)| seed);
    let lived: Lived = live_through(&kept, SEEDS, |seed| Week::new(seed).live());
    println!("{lived}");
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
struct Lived {
    simulated: Duration,
    faults: usize,
    seen: Seen,
}

impl AddAssign for Lived {
    fn add_assign(&mut self, other: Self) {
        self.simulated += other.simulated;
        self.faults += other.faults;
        self.seen.tokens += other.seen.tokens;
        self.seen.streams += other.seen.streams;
        self.seen.messages += other.seen.messages;
    }
}

impl fmt::Display for Lived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.simulated.as_secs() / 86_400;
        let Seen {
            tokens,
            streams,
            messages,
        } = self.seen;
        write!(
            f,
            "{days} days simulated, {tokens} tokens, {} faults, {messages} messages on {streams} streams",
            self.faults
        )
    }
}

struct Week {
    world: World,
    watchers: Watchers,
    dice: Rng,
    faults: usize,
    life: Duration,
    end: Moment,
    /// Faults strike only the first app; the second must never notice.
    troubled: AppUnderTest,
    calm: AppUnderTest,
    /// When WeChat, the disk or the server last were not as they should be.
    last_fault: Moment,
    /// Until then the calm app has an excuse too: a crash, an outage, disagreement.
    calm_after: Moment,
    /// WeChat may have said that there were too many looks: until then there are none unasked.
    quiet_until: Moment,
    /// From when to when the calm app has an excuse for a fetch that nobody needed.
    excuses: Vec<(Duration, Duration)>,
    /// Something is wrong at this moment.
    storm: bool,
    /// The newest token that callers of an app have seen, and its death.
    seen: HashMap<String, (Generation, Moment)>,
    kept: Vec<Kept>,
}

/// A token that a caller keeps and uses without asking again.
struct Kept {
    app: AppUnderTest,
    issued: Issued,
    at: Moment,
}

impl Week {
    fn new(seed: u64) -> Self {
        let mut dice = Rng::with_seed(seed);
        let life = Duration::from_secs([20, 120, 600, 1800, 7200][dice.usize(..5)]);
        let lives = if life < Duration::from_hours(2) {
            SHORTER
        } else {
            LIVES
        };
        let overlap = (life / 6).min(Duration::from_mins(5));
        let floor = Duration::from_secs(1).min(overlap / 5);
        let policy = |dice: &mut Rng| Policy {
            mode: [Mode::Classic, Mode::Stable][dice.usize(..2)],
            overlap,
            floor,
            probe_every: [Duration::ZERO, life / 60, life / 20][dice.usize(..3)],
            ceiling: (life / 12).min(Duration::from_mins(1)).max(floor),
            timeout: (life / 10).min(Duration::from_secs(10)),
            daily_replacements: if dice.bool() { 200 } else { dice.u32(2..10) },
            ..Policy::default()
        };
        let settings = Settings {
            life,
            overlap,
            jitter: Duration::from_millis(if dice.bool() { 0 } else { dice.u64(0..200) }),
            classic_per_day: u64::MAX,
            ..Settings::default()
        };
        let apps = [("troubled", policy(&mut dice)), ("calm", policy(&mut dice))];
        let world = World::new(settings, &apps, dice.u64(..));
        let watchers = Watchers::new(&world, life, &mut dice);
        let now = world.now().boot;
        Self {
            troubled: world.apps[0].clone(),
            calm: world.apps[1].clone(),
            world,
            watchers,
            dice,
            faults: 0,
            life,
            end: now + life * lives,
            last_fault: now,
            calm_after: now,
            quiet_until: now,
            excuses: Vec::new(),
            storm: false,
            seen: HashMap::new(),
            kept: Vec::new(),
        }
    }

    async fn live(mut self) -> Lived {
        let begin = self.world.now().boot;
        self.world.start().await;
        while self.world.now().boot < self.end {
            let quiet = self.life.mul_f64(3.0 * self.dice.f64());
            self.watch_for(quiet).await;
            self.something_happens().await;
        }
        self.all_is_well_again();
        self.recover().await;
        self.check_the_books();
        self.stop().await;
        let lived = Lived {
            simulated: self.world.now().boot.since(begin),
            faults: self.faults,
            seen: self.watchers.seen(),
        };
        self.watchers.end().await;
        lived
    }

    async fn stop(&mut self) {
        let took = self.world.stop().await;
        assert!(took <= Duration::from_secs(10), "a stop took {took:?}");
        // Whoever watches hears of it.
        sleep(Duration::from_millis(1)).await;
    }

    /// Callers go on as ever for `span`.
    async fn watch_for(&mut self, span: Duration) {
        let end = self.world.now().boot + span;
        while self.world.now().boot < end {
            sleep(self.life.mul_f64(0.05 * self.dice.f64())).await;
            for app in [self.troubled.clone(), self.calm.clone()] {
                self.call(&app).await;
            }
            self.use_what_is_kept();
        }
    }

    async fn call(&mut self, app: &AppUnderTest) {
        let now = self.world.now().boot;
        let issued = match self
            .world
            .tokens()
            .current(&app.name, Duration::from_secs(10))
            .await
        {
            Ok(issued) => issued,
            Err(why) => return self.check_refusal(app, &why),
        };
        let answered = self.world.now().boot;
        self.watchers.handed_out(&app.name, &issued, answered);
        let generation = issued.token.generation;
        let expires_at = issued.token.expires_at;
        let seen = self
            .seen
            .insert(app.name.to_string(), (generation, expires_at));
        if let Some((last, expiry)) = seen {
            assert!(generation >= last, "a generation fell");
            assert!(generation > last || expires_at == expiry, "an expiry moved");
        }
        assert!(
            !app.is_proven_dead(now),
            "a token was handed out that is proven dead"
        );
        assert!(
            issued.token.expires_at > now,
            "an expired token was handed out"
        );
        let alive = self.world.alive(app, &issued.token.value);
        assert!(
            alive || !self.must_live(app),
            "{} got a dead token",
            app.name
        );
        if !alive && self.dice.f64() < 0.3 {
            self.report(app, generation).await;
        }
        if self.dice.f64() < 0.1 {
            let app = app.clone();
            self.kept.push(Kept {
                app,
                issued,
                at: now,
            });
        }
    }

    /// An app without faults always has a token.
    fn check_refusal(&self, app: &AppUnderTest, why: &NoToken) {
        assert!(!self.must_live(app), "{} got none: {why}", app.name);
        let NoToken::Missing {
            retry_after,
            trouble,
            ..
        } = why
        else {
            panic!("unexpected: {why}");
        };
        let remedy = trouble.as_ref().map(|trouble| trouble.remedy);
        let longest = longest_pause(&app.policy, remedy);
        assert!(
            *retry_after <= longest,
            "{retry_after:?} to the next attempt after {remedy:?}"
        );
    }

    /// Callers that obey `keep_for` never meet a dead token, unless somebody else killed it.
    fn use_what_is_kept(&mut self) {
        let now = self.world.now().boot;
        let kept = std::mem::take(&mut self.kept);
        for kept in kept {
            if now > kept.at + kept.issued.keep_for {
                continue;
            }
            let alive = self.world.alive(&kept.app, &kept.issued.token.value);
            assert!(
                alive || !self.must_live(&kept.app),
                "a token of {} died while it was kept: {:?}",
                kept.app.name,
                kept.issued
            );
            self.kept.push(kept);
        }
    }

    async fn report(&mut self, app: &AppUnderTest, generation: Generation) {
        let report = StaleReport {
            stale: Stale::Generation(generation),
            errcode: 40001,
            leaked: false,
        };
        let answer = self.world.tokens().report(&app.name, report);
        // Its answer may be an error, but there is always one, and soon.
        let patience = app.policy.timeout * 8 + Duration::from_secs(30);
        let answer = tokio::time::timeout(patience, answer).await;
        assert!(answer.is_ok(), "a report was never answered");
    }

    /// Whether nothing is an excuse for a dead token of `app` at present.
    fn must_live(&self, app: &AppUnderTest) -> bool {
        let policy = &app.policy;
        if self.storm && app.name == self.troubled.name {
            return false;
        }
        let since = if app.name == self.calm.name {
            self.calm_after + policy.timeout
        } else {
            self.last_fault + mark(policy) + self.life
        };
        self.world.now().boot > since
    }

    async fn something_happens(&mut self) {
        let span = self.life.mul_f64(self.dice.f64() * self.dice.f64() * 1.5);
        let settled = self.must_live(&self.troubled);
        self.storm = true;
        self.faults += 1;
        match self.dice.u32(..10) {
            0 => self.crash().await,
            1 => self.somebody_else_fetches(settled).await,
            2 => self.revoke(),
            3 => self.break_the_disk(span).await,
            4 => self.back_ends_disagree(span).await,
            5 => self.wechat_is_down(span).await,
            _ => self.strike(span).await,
        }
        self.storm = false;
        // Whatever the class of the last trouble: an attempt follows when its pause is over.
        self.last_fault = self.world.now().boot + self.pause(&self.troubled);
    }

    /// How long until the next attempt.
    fn pause(&self, app: &AppUnderTest) -> Duration {
        let watch = self.world.tokens().watch(&app.name).expect("configured");
        let retry_at = watch.borrow().retry_at.unwrap_or_default();
        retry_at.since(self.world.now().boot)
    }

    async fn crash(&mut self) {
        // Often in the middle of a fetch: wait until one is about to happen.
        if self.dice.bool() {
            self.watch_for(self.pause(&self.troubled).min(self.life))
                .await;
            sleep(Duration::from_millis(self.dice.u64(0..60))).await;
        }
        for app in [self.troubled.clone(), self.calm.clone()] {
            self.call(&app).await;
        }
        let begin = self.world.at();
        if self.dice.bool() {
            self.world.kill().await;
        } else {
            self.stop().await;
        }
        // If a reply is lost with the server, the recovery retires what callers still keep.
        self.kept.clear();
        sleep(self.life.mul_f64(self.dice.f64() * self.dice.f64() * 0.3)).await;
        self.watchers.next_server();
        self.world.start().await;
        self.calm_after = self.calm_after.max(self.world.now().boot);
        self.excuse(begin, self.calm.policy.timeout * 2);
    }

    fn excuse(&mut self, begin: Duration, longer: Duration) {
        let end = self.world.at() + longer;
        self.excuses.push((begin, end));
    }

    /// Then a living token is out within `probe_every` + 5 s of WeChat's first refusal.
    async fn somebody_else_fetches(&mut self, settled: bool) {
        let app = self.troubled.clone();
        let at = self.world.at();
        let minted = self
            .world
            .model()
            .foreign_fetch(at, &app.account.appid, app.pool());
        let poor = app.policy.daily_replacements < 200;
        let quiet = self.world.now().boot < self.quiet_until;
        if !settled || poor || quiet || minted.is_err() || app.policy.probe_every.is_zero() {
            return;
        }
        let dies = self.world.now().boot + app.policy.overlap;
        let limit = dies + app.policy.probe_every + Duration::from_secs(5);
        let settle = app.policy.settle();
        while self.world.now().boot < limit + settle {
            self.watch_for(Duration::from_millis(500)).await;
        }
        let now = self.world.tokens().current(&app.name, Duration::ZERO).await;
        let alive = now.is_ok_and(|issued| self.world.alive(&app, &issued.token.value));
        assert!(alive, "a foreign fetch was not repaired in time");
    }

    fn revoke(&mut self) {
        let at = self.world.at();
        let (appid, pool) = (self.troubled.account.appid.clone(), self.troubled.pool());
        self.world.model().revoke(at, &appid, pool);
    }

    async fn break_the_disk(&mut self, span: Duration) {
        self.world.disk.broken.store(true, Ordering::Relaxed);
        self.watch_for(span).await;
        self.world.disk.broken.store(false, Ordering::Relaxed);
        // A crash before the next save would lose the last generation, which nobody can help.
        self.watch_for(self.troubled.policy.ceiling + Duration::from_secs(2))
            .await;
    }

    async fn back_ends_disagree(&mut self, span: Duration) {
        let recovered = self.world.now().boot + span + self.life;
        self.calm_after = self.calm_after.max(recovered);
        let disagreement = Knobs {
            back_ends: Some(self.dice.usize(2..=4)),
            lag: Some(self.life.mul_f64(0.05 * self.dice.f64())),
            survival: Some(self.dice.f64()),
            ..Knobs::default()
        };
        let begin = self.world.at();
        self.turn(&disagreement);
        self.watch_for(span).await;
        self.turn(&Knobs {
            back_ends: Some(1),
            lag: Some(Duration::ZERO),
            survival: Some(0.0),
            ..Knobs::default()
        });
        self.excuse(begin, self.life);
    }

    /// For everybody: the calm app is excused too, while it lasts and until it has recovered.
    async fn wechat_is_down(&mut self, span: Duration) {
        let outages = [Outage::Refuse, Outage::Cut, Outage::Hang, Outage::Gateway];
        let outage = outages[self.dice.usize(..4)];
        let begin = self.world.at();
        let before = self.calm_after;
        self.calm_after = Moment::from_millis(i64::MAX / 1_000_000);
        self.turn(&Knobs {
            outage: Some(outage),
            ..Knobs::default()
        });
        self.watch_for(span).await;
        self.turn(&Knobs {
            outage: Some(Outage::None),
            ..Knobs::default()
        });
        let recovery = self.pause(&self.calm) + mark(&self.calm.policy) + self.life;
        self.calm_after = before.max(self.world.now().boot + recovery);
        self.excuse(begin, recovery);
    }

    async fn strike(&mut self, span: Duration) {
        let fault = self.some_fault();
        let too_many_looks = fault.kind == Kind::Errcode && fault.errcode == 45009;
        self.turn(&Knobs {
            faults: vec![fault],
            ..Knobs::default()
        });
        self.watch_for(span).await;
        if too_many_looks {
            self.quiet_until = self.world.now().boot + Duration::from_hours(1);
        }
        self.turn(&Knobs {
            clear_faults: true,
            ..Knobs::default()
        });
    }

    fn some_fault(&mut self) -> Fault {
        const REFUSALS: [i64; 14] = [
            -1, 40001, 40013, 40125, 40164, 40243, 45009, 45011, 48001, 50004, 61024, 89503, 89507,
            99999,
        ];
        let kinds = [
            Kind::Hang,
            Kind::Late,
            Kind::Lost,
            Kind::Cut,
            Kind::Truncated,
            Kind::Gateway,
            Kind::Empty,
        ];
        let fault = if self.dice.f64() < 0.4 {
            let errcode = REFUSALS[self.dice.usize(..REFUSALS.len())];
            Fault::errcode(errcode)
        } else {
            let fault = Fault::new(kinds[self.dice.usize(..kinds.len())]);
            if self.dice.bool() {
                fault
            } else {
                fault.in_vain()
            }
        };
        let probability = if self.dice.bool() {
            1.0
        } else {
            self.dice.f64()
        };
        let calls = self.dice.bool().then(|| self.dice.u32(1..6));
        Fault {
            appid: Some(self.troubled.account.appid.clone()),
            calls,
            probability,
            ..fault
        }
    }

    fn turn(&mut self, knobs: &Knobs) {
        let at = self.world.at();
        self.world.model().turn(at, knobs).expect("sound knobs");
    }

    fn all_is_well_again(&mut self) {
        self.turn(&Knobs {
            outage: Some(Outage::None),
            clear_faults: true,
            ..Knobs::default()
        });
        self.world.disk.broken.store(false, Ordering::Relaxed);
    }

    /// After the last fault every app has a valid token within its pause and the time of a fetch.
    async fn recover(&mut self) {
        for app in [self.troubled.clone(), self.calm.clone()] {
            // A fetch that is under way may still fail.
            sleep(app.policy.timeout).await;
            let pause = self.pause(&app);
            // A token that WeChat killed meanwhile must be found out first.
            let probe = app.policy.probe_every.max(app.policy.overlap) + app.policy.settle();
            // A budget that is used up ends with the token's life at the latest.
            let poor = app.policy.daily_replacements < 200;
            let probe = probe + if poor { self.life } else { Duration::ZERO };
            sleep(pause + probe + app.policy.timeout * 2 + Duration::from_secs(10)).await;
            let current = self.world.tokens().current(&app.name, Duration::ZERO).await;
            match current {
                Ok(_) if app.policy.probe_every.is_zero() => {}
                Ok(_) if self.world.now().boot < self.quiet_until => {}
                Ok(issued) => {
                    let alive = self.world.alive(&app, &issued.token.value);
                    assert!(alive, "{} did not recover", app.name);
                }
                Err(why) => panic!("{} did not recover: {why}", app.name),
            }
        }
    }

    /// What WeChat counted.
    fn check_the_books(&self) {
        let at = self.world.at();
        for app in &self.world.apps {
            let most = app.fetches.most.load(Ordering::Relaxed);
            assert!(most <= 1, "{most} fetches of {} at once", app.name);
            let model = self.world.model();
            let account = model.account(&app.account.appid).expect("it exists");
            assert!(account.forced_today(at) <= 20, "too many forced refreshes");
            app.check_that_no_fetch_was_blind(self.life);
        }
        self.check_spacing();
    }

    /// Nobody needs two classic tokens of a calm app in quick succession, and a budget is a budget.
    fn check_spacing(&self) {
        for app in &self.world.apps {
            let ledger = self.world.disk.ledger(&app.account.appid);
            assert!(ledger.replacements <= app.policy.daily_replacements);
        }
        let app = &self.calm;
        if app.policy.mode == Mode::Stable {
            return;
        }
        let model = self.world.model();
        let account = model.account(&app.account.appid).expect("it exists");
        let mints: Vec<_> = account.mints(app.pool()).map(|mint| mint.at).collect();
        let least = app.policy.overlap.min(self.life / 2);
        for pair in mints.windows(2) {
            let excused =
                |(begin, end): &(Duration, Duration)| *begin <= pair[1] && pair[0] <= *end;
            let gap = pair[1].saturating_sub(pair[0]);
            assert!(
                gap >= least || self.excuses.iter().any(excused),
                "minted after {gap:?}"
            );
        }
    }
}

/// An old fault may leave its mark: a back-off, an open outcome, a proof, their fetches.
fn mark(policy: &Policy) -> Duration {
    policy.overlap * 2 + policy.ceiling + policy.timeout * 4 + Duration::from_mins(3)
}

/// The longest that an app without a token may have to wait for the next attempt.
fn longest_pause(policy: &Policy, remedy: Option<Remedy>) -> Duration {
    let class = match remedy {
        None => Duration::ZERO,
        Some(Remedy::BackOff) => policy.ceiling,
        Some(Remedy::NextMinute) => Duration::from_secs(65),
        Some(Remedy::Slowly | Remedy::IpList) => Duration::from_mins(1),
        Some(Remedy::Refused(_)) => Duration::from_mins(10),
        Some(Remedy::RiskPending) => Duration::from_mins(5),
        Some(Remedy::RiskRejected(span)) => span,
        Some(Remedy::DayQuota) => Duration::from_hours(1),
    };
    // A dead token waits for the spacing, and for midnight once the budget is used up.
    let budget = if policy.daily_replacements < 200 {
        Duration::from_hours(24)
    } else {
        policy.overlap.max(Duration::from_secs(30))
    };
    class.max(budget)
}

impl fmt::Debug for Week {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Week")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}
