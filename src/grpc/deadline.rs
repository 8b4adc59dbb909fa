//! How long a call may last: until the caller's own deadline (`grpc-timeout`), and not much longer
//! than its connection.
//!
//! The deadline is known to the call as well, which may want to answer before it passes. A stream is
//! bounded as a whole. A deadline that cannot be read is refused, because a call without the bound
//! that its author believes in would be the worse surprise.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tonic_types::FieldViolation;
use tower::Service;

use super::{
    answer::{Alarm, Answer},
    connection::Connection,
    readers::Reader,
    status,
};
use crate::tokens::FIRST_OUTCOME;

const HEADER: &str = "grpc-timeout";

/// Left to a call that waits, to say that it waited in vain.
const MARGIN: Duration = Duration::from_millis(100);

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
    S::Future: Unpin,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Ok(limit) = parse(request.headers()) else {
            return Call::refused(malformed());
        };
        let connection = request.extensions().get::<Connection>();
        let connection = connection.map(|connection| connection.end.clone());
        if let Some(limit) = limit {
            request.extensions_mut().insert(Deadline(limit));
        }
        Call {
            answer: Some(self.0.call(request)),
            refusal: None,
            deadline: Alarm::after(limit),
            connection,
        }
    }
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Call<F> {
    answer: Option<F>,
    refusal: Option<Status>,
    deadline: Alarm,
    connection: Option<CancellationToken>,
}

impl<F> Call<F> {
    fn refused(status: Status) -> Self {
        Self {
            answer: None,
            refusal: Some(status),
            deadline: Alarm::after(None),
            connection: None,
        }
    }

    /// The answer, bounded like the call.
    fn bound(&mut self, response: Response<Body>) -> Response<Answer> {
        if says_undecodable(&response) {
            return plain(undecodable());
        }
        let deadline = std::mem::replace(&mut self.deadline, Alarm::after(None));
        let connection = self.connection.take();
        let (mut parts, body) = response.into_parts();
        let reader = parts.extensions.remove::<Arc<Reader>>();
        Response::from_parts(parts, Answer::new(body, deadline, connection, reader))
    }
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = &mut *self;
        if let Some(status) = call.refusal.take() {
            return Poll::Ready(Ok(plain(status)));
        }
        if let Some(answer) = &mut call.answer
            && let Poll::Ready(Ok(response)) = Pin::new(answer).poll(cx)
        {
            call.answer = None;
            return Poll::Ready(Ok(call.bound(response)));
        }
        let late = call.deadline.poll(cx);
        late.map(|()| Ok(plain(status::deadline_exceeded())))
    }
}

/// An answer that is nothing but a status.
fn plain(status: Status) -> Response<Answer> {
    let response = status.into_http::<Body>();
    response.map(|body| Answer::new(body, Alarm::after(None), None, None))
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
    use std::future::{pending, ready};

    use bytes::Bytes;
    use http_body::Frame;
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
        let never = service_fn(|_| pending::<Result<Response<Body>, Infallible>>());
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
