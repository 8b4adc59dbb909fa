//! Counts every call once, at its end, with the code that its caller gets.
//!
//! The outermost layer, so that it sees what the others make of a call: a passed deadline, a request
//! that cannot be read. The code of an answer is in its trailers, or in its headers if there is nothing
//! else; a call whose caller left, or whose stream was reset, has neither, and counts as cancelled.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::Service;

use crate::telemetry::{Method, Requests};

/// Counts the calls of a service.
#[derive(Clone, Debug)]
pub(super) struct Measured<S> {
    inner: S,
    requests: Requests,
}

impl<S> Measured<S> {
    pub(super) fn new(inner: S, requests: Requests) -> Self {
        Self { inner, requests }
    }
}

impl<S, B, R> Service<Request<R>> for Measured<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Counted<B>>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let call = Call {
            requests: self.requests.clone(),
            method: method(request.uri().path()),
            began: Instant::now(),
            code: Code::Cancelled,
        };
        Answering {
            answer: self.inner.call(request),
            call: Some(call),
        }
    }
}

fn method(path: &str) -> Method {
    match path.strip_prefix("/wxtokend.v1.TokenService/") {
        Some("GetToken") => Method::GetToken,
        Some("ForceRefresh") => Method::ForceRefresh,
        Some("WatchToken") => Method::WatchToken,
        _ => Method::Other,
    }
}

/// A call under way. Dropping it counts it.
#[derive(Debug)]
struct Call {
    requests: Requests,
    method: Method,
    began: Instant,
    code: Code,
}

impl Call {
    fn read_code(&mut self, headers: &HeaderMap) {
        let code = headers.get(Status::GRPC_STATUS).map(HeaderValue::as_bytes);
        self.code = code.map_or(self.code, Code::from_bytes);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.requests.ended(self.method, self.code as usize, took);
    }
}

/// Until the headers of the answer.
#[derive(Debug)]
pub(super) struct Answering<F> {
    answer: F,
    call: Option<Call>,
}

impl<F, B> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, Infallible>> + Unpin,
{
    type Output = Result<Response<Counted<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx))?;
        let mut call = self.call.take();
        if let Some(call) = &mut call {
            call.read_code(answer.headers());
        }
        Poll::Ready(Ok(answer.map(|inner| Counted { inner, call })))
    }
}

/// The body of an answer, until its trailers.
#[derive(Debug)]
pub(super) struct Counted<B> {
    inner: B,
    call: Option<Call>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(mut call) = self.call.take()
        {
            call.read_code(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_paths() {
        let table = [
            ("/wxtokend.v1.TokenService/GetToken", Method::GetToken),
            (
                "/wxtokend.v1.TokenService/ForceRefresh",
                Method::ForceRefresh,
            ),
            ("/wxtokend.v1.TokenService/WatchToken", Method::WatchToken),
            ("/wxtokend.v1.TokenService/Nothing", Method::Other),
            ("/grpc.health.v1.Health/Check", Method::Other),
            ("/", Method::Other),
        ];
        for (path, expected) in table {
            assert_eq!(method(path), expected, "{path}");
        }
    }
}
