//! Times that survive a restart.
//!
//! In the domain, moments are of this machine's uptime. In a file they are milliseconds of the wall
//! clock, beside an [`Anchor`]: boot id, uptime and wall clock at the moment of saving. In the same
//! boot the anchor gives the moments back exactly, even if the clock was set meanwhile. In another
//! boot only the wall clock is left. It may lie, so what has happened cannot lie in the future, and
//! no token gets more life than it was born with.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::domain::{Moment, Now};

/// No token lives longer, and WeChat's administrators reject nobody for longer.
pub(super) const LONGEST: Duration = Duration::from_hours(24);

/// Milliseconds since 1970 by the wall clock, negative before.
pub(super) type Millis = i64;

/// When a file was written, by both clocks.
#[derive(Serialize, Deserialize)]
pub(super) struct Anchor {
    pub(super) boot_id: String,
    pub(super) boot: Millis,
    pub(super) wall: Millis,
}

impl Anchor {
    pub(super) fn new(now: Now, boot_id: &str) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            boot: now.boot.as_millis(),
            wall: millis(now.wall),
        }
    }

    pub(super) fn wall_of(&self, moment: Moment) -> Millis {
        let ahead = moment.as_millis().saturating_sub(self.boot);
        self.wall.saturating_add(ahead)
    }
}

/// How long ago a record was written, by the store's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// The store has counted the time.
    Known(Duration),
    /// The store has lost count: at least so long ago. The writer's wall clock may know better.
    AtLeast(Duration),
}

/// Translates a file's times into this boot's.
pub(super) struct Times {
    pub(super) now: Now,
    /// A pair that belongs together: from the file in the same boot, else of the present.
    boot: Millis,
    wall: Millis,
}

impl Times {
    pub(super) fn new(saved: &Anchor, now: Now, boot_id: &str) -> Self {
        let (boot, wall) = if Self::same_boot(saved, now, boot_id) {
            (saved.boot, saved.wall)
        } else {
            (now.boot.as_millis(), millis(now.wall))
        };
        Self { now, boot, wall }
    }

    fn same_boot(saved: &Anchor, now: Now, boot_id: &str) -> bool {
        let known = !boot_id.is_empty() && saved.boot_id == boot_id;
        // The uptime never goes back within a boot; if it does, the id cannot be trusted.
        known && saved.boot <= now.boot.as_millis()
    }

    /// For a record that was written `age` ago. On this machine, since its start, it is known exactly.
    pub(super) fn aged(saved: &Anchor, now: Now, age: Age, boot_id: &str) -> Self {
        if Self::same_boot(saved, now, boot_id) {
            return Self::new(saved, now, boot_id);
        }
        let by_wall = millis(now.wall).saturating_sub(saved.wall);
        let by_wall = Duration::from_millis(u64::try_from(by_wall).unwrap_or(0));
        let age = match age {
            Age::Known(age) => age,
            Age::AtLeast(age) => age.max(by_wall),
        };
        let (boot, wall) = ((now.boot - age).as_millis(), saved.wall);
        Self { now, boot, wall }
    }

    pub(super) fn moment(&self, at: Millis) -> Moment {
        let ahead = at.saturating_sub(self.wall);
        Moment::from_millis(self.boot.saturating_add(ahead))
    }

    /// Something that has happened.
    pub(super) fn past(&self, at: Millis) -> Moment {
        self.moment(at).min(self.now.boot)
    }

    /// Something that is over soon.
    pub(super) fn soon(&self, at: Millis) -> Moment {
        self.moment(at).min(self.now.boot + LONGEST)
    }
}

pub(super) fn millis(time: SystemTime) -> Millis {
    let whole = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => 0_i64.saturating_add_unsigned(whole(after)),
        Err(before) => 0_i64.saturating_sub_unsigned(whole(before.duration())),
    }
}

pub(super) fn wall(millis: Millis) -> Option<SystemTime> {
    let span = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_of_a_file_is_written_as_it_was_read() {
        for time in [Millis::MIN, Millis::MIN + 1, -1, 0, 1, Millis::MAX] {
            assert_eq!(millis(wall(time).unwrap()), time);
        }
    }
}
