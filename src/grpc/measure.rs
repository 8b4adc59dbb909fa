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
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::telemetry::{Method, Requests};

/// What is called at `path`.
pub(super) fn method(path: &str) -> Method {
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

/// A call that is counted, until the headers of its answer.
#[derive(Debug)]
pub(super) struct Measured<F> {
    answer: F,
    call: Option<Call>,
}

impl<F> Measured<F> {
    /// Counts `answer` as a call of `method`.
    pub(super) fn new(answer: F, method: Method, requests: Requests) -> Self {
        let call = Call {
            requests,
            method,
            began: Instant::now(),
            code: Code::Cancelled,
        };
        let call = Some(call);
        Self { answer, call }
    }
}

impl<F, B> Future for Measured<F>
where
    F: Future<Output = Response<B>> + Unpin,
{
    type Output = Result<Response<Counted<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
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
