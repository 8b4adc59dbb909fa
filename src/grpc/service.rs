//! The three calls. Each goes through the door, asks [`Tokens`], and names the outcome; there is
//! nothing else to find here.

use tonic::{Request, Response, Status};

use super::{
    caller::Door,
    deadline,
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
}

impl Service {
    pub(super) fn new(door: Door, tokens: Tokens) -> Self {
        Self { door, tokens }
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
        let watch = Watch::new(self.tokens.clone(), &app, request)?;
        Ok(Response::new(watch.into_stream()))
    }
}
