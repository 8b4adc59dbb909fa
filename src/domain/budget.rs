//! What may be spent: replacements of dead tokens and forced refreshes, a day, and their spacing.
//!
//! WeChat allows 20 forced refreshes of a stable token a day, 30 s apart, and some 2,000 fetches of a
//! classic one. A day begins at midnight in Beijing, as WeChat's counters do. The ledger is part of
//! the record, so that a restart forgets nothing.

use std::time::{Duration, SystemTime};

use super::{Mode, Moment, Now, Policy};

/// Forced refreshes of a stable token that WeChat grants a day.
pub const FORCED_A_DAY: u32 = 20;

/// The least time between two forced refreshes: sooner, WeChat repeats the token.
pub const FORCED_GAP: Duration = Duration::from_secs(30);

const DAY: u64 = 86_400;
const BEIJING: u64 = 8 * 3600;

/// What was spent, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The day that the counts are of, in days since 1970 in Beijing.
    pub day: u64,
    /// Replacements of dead or suspect classic tokens on that day.
    pub replacements: u32,
    /// Forced refreshes of a stable token on that day.
    pub forced: u32,
    /// When the last replacement arrived; of a stable token: when the last forced refresh was sent.
    pub replaced_at: Option<Moment>,
    /// How many replacements there were in a row, without a planned refresh between them.
    pub streak: u32,
    /// When WeChat may have made a token for the last time, at the latest.
    pub minted_at: Option<Moment>,
}

impl Ledger {
    /// When the next replacement of a dead token may be sent, by the budget and the spacing.
    pub fn replacement_at(&self, policy: &Policy, now: Now) -> Moment {
        let spaced = self.replaced_at.map_or(now.boot, |at| {
            // A time in the future counts as now: it is from a clock that was set back.
            at.min(now.boot) + self.gap(policy)
        });
        spaced.max(self.budget_at(policy, now))
    }

    /// When the budget of the day allows another replacement, whatever the spacing.
    pub fn budget_at(&self, policy: &Policy, now: Now) -> Moment {
        if self.left(policy, now) > 0 {
            return now.boot;
        }
        now.moment_of(next_midnight(now.wall))
    }

    /// How many replacements are left today.
    pub fn left(&self, policy: &Policy, now: Now) -> u32 {
        self.allowance(policy).left(now.wall)
    }

    /// What may be spent, for somebody who asks later.
    pub fn allowance(&self, policy: &Policy) -> Allowance {
        let (spent, most) = match policy.mode {
            Mode::Classic => (self.replacements, policy.daily_replacements),
            Mode::Stable => (self.forced, FORCED_A_DAY),
        };
        Allowance {
            day: self.day,
            left: most.saturating_sub(spent),
            most,
        }
    }

    /// Writes down a replacement that is about to be sent.
    pub fn spend(&mut self, mode: Mode, now: Now) {
        let today = day_of(now.wall);
        if self.day != today {
            (self.day, self.replacements, self.forced) = (today, 0, 0);
        }
        let count = match mode {
            Mode::Classic => &mut self.replacements,
            Mode::Stable => &mut self.forced,
        };
        *count = count.saturating_add(1);
        if mode == Mode::Stable {
            self.replaced_at = Some(now.boot);
        }
    }

    /// Takes [`Ledger::spend`] back: nothing was made. The spacing of forced refreshes stays, since
    /// it is WeChat that counts there.
    pub fn refund(&mut self, mode: Mode) {
        let count = match mode {
            Mode::Classic => &mut self.replacements,
            Mode::Stable => &mut self.forced,
        };
        *count = count.saturating_sub(1);
    }

    /// WeChat says that today's forced refreshes are used up, whatever was counted here.
    pub fn exhaust_forced(&mut self, now: Now) {
        (self.day, self.forced) = (day_of(now.wall), FORCED_A_DAY);
    }

    /// A token arrived; `replacement` says that it was to replace a dead or suspect one.
    pub fn minted(&mut self, mode: Mode, replacement: bool, now: Now) {
        self.minted_at = Some(now.boot);
        self.streak = if replacement {
            self.streak.saturating_add(1)
        } else {
            0
        };
        if replacement && mode == Mode::Classic {
            self.replaced_at = Some(now.boot);
        }
    }

    /// The least time between two replacements: it doubles while the replacements die early too.
    fn gap(&self, policy: &Policy) -> Duration {
        if policy.mode == Mode::Stable {
            return FORCED_GAP;
        }
        let least = Duration::from_secs(30).min(policy.overlap);
        least
            .saturating_mul(1 << self.streak.saturating_sub(1).min(16))
            .min(policy.overlap)
    }
}

/// How many replacements are left, on the day that it was written down and on every later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    day: u64,
    left: u32,
    most: u32,
}

impl Allowance {
    /// How many are left on the day of `wall`.
    pub fn left(self, wall: SystemTime) -> u32 {
        if self.day == day_of(wall) {
            self.left
        } else {
            self.most
        }
    }
}

/// The next midnight in Beijing after `wall`.
pub fn next_midnight(wall: SystemTime) -> SystemTime {
    let tomorrow = (day_of(wall) + 1) * DAY - BEIJING;
    SystemTime::UNIX_EPOCH + Duration::from_secs(tomorrow)
}

fn day_of(wall: SystemTime) -> u64 {
    let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH);
    (since_epoch.map_or(0, |d| d.as_secs()) + BEIJING) / DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn at(boot: u64) -> Now {
        Now {
            boot: Moment::since_boot(secs(boot)),
            // 2026-11-22 15:00:00 UTC is 23:00 in Beijing.
            wall: SystemTime::UNIX_EPOCH + secs(1_795_359_600 + boot),
        }
    }

    fn policy(mode: Mode) -> Policy {
        Policy {
            mode,
            ..Policy::default()
        }
    }

    #[test]
    fn midnight_is_beijings() {
        let left = next_midnight(at(0).wall).duration_since(at(0).wall);
        assert_eq!(left.unwrap(), secs(3600));
    }

    #[test]
    fn the_gap_between_replacements_doubles_up_to_the_overlap() {
        let table = [
            (0, 30),
            (1, 30),
            (2, 60),
            (3, 120),
            (4, 240),
            (5, 300),
            (99, 300),
        ];
        for (streak, gap) in table {
            let ledger = Ledger {
                replaced_at: Some(at(50).boot),
                streak,
                ..Ledger::default()
            };
            let next = ledger.replacement_at(&policy(Mode::Classic), at(60));
            assert_eq!(next.since(at(50).boot), secs(gap), "streak {streak}");
        }
    }

    #[test]
    fn the_twenty_first_forced_refresh_waits_for_midnight() {
        let (mut ledger, policy) = (Ledger::default(), policy(Mode::Stable));
        for spent in 0..FORCED_A_DAY {
            assert_eq!(ledger.left(&policy, at(0)), FORCED_A_DAY - spent);
            ledger.spend(Mode::Stable, at(0));
        }
        let next = ledger.replacement_at(&policy, at(100));
        assert_eq!(next, at(3600).boot);
        assert_eq!(ledger.left(&policy, at(3600)), FORCED_A_DAY);
    }

    #[test]
    fn an_allowance_is_whole_again_on_the_next_day() {
        let (mut ledger, policy) = (Ledger::default(), policy(Mode::Stable));
        ledger.spend(Mode::Stable, at(0));
        let allowance = ledger.allowance(&policy);
        assert_eq!(allowance.left(at(3599).wall), FORCED_A_DAY - 1);
        assert_eq!(allowance.left(at(3600).wall), FORCED_A_DAY);
    }

    #[test]
    fn a_spending_in_the_future_counts_as_now() {
        let ledger = Ledger {
            replaced_at: Some(at(1_000_000).boot),
            ..Ledger::default()
        };
        let next = ledger.replacement_at(&policy(Mode::Stable), at(0));
        assert_eq!(next, at(30).boot);
    }
}
