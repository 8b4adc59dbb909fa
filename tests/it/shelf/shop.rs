//! A shop with one app and a WeChat of its own, on a paused clock.

use std::{future::Future, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use wxtokend::{
    domain::{
        Generation, Mode, Policy,
        report::{Stale, StaleReport},
    },
    sandbox::{Counts, Fault, Knobs, Outage, Settings},
    tokens::{Issued, NoToken, Outcome},
};

use crate::world::{AppUnderTest, World};

pub(super) const BOTH: [Mode; 2] = [Mode::Classic, Mode::Stable];

/// The life of a token, as WeChat has it.
pub(super) const LIFE: Duration = Duration::from_hours(2);

/// When a failing WeChat matters first: shortly before the planned refresh.
pub(super) fn shortly_before_the_refresh(mode: Mode) -> Duration {
    match mode {
        Mode::Classic => Duration::from_mins(59),
        Mode::Stable => Duration::from_mins(114),
    }
}

pub(super) fn policy(mode: Mode) -> Policy {
    Policy {
        mode,
        ..Policy::default()
    }
}

/// Nobody looks at a token unless it is reported.
pub(super) fn incurious(mode: Mode) -> Policy {
    Policy {
        probe_every: Duration::ZERO,
        ..policy(mode)
    }
}

/// The app `shop` and everything around it.
pub(super) struct Shop {
    pub(super) world: World,
}

impl Shop {
    /// One that has its first token.
    pub(super) async fn open(mode: Mode) -> Self {
        Self::with(Settings::default(), policy(mode)).await
    }

    pub(super) async fn with(settings: Settings, policy: Policy) -> Self {
        let mut shop = Self::closed(settings, policy);
        shop.world.start().await;
        let first = shop.token_within(Duration::from_secs(10)).await;
        assert!(first.is_ok(), "{first:?}");
        shop
    }

    /// One whose server does not run yet.
    pub(super) fn closed(settings: Settings, policy: Policy) -> Self {
        fastrand::seed(1);
        let world = World::new(settings, &[("shop", policy)], 1);
        Self { world }
    }

    /// `kill -9`, and a new start on the same disk.
    pub(super) async fn restart(&mut self) {
        self.world.kill().await;
        self.world.start().await;
    }

    pub(super) fn app(&self) -> &AppUnderTest {
        &self.world.apps[0]
    }

    pub(super) async fn token(&self) -> Result<Issued, NoToken> {
        self.token_within(Duration::ZERO).await
    }

    pub(super) async fn token_within(&self, patience: Duration) -> Result<Issued, NoToken> {
        let tokens = self.world.tokens();
        tokens.current(&self.app().name, patience).await
    }

    pub(super) async fn generation(&self) -> Generation {
        let issued = self.token().await;
        issued.expect("there is a token").token.generation
    }

    pub(super) async fn report(
        &self,
        generation: Generation,
    ) -> Result<(Issued, Outcome), NoToken> {
        self.report_as(Stale::Generation(generation)).await
    }

    /// So many callers report the same token at once. Returns what each is told.
    pub(super) fn crowd(
        &self,
        callers: usize,
        generation: Generation,
    ) -> JoinSet<Result<(Issued, Outcome), NoToken>> {
        let mut crowd = JoinSet::new();
        for _ in 0..callers {
            let (tokens, name) = (self.world.tokens().clone(), self.app().name.clone());
            let report = refused(Stale::Generation(generation));
            crowd.spawn(async move { tokens.report(&name, report).await });
        }
        crowd
    }

    pub(super) async fn report_as(&self, stale: Stale) -> Result<(Issued, Outcome), NoToken> {
        let tokens = self.world.tokens();
        tokens.report(&self.app().name, refused(stale)).await
    }

    /// Whether WeChat would accept what is handed out now.
    pub(super) async fn is_served(&self) -> bool {
        let issued = self.token().await;
        issued.is_ok_and(|issued| self.world.alive(self.app(), &issued.token.value))
    }

    pub(super) fn counts(&self) -> Counts {
        let model = self.world.model();
        let account = model.account(&self.app().account.appid);
        account.expect("the account is there").counts()
    }

    pub(super) fn wechat_is(&self, outage: Outage) {
        self.turn(&Knobs {
            outage: Some(outage),
            ..Knobs::default()
        });
    }

    pub(super) fn strike(&self, fault: Fault) {
        self.turn(&Knobs {
            faults: vec![fault],
            ..Knobs::default()
        });
    }

    pub(super) fn turn(&self, knobs: &Knobs) {
        let at = self.world.at();
        self.world.model().turn(at, knobs).expect("good knobs");
    }

    /// WeChat kills the current token.
    pub(super) fn revoke(&self) {
        let (at, app) = (self.world.at(), self.app());
        let mut model = self.world.model();
        model.revoke(at, &app.account.appid, app.pool());
    }

    /// Somebody else fetches.
    pub(super) fn foreign_fetch(&self) {
        let (at, app) = (self.world.at(), self.app());
        let mut model = self.world.model();
        let fetched = model.foreign_fetch(at, &app.account.appid, app.pool());
        fetched.expect("WeChat gives everybody a token");
    }
}

/// WeChat refused this token.
fn refused(stale: Stale) -> StaleReport {
    StaleReport {
        stale,
        errcode: 40001,
        leaked: false,
    }
}

/// Does something every `pause` for so long.
pub(super) async fn every<F: Future>(pause: Duration, span: Duration, mut act: impl FnMut() -> F) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        act().await;
        sleep(pause).await;
    }
}
