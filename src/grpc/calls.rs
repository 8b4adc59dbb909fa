//! Which call goes to which service.
//!
//! The three calls of the contract are nearly all of the traffic, and their streams nearly all of the
//! memory; so they are read and answered here, with [`frame`], and not by tonic's general server,
//! which puts four boxes and two buffers around each of them. Health and reflection are tonic's.

use std::{future::ready, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use tonic::{Status, body::Body, codegen::StdError, metadata::GRPC_CONTENT_TYPE, service::Routes};
use tower::Service as _;

use super::{
    answer::{Guest, Saying},
    asked::Asked,
    connection::Connection,
    deadline, frame,
    service::Service,
};
use crate::telemetry::Method;

/// An answer on its way.
pub(super) type Answering = Pin<Box<dyn Future<Output = Response<Saying>> + Send>>;

/// Everything that can be called.
#[derive(Debug)]
pub(super) struct Calls {
    tokens: Arc<Service>,
    /// Health and reflection.
    others: Routes,
}

impl Calls {
    pub(super) fn new(tokens: Service, others: Routes) -> Self {
        let tokens = Arc::new(tokens);
        Self { tokens, others }
    }

    /// Calls `method` as `request` asks for it. The caller has given it as much time as `limit` says.
    pub(super) fn begin<B>(
        &self,
        method: Method,
        request: Request<B>,
        limit: Option<Duration>,
        from: &Connection,
    ) -> Answering
    where
        B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
    {
        if method == Method::Other {
            return self.other(request, from);
        }
        let (tokens, from) = (Arc::clone(&self.tokens), from.clone());
        Box::pin(async move {
            match ours(&tokens, method, request, limit, from).await {
                Ok(saying) => {
                    let mut response = Response::new(saying);
                    let headers = response.headers_mut();
                    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
                    response
                }
                Err(status) => status.into_http(),
            }
        })
    }

    fn other<B>(&self, request: Request<B>, from: &Connection) -> Answering
    where
        B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
    {
        let end = from.end.clone();
        let mut others = self.others.clone();
        Box::pin(async move {
            let request = request.map(|body| Body::new(Asked::new(body)));
            let Ok(response) = others.call(request).await;
            response.map(|body| Saying::Guest(Box::new(Guest::new(body, end))))
        })
    }
}

/// The answer to a call that does not even begin.
pub(super) fn refusal(status: Status) -> Answering {
    Box::pin(ready(status.into_http()))
}

async fn ours(
    tokens: &Service,
    method: Method,
    request: Request<impl http_body::Body<Data = Bytes, Error: Into<StdError>> + Unpin>,
    limit: Option<Duration>,
    from: Connection,
) -> Result<Saying, Status> {
    let (head, body) = request.into_parts();
    // Strangers learn nothing, and nobody waits for what they send.
    let grant = tokens.door.identify(from.peer, &head.headers)?;
    frame::not_compressed(&head.headers)?;
    drop(head);
    let (body, most) = (Asked::new(body), tokens.max_request_bytes);
    Ok(match method {
        Method::ForceRefresh => {
            let answer = tokens.force_refresh(&grant, frame::only(body, most).await?);
            Saying::message(&answer.await?)
        }
        Method::WatchToken => {
            let ask = frame::only(body, most).await?;
            Saying::Stream(tokens.watch_token(&grant, ask, from.end)?)
        }
        Method::GetToken | Method::Other => {
            let ask = frame::only(body, most).await?;
            let answer = tokens.get_token(&grant, ask, deadline::patience(limit));
            Saying::message(&answer.await?)
        }
    })
}
