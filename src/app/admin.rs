//! The admin listener's part in the life of the server: it is there before the first token, and until
//! the very end, because the drain is what probes want to see.

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::announce;
use crate::{admin::Server, config, telemetry::Metrics, tokens::Tokens};

/// What an error of binding is about; [`super::hint`] looks for it.
pub(super) const CANNOT: &str = "cannot serve metrics and probes";

/// The listener, if there is one.
#[derive(Debug)]
pub(super) struct Admin(Option<Running>);

#[derive(Debug)]
struct Running {
    end: CancellationToken,
    serving: JoinHandle<()>,
}

impl Admin {
    /// Starts it if it is configured. From `stop` on it says that the server drains.
    pub(super) async fn start(
        settings: Option<&config::Admin>,
        tokens: Tokens,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let Some(settings) = settings else {
            return Ok(Self(None));
        };
        let server = Server::bind(settings, tokens, metrics, stop).await;
        let server = server.context(CANNOT)?;
        announce("admin", server.local_url())?;
        let end = CancellationToken::new();
        let serving = tokio::spawn(server.serve(end.clone()));
        Ok(Self(Some(Running { end, serving })))
    }

    /// Ends it at once: nobody is left to be told anything.
    pub(super) async fn end(self) {
        if let Some(Running { end, serving }) = self.0 {
            end.cancel();
            // It may have crashed, which matters no more.
            let _ = serving.await;
        }
    }
}
