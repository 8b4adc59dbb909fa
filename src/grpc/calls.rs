//! Which call goes to which service.
//!
//! The three calls of the contract go straight to their service: they are nearly all of the traffic,
//! and a general router would cost each of them a lookup and several allocations.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{body::Body, server::NamedService, service::Routes};

use super::service::Service;
use crate::pb::token_service_server::TokenServiceServer;

type Answered = Result<Response<Body>, Infallible>;

/// Everything that can be called.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    tokens: TokenServiceServer<Service>,
    /// Health and reflection.
    others: Routes,
}

impl Calls {
    pub(super) fn new(tokens: TokenServiceServer<Service>, others: Routes) -> Self {
        Self { tokens, others }
    }
}

impl tower::Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // as both services are at all times
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_ours(request.uri().path()) {
            self.tokens.call(request)
        } else {
            Box::pin(self.others.call(request))
        }
    }
}

fn is_ours(path: &str) -> bool {
    let service = path
        .strip_prefix('/')
        .and_then(|path| path.rsplit_once('/'));
    service
        .is_some_and(|(service, _)| service == <TokenServiceServer<Service> as NamedService>::NAME)
}
