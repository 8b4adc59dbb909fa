//! How long a call may last: until the caller's own deadline (`grpc-timeout`), and not much longer
//! than its connection.
//!
//! The deadline is known to the call as well, which may want to answer before it passes. A stream is
//! bounded as a whole. A deadline that cannot be read is refused, because a call without the bound
//! that its author believes in would be the worse surprise.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Response};
use tonic::Status;
use tonic_types::FieldViolation;

use super::{
    answer::{Alarm, Answer, Saying},
    status,
};
use crate::tokens::FIRST_OUTCOME;

const HEADER: &str = "grpc-timeout";

/// Left to a call that waits, to say that it waited in vain.
const MARGIN: Duration = Duration::from_millis(100);

/// How long a call whose caller gives it `limit` may wait for what is not known yet.
pub(super) fn patience(limit: Option<Duration>) -> Duration {
    limit.map_or(FIRST_OUTCOME, |limit| {
        FIRST_OUTCOME.min(limit.saturating_sub(MARGIN))
    })
}

/// A call under way, until its deadline.
#[derive(Debug)]
pub(super) struct Bounded<F> {
    answer: F,
    deadline: Alarm,
}

impl<F> Bounded<F> {
    /// Lets `answer` take as long as `limit` says.
    pub(super) fn new(answer: F, limit: Option<Duration>) -> Self {
        let deadline = Alarm::after(limit);
        Self { answer, deadline }
    }
}

impl<F: Future<Output = Response<Saying>> + Unpin> Future for Bounded<F> {
    type Output = Response<Answer>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<Answer>> {
        let answer = match Pin::new(&mut self.answer).poll(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                ready!(self.deadline.poll(cx));
                status::deadline_exceeded().into_http()
            }
        };
        let deadline = std::mem::take(&mut self.deadline);
        Poll::Ready(answer.map(|saying| Answer::new(saying, deadline)))
    }
}

/// How much time the caller gives its call: one to eight digits and a unit.
pub(super) fn limit(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let (unit, digits) = value.as_bytes().split_last().ok_or_else(malformed)?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let value = digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
    let limit = match unit {
        b'H' => Duration::from_hours(value),
        b'M' => Duration::from_mins(value),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return Err(malformed()),
    };
    Ok(Some(limit))
}

fn malformed() -> Status {
    let problem = "must be one to eight digits and a unit out of `H`, `M`, `S`, `m`, `u` and `n`";
    status::bad_request(vec![FieldViolation::new(HEADER, problem)])
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin};

    use tokio::time::Instant;
    use tonic::Code;

    use super::*;

    fn headers(timeout: &str) -> HeaderMap {
        let timeout = timeout.parse().unwrap();
        [(HEADER.parse().unwrap(), timeout)].into_iter().collect()
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
            let limit = limit(&headers(header)).map_err(|status| status.code());
            let expected = expected.map(Some).ok_or(Code::InvalidArgument);
            assert_eq!(limit, expected, "{header:?}");
        }
        assert!(matches!(limit(&HeaderMap::new()), Ok(None)));
    }

    #[test]
    fn a_call_waits_a_little_less_than_its_caller_and_10_s_at_most() {
        let with = |limit: Option<u64>| {
            let patience = patience(limit.map(Duration::from_millis));
            u64::try_from(patience.as_millis()).unwrap()
        };
        let table = [(None, 10_000), (Some(60_000), 10_000), (Some(3_000), 2_900)];
        for (limit, expected) in table.into_iter().chain([(Some(50), 0)]) {
            assert_eq!(with(limit), expected, "{limit:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_at_its_deadline() {
        let start = Instant::now();
        let never = pin!(pending::<Response<Saying>>());
        let limit = Some(Duration::from_secs(3));
        let answer = Bounded::new(never, limit).await;
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(start.elapsed().as_secs(), 3);
    }
}
