//! Nothing but the token, for scripts: `curl http://…/get_access_token`.
//!
//! Whoever reads it takes any text for a token, so a no has a status of its own here.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
    routing::any,
};

use super::{
    ask::Ask,
    desk::{Desk, Loan},
    refusal::Refusal,
};
use crate::{domain::access::Peer, telemetry::Page};

pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new().route("/get_access_token", any(answer))
}

async fn answer(
    State(desk): State<Arc<Desk>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let answer = token(&desk, peer, request).await;
    desk.answered(Page::GetAccessToken, &answer);
    match answer {
        Ok(loan) => shown(&loan),
        Err(refusal) => refusal.shown(),
    }
}

async fn token(desk: &Desk, peer: Peer, request: Request) -> Result<Loan, Refusal> {
    let ask = Ask::read(request).await?;
    let grant = desk.identify(peer, ask.key.as_ref())?;
    let app = if ask.appid.is_empty() {
        desk.only_app(&grant)?
    } else {
        desk.find(&grant, &ask.appid)?
    };
    desk.lend(&grant, &app, ask.force_refresh).await
}

fn shown(loan: &Loan) -> Response {
    let head = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (head, loan.issued.token.value.expose().to_owned()).into_response()
}
