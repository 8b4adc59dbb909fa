//! What a server says about an app, and what that makes of what is known.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    domain::{Generation, Moment, Now, Remedy, Secret, Token, Trouble, trouble::Refused},
    pb,
    tokens::{Current, View},
};

/// A server that says the same again takes a little longer or shorter each time.
const SAME: Duration = Duration::from_secs(1);

/// Something about one app.
#[derive(Debug)]
pub(super) enum News {
    /// There is a token, perhaps the same.
    Token(pb::Token),
    /// WeChat refuses this one.
    Dead(Generation, Trouble),
    /// There is none to be had just now.
    Trouble(Trouble),
}

impl News {
    pub(super) fn unreachable(reason: &str) -> Self {
        Self::Trouble(trouble(Remedy::BackOff, reason.to_owned()))
    }

    /// The server at `address` ended a stream like this.
    pub(super) fn refused(status: &Status, address: &str) -> Self {
        let details = status.get_details_error_info();
        let mut metadata = details.map(|info| info.metadata).unwrap_or_default();
        let remedy = match status.code() {
            Code::NotFound | Code::Unauthenticated | Code::PermissionDenied => {
                Remedy::Refused(Refused::Credential)
            }
            Code::FailedPrecondition => Remedy::Refused(Refused::Account),
            _ => Remedy::BackOff,
        };
        let message = match status.message() {
            "" => format!("`{address}` cannot be followed ({:?})", status.code()),
            said => format!("`{address}` says: {said}"),
        };
        let mut trouble = trouble(remedy, message);
        let number = |text: String| text.parse().ok();
        trouble.errcode = metadata.remove("errcode").and_then(number);
        trouble.hint = metadata.remove("hint").map(Into::into);
        let dead = metadata.remove("refused_generation");
        match dead.and_then(|text| text.parse().ok()) {
            Some(generation) => Self::Dead(Generation(generation), trouble),
            None => Self::Trouble(trouble),
        }
    }

    /// The token that it is about, if one is in force that came after it: its server lags behind the one
    /// before, or has lost what it knew.
    pub(super) fn behind(&self, view: &View, now: Now) -> Option<Current> {
        let Self::Token(token) = self else {
            return None;
        };
        let held = view.usable(now.boot)?.token.generation;
        (Generation(token.generation) < held).then(|| current(token.clone(), now))?
    }

    /// What is known after it, if that is another thing.
    pub(super) fn after(self, view: &View, now: Now) -> Option<View> {
        let mut next = View {
            settled: true,
            ..view.clone()
        };
        match self {
            Self::Token(token) => {
                let token = current(token, now)?;
                next.current = Some(calmed(token, view.current.as_ref()));
                next.trouble = None;
            }
            Self::Dead(generation, trouble) => {
                if let Some(current) = &mut next.current {
                    current.dead |= current.token.generation == generation;
                }
                next.trouble = Some(Arc::new(trouble));
            }
            Self::Trouble(trouble) => next.trouble = Some(Arc::new(trouble)),
        }
        Some(next)
    }
}

/// The same token keeps its expiry, so that nobody takes a sign of life for news.
fn calmed(mut new: Current, held: Option<&Current>) -> Current {
    if let Some(held) = held.filter(|held| held.token.generation == new.token.generation) {
        let (one, other) = (held.token.expires_at, new.token.expires_at);
        if one.since(other).max(other.since(one)) < SAME {
            new.token = Arc::clone(&held.token);
        }
    }
    new
}

/// A token as it is known here. Spans count from its receipt: the clocks of two machines may differ.
fn current(token: pb::Token, now: Now) -> Option<Current> {
    let left = span(token.time_to_live);
    let time = |at: Option<prost_types::Timestamp>| {
        at.and_then(|at| SystemTime::try_from(at).ok())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let (issue_time, expire_time) = (time(token.issue_time), time(token.expire_time));
    let previous = token.previous_expire_time.map(|at| time(Some(at)));
    let previous_expires_at = previous.map(|at| moment_before(now.boot + left, expire_time, at));
    let age = expire_time.duration_since(issue_time).unwrap_or_default();
    let age = age.saturating_sub(left);
    let generation = Generation(token.generation);
    let keep_until = now.boot + span(token.keep_for);
    (generation.0 > 0 && !token.access_token.is_empty()).then(|| Current {
        token: Arc::new(Token {
            value: Secret::new(token.access_token),
            generation,
            asked_at: now.boot - age,
            expires_at: now.boot + left,
            issue_time,
            expire_time,
        }),
        keep_until,
        keep_at_most: None,
        certain_until: None,
        doubt: None,
        previous_expires_at,
        published_at: now.boot,
        dead: false,
    })
}

/// `at`, if `expire_time` by the same clock is `expires_at` by ours.
fn moment_before(expires_at: Moment, expire_time: SystemTime, at: SystemTime) -> Moment {
    expires_at - expire_time.duration_since(at).unwrap_or_default()
}

/// What a server says of a span; none if it is missing or negative.
pub(super) fn span(span: Option<prost_types::Duration>) -> Duration {
    span.and_then(|span| span.try_into().ok())
        .unwrap_or_default()
}

fn trouble(remedy: Remedy, message: String) -> Trouble {
    Trouble {
        remedy,
        errcode: None,
        definite: true,
        message: message.into(),
        hint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server says of generation 7, which has so many milliseconds left.
    fn told(left: u64) -> News {
        let token = pb::Token {
            access_token: "98_told".into(),
            generation: 7,
            time_to_live: Duration::from_millis(left).try_into().ok(),
            keep_for: Duration::from_mins(5).try_into().ok(),
            ..pb::Token::default()
        };
        News::Token(token)
    }

    #[test]
    fn a_sign_of_life_is_no_news_unless_it_tells_another_life() {
        let now = Now {
            boot: Moment::since_boot(Duration::from_hours(1)),
            wall: SystemTime::UNIX_EPOCH + Duration::from_hours(24),
        };
        let left = |view: &View| {
            let token = &view.current.as_ref().unwrap().token;
            token.expires_at.since(now.boot).as_millis()
        };
        let first = told(60_000).after(&View::default(), now).unwrap();
        for (again, expected) in [(60_400, 60_000), (59_500, 60_000), (50_000, 50_000)] {
            let next = told(again).after(&first, now).unwrap();
            assert_eq!(left(&next), expected, "{again}");
        }
    }
}
