//! Stale reports: the server judges them, with all others that it gets.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::servers::Servers;
use crate::{
    domain::{
        AppName,
        report::{Stale, StaleReport},
    },
    pb::{self, ForceRefreshRequest},
    tokens::{Current, Gone, NoToken, Outcome, Reported},
};

/// A look takes seconds, and may come after a fetch.
const JUDGED: Duration = Duration::from_secs(45);

/// Killing a leaked token takes two mints 30 s apart.
const DRILL: Duration = Duration::from_mins(2);

/// When the server gave no better advice.
const AGAIN: Duration = Duration::from_secs(1);

/// A report with what came of it.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) app: AppName,
    pub(super) token: Option<pb::Token>,
    pub(super) outcome: Result<Outcome, NoToken>,
    pub(super) reply: oneshot::Sender<Result<Outcome, NoToken>>,
}

/// Asks the server, unless `held` is newer than what is reported.
pub(super) async fn answer(
    reported: Reported,
    held: Option<Current>,
    servers: Arc<Servers>,
) -> Answered {
    let Reported { app, report, reply } = reported;
    let (token, outcome) = match forward(&app, report, held, &servers).await {
        Ok((token, outcome)) => (token, Ok(outcome)),
        Err(error) => (None, Err(error)),
    };
    Answered {
        app,
        token,
        outcome,
        reply,
    }
}

async fn forward(
    app: &AppName,
    report: StaleReport,
    held: Option<Current>,
    servers: &Servers,
) -> Result<(Option<pb::Token>, Outcome), NoToken> {
    if let (Stale::Generation(stale), Some(held), false) = (&report.stale, &held, report.leaked)
        && *stale < held.token.generation
        && !held.dead
    {
        return Ok((None, Outcome::AlreadyNewer));
    }
    let errcode = report.errcode;
    let limit = if report.leaked { DRILL } else { JUDGED };
    let mut line = servers.line().await.map_err(|_| inconclusive(None))?;
    let request = line.request(request(app, report), Some(limit));
    match line.calls.force_refresh(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let outcome = match answer.outcome() {
                pb::Outcome::AlreadyNewer => Outcome::AlreadyNewer,
                pb::Outcome::Refreshed => Outcome::Refreshed,
                pb::Outcome::StillValid | pb::Outcome::Unspecified => Outcome::StillValid,
            };
            Ok((answer.token, outcome))
        }
        Err(status) => Err(refusal(&status, app, errcode)),
    }
}

fn request(app: &AppName, report: StaleReport) -> ForceRefreshRequest {
    let (stale_generation, stale_token) = match report.stale {
        Stale::Generation(generation) => (generation.0, String::new()),
        Stale::Value(value) => (0, value.expose().to_owned()),
    };
    ForceRefreshRequest {
        app_id: app.to_string(),
        stale_generation,
        stale_token,
        errcode: i32::try_from(report.errcode).unwrap_or_default(),
        leaked: report.leaked,
    }
}

/// What the server said, as a server would have said it here.
fn refusal(status: &Status, app: &AppName, reported: i64) -> NoToken {
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|retry| retry.retry_delay);
    let retry_after = retry.unwrap_or(AGAIN);
    let info = details.error_info();
    let errcode = info.and_then(|info| info.metadata.get("errcode")?.parse().ok());
    match (status.code(), info.map(|info| &*info.reason)) {
        (Code::NotFound, _) => NoToken::UnknownApp(app.to_string()),
        (Code::PermissionDenied | Code::Unauthenticated, _) => {
            NoToken::NotAllowed(status.message().to_owned())
        }
        (_, Some("REFRESH_BUDGET")) => NoToken::TooOften {
            retry_after,
            errcode,
        },
        (_, Some("NOT_A_TOKEN_ERROR")) => NoToken::NotATokenError(reported),
        (_, Some("NO_VALID_TOKEN" | "NEEDS_OPERATOR")) => NoToken::Missing {
            gone: Gone::Expired,
            trouble: None,
            retry_after,
        },
        _ => inconclusive(retry),
    }
}

fn inconclusive(retry_after: Option<Duration>) -> NoToken {
    NoToken::Inconclusive {
        retry_after: retry_after.unwrap_or(AGAIN),
        errcode: None,
    }
}
