//! The rules about tokens. No I/O, no clock, no async; only `std`, `thiserror` and `zeroize`.
//!
//! Every decision of the program is made here, in functions that are told the time and the dice.

pub mod access;
pub mod budget;
pub mod lease;
pub mod protocol;
pub mod record;
pub mod report;
pub mod schedule;
pub mod secret;
pub mod slot;
pub mod time;
pub mod trouble;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use record::{Note, Record};
pub use schedule::Policy;
pub use secret::Secret;
pub use slot::Slot;
pub use time::{Moment, Now};
pub use trouble::{Remedy, Trouble};

/// What an app is called here: the `name` of the configuration, or the appid if it has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(Arc<str>);

impl AppName {
    /// The longest name or appid.
    pub const MAX_LEN: usize = 64;

    /// Takes a configured name: 1 to 64 characters out of `a-z`, `0-9` and `-`.
    pub fn parse(name: &str) -> Result<Self, BadAppName> {
        let clean = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        Self::checked(name, clean).ok_or(BadAppName::Name)
    }

    /// Takes an appid: 1 to 64 characters out of `A-Z`, `a-z`, `0-9`, `_` and `-`.
    pub fn of_appid(appid: &str) -> Result<Self, BadAppName> {
        let clean = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        Self::checked(appid, clean).ok_or(BadAppName::Appid)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn checked(text: &str, clean: impl Fn(u8) -> bool) -> Option<Self> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        (fits && text.bytes().all(clean)).then(|| Self(text.into()))
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text names no app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAppName {
    /// For `name`.
    #[error("must be 1 to 64 characters out of `a-z`, `0-9` and `-`")]
    Name,
    /// For `appid`.
    #[error("must be 1 to 64 characters out of `A-Z`, `a-z`, `0-9`, `_` and `-`")]
    Appid,
}

/// Orders the tokens of one app: a later token has a higher generation. 0 means "none".
///
/// It is the time of asking in milliseconds, or one more than the last if that is higher. So it
/// keeps growing across a restart that lost all state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    /// The one for a token asked for at `wall`, when `self` is the highest ever given or reserved.
    #[must_use]
    pub fn next(self, wall: SystemTime) -> Self {
        let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since_epoch.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        Self(millis.max(self.0.saturating_add(1)))
    }
}

/// A token as it is handed out.
#[derive(Debug)]
pub struct Token {
    /// What WeChat's APIs want as `access_token`.
    pub value: Secret,
    /// Its place in the order of the app's tokens.
    pub generation: Generation,
    /// When the request that brought it was sent: its life counts from here, to be on the safe side.
    pub asked_at: Moment,
    /// Its natural death.
    pub expires_at: Moment,
    /// `asked_at` by the wall clock.
    pub issue_time: SystemTime,
    /// `expires_at` by the wall clock.
    pub expire_time: SystemTime,
}

impl Token {
    /// The whole life WeChat promised when it was asked.
    pub fn life(&self) -> Duration {
        self.expires_at.since(self.asked_at)
    }

    /// The same token, shown by the wall clock as it is now. Small drift changes nothing, so that what
    /// callers see of a token stays the same while nobody sets the clock.
    pub fn shown_by(self: &Arc<Self>, now: Now) -> Arc<Self> {
        let issue_time = now.wall_at(self.asked_at);
        if !time::was_set(self.issue_time, issue_time) {
            return Arc::clone(self);
        }
        Arc::new(Self {
            value: Secret::new(self.value.expose()),
            issue_time,
            expire_time: now.wall_at(self.expires_at),
            ..**self
        })
    }
}

/// Which of WeChat's two token interfaces an app uses. Their tokens are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `POST /cgi-bin/stable_token`: asking again repeats the token until its last minutes.
    Stable,
    /// `GET /cgi-bin/token`: every success makes a new token and retires the one before.
    Classic,
}

/// What to ask a source for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The token in force; in classic mode that is always a new one.
    Normal,
    /// A new token, although the old one is good (`force_refresh` of the stable interface). In
    /// classic mode the same as `Normal`.
    Forced,
}

/// What a source answered.
#[derive(Debug)]
pub struct Fetched {
    /// The token's value.
    pub value: Secret,
    /// The life left when the source answered, above zero and at most 24 h.
    pub time_to_live: Duration,
}

/// What one look at a token showed: a harmless call of WeChat that needs a living token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// WeChat accepts it.
    Alive,
    /// WeChat refuses it: 40001, 40014 or 42001.
    Refused,
    /// WeChat answered with another errcode, which says nothing about the token.
    NoVerdict {
        /// That errcode.
        errcode: i64,
    },
    /// An HTTP reply came, but with no answer in it: -1, a gateway's page, an empty body.
    Busy,
    /// No HTTP reply came.
    Unreachable,
}

impl Sight {
    /// Whether WeChat can be talked to at all.
    pub fn replied(self) -> bool {
        self != Self::Unreachable
    }
}

/// Whether `errcode` says that the token is the trouble. 0 means: not said.
pub fn blames_the_token(errcode: i64) -> bool {
    matches!(errcode, 40001 | 40014 | 42001)
}
