//! The pages, and who asks for what: `/metrics`, `/livez`, `/readyz`, the probes with `?verbose`.

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio_util::sync::CancellationToken;

use super::{
    facts,
    probes::{self, Probe},
};
use crate::{telemetry::Metrics, tokens::Tokens};

/// What `promtool` and every Prometheus read.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

const TEXT: &str = "text/plain; charset=utf-8";

/// What the pages are made of.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    tokens: Tokens,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Pages {
    pub(super) fn new(tokens: Tokens, metrics: Metrics, stop: CancellationToken) -> Self {
        Self {
            tokens,
            metrics,
            stop,
        }
    }

    /// By path. `get` answers HEAD as well, and everything else with 405.
    pub(super) fn routes(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(self)
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let facts = facts::read(&pages.tokens, pages.stop.is_cancelled());
    page(StatusCode::OK, EXPOSITION, pages.metrics.page(facts))
}

async fn livez(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    told(probes::live(&pages.tokens), query.as_deref())
}

async fn readyz(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    let stopping = pages.stop.is_cancelled();
    told(probes::ready(&pages.tokens, stopping), query.as_deref())
}

/// Briefly if all is well and nobody wants to know more.
fn told(probe: Probe, query: Option<&str>) -> Response {
    let verbose = query.is_some_and(|query| query.split(['&', '=']).any(|word| word == "verbose"));
    match (probe.passed, verbose) {
        (true, false) => page(StatusCode::OK, TEXT, "ok\n".into()),
        (true, true) => page(StatusCode::OK, TEXT, probe.lines),
        (false, _) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, probe.lines),
    }
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response {
    let head = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, head, text).into_response()
}
