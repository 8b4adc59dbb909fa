//! One connection: HTTP/2 over one socket, from the first byte to a polite end.
//!
//! Every step is bounded, because a peer may do anything at all, also nothing. Old connections are
//! ended so that long-lived clients spread over new replicas; a `CancellationToken` tells the streams
//! of that connection to say goodbye first.

use std::{convert::Infallible, future::poll_fn, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    select,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::codegen::StdError;

use super::{
    answer::Answer,
    calls::{self, Answering, Calls},
    conversation::{Conversation, Newcomers},
    deadline::{self, Bounded},
    greeting::{Greeted, greeted},
    measure::{Counted, Measured, method},
    outflow::Outflow,
    seats::Seat,
    seldom::Seldom,
};
use crate::{
    config,
    domain::access::Peer,
    listener::{Lobby, Socket},
    telemetry::Requests,
};

/// Left to the calls of an aged connection. The longest, two mints of a leaked token, takes 40 s.
const GRACE: Duration = Duration::from_mins(1);

/// Requests are small: the least windows that HTTP/2 knows hold any of them.
const WINDOW: u32 = 65_535;

/// What one stream may make us keep for it to write; several of the longest tokens.
const SEND_BUFFER: usize = 64 * 1024;

/// The longest headers of a request.
const MAX_HEADERS: u32 = 16 * 1024;

/// What a call may know about the connection it came over.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Where it comes from.
    pub(super) peer: Peer,
    /// Cancelled when the connection is about to end.
    pub(super) end: CancellationToken,
}

impl Connection {
    pub(super) fn new(peer: Peer, end: CancellationToken) -> Self {
        Self { peer, end }
    }
}

/// Serves connections.
#[derive(Debug)]
pub(super) struct Host {
    http: http2::Builder<Newcomers>,
    calls: Calls,
    requests: Requests,
    lobby: Lobby,
    max_age: Duration,
    /// Ends all connections, politely.
    pub(super) end: CancellationToken,
}

impl Host {
    pub(super) fn new(settings: &config::Grpc, calls: Calls, requests: Requests) -> Self {
        let mut http = http2::Builder::new(Newcomers);
        // Without a timer of its own hyper panics at the first ping.
        http.timer(TokioTimer::new())
            .keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout)
            .max_concurrent_streams(settings.max_streams_per_connection)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADERS);
        Self {
            http,
            calls,
            requests,
            lobby: Lobby::new(settings.max_handshakes, settings.first_bytes_timeout),
            max_age: settings.max_connection_age,
            end: CancellationToken::new(),
        }
    }

    /// Serves one connection to its end, on its seat. Dropping this cuts it.
    pub(super) async fn serve(self: Arc<Self>, socket: Socket, peer: Peer, _seat: Seat) {
        // In a box, because it takes more than all that follows, and not for long.
        let greeting = Box::pin(self.lobby.admit(greeted(socket)));
        let greeting = self.end.run_until_cancelled(greeting).await;
        if let Some(Some(Some(socket))) = greeting {
            self.converse(socket, peer).await;
        }
    }

    async fn converse(self: &Arc<Self>, socket: Greeted<Socket>, peer: Peer) {
        let end = self.end.child_token();
        let called = Called::new(self, Connection::new(peer, end.clone()));
        let socket = TokioIo::new(Outflow::new(socket));
        let talk = self.http.serve_connection(socket, called);
        // In a box, because this future would hold it twice.
        let mut talk = pin!(Conversation::new(Box::pin(talk)));
        let mut limit = pin!(sleep(jittered(self.max_age)));
        let mut told = pin!(end.cancelled());
        let mut over = Seldom::default();
        let mut over = poll_fn(|cx| {
            over.poll(cx, |cx| {
                if limit.as_mut().poll(cx).is_ready() {
                    end.cancel();
                }
                told.as_mut().poll(cx)
            })
        });
        select! {
            biased;
            _ = talk.as_mut() => return,
            () = &mut over => {}
        }
        talk.connection.as_mut().graceful_shutdown();
        limit.as_mut().reset(Instant::now() + GRACE);
        select! {
            biased;
            _ = talk => {}
            () = limit => {}
        }
    }
}

/// What hyper calls for each request of a connection.
#[derive(Debug)]
pub(super) struct Called {
    host: Arc<Host>,
    connection: Connection,
}

impl Called {
    /// For the requests of `connection`.
    pub(super) fn new(host: &Arc<Host>, connection: Connection) -> Self {
        let host = Arc::clone(host);
        Self { host, connection }
    }
}

impl<B> hyper::service::Service<Request<B>> for Called
where
    B: Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
{
    type Response = Response<Counted<Answer>>;
    type Error = Infallible;
    type Future = Measured<Bounded<Answering>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let method = method(request.uri().path());
        let (answer, limit) = match deadline::limit(request.headers()) {
            Ok(limit) => {
                let calls = &self.host.calls;
                let answer = calls.begin(method, request, limit, &self.connection);
                (answer, limit)
            }
            // A call without the bound that its author believes in would be the worse surprise.
            Err(status) => (calls::refusal(status), None),
        };
        let answer = Bounded::new(answer, limit);
        Measured::new(answer, method, self.host.requests.clone())
    }
}

/// More or less 20 %, so that clients that came together do not leave together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_spread_by_a_fifth() {
        let ages = (0..1000).map(|_| jittered(Duration::from_secs(100)).as_secs());
        let ages: Vec<_> = ages.collect();
        assert!(ages.iter().all(|age| (80..=120).contains(age)), "{ages:?}");
        assert!(ages.iter().any(|&age| age < 90) && ages.iter().any(|&age| age > 110));
    }
}
