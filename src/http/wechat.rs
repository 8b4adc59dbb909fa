//! WeChat's own two calls, as SDKs make them. Both answer both methods and take the same parameters:
//! some SDKs send the one's request to the other's address.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::Response,
    routing::any,
};
use serde_json::json;

use super::{
    ask::Ask,
    desk::{Desk, Loan},
    refusal::Refusal,
    reply,
};
use crate::{domain::access::Peer, telemetry::Page};

pub(super) fn routes() -> Router<Arc<Desk>> {
    let token = any(|desk, peer, request| answer(desk, peer, request, Page::Token));
    let stable = any(|desk, peer, request| answer(desk, peer, request, Page::StableToken));
    Router::new()
        .route("/cgi-bin/token", token)
        .route("/cgi-bin/stable_token", stable)
}

async fn answer(
    State(desk): State<Arc<Desk>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    page: Page,
) -> Response {
    let answer = token(&desk, peer, request).await;
    desk.answered(page, &answer);
    match answer {
        Ok(loan) => shown(&loan),
        Err(refusal) => refusal.like_wechat(),
    }
}

async fn token(desk: &Desk, peer: Peer, request: Request) -> Result<Loan, Refusal> {
    if ![Method::GET, Method::HEAD, Method::POST].contains(request.method()) {
        return Err(Refusal::method("GET or POST"));
    }
    let ask = Ask::read(request).await?;
    let grant = desk.identify(peer, ask.key.as_ref())?;
    if ask.grant_type != "client_credential" {
        return Err(Refusal::grant_type());
    }
    if ask.appid.is_empty() {
        return Err(Refusal::no_appid());
    }
    let app = desk.find(&grant, &ask.appid)?;
    desk.lend(&grant, &app, ask.force_refresh).await
}

fn shown(loan: &Loan) -> Response {
    let token = loan.issued.token.value.expose();
    let told = json!({ "access_token": token, "expires_in": loan.expires_in });
    reply::json(StatusCode::OK, &told)
}
