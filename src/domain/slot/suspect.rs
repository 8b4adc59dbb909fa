//! After an answer that never came.

use crate::domain::Moment;

/// An outcome is open: WeChat may have made a token that never arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    /// The earliest time at which it may have done so.
    pub(super) since: Moment,
    /// The latest one: another token so soon would end ours at once.
    pub(super) last: Moment,
    /// Whether WeChat has answered anything since.
    pub(super) replied: bool,
}

impl Suspect {
    /// One fetch was sent at `since`, and its outcome is open.
    pub(super) fn new(since: Moment) -> Self {
        Self {
            since,
            last: since,
            replied: false,
        }
    }
}
