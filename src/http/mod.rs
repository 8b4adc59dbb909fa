//! How tokens leave for programs that believe they speak with WeChat, and for everything that speaks
//! HTTP.
//!
//! An SDK that can be pointed at another address needs no change: `wechat` answers its two token calls
//! in WeChat's words, `bare` with nothing but the token, and `versioned` is for whoever writes the few
//! lines anew. What they have in common (who asks, for what, whether its question is a complaint) is
//! decided at the `desk`; `looks` finds out, `ask` reads what an SDK sends, `refusal` says no in WeChat's numbers.

mod ask;
mod bare;
mod desk;
mod looks;
mod refusal;
mod reply;
mod versioned;
mod wechat;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{BoxError, Router, response::Response};
use bytes::Bytes;
use http::Request;
use http_body::Body;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{desk::Desk, refusal::Refusal};
use crate::{
    config,
    domain::{
        AppName,
        access::{Access, Peer},
    },
    listener::{BindError, Listener, room_for_http},
    telemetry::Metrics,
    tokens::Tokens,
    web::{Host, Limits},
};

/// For a request to be told, and for the next one on the same connection to begin. Pools of SDKs keep
/// idle connections about as long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A listener with its socket bound: callers may connect, and are answered once it serves.
#[derive(Debug)]
pub struct Server {
    host: Host,
}

impl Server {
    /// Binds the socket. `overlaps` says how long each app's replaced tokens live on; `grace` is left to
    /// answers under way at the end.
    pub async fn bind(
        settings: &config::Http,
        tokens: Tokens,
        access: watch::Receiver<Arc<Access>>,
        overlaps: BTreeMap<AppName, Duration>,
        metrics: &Metrics,
        grace: Duration,
    ) -> Result<Self, BindError> {
        let listener = Listener::bind(&settings.listen).await?;
        let limits = Limits {
            places: room_for_http(settings.max_connections),
            patience: PATIENCE,
            grace,
        };
        let desk = Desk::new(tokens, access, overlaps, metrics.asked());
        let host = Host::new(listener, routes(desk), limits);
        Ok(Self { host })
    }

    /// Where to reach it from this machine.
    pub fn local_url(&self) -> &str {
        self.host.url()
    }

    /// Answers one request as if it had come over a connection from `peer`, so that what a request says
    /// can be tried without a socket.
    pub async fn answer<B>(&self, request: Request<B>, peer: Peer) -> Response
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.host.answer(request, peer).await
    }

    /// Answers until `stop`, lets answers under way finish, and returns.
    pub async fn serve(self, stop: CancellationToken) {
        self.host.serve(stop).await;
    }
}

fn routes(desk: Desk) -> Router {
    let desk = Arc::new(desk);
    Router::new()
        .merge(wechat::routes())
        .merge(bare::routes())
        .merge(versioned::routes())
        .fallback(|| async { Refusal::no_such_page().shown() })
        .with_state(desk)
}
