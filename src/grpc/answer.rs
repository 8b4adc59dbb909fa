//! The body of every answer: it tells the pace of its reader, and ends when its time is over.
//!
//! What nobody may ever need, a timer above all, is made when it is needed: there may be ten thousand
//! of these.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};

use super::{pace, readers::Reader, status};
use crate::tokens::NoToken;

/// Left to a stream to end by itself when its connection ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A moment that may come, with a timer that runs only while somebody waits for it.
#[derive(Debug)]
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

/// The body of an answer.
pub(super) struct Answer {
    inner: Body,
    deadline: Alarm,
    connection: Option<CancellationToken>,
    /// Runs once something has been waited for.
    outlived: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    reader: Option<Arc<Reader>>,
}

impl Answer {
    /// `inner` as long as there is time: until `deadline`, and not much longer than the connection.
    pub(super) fn new(
        inner: Body,
        deadline: Alarm,
        connection: Option<CancellationToken>,
        reader: Option<Arc<Reader>>,
    ) -> Self {
        Self {
            inner,
            deadline,
            connection,
            outlived: None,
            reader,
        }
    }

    /// Comes when there is no time left, with the reason.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.deadline.poll(cx).is_ready() {
            return Poll::Ready(status::deadline_exceeded());
        }
        if let Some(connection) = self.connection.take() {
            let outlived = async move {
                connection.cancelled().await;
                sleep(LAST_WORDS).await;
            };
            self.outlived = Some(Box::pin(outlived));
        }
        match &mut self.outlived {
            Some(outlived) => {
                ready!(outlived.as_mut().poll(cx));
                Poll::Ready(NoToken::Draining.into())
            }
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        pace::asked();
        if let Some(reader) = &self.reader {
            reader.took();
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            if matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
                pace::handed();
            }
            return Poll::Ready(frame);
        }
        let status = ready!(self.poll_over(cx));
        self.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}
