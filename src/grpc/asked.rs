//! The body of every request: it arrives soon, or not at all.
//!
//! A request is one small message. A peer that begins a call and never sends it would hold the call
//! open for as long as its connection lives.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;

use super::{answer::Alarm, status};

/// From its headers to the last byte of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a request.
#[derive(Debug)]
pub(super) struct Asked<B = Incoming> {
    inner: B,
    late: Alarm,
}

impl<B> Asked<B> {
    pub(super) fn new(inner: B) -> Self {
        let late = Alarm::after(Some(PATIENCE));
        Self { inner, late }
    }
}

impl<B> Body for Asked<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                let frame =
                    frame.map(|frame| frame.map_err(|error| Status::from_error(error.into())));
                Poll::Ready(frame)
            }
            Poll::Pending => self
                .late
                .poll(cx)
                .map(|()| Some(Err(status::never_arrived()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
