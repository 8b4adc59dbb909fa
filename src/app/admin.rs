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
    url: String,
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
        let url = server.local_url().to_owned();
        let end = CancellationToken::new();
        let serving = tokio::spawn(server.serve(end.clone()));
        Ok(Self(Some(Running { url, end, serving })))
    }

    /// Says where it is.
    pub(super) fn announce(&self) -> anyhow::Result<()> {
        let url = self.0.as_ref().map(|running| &running.url);
        url.map_or(Ok(()), |url| announce("admin", url))
    }

    /// Ends it at once: nobody is left to be told anything.
    pub(super) async fn end(self) {
        if let Some(Running { end, serving, .. }) = self.0 {
            end.cancel();
            // It may have crashed, which matters no more.
            let _ = serving.await;
        }
    }
}
