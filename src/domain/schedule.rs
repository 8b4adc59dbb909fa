//! When to refresh, when to try again, when to look: pure functions of the policy.
//!
//! - Classic: WeChat advises to refresh after half the life. Both tokens work for the overlap, so
//!   refreshing early costs nothing and refreshing late costs an outage.
//! - Stable: WeChat changes the token only in its last minutes and repeats it before. So ask there,
//!   again and again until the value changes.
//! - A pause after a failure never lasts longer than half of what is left to live, so a token sees
//!   several attempts before it dies.

use std::time::{Duration, SystemTime};

use super::{Mode, Moment, Now, Remedy, Token, budget::next_midnight, trouble::Refused};

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
