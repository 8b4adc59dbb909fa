//! The three calls. Each goes through the door, asks [`Tokens`], and names the outcome; there is
//! nothing else to find here.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{caller::Door, streams::Streams, watch::TokenStream, wire};
use crate::{
    domain::{access::Grant, report::StaleReport},
    pb,
    tokens::Tokens,
};

#[derive(Debug)]
pub(super) struct Service {
    pub(super) door: Door,
    tokens: Tokens,
    streams: Streams,
    /// The longest request that is read.
    pub(super) max_request_bytes: usize,
}

impl Service {
    pub(super) fn new(
        door: Door,
        tokens: Tokens,
        streams: Streams,
        max_request_bytes: usize,
    ) -> Self {
        Self {
            door,
            tokens,
            streams,
            max_request_bytes,
        }
    }

    /// The token in force. What is not known yet is waited for as long as `patience` says.
    pub(super) async fn get_token(
        &self,
        grant: &Grant,
        request: pb::GetTokenRequest,
        patience: Duration,
    ) -> Result<pb::GetTokenResponse, Status> {
        let app = self.door.admit(grant, &request)?;
        let issued = self.tokens.current(&app, patience).await?;
        let token = Some(wire::token(request.app_id, &issued));
        Ok(pb::GetTokenResponse { token })
    }

    /// The token to use instead of the reported one, and what became of that.
    pub(super) async fn force_refresh(
        &self,
        grant: &Grant,
        request: pb::ForceRefreshRequest,
    ) -> Result<pb::ForceRefreshResponse, Status> {
        let app = self.door.admit(grant, &request)?;
        let report = StaleReport::from(&request);
        let (issued, outcome) = self.tokens.report(&app, report).await?;
        let token = Some(wire::token(request.app_id, &issued));
        let outcome = wire::outcome(outcome).into();
        Ok(pb::ForceRefreshResponse { token, outcome })
    }

    /// Every token from now on, until the connection ends.
    pub(super) fn watch_token(
        &self,
        grant: &Grant,
        request: pb::WatchTokenRequest,
        connection: CancellationToken,
    ) -> Result<TokenStream, Status> {
        let app = self.door.admit(grant, &request)?;
        Ok(self.streams.open(&app, request, connection)?)
    }
}
