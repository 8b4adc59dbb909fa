//! Tokens and outcomes as callers see them.

use crate::{
    pb,
    tokens::{Issued, Outcome},
};

/// The message for a caller that asked for `app_id`.
pub(super) fn token(app_id: String, issued: &Issued) -> pb::Token {
    let token = &issued.token;
    pb::Token {
        app_id,
        access_token: token.value.expose().to_owned(),
        generation: token.generation.0,
        issue_time: Some(token.issue_time.into()),
        expire_time: Some(token.expire_time.into()),
        time_to_live: issued.time_to_live.try_into().ok(),
        previous_expire_time: issued.previous_expire_time.map(Into::into),
        keep_for: issued.keep_for.try_into().ok(),
    }
}

/// What a stale report led to.
pub(super) fn outcome(outcome: Outcome) -> pb::Outcome {
    match outcome {
        Outcome::AlreadyNewer => pb::Outcome::AlreadyNewer,
        Outcome::Refreshed => pb::Outcome::Refreshed,
        Outcome::StillValid => pb::Outcome::StillValid,
    }
}
