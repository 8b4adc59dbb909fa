//! The two-slot ring of live tokens.
//!
//! At most two tokens of a pool live: the current one, and the one it replaced, for the overlap and
//! never beyond its own expiry. A third mint kills the oldest at once. This is the *truth*; what a
//! business call hears is what one of WeChat's back ends believes, and those may lag behind it.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::Duration,
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::{Errcode, Settings, replies};

/// How many back ends there can be.
pub(super) const BACK_ENDS: usize = 4;

/// How many tokens a pool remembers: a week of life 60 s. Older ones are long dead, and WeChat
/// answers the same for them as for garbage.
const REMEMBERED: usize = 16_384;

/// The two kinds of tokens, which never affect each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Those of `GET /cgi-bin/token`.
    Classic,
    /// Those of `POST /cgi-bin/stable_token`.
    Stable,
}

/// Who made WeChat mint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asker {
    /// A call that came in.
    Caller,
    /// Somebody else: a colleague with the debugging tool.
    Foreign,
}

/// One token and its fate.
#[derive(Clone)]
pub struct Mint {
    /// Counts the mints of its pool, from 1.
    pub number: u64,
    /// The token.
    pub value: String,
    /// When it was minted.
    pub at: Duration,
    /// When it dies if nothing happens before.
    pub expires_at: Duration,
    /// Who asked.
    pub asker: Asker,
    /// Whether the reply that carried it was sent whole.
    pub delivered: bool,
    /// When it dies, or died, before its time.
    killed_at: Option<Duration>,
    heard_of: [Duration; BACK_ENDS],
    mourned: [Duration; BACK_ENDS],
}

impl Mint {
    /// Until when it lives, as far as is decided yet.
    pub fn lives_until(&self) -> Duration {
        self.killed_at.unwrap_or(self.expires_at)
    }

    /// The life it was promised.
    pub(super) fn life(&self) -> Duration {
        self.expires_at.saturating_sub(self.at)
    }

    fn kill(&mut self, at: Duration, mourned: [Duration; BACK_ENDS]) {
        if self.killed_at.is_none() {
            self.mourned = mourned;
        }
        self.killed_at = Some(at.min(self.lives_until()));
    }

    fn lives(&self, at: Duration) -> bool {
        (self.at..self.lives_until()).contains(&at)
    }

    fn lives_according_to(&self, back_end: usize, at: Duration) -> bool {
        let known = at >= self.at + self.heard_of[back_end];
        let killed = self.killed_at.map(|dead| dead + self.mourned[back_end]);
        known && at < self.expires_at && killed.is_none_or(|dead| at < dead)
    }
}

/// Without the token.
impl fmt::Debug for Mint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mint")
            .field("number", &self.number)
            .field("at", &self.at)
            .field("lives_until", &self.lives_until())
            .field("asker", &self.asker)
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}

/// What everything that happens at one moment has in common.
pub(super) struct World<'a> {
    pub(super) at: Duration,
    pub(super) settings: &'a Settings,
    pub(super) dice: &'a mut Rng,
}

impl World<'_> {
    fn part_of(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.dice.f64())
    }

    fn lags(&mut self) -> [Duration; BACK_ENDS] {
        let lag = self.settings.lag;
        std::array::from_fn(|_| self.part_of(lag))
    }

    fn lags_of_a_death(&mut self) -> [Duration; BACK_ENDS] {
        let extra = if self.dice.f64() < self.settings.survival {
            self.part_of(self.settings.survives_for)
        } else {
            Duration::ZERO
        };
        self.lags().map(|lag| lag + extra)
    }
}

/// A pool's tokens, oldest first.
#[derive(Default)]
pub(super) struct Ring {
    mints: VecDeque<Mint>,
    /// The numbers of the tokens above: business calls are many and most judge an old token.
    numbers: HashMap<String, u64>,
    minted: u64,
}

/// Without the tokens.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.mints).finish()
    }
}

impl Ring {
    /// The newest token, dead or alive.
    pub(super) fn current(&self) -> Option<&Mint> {
        self.mints.back()
    }

    pub(super) fn current_mut(&mut self) -> Option<&mut Mint> {
        self.mints.back_mut()
    }

    pub(super) fn mints(&self) -> impl DoubleEndedIterator<Item = &Mint> {
        self.mints.iter()
    }

    pub(super) fn holds(&self, value: &str) -> bool {
        self.numbers.contains_key(value)
    }

    fn find(&self, value: &str) -> Option<&Mint> {
        let newer = self.minted - self.numbers.get(value)?;
        self.mints.iter().nth_back(usize::try_from(newer).ok()?)
    }

    /// Mints; the token it replaces keeps `grace`, an older one dies.
    pub(super) fn rotate(&mut self, world: &mut World<'_>, asker: Asker, grace: Duration) -> &Mint {
        let mourned = world.lags_of_a_death();
        let mut newest_first = self.mints.iter_mut().rev();
        if let Some(current) = newest_first.next() {
            current.kill(world.at + grace, mourned);
        }
        if let Some(previous) = newest_first.next() {
            previous.kill(world.at, mourned);
        }
        if self.mints.len() == REMEMBERED
            && let Some(oldest) = self.mints.pop_front()
        {
            self.numbers.remove(&oldest.value);
        }
        self.minted += 1;
        let life = Duration::from_secs(world.settings.life.as_secs());
        let value = replies::token(world.dice);
        self.numbers.insert(value.clone(), self.minted);
        self.mints.push_back(Mint {
            number: self.minted,
            value,
            at: world.at,
            expires_at: world.at + life,
            asker,
            delivered: true,
            killed_at: None,
            heard_of: world.lags(),
            mourned: [Duration::ZERO; BACK_ENDS],
        });
        self.mints.back().expect("it was just pushed")
    }

    /// Kills the current token before its time.
    pub(super) fn revoke(&mut self, world: &mut World<'_>) -> bool {
        let mourned = world.lags_of_a_death();
        let Some(current) = self.mints.back_mut().filter(|mint| mint.lives(world.at)) else {
            return false;
        };
        current.kill(world.at, mourned);
        true
    }

    /// Whether `value` lives, in truth or according to one back end; if not, what WeChat calls it.
    pub(super) fn judge(
        &self,
        at: Duration,
        value: &str,
        back_end: Option<usize>,
    ) -> Result<(), Errcode> {
        let mint = self.find(value).ok_or(replies::NOT_LATEST)?;
        let lives = match back_end {
            None => mint.lives(at),
            Some(back_end) => mint.lives_according_to(back_end, at),
        };
        let latest = mint.number == self.minted && mint.killed_at.is_none();
        match lives {
            true => Ok(()),
            false if latest && at >= mint.expires_at => Err(replies::EXPIRED),
            false => Err(replies::NOT_LATEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_800_000_007);

    fn at(second: u64) -> Duration {
        START + Duration::from_secs(second)
    }

    /// A ring with a mint at each of `seconds`.
    fn ring(settings: &Settings, seconds: &[u64]) -> (Ring, Vec<String>) {
        let mut ring = Ring::default();
        let dice = &mut Rng::with_seed(1);
        let mut mint = |second: &u64| {
            let mut world = World {
                at: at(*second),
                settings,
                dice,
            };
            ring.rotate(&mut world, Asker::Caller, settings.overlap)
                .value
                .clone()
        };
        let values = seconds.iter().map(&mut mint).collect();
        (ring, values)
    }

    #[test]
    fn a_token_lives_until_it_is_replaced_or_expires() {
        let (ok, stale, expired) = (Ok(()), Err(40001), Err(42001));
        let mints: [&[u64]; 4] = [&[0], &[0, 100], &[0, 7000], &[0, 100, 200]];
        for (mints, token, second, verdict) in [
            (mints[0], 0, 0, ok),
            (mints[0], 0, 7199, ok),
            (mints[0], 0, 7200, expired),
            (mints[1], 0, 399, ok),
            (mints[1], 0, 400, stale),
            (mints[1], 1, 400, ok),
            (mints[1], 1, 7300, expired),
            (mints[2], 0, 7199, ok),
            (mints[2], 0, 7200, stale), // no overlap beyond its own expiry
            (mints[3], 0, 199, ok),
            (mints[3], 0, 200, stale), // two slots, not three
            (mints[3], 1, 499, ok),
            (mints[3], 1, 500, stale),
        ] {
            let (ring, values) = ring(&Settings::default(), mints);
            let got = ring.judge(at(second), &values[token], None);
            assert_eq!(got, verdict, "{mints:?} token {token} at {second}");
        }
    }

    #[test]
    fn only_the_newest_tokens_are_remembered() {
        let count = REMEMBERED as u64 + 10;
        let (ring, values) = ring(&Settings::default(), &(0..count).collect::<Vec<_>>());
        assert_eq!(ring.mints().count(), REMEMBERED);
        assert_eq!(ring.numbers.len(), REMEMBERED);
        assert_eq!(ring.judge(at(count), &values[0], None), Err(40001));
        assert!(!ring.holds(&values[9]) && ring.holds(&values[10]));
        assert_eq!(ring.find(&values[10]).unwrap().value, values[10]);
    }

    #[test]
    fn a_back_end_that_lags_refuses_the_new_token_and_keeps_the_old_one() {
        let settings = Settings {
            lag: Duration::from_mins(1),
            ..Settings::default()
        };
        let (ring, values) = ring(&settings, &[0, 1000]);
        let opinions = |second: u64, token: usize| -> usize {
            let accepts = |b: &usize| ring.judge(at(second), &values[token], Some(*b)).is_ok();
            (0..BACK_ENDS).filter(accepts).count()
        };
        assert!(opinions(1000, 1) < BACK_ENDS);
        assert_eq!(opinions(1060, 1), BACK_ENDS);
        assert_eq!(opinions(1299, 0), BACK_ENDS);
        assert!(opinions(1300, 0) > 0);
        assert_eq!(opinions(1360, 0), 0);
    }

    #[test]
    fn a_survivor_outlives_its_overlap_but_not_its_expiry() {
        let settings = Settings {
            survival: 1.0,
            ..Settings::default()
        };
        let (ring, values) = ring(&settings, &[0, 1000]);
        let judge = |at| ring.judge(at, &values[0], Some(0));
        assert_eq!(ring.judge(at(1300), &values[0], None), Err(40001));
        assert_eq!(judge(at(1300)), Ok(()));
        assert_eq!(judge(at(1600)), Err(40001));
    }

    #[test]
    fn a_revoked_token_is_not_an_expired_one() {
        let settings = Settings::default();
        let (mut ring, values) = ring(&settings, &[0]);
        let dice = &mut Rng::with_seed(2);
        assert!(ring.revoke(&mut World {
            at: at(10),
            settings: &settings,
            dice
        }));
        assert_eq!(ring.judge(at(9), &values[0], None), Ok(()));
        assert_eq!(ring.judge(at(10), &values[0], None), Err(40001));
        assert_eq!(ring.judge(at(9000), &values[0], None), Err(40001));
        assert!(!ring.revoke(&mut World {
            at: at(11),
            settings: &settings,
            dice
        }));
    }
}
