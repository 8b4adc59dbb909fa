//! How long a call may last: until the caller's own deadline (`grpc-timeout`), and not much longer
//! than its connection.
//!
//! The deadline is known to the call as well, which may want to answer before it passes. A stream is
//! bounded as a whole. A deadline that cannot be read is refused, because a call without the bound
//! that its author believes in would be the worse surprise.

use std::{
    convert::Infallible,
    future::{pending, ready},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use tokio::{select, time::sleep};
use tonic::{Code, Status, body::Body};
use tonic_types::FieldViolation;
use tower::Service;

use super::{connection::Connection, pace, status};
use crate::tokens::{FIRST_OUTCOME, NoToken};

const HEADER: &str = "grpc-timeout";

/// Left to a call that waits, to say that it waited in vain.
const MARGIN: Duration = Duration::from_millis(100);

/// Left to a stream to end by itself when its connection ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

type Answer = Result<Response<Body>, Infallible>;

/// The time that the caller has given the call.
#[derive(Clone, Copy, Debug)]
struct Deadline(Duration);

/// How long a call may wait for the first outcome.
pub(super) fn patience<T>(request: &tonic::Request<T>) -> Duration {
    let deadline = request.extensions().get::<Deadline>();
    deadline.map_or(FIRST_OUTCOME, |deadline| {
        FIRST_OUTCOME.min(deadline.0.saturating_sub(MARGIN))
    })
}

/// Bounds every call of a service.
#[derive(Clone, Debug)]
pub(super) struct Bounded<S>(pub(super) S);

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Ok(limit) = parse(request.headers()) else {
            return Box::pin(ready(Ok(malformed().into_http())));
        };
        let connection = request.extensions().get::<Connection>().cloned();
        let extensions = request.extensions_mut();
        limit.map(|limit| extensions.insert(Deadline(limit)));
        Box::pin(bounded(self.0.call(request), limit, connection))
    }
}

async fn bounded(
    answer: impl Future<Output = Answer>,
    limit: Option<Duration>,
    connection: Option<Connection>,
) -> Answer {
    let mut deadline = Box::pin(after(limit));
    let response = select! {
        biased;
        answer = answer => answer?,
        () = &mut deadline => return Ok(status::deadline_exceeded().into_http()),
    };
    let response = if says_undecodable(&response) {
        undecodable().into_http()
    } else {
        response
    };
    let end = async move {
        select! {
            biased;
            () = deadline => status::deadline_exceeded(),
            () = outlived(connection) => NoToken::Draining.into(),
        }
    };
    let end = Box::pin(end);
    Ok(response.map(|inner| Body::new(BoundedBody { inner, end })))
}

/// Whether tonic could not read the request: `INTERNAL` for bytes that are no message, `OUT_OF_RANGE`
/// for too many. Nothing of ours answers with either.
fn says_undecodable(response: &Response<Body>) -> bool {
    let code = response
        .headers()
        .get("grpc-status")
        .map(HeaderValue::as_bytes);
    code.is_some_and(|code| [Code::Internal, Code::OutOfRange].contains(&Code::from_bytes(code)))
}

fn undecodable() -> Status {
    let problem = "is no message of the contract, or longer than 64 KiB";
    status::bad_request(vec![FieldViolation::new("request", problem)])
}

async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => pending().await,
    }
}

async fn outlived(connection: Option<Connection>) {
    match connection {
        Some(connection) => connection.end.cancelled().await,
        None => pending().await,
    }
    sleep(LAST_WORDS).await;
}

/// An answer that is given up when `end` comes.
struct BoundedBody<E> {
    inner: Body,
    end: Pin<Box<E>>,
}

impl<E: Future<Output = Status>> http_body::Body for BoundedBody<E> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        pace::asked();
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            if matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
                pace::handed();
            }
            return Poll::Ready(frame);
        }
        let status = ready!(self.end.as_mut().poll(cx));
        self.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

struct Malformed;

/// One to eight digits and a unit.
fn parse(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let (unit, digits) = value.as_bytes().split_last().ok_or(Malformed)?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let value = digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
    let limit = match unit {
        b'H' => Duration::from_hours(value),
        b'M' => Duration::from_mins(value),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return Err(Malformed),
    };
    Ok(Some(limit))
}

fn malformed() -> Status {
    let problem = "must be one to eight digits and a unit out of `H`, `M`, `S`, `m`, `u` and `n`";
    status::bad_request(vec![FieldViolation::new(HEADER, problem)])
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::Instant;
    use tokio_stream::StreamExt;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::domain::access::Peer;

    fn request(timeout: &str) -> Request<Body> {
        let request = Request::builder().header(HEADER, timeout);
        request.body(Body::empty()).unwrap()
    }

    fn code(headers: &HeaderMap) -> Option<Code> {
        Status::from_header_map(headers).map(|status| status.code())
    }

    #[test]
    fn deadlines_are_read_in_every_unit() {
        let table = [
            ("2H", Some(Duration::from_hours(2))),
            ("3M", Some(Duration::from_mins(3))),
            ("10S", Some(Duration::from_secs(10))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("123456789m", None),
            ("+5S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("5 S", None),
            ("5s", None),
        ];
        for (header, expected) in table {
            let limit = parse(request(header).headers()).ok();
            assert_eq!(limit, expected.map(Some), "{header:?}");
        }
        assert!(matches!(parse(&HeaderMap::new()), Ok(None)));
    }

    #[test]
    fn a_call_waits_a_little_less_than_its_caller_and_10_s_at_most() {
        let with = |limit: Option<u64>| {
            let mut request = tonic::Request::new(());
            if let Some(limit) = limit {
                let limit = Deadline(Duration::from_millis(limit));
                request.extensions_mut().insert(limit);
            }
            u64::try_from(patience(&request).as_millis()).unwrap()
        };
        let table = [(None, 10_000), (Some(60_000), 10_000), (Some(3_000), 2_900)];
        for (limit, expected) in table.into_iter().chain([(Some(50), 0)]) {
            assert_eq!(with(limit), expected, "{limit:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_at_its_deadline() {
        let start = Instant::now();
        let never = service_fn(|_| pending::<Answer>());
        let answer = Bounded(never).oneshot(request("3S")).await.unwrap();
        assert_eq!(code(answer.headers()), Some(Code::DeadlineExceeded));
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline_whatever_it_has_sent() {
        let start = Instant::now();
        let endless = service_fn(|_| ready(Ok(Response::new(ticking()))));
        let answer = Bounded(endless).oneshot(request("2500m")).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        assert_eq!(code(&trailers), Some(Code::DeadlineExceeded));
        assert_eq!(body.to_bytes().len(), 2, "one a second");
        assert_eq!(start.elapsed().as_millis(), 2500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_does_not_end_with_its_connection_is_ended() {
        let mut request = request("1H");
        let connection = Connection::new(Peer::Unix, CancellationToken::new());
        request.extensions_mut().insert(connection.clone());
        let endless = service_fn(|_| ready(Ok(Response::new(ticking()))));
        let answer = Bounded(endless).oneshot(request).await.unwrap();
        connection.end.cancel();
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(code(body.trailers().unwrap()), Some(Code::Unavailable));
    }

    /// A byte a second, for ever.
    fn ticking() -> Body {
        let second = tokio::time::interval(Duration::from_secs(1));
        let ticks = tokio_stream::wrappers::IntervalStream::new(second).skip(1);
        let frames = ticks.map(|_| Ok::<_, Status>(Frame::data(Bytes::from_static(b"."))));
        Body::new(StreamBody::new(frames))
    }

    #[tokio::test]
    async fn an_unreadable_deadline_is_refused() {
        let fine = service_fn(|_| ready(Ok(Response::new(Body::empty()))));
        let answer = Bounded(fine).oneshot(request("soon")).await.unwrap();
        assert_eq!(code(answer.headers()), Some(Code::InvalidArgument));
    }
}
