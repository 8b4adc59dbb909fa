//! One account: its quotas and its two pools of tokens.

use std::time::Duration;

use super::{
    Counts, Credentials, Errcode, Settings,
    gate::Gate,
    pool::{Asker, Mint, Pool, Ring, World},
    quota::{Quota, Quotas, day},
    replies,
};

/// A token, handed out.
pub(super) struct Grant {
    pub(super) value: String,
    pub(super) expires_in: u64,
    pub(super) minted: bool,
}

/// One account.
#[derive(Debug)]
pub struct Account {
    pub(super) counts: Counts,
    pub(super) gate: Gate,
    classic: Ring,
    stable: Ring,
    forced_at: Option<Duration>,
    classic_quotas: Quotas,
    stable_quotas: Quotas,
    forced_day: Quota,
}

impl Account {
    pub(super) fn new(credentials: &Credentials, settings: &Settings) -> Self {
        Self {
            counts: Counts::default(),
            gate: Gate::new(credentials, settings),
            classic: Ring::default(),
            stable: Ring::default(),
            forced_at: None,
            classic_quotas: Quotas::default(),
            stable_quotas: Quotas::default(),
            forced_day: Quota::default(),
        }
    }

    /// What was asked and minted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many of the day's forced refreshes are used up.
    pub fn forced_today(&self, at: Duration) -> u64 {
        self.forced_day.used(day(at))
    }

    /// The tokens of a pool, oldest first: the last 16,384.
    pub fn mints(&self, pool: Pool) -> impl DoubleEndedIterator<Item = &Mint> {
        self.ring(pool).mints()
    }

    pub(super) fn ring(&self, pool: Pool) -> &Ring {
        match pool {
            Pool::Classic => &self.classic,
            Pool::Stable => &self.stable,
        }
    }

    pub(super) fn ring_mut(&mut self, pool: Pool) -> &mut Ring {
        match pool {
            Pool::Classic => &mut self.classic,
            Pool::Stable => &mut self.stable,
        }
    }

    pub(super) fn holds(&self, value: &str) -> bool {
        self.classic.holds(value) || self.stable.holds(value)
    }

    /// Whether `value` lives, in truth or according to one back end.
    pub(super) fn judge(
        &self,
        at: Duration,
        value: &str,
        back_end: Option<usize>,
    ) -> Result<(), Errcode> {
        let judge = |ring: &Ring| ring.judge(at, value, back_end);
        // A token is in one pool only. To the other it is garbage, and the other error says more.
        judge(&self.classic).or_else(|one| judge(&self.stable).map_err(|other| one.max(other)))
    }

    /// `GET /cgi-bin/token`: mints.
    pub(super) fn fetch_classic(
        &mut self,
        world: &mut World<'_>,
        asker: Asker,
    ) -> Result<Grant, Errcode> {
        let (at, limits) = (world.at, world.settings);
        self.classic_quotas
            .take(at, limits.classic_per_minute, limits.classic_per_day)?;
        Ok(self.mint(Pool::Classic, world, asker, limits.overlap))
    }

    /// `POST /cgi-bin/stable_token`: repeats the current token until it is about to end.
    pub(super) fn fetch_stable(
        &mut self,
        world: &mut World<'_>,
        asker: Asker,
    ) -> Result<Grant, Errcode> {
        let (at, limits) = (world.at, world.settings);
        self.stable_quotas
            .take(at, limits.stable_per_minute, limits.stable_per_day)?;
        match self.repeat(world, limits.overlap) {
            Some(grant) => Ok(grant),
            None => Ok(self.mint(Pool::Stable, world, asker, limits.overlap)),
        }
    }

    /// The same with `force_refresh`: mints, but neither often nor twice in a short time.
    pub(super) fn force(&mut self, world: &mut World<'_>, asker: Asker) -> Result<Grant, Errcode> {
        let (at, limits) = (world.at, world.settings);
        let too_soon = self
            .forced_at
            .is_some_and(|last| at < last + limits.force_gap);
        if too_soon && let Some(grant) = self.repeat(world, Duration::ZERO) {
            return Ok(grant);
        }
        if !self.forced_day.take(day(at), limits.forced_per_day) {
            return Err(replies::QUOTA_DAY);
        }
        self.forced_at = Some(at);
        let grace = if limits.forced_kills {
            Duration::ZERO
        } else {
            limits.overlap
        };
        Ok(self.mint(Pool::Stable, world, asker, grace))
    }

    /// The current stable token, if it has more than `margin` and at least a second left.
    fn repeat(&self, world: &World<'_>, margin: Duration) -> Option<Grant> {
        let current = self.stable.current()?;
        let left = current.expires_at.saturating_sub(world.at);
        let healed = world.settings.heals_revoked && current.lives_until() <= world.at;
        (left > margin && left.as_secs() > 0 && !healed).then(|| Grant {
            value: current.value.clone(),
            expires_in: left.as_secs(),
            minted: false,
        })
    }

    fn mint(&mut self, pool: Pool, world: &mut World<'_>, asker: Asker, grace: Duration) -> Grant {
        self.counts.minted(pool, asker);
        let mint = self.ring_mut(pool).rotate(world, asker, grace);
        Grant {
            value: mint.value.clone(),
            expires_in: mint.life().as_secs(),
            minted: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    struct Try {
        account: Account,
        settings: Settings,
        dice: Rng,
    }

    impl Try {
        fn new(settings: Settings) -> Self {
            Self {
                account: Account::new(&Credentials::default(), &settings),
                settings,
                dice: Rng::with_seed(1),
            }
        }

        /// Fetches and says the number of the pool's token after it, and how long it is said to live.
        fn fetch(&mut self, way: Way, second: u64) -> Result<(u64, u64), Errcode> {
            let at = Duration::from_secs(1_799_942_400 + second); // midnight in Beijing
            let world = &mut World {
                at,
                settings: &self.settings,
                dice: &mut self.dice,
            };
            let grant = match way {
                Way::Classic => self.account.fetch_classic(world, Asker::Caller),
                Way::Stable => self.account.fetch_stable(world, Asker::Caller),
                Way::Forced => self.account.force(world, Asker::Foreign),
            }?;
            let pool = if way == Way::Classic {
                Pool::Classic
            } else {
                Pool::Stable
            };
            let current = self.account.ring(pool).current().unwrap();
            assert_eq!(current.value, grant.value);
            assert_eq!(current.at == at, grant.minted);
            Ok((current.number, grant.expires_in))
        }
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Classic,
        Stable,
        Forced,
    }

    #[test]
    fn each_endpoint_mints_when_wechat_would() {
        use Way::{Classic, Forced, Stable};
        let mut tried = Try::new(Settings::default());
        for (way, second, got) in [
            (Classic, 0, (1, 7200)),
            (Classic, 1, (2, 7200)),
            (Stable, 10, (1, 7200)),
            (Stable, 11, (1, 7199)),
            (Classic, 12, (3, 7200)),
            (Stable, 10 + 6899, (1, 301)),
            (Stable, 10 + 6900, (2, 7200)), // 300 s left
            (Stable, 10 + 6901, (2, 7199)),
            (Forced, 7000, (3, 7200)),
            (Forced, 7029, (3, 7171)), // too soon
            (Forced, 7030, (4, 7200)),
            (Stable, 7031, (4, 7199)),
            (Stable, 20_000, (5, 7200)), // nothing rotates by itself
        ] {
            assert_eq!(tried.fetch(way, second), Ok(got), "at {second}");
        }
        let counts = tried.account.counts();
        assert_eq!(
            (
                counts.classic_mints,
                counts.stable_mints,
                counts.foreign_mints
            ),
            (3, 5, 2)
        );
    }

    #[test]
    fn the_21st_forced_refresh_of_a_day_is_refused() {
        let mut tried = Try::new(Settings::default());
        for turn in 0..20 {
            assert_eq!(tried.fetch(Way::Forced, turn * 30), Ok((turn + 1, 7200)));
        }
        assert_eq!(
            tried.fetch(Way::Forced, 599),
            Ok((20, 7171)),
            "too soon is free"
        );
        assert_eq!(tried.fetch(Way::Forced, 86_399), Err(45009));
        assert_eq!(tried.fetch(Way::Forced, 86_400), Ok((21, 7200)));
    }

    #[test]
    fn quotas_come_back_with_the_next_minute_and_day() {
        for way in [Way::Classic, Way::Stable] {
            let mut tried = Try::new(Settings {
                classic_per_minute: 2,
                stable_per_minute: 2,
                classic_per_day: 3,
                stable_per_day: 3,
                ..Settings::default()
            });
            let mut told = |second| tried.fetch(way, second).err();
            let got = [0, 1, 2, 60, 120, 86_399, 86_400].map(&mut told);
            let (minute, day) = (Some(45011), Some(45009));
            assert_eq!(got, [None, None, minute, None, day, day, None]);
        }
    }

    #[test]
    fn a_remaining_life_is_never_said_to_be_zero() {
        let overlap = Duration::ZERO;
        let life = Duration::from_secs(2);
        let mut tried = Try::new(Settings {
            life,
            overlap,
            ..Settings::default()
        });
        let got = [0, 1, 2, 3].map(|second| tried.fetch(Way::Stable, second));
        assert_eq!(got, [Ok((1, 2)), Ok((1, 1)), Ok((2, 2)), Ok((2, 1))]);
    }

    #[test]
    fn a_revoked_token_is_repeated_unless_wechat_heals() {
        for (heals_revoked, number) in [(false, 1), (true, 2)] {
            let mut tried = Try::new(Settings {
                heals_revoked,
                ..Settings::default()
            });
            tried.fetch(Way::Stable, 0).unwrap();
            let (settings, dice) = (&tried.settings, &mut tried.dice);
            let at = Duration::from_secs(1_799_942_401);
            tried
                .account
                .stable
                .revoke(&mut World { at, settings, dice });
            assert_eq!(tried.fetch(Way::Stable, 2).unwrap().0, number);
        }
    }
}
