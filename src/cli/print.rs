//! What goes to stdout. JSON has the contract's field names, numbers as numbers, times as RFC 3339 and
//! spans in seconds.

use std::io::{self, Write};

use anyhow::Context;
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

use super::Failure;
use crate::{
    app::Copied,
    domain::AppName,
    pb::{Cause, ForceRefreshResponse, Outcome, Token, WatchTokenResponse},
};

/// Writes one line, at once: somebody may be reading along.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    Ok(written.context("cannot write to stdout")?)
}

pub(super) fn token(token: &Token, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return line(&json!({ "token": of_token(token, true) }).to_string());
    }
    line(&token.access_token)
}

pub(super) fn refreshed(answer: &ForceRefreshResponse, as_json: bool) -> Result<(), Failure> {
    let outcome = answer.outcome().as_str_name();
    let token = answer.token.clone().unwrap_or_default();
    if as_json {
        let answer = json!({ "token": of_token(&token, true), "outcome": outcome });
        return line(&answer.to_string());
    }
    let said = match answer.outcome() {
        Outcome::AlreadyNewer => "another token was current already",
        Outcome::Refreshed => "there is a new token",
        Outcome::StillValid => "WeChat accepts the reported token",
        Outcome::Unspecified => "the server did not say what happened",
    };
    eprintln!("{said}");
    line(&token.access_token)
}

/// What became of one app's tokens.
pub(super) fn copied(app: &AppName, copied: Copied) -> Result<(), Failure> {
    line(&match copied {
        Copied::Done { generation, left } => {
            let left = left.as_secs();
            format!("{app}\tcopied\tgeneration {}, {left} s left", generation.0)
        }
        Copied::Already(generation) => {
            format!("{app}\tthere already\tgeneration {}", generation.0)
        }
        Copied::Nothing => format!("{app}\tnothing is saved"),
    })
}

/// One line for each message: time, cause, generation, life left.
pub(super) fn message(
    message: &WatchTokenResponse,
    as_json: bool,
    show_token: bool,
) -> Result<(), Failure> {
    let cause = message.cause();
    let token = message.token.clone().unwrap_or_default();
    if as_json {
        let token = of_token(&token, show_token);
        return line(&json!({ "token": token, "cause": cause.as_str_name() }).to_string());
    }
    let now = Timestamp::from(crate::app::wall_time());
    let left = seconds(token.time_to_live.as_ref());
    let mut text = format!("{now}\t{}\t{}\t{left:.0}s", short(cause), token.generation);
    if show_token {
        text = format!("{text}\t{}", token.access_token);
    }
    line(&text)
}

fn short(cause: Cause) -> &'static str {
    let name = cause.as_str_name();
    name.strip_prefix("CAUSE_").unwrap_or(name)
}

fn of_token(token: &Token, shown: bool) -> Value {
    let time = |at: &Option<Timestamp>| at.as_ref().map(ToString::to_string);
    let mut value = json!({
        "app_id": token.app_id,
        "generation": token.generation,
        "issue_time": time(&token.issue_time),
        "expire_time": time(&token.expire_time),
        "time_to_live": seconds(token.time_to_live.as_ref()),
        "keep_for": seconds(token.keep_for.as_ref()),
    });
    if let Some(at) = time(&token.previous_expire_time) {
        value["previous_expire_time"] = at.into();
    }
    if shown {
        value["access_token"] = token.access_token.clone().into();
    }
    value
}

fn seconds(span: Option<&Duration>) -> f64 {
    let span = span
        .copied()
        .and_then(|span| std::time::Duration::try_from(span).ok());
    let millis = span.unwrap_or_default().as_millis();
    // Milliseconds of a token's life fit an f64 exactly.
    f64::from(u32::try_from(millis).unwrap_or(u32::MAX)) / 1000.0
}
