//! The three calls. Each goes through the door, asks [`Tokens`], and names the outcome; there is
//! nothing else to find here.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    caller::Door,
    deadline,
    readers::Readers,
    watch::{TokenStream, Watch},
    wire,
};
use crate::{
    domain::report::StaleReport,
    pb::{self, token_service_server::TokenService},
    tokens::Tokens,
};

#[derive(Clone, Debug)]
pub(super) struct Service {
    door: Door,
    tokens: Tokens,
    readers: Readers,
}

impl Service {
    pub(super) fn new(door: Door, tokens: Tokens, readers: Readers) -> Self {
        Self {
            door,
            tokens,
            readers,
        }
    }
}

#[tonic::async_trait]
impl TokenService for Service {
    async fn get_token(
        &self,
        request: Request<pb::GetTokenRequest>,
    ) -> Result<Response<pb::GetTokenResponse>, Status> {
        let app = self.door.admit(&request)?;
        let patience = deadline::patience(&request);
        let issued = self.tokens.current(&app, patience).await?;
        let token = Some(wire::token(request.into_inner().app_id, &issued));
        Ok(Response::new(pb::GetTokenResponse { token }))
    }

    async fn force_refresh(
        &self,
        request: Request<pb::ForceRefreshRequest>,
    ) -> Result<Response<pb::ForceRefreshResponse>, Status> {
        let app = self.door.admit(&request)?;
        let request = request.into_inner();
        let report = StaleReport::from(&request);
        let (issued, outcome) = self.tokens.report(&app, report).await?;
        let token = Some(wire::token(request.app_id, &issued));
        let outcome = wire::outcome(outcome).into();
        let response = pb::ForceRefreshResponse { token, outcome };
        Ok(Response::new(response))
    }

    type WatchTokenStream = TokenStream;

    async fn watch_token(
        &self,
        request: Request<pb::WatchTokenRequest>,
    ) -> Result<Response<TokenStream>, Status> {
        let app = self.door.admit(&request)?;
        let reader = self.readers.join(&app)?;
        let watch = Watch::new(&app, request, Arc::clone(&reader))?;
        let mut response = Response::new(watch.into_stream());
        // The body tells it what the transport takes.
        response.extensions_mut().insert(reader);
        Ok(response)
    }
}
