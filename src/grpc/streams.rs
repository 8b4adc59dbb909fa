//! The streams of `WatchToken`, as they are before a transport takes them.
//!
//! The service opens them for callers. Whoever wants to see what a caller is told, and brings a way
//! of its own there, may open them too: the simulated weeks do, whose clock no socket can follow.

use tokio_util::sync::CancellationToken;

use super::{
    readers::Readers,
    watch::{TokenStream, Watch},
};
use crate::{
    domain::AppName,
    pb::WatchTokenRequest,
    telemetry::Metrics,
    tokens::{NoToken, Tokens},
};

/// Opens streams.
#[derive(Clone, Debug)]
pub struct Streams(Readers);

impl Streams {
    /// Of what `tokens` knows.
    pub fn new(tokens: &Tokens, metrics: &Metrics) -> Self {
        Self(Readers::new(tokens, metrics))
    }

    pub(super) fn readers(&self) -> &Readers {
        &self.0
    }

    /// Every token of `app` from now on, until `connection` ends.
    pub fn open(
        &self,
        app: &AppName,
        request: WatchTokenRequest,
        connection: CancellationToken,
    ) -> Result<TokenStream, NoToken> {
        let reader = self.0.join(app)?;
        Ok(Watch::new(app, request, reader)?.into_stream(connection))
    }
}
