//! What must survive a restart: one record for each app.

use std::sync::Arc;

use super::{Generation, Mode, Moment, Token, Trouble, budget::Ledger};

/// Everything a store keeps about one app. Moments are of this machine's present uptime: stores
/// translate them from whatever they keep.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which interface the token is from. A record of the other mode lends its generation only.
    pub mode: Mode,
    /// The last token that was obtained, dead or alive.
    pub token: Option<Arc<Token>>,
    /// Whether it is proven dead.
    pub dead: bool,
    /// The highest generation ever given to a token.
    pub generation: Generation,
    /// Present while an outcome is open.
    pub note: Option<Note>,
    /// What has been spent of WeChat's patience.
    pub ledger: Ledger,
    /// WeChat's administrator rejected this server: ask nothing before.
    pub blocked_until: Option<Moment>,
    /// Why there is no newer token, for replicas that do not ask themselves. A store that one server has
    /// to itself does not keep it.
    pub trouble: Option<Arc<Trouble>>,
}

/// "Asking since `asked_at`, generation `reserved`": written before WeChat is asked for a token that
/// may retire the current one. Whoever finds it knows that the outcome is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Not later than the request was sent.
    pub asked_at: Moment,
    /// The generation of the token that the request brings. Nobody else may use it.
    pub reserved: Generation,
}

impl Record {
    /// The record of an app that nothing is known about.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            token: None,
            dead: false,
            generation: Generation::default(),
            note: None,
            ledger: Ledger::default(),
            blocked_until: None,
            trouble: None,
        }
    }

    /// The highest generation that is taken: given to a token or reserved for one.
    pub fn taken(&self) -> Generation {
        let reserved = self.note.map_or(Generation::default(), |n| n.reserved);
        self.generation.max(reserved)
    }
}
