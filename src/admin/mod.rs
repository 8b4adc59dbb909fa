//! How people, Prometheus and probes look at the server: metrics, liveness, readiness. Nothing here
//! changes anything, and nothing here is secret, so nobody is asked for a key.

mod facts;
mod pages;
mod probes;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::pages::Pages;
use crate::{
    config,
    listener::{BindError, Listener, room_for_probes},
    telemetry::Metrics,
    tokens::Tokens,
    web::{Host, Limits},
};

/// Connections at a time, if the limit of open files has room for them.
const PLACES: usize = 100;

/// For a request to be told, and for the next one to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listener with its socket bound: callers may connect, and are answered once it serves.
#[derive(Debug)]
pub struct Server {
    host: Host,
}

impl Server {
    /// Binds the socket. From `stop` on the server counts as not ready.
    pub async fn bind(
        settings: &config::Admin,
        tokens: Tokens,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<Self, BindError> {
        let listener = Listener::bind(&settings.listen).await?;
        let pages = Pages::new(tokens, metrics, stop).routes();
        let limits = Limits {
            places: room_for_probes(PLACES),
            patience: PATIENCE,
            // Nobody is left to be told anything.
            grace: Duration::ZERO,
        };
        let host = Host::new(listener, pages, limits);
        Ok(Self { host })
    }

    /// Where to reach it from this machine.
    pub fn local_url(&self) -> &str {
        self.host.url()
    }

    /// Answers until `end`, which is later than the stop: the drain is what probes want to see.
    pub async fn serve(self, end: CancellationToken) {
        self.host.serve(end).await;
    }
}
