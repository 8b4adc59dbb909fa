//! `GET /v1/apps/{app}/token`: all that is known about a token, for whoever writes the few lines anew in
//! a language without gRPC.
//!
//! The `ETag` is the generation, so `If-None-Match` asks whether there is another one, and with
//! `?wait=30s` for as long as it takes. `?stale=` (or `X-Stale-Token`) reports a token that WeChat
//! refused, like `ForceRefresh`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Router,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{ask::bearer, desk::Desk, refusal::Refusal, reply};
use crate::{
    domain::{AppName, Generation, Secret, access::Peer},
    telemetry::Page,
    tokens::{Issued, Outcome},
};

/// The longest that anybody may wait. Proxies lose patience after a minute.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// As `GetToken` waits for the first outcome.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new().route("/v1/apps/{app}/token", any(answer))
}

/// The answer, with the contract's names: numbers are numbers, times RFC 3339, spans seconds.
#[derive(Serialize)]
struct Told<'a> {
    app_id: &'a str,
    access_token: &'a str,
    generation: u64,
    issue_time: String,
    expire_time: String,
    time_to_live: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_expire_time: Option<String>,
    keep_for: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
}

/// What the query and the headers say.
#[derive(Debug, Default)]
struct Wish {
    key: Option<Secret>,
    stale: Option<Secret>,
    wait: Duration,
}

/// What is to be told.
enum News {
    Of(Issued, Option<Outcome>),
    None(Generation),
}

async fn answer(
    State(desk): State<Arc<Desk>>,
    Extension(peer): Extension<Peer>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let Ok(Path(name)) = name else {
        return Refusal::argument("the name of the app is no text").shown();
    };
    let (head, _) = request.into_parts();
    let news = news(&desk, peer, &name, &head).await;
    desk.answered(Page::Versioned, &news);
    match news {
        Ok(News::Of(issued, outcome)) => shown(&name, &issued, outcome),
        Ok(News::None(generation)) => {
            let head = [(header::ETAG, etag(generation))];
            (StatusCode::NOT_MODIFIED, head).into_response()
        }
        Err(refusal) => refusal.shown(),
    }
}

async fn news(desk: &Desk, peer: Peer, name: &str, head: &Parts) -> Result<News, Refusal> {
    if ![Method::GET, Method::HEAD].contains(&head.method) {
        return Err(Refusal::method("GET"));
    }
    let wish = Wish::read(head)?;
    let grant = desk.identify(peer, wish.key.as_ref())?;
    let app = desk.find(&grant, name)?;
    if let Some(stale) = wish.stale {
        let (issued, outcome) = desk.report(&grant, &app, stale).await?;
        return Ok(News::Of(issued, Some(outcome)));
    }
    let known = head.headers.get(header::IF_NONE_MATCH);
    waited(desk, &app, known, wish.wait).await
}

/// The first token that `known` does not name, if there is one in time.
async fn waited(
    desk: &Desk,
    app: &AppName,
    known: Option<&HeaderValue>,
    wait: Duration,
) -> Result<News, Refusal> {
    let until = Instant::now() + wait;
    let tokens = desk.tokens();
    let (mut changes, mut draining) = (tokens.watch(app)?, tokens.draining());
    loop {
        changes.mark_unchanged();
        let issued = tokens.current(app, PATIENCE).await?;
        let generation = issued.token.generation;
        if !known.is_some_and(|known| names(known, generation)) {
            return Ok(News::Of(issued, None));
        }
        let death = Instant::now() + issued.time_to_live;
        let change = async {
            tokio::select! {
                news = changes.changed() => news.is_ok(),
                _ = draining.wait_for(|&draining| draining) => false,
            }
        };
        match timeout_at(until.min(death), change).await {
            Ok(true) => {}
            Err(_) if death < until => {}
            _ => return Ok(News::None(generation)),
        }
    }
}

impl Wish {
    fn read(head: &Parts) -> Result<Self, Refusal> {
        let mut wish = Self::default();
        let query = head.uri.query().unwrap_or_default();
        let mut wait = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "secret" if !value.is_empty() => wish.key = Some(Secret::new(&*value)),
                "stale" if !value.is_empty() => wish.stale = Some(Secret::new(&*value)),
                "wait" => wait = Some(value.into_owned()),
                _ => {}
            }
        }
        wish.key = bearer(&head.headers).or(wish.key);
        if let Some(stale) = head.headers.get("x-stale-token") {
            let stale = stale.to_str().map_err(|_| {
                Refusal::argument("`X-Stale-Token` must be the token, which is plain text")
            })?;
            if !stale.is_empty() {
                wish.stale = Some(Secret::new(stale));
            }
        }
        wish.wait = wait.map_or(Ok(Duration::ZERO), |wait| span(&wait))?;
        Ok(wish)
    }
}

fn span(written: &str) -> Result<Duration, Refusal> {
    let seconds = written.parse().map(Duration::from_secs);
    let span = seconds
        .ok()
        .or_else(|| humantime::parse_duration(written).ok());
    span.filter(|span| *span <= LONGEST_WAIT)
        .ok_or_else(|| Refusal::argument("`wait` must be like `30s`, at most `1m`"))
}

/// Whether an `If-None-Match` names `generation`.
fn names(known: &HeaderValue, generation: Generation) -> bool {
    let tags = known.to_str().unwrap_or_default().split(',').map(str::trim);
    let is = |tag: &str| {
        tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == generation.0.to_string()
    };
    tags.into_iter().any(is)
}

fn etag(generation: Generation) -> HeaderValue {
    let tag = format!("\"{}\"", generation.0);
    HeaderValue::try_from(tag).expect("digits")
}

fn shown(name: &str, issued: &Issued, outcome: Option<Outcome>) -> Response {
    let token = &issued.token;
    let told = Told {
        app_id: name,
        access_token: token.value.expose(),
        generation: token.generation.0,
        issue_time: time(token.issue_time),
        expire_time: time(token.expire_time),
        time_to_live: seconds(issued.time_to_live),
        previous_expire_time: issued.previous_expire_time.map(time),
        keep_for: seconds(issued.keep_for),
        outcome: outcome.map(|outcome| match outcome {
            Outcome::AlreadyNewer => "OUTCOME_ALREADY_NEWER",
            Outcome::Refreshed => "OUTCOME_REFRESHED",
            Outcome::StillValid => "OUTCOME_STILL_VALID",
        }),
    };
    let mut response = reply::json(StatusCode::OK, &told);
    let tag = etag(token.generation);
    response.headers_mut().insert(header::ETAG, tag);
    response
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Whole milliseconds, cut, as gRPC tells them.
fn seconds(span: Duration) -> f64 {
    f64::from(u32::try_from(span.as_millis()).unwrap_or(u32::MAX)) / 1000.0
}
