//! What is known about an app, and what of it is handed out at one moment.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::refusal::{Gone, NoToken};
use crate::domain::{Moment, Now, Token, Trouble, budget::Allowance, slot::Doubt};

/// The advice to a caller when nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is known about one app. A token and a trouble are two facts, not one `Result`: a failed
/// refresh must not hide a token that is still good.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The newest token and what may be said of it.
    pub current: Option<Current>,
    /// Why the last attempt failed, if it did.
    pub trouble: Option<Arc<Trouble>>,
    /// When the owner will try again.
    pub retry_at: Option<Moment>,
    /// It is what a server says: somebody else refreshes the app.
    pub mirrored: bool,
    /// Whether anything is known at all: a token, or why there is none.
    pub settled: bool,
    /// An outcome is open: WeChat may have made a token that ends this one.
    pub suspect: bool,
    /// How often the token may still be replaced today.
    pub allowance: Allowance,
    /// Why what is known cannot be saved, if the store fails.
    pub unsaved: Option<Arc<str>>,
}

/// The newest token of an app.
#[derive(Clone, Debug)]
pub struct Current {
    /// The token.
    pub token: Arc<Token>,
    /// How long a caller that does not watch may use it.
    pub keep_until: Moment,
    /// A shorter limit while its end may come at any moment.
    pub keep_at_most: Option<Duration>,
    /// After this it may have ended unnoticed, unless something is heard: another server may replace it,
    /// and that cannot be known at the moment. The clock alone decides, so that a server that stood still
    /// hands out nothing old when it goes on.
    pub certain_until: Option<Moment>,
    /// What is needed before it is handed out, when nothing was heard of another server for long.
    pub doubt: Option<Doubt>,
    /// Until when the token that it replaced works.
    pub previous_expires_at: Option<Moment>,
    /// When readers could see it first. The publisher sets it.
    pub published_at: Moment,
    /// WeChat refuses it, beyond doubt. It may come back to life: WeChat's servers disagree at times.
    pub dead: bool,
}

impl Current {
    fn uncertain(&self, now: Moment) -> bool {
        self.certain_until.is_some_and(|until| until <= now)
    }

    fn word(&self, asked: Moment, now: Moment) -> Word {
        if self.dead || self.token.expires_at <= now {
            return Word::Good;
        }
        let Some(doubt) = self.doubt.filter(|doubt| doubt.since <= now) else {
            return Word::Good;
        };
        match doubt.accepted {
            Some(at) if at + doubt.age / 2 >= asked => Word::Good,
            Some(at) if at + doubt.age >= asked => Word::Aging,
            _ => Word::Needed,
        }
    }
}

/// What is known of a token that may have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// WeChat accepted it lately, or no word of it matters.
    Good,
    /// WeChat's word should be renewed.
    Aging,
    /// It may have ended since.
    Needed,
}

impl View {
    /// The token, if it may be handed out at `now`.
    pub fn usable(&self, now: Moment) -> Option<&Current> {
        let alive = |c: &&Current| !c.dead && c.token.expires_at > now && !c.uncertain(now);
        self.current.as_ref().filter(alive)
    }

    /// Whether a reader who knows `self` must hear of `other`. When the next attempt is planned, how
    /// long the token may be kept, and what only operators want to know, is read when it is asked for.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let seen = |view: &Self| {
            let current = view.current.as_ref();
            let token = current.map(|c| (c.token.generation, c.token.expires_at, c.dead));
            (token, view.settled, view.trouble.clone())
        };
        seen(self) != seen(other)
    }

    /// Notes when each generation was seen first: `self` follows `earlier` at `now`.
    pub(super) fn published(mut self, earlier: &Self, now: Moment) -> Self {
        if let Some(current) = &mut self.current {
            let generation = current.token.generation;
            let seen = earlier.current.as_ref();
            let seen = seen.filter(|seen| seen.token.generation == generation);
            current.published_at = seen.map_or(now, |seen| seen.published_at);
        }
        self
    }

    /// What WeChat's last word on the token is worth to a reader who asked at `asked`.
    pub(super) fn word(&self, asked: Moment, now: Moment) -> Word {
        let current = self.current.as_ref();
        current.map_or(Word::Good, |current| current.word(asked, now))
    }

    pub(super) fn answer(&self, now: Now) -> Result<Issued, NoToken> {
        let usable = self.usable(now.boot);
        usable
            .map(|current| Issued::new(current, now))
            .ok_or_else(|| self.missing(now.boot))
    }

    /// Why there is nothing to hand out.
    pub fn missing(&self, now: Moment) -> NoToken {
        let wait = self.retry_at.map_or(RETRY_AFTER, |at| at.since(now));
        NoToken::Missing {
            gone: match &self.current {
                None => Gone::Never,
                Some(current) if current.uncertain(now) => Gone::Uncertain,
                Some(current) if current.dead => Gone::Refused(current.token.generation),
                Some(_) => Gone::Expired,
            },
            trouble: self.trouble.clone(),
            retry_after: wait.max(RETRY_AFTER),
        }
    }
}

/// A token as it is handed out at one moment.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: Arc<Token>,
    /// The life it has left.
    pub time_to_live: Duration,
    /// How long a caller that does not watch may use it.
    pub keep_for: Duration,
    /// When readers could first have it.
    pub published_at: Moment,
    /// Until when the token that it replaced works, by the wall clock.
    pub previous_expire_time: Option<SystemTime>,
}

impl Issued {
    fn new(current: &Current, now: Now) -> Self {
        let previous = current.previous_expires_at;
        let keep_for = current.keep_until.since(now.boot);
        Self {
            token: Arc::clone(&current.token),
            time_to_live: current.token.expires_at.since(now.boot),
            keep_for: current
                .keep_at_most
                .map_or(keep_for, |most| most.min(keep_for)),
            published_at: current.published_at,
            previous_expire_time: previous.map(|at| now.wall_at(at)),
        }
    }
}
