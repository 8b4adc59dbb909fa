//! Time as the core knows it: a clock that never jumps for decisions, a wall clock for display.

use std::{
    ops::{Add, Sub},
    time::{Duration, SystemTime},
};

/// An instant, as time since the machine was started. It goes on while the machine is suspended and
/// nobody can set it, so lives and pauses are measured by it. Negative before the start: a token may
/// be older than the uptime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    nanos: i64,
}

impl Moment {
    /// The instant `since_boot` after the machine was started.
    pub fn since_boot(since_boot: Duration) -> Self {
        Self::default() + since_boot
    }

    /// Milliseconds since the machine was started, for state files.
    pub fn as_millis(self) -> i64 {
        self.nanos / 1_000_000
    }

    /// The reverse of [`Moment::as_millis`].
    pub fn from_millis(millis: i64) -> Self {
        let nanos = millis.saturating_mul(1_000_000);
        Self { nanos }
    }

    /// How long ago `earlier` was; zero if it is not in the past.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = self.nanos.saturating_sub(earlier.nanos);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let nanos = self.nanos.saturating_add(whole_nanos(span));
        Self { nanos }
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        let nanos = self.nanos.saturating_sub(whole_nanos(span));
        Self { nanos }
    }
}

fn whole_nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// The present, by both clocks at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For every decision about spans.
    pub boot: Moment,
    /// For people, for generations and for the day of a budget.
    pub wall: SystemTime,
}

impl Now {
    /// What the wall clock shows, showed or will show at `moment`, if nobody sets it.
    pub fn wall_at(&self, moment: Moment) -> SystemTime {
        if moment >= self.boot {
            self.wall + moment.since(self.boot)
        } else {
            self.wall - self.boot.since(moment)
        }
    }

    /// The moment at which the wall clock shows `wall`, if nobody sets it.
    pub fn moment_of(&self, wall: SystemTime) -> Moment {
        match wall.duration_since(self.wall) {
            Ok(ahead) => self.boot + ahead,
            Err(behind) => self.boot - behind.duration(),
        }
    }
}

/// `wall` as stores keep it, so that a token is shown alike before and after a restart, and by every
/// replica.
pub fn whole_millis(wall: SystemTime) -> SystemTime {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH);
    let beyond = since.map_or(0, |since| since.subsec_nanos() % 1_000_000);
    wall - Duration::from_nanos(beyond.into())
}

/// The wall clock may drift this far from boot time before it counts as set.
const DRIFT: Duration = Duration::from_secs(5);

/// Whether the wall clock was set between two statements of what it shows at one moment.
pub fn was_set(before: SystemTime, after: SystemTime) -> bool {
    let ahead = after.duration_since(before).unwrap_or_default();
    let behind = before.duration_since(after).unwrap_or_default();
    ahead.max(behind) > DRIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_drifts_was_not_set() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_hours(12);
        for (millis, set) in [(0, false), (4_999, false), (5_001, true), (3_600_000, true)] {
            let later = noon + Duration::from_millis(millis);
            assert_eq!(was_set(noon, later), set, "{millis} ms ahead");
            assert_eq!(was_set(later, noon), set, "{millis} ms behind");
        }
    }

    #[test]
    fn a_moment_before_the_start_of_the_machine_is_still_ordered() {
        let start = Moment::default();
        let before = start - Duration::from_secs(5);
        assert!(before < start);
        assert_eq!(start.since(before), Duration::from_secs(5));
        assert_eq!(before.since(start), Duration::ZERO);
        assert_eq!(Moment::from_millis(before.as_millis()), before);
    }

    #[test]
    fn wall_time_and_moments_convert_both_ways() {
        let now = Now {
            boot: Moment::since_boot(Duration::from_secs(100)),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        };
        for (boot, wall) in [(100, 1000), (40, 940), (160, 1060)] {
            let moment = Moment::since_boot(Duration::from_secs(boot));
            let shown = SystemTime::UNIX_EPOCH + Duration::from_secs(wall);
            assert_eq!(now.wall_at(moment), shown);
            assert_eq!(now.moment_of(shown), moment);
        }
    }
}
