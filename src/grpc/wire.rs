//! Tokens and outcomes as callers see them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use crate::{
    pb,
    tokens::{Issued, Outcome},
};

const MILLISECOND: u32 = 1_000_000;

/// The message for a caller that asked for `app_id`.
pub(super) fn token(app_id: String, issued: &Issued) -> pb::Token {
    let token = &issued.token;
    pb::Token {
        app_id,
        access_token: token.value.expose().to_owned(),
        generation: token.generation.0,
        issue_time: Some(token.issue_time.into()),
        expire_time: Some(token.expire_time.into()),
        time_to_live: span(issued.time_to_live).try_into().ok(),
        previous_expire_time: issued.previous_expire_time.map(time),
        keep_for: span(issued.keep_for).try_into().ok(),
    }
}

/// What callers are told of a span: whole milliseconds, never more than there is.
pub(super) fn span(span: Duration) -> Duration {
    let nanos = span.subsec_nanos();
    Duration::new(span.as_secs(), nanos - nanos % MILLISECOND)
}

/// What callers are told of a time that was worked out just now: whole milliseconds, never later.
pub(super) fn time(time: SystemTime) -> Timestamp {
    let mut time = Timestamp::from(time);
    time.nanos -= time.nanos % MILLISECOND.cast_signed();
    time
}

/// What a stale report led to.
pub(super) fn outcome(outcome: Outcome) -> pb::Outcome {
    match outcome {
        Outcome::AlreadyNewer => pb::Outcome::AlreadyNewer,
        Outcome::Refreshed => pb::Outcome::Refreshed,
        Outcome::StillValid => pb::Outcome::StillValid,
    }
}
