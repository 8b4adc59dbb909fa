//! The two clocks of the machine, as the rest of the program is allowed to know them.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::domain::{Moment, Now};

/// Reads the time.
///
/// A struct, not a trait: there are two clocks and there will never be a third.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Option<Simulated>);

#[derive(Clone, Copy, Debug)]
struct Simulated {
    start: Now,
    since: Instant,
}

impl Clock {
    /// The real one. Spans are measured by boot time, which goes on while a machine is suspended and
    /// which nobody can set.
    pub const SYSTEM: Self = Self(None);

    /// Starts at `start` and from then on follows tokio's timer, so that a paused test moves it.
    pub fn simulated(start: Now) -> Self {
        let since = Instant::now();
        Self(Some(Simulated { start, since }))
    }

    /// Whether it is the machine's.
    pub fn is_real(self) -> bool {
        self.0.is_none()
    }

    /// The present.
    pub fn now(self) -> Now {
        match self.0 {
            None => Now {
                boot: boot_time(),
                wall: wall_time(),
            },
            Some(Simulated { start, since }) => Now {
                boot: start.boot + since.elapsed(),
                wall: start.wall + since.elapsed(),
            },
        }
    }
}

fn boot_time() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Moment::since_boot(Duration::new(secs, nanos))
}

#[expect(clippy::disallowed_methods, reason = "the one place that asks")]
fn wall_time() -> SystemTime {
    SystemTime::now()
}
