//! The body of every answer: it tells the pace of its reader, and ends when its time is over.
//!
//! What nobody may ever need, a timer above all, is made when it is needed: there may be ten thousand
//! of these.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};

use super::{frame, pace, status, watch::TokenStream};
use crate::tokens::NoToken;

/// Left to a stream of health or reflection to end by itself when its connection ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

type Said = Option<Result<Frame<Bytes>, Status>>;

/// A moment that may come, with a timer that runs only while somebody waits for it.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Rings after `limit`, or never.
    pub(super) fn after(limit: Option<Duration>) -> Self {
        // A limit beyond all time is none.
        let at = limit.and_then(|limit| Instant::now().checked_add(limit));
        Self { at, timer: None }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        timer.as_mut().poll(cx)
    }
}

/// What there is to say.
#[derive(Debug, Default)]
pub(super) enum Saying {
    /// One frame with a message, then that all is well.
    Message(Bytes),
    /// That all is well.
    Fine,
    /// Many messages.
    Stream(TokenStream),
    /// What a service that is not ours says.
    Guest(Box<Guest>),
    /// Nothing any more.
    #[default]
    Nothing,
}

impl Saying {
    pub(super) fn message(message: &impl prost::Message) -> Self {
        Self::Message(frame::of(message))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Said> {
        match self {
            Self::Stream(stream) => {
                let said = ready!(Pin::new(stream).poll_next(cx));
                Poll::Ready(match said {
                    Some(Ok(frame)) => Some(Ok(Frame::data(frame))),
                    Some(Err(status)) => Some(self.end(&status)),
                    None => None,
                })
            }
            Self::Guest(guest) => guest.poll(cx),
            Self::Message(_) | Self::Fine | Self::Nothing => Poll::Ready(self.next()),
        }
    }

    fn next(&mut self) -> Said {
        match std::mem::take(self) {
            Self::Message(frame) => {
                *self = Self::Fine;
                Some(Ok(Frame::data(frame)))
            }
            Self::Fine => {
                let fine = (Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers([fine].into_iter().collect())))
            }
            _ => None,
        }
    }

    /// The last thing that is said.
    fn end(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        *self = Self::Nothing;
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        added.map(|()| Frame::trailers(trailers))
    }
}

/// The answer of a service that is not ours: it does not end with the connection by itself.
pub(super) struct Guest {
    body: Body,
    connection: Option<CancellationToken>,
    /// Runs once something has been waited for.
    outlived: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Guest {
    pub(super) fn new(body: Body, connection: CancellationToken) -> Self {
        Self {
            body,
            connection: Some(connection),
            outlived: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Said> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if let Some(connection) = self.connection.take() {
            let outlived = async move {
                connection.cancelled().await;
                sleep(LAST_WORDS).await;
            };
            self.outlived = Some(Box::pin(outlived));
        }
        if let Some(outlived) = &mut self.outlived {
            ready!(outlived.as_mut().poll(cx));
            return Poll::Ready(Some(Err(NoToken::Draining.into())));
        }
        Poll::Pending
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").finish_non_exhaustive()
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    saying: Saying,
    deadline: Alarm,
}

impl Answer {
    /// `saying`, as long as there is time.
    pub(super) fn new(saying: Saying, deadline: Alarm) -> Self {
        Self { saying, deadline }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Said> {
        let Self { saying, deadline } = &mut *self;
        pace::asked();
        match saying.poll(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_data() {
                    pace::handed();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(status))) => Poll::Ready(Some(saying.end(&status))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(deadline.poll(cx));
                Poll::Ready(Some(saying.end(&status::deadline_exceeded())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.saying {
            Saying::Nothing => true,
            Saying::Guest(guest) => guest.body.is_end_stream(),
            Saying::Message(_) | Saying::Fine | Saying::Stream(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio_stream::{StreamExt, wrappers::IntervalStream};
    use tonic::Code;

    use super::*;

    /// A byte a second, for ever.
    fn ticking(connection: CancellationToken) -> Saying {
        let second = tokio::time::interval(Duration::from_secs(1));
        let ticks = IntervalStream::new(second).skip(1);
        let frames = ticks.map(|_| Ok::<_, Status>(Frame::data(Bytes::from_static(b"."))));
        let body = Body::new(StreamBody::new(frames));
        Saying::Guest(Box::new(Guest::new(body, connection)))
    }

    async fn heard(answer: Answer) -> (usize, Option<Code>) {
        let body = answer.collect().await.unwrap();
        let trailers = body.trailers().and_then(Status::from_header_map);
        let code = trailers.map(|status| status.code());
        (body.to_bytes().len(), code)
    }

    #[tokio::test]
    async fn a_message_is_followed_by_the_word_that_all_is_well() {
        let frame = Bytes::from_static(b"frame");
        let answer = Answer::new(Saying::Message(frame), Alarm::default());
        assert!(!answer.is_end_stream());
        assert_eq!(heard(answer).await, (5, Some(Code::Ok)));
        let nothing = Answer::new(Saying::Nothing, Alarm::default());
        assert!(nothing.is_end_stream(), "the headers say it all");
        assert_eq!(heard(nothing).await, (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline_whatever_it_has_sent() {
        let start = Instant::now();
        let deadline = Alarm::after(Some(Duration::from_millis(2500)));
        let answer = Answer::new(ticking(CancellationToken::new()), deadline);
        let heard = heard(answer).await;
        assert_eq!(heard, (2, Some(Code::DeadlineExceeded)), "one a second");
        assert_eq!(start.elapsed().as_millis(), 2500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_does_not_end_with_its_connection_is_ended() {
        let start = Instant::now();
        let connection = CancellationToken::new();
        connection.cancel();
        let answer = Answer::new(ticking(connection), Alarm::default());
        assert_eq!(heard(answer).await, (0, Some(Code::Unavailable)));
        assert_eq!(start.elapsed(), LAST_WORDS);
    }
}
