//! Counters that start again with every day or minute.

use std::time::Duration;

use super::{Errcode, replies};

/// How much of a quota is used up in the window that was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quota {
    window: u64,
    used: u64,
}

impl Quota {
    /// Takes one from `limit`, unless the window's share is used up.
    pub(super) fn take(&mut self, window: u64, limit: u64) -> bool {
        let used = self.used(window);
        let granted = used < limit;
        *self = Self {
            window,
            used: used + u64::from(granted),
        };
        granted
    }

    /// How much of `window`'s share is used up.
    pub(super) fn used(&self, window: u64) -> u64 {
        if self.window == window { self.used } else { 0 }
    }
}

/// What one endpoint grants a minute and a day.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quotas {
    minute: Quota,
    day: Quota,
}

impl Quotas {
    /// Takes one of both. What the minute refuses does not count for the day.
    pub(super) fn take(&mut self, at: Duration, minutely: u64, daily: u64) -> Result<(), Errcode> {
        if !self.minute.take(minute(at), minutely) {
            return Err(replies::QUOTA_MINUTE);
        }
        if !self.day.take(day(at), daily) {
            return Err(replies::QUOTA_DAY);
        }
        Ok(())
    }
}

/// The day in Beijing, where WeChat's quotas start again at midnight.
pub(super) fn day(at: Duration) -> u64 {
    (at.as_secs() + 8 * 3600) / 86_400
}

/// The minute.
fn minute(at: Duration) -> u64 {
    at.as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_full_again_in_the_next_window() {
        let mut quota = Quota::default();
        assert_eq!(
            [1, 1, 1, 2].map(|w| quota.take(w, 2)),
            [true, true, false, true]
        );
        assert_eq!((quota.used(2), quota.used(3)), (1, 0));
    }

    #[test]
    fn the_day_begins_at_midnight_in_beijing() {
        let midnight = 1_700_006_400 + 16 * 3600; // 2023-11-15 16:00 in London
        let days = [midnight - 1, midnight].map(|second| day(Duration::from_secs(second)));
        assert_eq!(days[0] + 1, days[1]);
    }
}
