//! The listener for programs that speak WeChat's own protocol, if it is configured.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{STOP, announce};
use crate::{
    config,
    domain::{AppName, access::Access},
    http::Server,
    listener::{room_beside, room_for_http},
    telemetry::Metrics,
    tokens::Tokens,
};

/// What an error of binding is about; [`super::hint`] looks for it.
pub(super) const CANNOT: &str = "cannot serve HTTP";

/// The listener, if there is one.
#[derive(Debug)]
pub(super) struct Http(Option<Server>);

impl Http {
    /// Binds it if it is configured. `overlaps` says how long replaced tokens live on.
    pub(super) async fn bind(
        settings: Option<&config::Http>,
        overlaps: BTreeMap<AppName, Duration>,
        tokens: Tokens,
        access: watch::Receiver<Arc<Access>>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let Some(settings) = settings else {
            return Ok(Self(None));
        };
        let server = Server::bind(settings, tokens, access, overlaps, metrics, STOP).await;
        server.context(CANNOT).map(Some).map(Self)
    }

    /// How many connections of gRPC there is room for beside it, of as many as are `wanted`.
    pub(super) fn leaves(settings: Option<&config::Http>, wanted: usize) -> usize {
        let here = settings.map_or(0, |http| room_for_http(http.max_connections));
        if here == 0 {
            wanted
        } else {
            room_beside(here, wanted)
        }
    }

    /// Says where it is.
    pub(super) fn announce(&self) -> anyhow::Result<()> {
        let url = self.0.as_ref().map(Server::local_url);
        url.map_or(Ok(()), |url| announce("http", url))
    }

    /// Answers until `stop`, and lets answers under way finish.
    pub(super) async fn serve(self, stop: CancellationToken) {
        if let Some(server) = self.0 {
            server.serve(stop).await;
        }
    }
}
