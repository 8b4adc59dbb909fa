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
            // A life shorter than the overlap is a simulated one, or a mistake in the settings.
            Mode::Stable if life <= self.overlap => token.expires_at - life / 2,
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
        settle(self.overlap)
    }

    /// How long a caller may go on with a token that is replaced now: the overlap, less a margin for
    /// its last call.
    pub fn grace(&self) -> Duration {
        let margin = (self.overlap / 5).min(Duration::from_secs(10));
        self.overlap.saturating_sub(margin)
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

/// See [`Policy::settle`].
pub fn settle(overlap: Duration) -> Duration {
    overlap.min(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Generation, Secret, trouble::Refused};

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn at(boot: u64) -> Moment {
        Moment::since_boot(secs(boot))
    }

    /// A token asked for at 1000 s.
    fn token(life: u64) -> Token {
        Token {
            value: Secret::new("x"),
            generation: Generation(1),
            asked_at: at(1000),
            expires_at: at(1000 + life),
            issue_time: SystemTime::UNIX_EPOCH,
            expire_time: SystemTime::UNIX_EPOCH + secs(life),
        }
    }

    #[test]
    fn planned() {
        use Mode::{Classic, Stable};
        // (what is special, mode, overlap, life, last mint, expected)
        let table = [
            (
                "an hour: WeChat's own advice",
                Classic,
                300,
                7200,
                1000,
                4600,
            ),
            ("a short life scales", Classic, 3, 20, 1000, 1010),
            (
                "a late mint keeps its distance",
                Classic,
                300,
                7200,
                4500,
                4800,
            ),
            ("at most half a life", Classic, 300, 60, 1020, 1050),
            (
                "stable: when WeChat offers the next",
                Stable,
                300,
                7200,
                1000,
                7900,
            ),
            (
                "stable: a life found half spent",
                Stable,
                300,
                345,
                1000,
                1045,
            ),
            (
                "stable: a life shorter than the overlap",
                Stable,
                300,
                200,
                1000,
                1100,
            ),
        ];
        for (what, mode, overlap, life, minted, expected) in table {
            let policy = Policy {
                mode,
                overlap: secs(overlap),
                ..Policy::default()
            };
            let planned = policy.planned(&token(life), at(minted));
            assert_eq!(planned, at(expected), "{what}");
        }
    }

    #[test]
    fn back_off() {
        // (what is special, failures, left, roll, expected)
        let table = [
            ("the first retry is quick", 1, 0, 0.0, secs(1)),
            ("each retry doubles", 4, 0, 0.0, secs(8)),
            (
                "the roll takes up to a tenth away",
                4,
                0,
                1.0,
                Duration::from_millis(7200),
            ),
            ("the ceiling holds", 30, 0, 0.0, secs(60)),
            ("a huge count does not overflow", u32::MAX, 0, 0.0, secs(60)),
            ("at most half of what is left", 30, 40, 0.0, secs(20)),
            ("never below the floor", 30, 1, 0.0, secs(1)),
            ("nor by the roll", 1, 0, 1.0, secs(1)),
        ];
        for (what, failures, left, roll, expected) in table {
            let pause = Policy::default().back_off(failures, secs(left), roll);
            assert_eq!(pause, expected, "{what}");
        }
    }

    #[test]
    fn each_class_of_trouble_has_its_pause() {
        let refused = Remedy::Refused(Refused::Credential);
        // 2026-11-22 15:00:30 UTC, half a minute after 23:00 in Beijing.
        let now = SystemTime::UNIX_EPOCH + secs(1_795_359_630);
        // (remedy, failures, least, most)
        let table = [
            (Remedy::NextMinute, 1, secs(30), secs(35)),
            (Remedy::Slowly, 9, secs(30), secs(60)),
            (Remedy::IpList, 9, secs(30), secs(60)),
            (refused, 1, secs(60), secs(60)),
            (refused, 3, secs(240), secs(240)),
            (refused, 9, secs(600), secs(600)),
            (Remedy::RiskPending, 1, secs(300), secs(300)),
            (
                Remedy::RiskRejected(secs(86_400)),
                1,
                secs(86_400),
                secs(86_400),
            ),
            (Remedy::DayQuota, 1, secs(3571), secs(3575)),
        ];
        for (remedy, failures, least, most) in table {
            for (roll, expected) in [(0.0, least), (1.0, most)] {
                let pause = Policy::default().pause(remedy, failures, secs(7200), now, roll);
                assert_eq!(pause, expected, "{remedy:?} {roll}");
            }
        }
        let noon = now - secs(11 * 3600);
        let pause = Policy::default().pause(Remedy::DayQuota, 1, secs(0), noon, 0.5);
        assert_eq!(pause, secs(3600), "hourly");
    }

    #[test]
    fn the_grace_scales_with_the_overlap() {
        for (overlap, grace) in [(300, 290), (50, 40), (5, 4)] {
            let policy = Policy {
                overlap: secs(overlap),
                ..Policy::default()
            };
            assert_eq!(policy.grace(), secs(grace));
        }
    }
}
