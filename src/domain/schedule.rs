//! When to refresh, when to try again, when to look: pure functions of the policy.
//!
//! - Classic: WeChat advises to refresh after half the life. Both tokens work for the overlap, so
//!   refreshing early costs nothing and refreshing late costs an outage.
//! - Stable: WeChat changes the token only in its last minutes and repeats it before. So ask there,
//!   again and again until the value changes.
//! - A pause after a failure never lasts longer than half of what is left to live, so a token sees
//!   several attempts before it dies.

use std::time::{Duration, SystemTime};

use super::{Mode, Moment, Remedy, Token, budget::next_midnight};

/// The longest pause while WeChat refuses the credential, the account or the request.
const REFUSED_CEILING: Duration = Duration::from_mins(10);

/// The numbers an operator may tune for one app. Ours scale with `overlap`; WeChat's do not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Which interface.
    pub mode: Mode,
    /// Classic: the share of a token's life after which it is refreshed, in `0.1..=0.9`.
    pub at: f64,
    /// How long WeChat keeps a token that was replaced; in stable mode also how long before its
    /// death it offers the next.
    pub overlap: Duration,
    /// The least pause between two attempts.
    pub floor: Duration,
    /// The greatest pause after a failure that will pass.
    pub ceiling: Duration,
    /// The pause between two looks at a token nobody complained about; zero means never.
    pub probe_every: Duration,
    /// Classic: replacements of dead or suspect tokens a day.
    pub daily_replacements: u32,
    /// The longest a fetch may take.
    pub timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Stable,
            at: 0.5,
            overlap: Duration::from_mins(5),
            floor: Duration::from_secs(1),
            ceiling: Duration::from_mins(1),
            probe_every: Duration::from_mins(1),
            daily_replacements: 200,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Policy {
    /// When a token is refreshed if nothing happens before. `minted_at` is when WeChat may have made
    /// a token for the last time: the one before that must live out its overlap.
    pub fn planned(&self, token: &Token, minted_at: Moment) -> Moment {
        let life = token.life();
        match self.mode {
            Mode::Classic => {
                let planned = token.asked_at + life.mul_f64(self.at);
                planned.max(minted_at + self.spacing(life))
            }
            Mode::Stable => token.expires_at - self.overlap,
        }
    }

    /// The least time between two fetches that nobody needs.
    pub fn spacing(&self, life: Duration) -> Duration {
        self.overlap.min(life / 2)
    }

    /// The pause after WeChat repeated a stable token in its last minutes, with `left` to live.
    pub fn step(&self, left: Duration) -> Duration {
        (self.overlap / 10).min(left / 2).max(self.floor)
    }

    /// How long WeChat's servers may disagree about a token: a younger one is not judged, and a look
    /// that succeeded is believed for as long.
    pub fn settle(&self) -> Duration {
        self.overlap.min(Duration::from_secs(10))
    }

    /// How long a caller may go on with a token that is replaced now: the overlap, less a margin for
    /// its last call.
    pub fn grace(&self) -> Duration {
        self.overlap - (self.overlap / 5).min(Duration::from_secs(10))
    }

    /// The pause after the `failures`-th failure in a row. `left` is the life of a token that works,
    /// zero if there is none; `roll` is in `0.0..1.0`.
    pub fn pause(
        &self,
        remedy: Remedy,
        failures: u32,
        left: Duration,
        now: SystemTime,
        roll: f64,
    ) -> Duration {
        let between = |least: u64, most: u64| {
            Duration::from_secs(least) + Duration::from_secs(most - least).mul_f64(roll)
        };
        match remedy {
            Remedy::BackOff => self.back_off(failures, left, roll),
            Remedy::NextMinute => until_next_minute(now) + between(0, 5),
            Remedy::Slowly | Remedy::IpList => between(30, 60),
            Remedy::Refused(_) => doubled(Duration::from_mins(1), failures).min(REFUSED_CEILING),
            Remedy::RiskPending => Duration::from_mins(5),
            Remedy::RiskRejected(span) => span,
            Remedy::DayQuota => {
                let midnight = next_midnight(now).duration_since(now);
                let midnight = midnight.unwrap_or_default() + between(1, 5);
                midnight.min(Duration::from_hours(1))
            }
        }
    }

    /// 1, 2, 4 … floors, up to a tenth less at random, at most the ceiling and at most half of what
    /// is left to live, never less than the floor.
    pub fn back_off(&self, failures: u32, left: Duration, roll: f64) -> Duration {
        let full = doubled(self.floor, failures).min(self.ceiling);
        let pause = full.mul_f64(1.0 - 0.1 * roll);
        let most = if left.is_zero() { pause } else { left / 2 };
        pause.min(most).max(self.floor)
    }
}

fn doubled(first: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings)
}

fn until_next_minute(now: SystemTime) -> Duration {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH);
    let secs = since_epoch.map_or(0, |d| d.as_secs());
    Duration::from_secs(60 - secs % 60)
}
