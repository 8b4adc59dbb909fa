//! A stream that is written down while it is read.

use std::{thread, time::Duration};

use bytes::Bytes;
use http_body::Body as HttpBody;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, IntoRequest, Request, Status, Streaming, body::Body, client::GrpcService};
use wxtokend::pb::{
    WatchTokenRequest, WatchTokenResponse, token_service_client::TokenServiceClient,
};

use super::{Heard, History, Message, Wait, alone};

/// So many messages at one instant are no news.
const FLOOD: usize = 100;

/// Reads a stream as [`Streaming`] does. When it is dropped, what was read is judged.
#[derive(Debug)]
pub(crate) struct Watching<S = Streaming<WatchTokenResponse>> {
    stream: S,
    history: History,
    index: usize,
}

/// What a stream yields.
type Item = Option<Result<WatchTokenResponse, Status>>;

/// The error of a transport.
type Broken = Box<dyn std::error::Error + Send + Sync>;

impl History {
    /// Opens a stream over a socket.
    pub(crate) async fn watch<T>(
        &self,
        client: &mut TokenServiceClient<T>,
        request: impl IntoRequest<WatchTokenRequest>,
    ) -> Result<Watching, Status>
    where
        T: GrpcService<Body, ResponseBody: HttpBody<Data = Bytes, Error: Into<Broken> + Send>>,
        T::Error: Into<Broken>,
        T::ResponseBody: Send + 'static,
    {
        let request: Request<WatchTokenRequest> = request.into_request();
        // Before it is sent: whatever the server says to it is said later.
        let opened = self.0.now();
        let asked = request.get_ref().clone();
        let stream = client.watch_token(request).await?.into_inner();
        Ok(self.read(&asked, opened, stream))
    }

    /// Reads a stream that has been opened just now.
    pub(crate) fn follow<S>(&self, asked: &WatchTokenRequest, stream: S) -> Watching<S> {
        self.read(asked, self.0.now(), stream)
    }

    fn read<S>(&self, asked: &WatchTokenRequest, opened: Duration, stream: S) -> Watching<S> {
        Watching {
            stream,
            history: self.clone(),
            index: self.open(asked, opened),
        }
    }
}

impl<S> Watching<S>
where
    S: Stream<Item = Result<WatchTokenResponse, Status>> + Unpin,
{
    /// The next message, `None` after an end with `OK`, or the status of another end.
    pub(crate) async fn message(&mut self) -> Result<Option<WatchTokenResponse>, Status> {
        let mut waiting = Waiting {
            history: &self.history,
            index: self.index,
            from: self.history.0.now(),
            item: None,
        };
        let item = self.stream.next().await;
        let item = waiting.item.insert(item).clone();
        drop(waiting);
        self.judge_a_flood();
        item.transpose()
    }
}

impl<S> Watching<S> {
    /// A stream that repeats itself without a pause never comes to its end: it is judged before.
    fn judge_a_flood(&self) {
        let book = self.history.0.book();
        let stream = &book.streams[self.index];
        let latest = stream.waits.iter().rev().map(|wait| wait.until);
        let earlier = latest.clone().nth(FLOOD);
        if earlier.is_some() && earlier == latest.clone().next() {
            alone::check(stream, book.way);
        }
    }
}

impl<S> Drop for Watching<S> {
    fn drop(&mut self) {
        if !thread::panicking() {
            let book = self.history.0.book();
            alone::check(&book.streams[self.index], book.way);
        }
    }
}

/// A wait, written down when it is over. It may be given up at any moment.
struct Waiting<'a> {
    history: &'a History,
    index: usize,
    from: Duration,
    item: Option<Item>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (from, until) = (self.from, self.history.0.now());
        let mut book = self.history.0.book();
        let way = book.way;
        let stream = &mut book.streams[self.index];
        let heard = match &self.item {
            None => Heard::Nothing,
            Some(None) => Heard::End(Code::Ok, String::new()),
            Some(Some(Err(status))) => Heard::end(status),
            Some(Some(Ok(response))) => {
                let made_after = stream.made_after(from, until, way);
                Heard::Message(Message::new(response, made_after, until))
            }
        };
        stream.waits.push(Wait { from, until, heard });
    }
}
