//! HTTP/1.1 for the ways out that speak it: accepting, patience, and an end.
//!
//! Whoever asks must get through, also while others misbehave. So there are no seats that a flood could
//! take: in a crowd the connection that has been here the longest is shown out, and an answer that is
//! ready is written in the same breath as its question is read.

use std::{convert::Infallible, pin::pin, time::Duration};

use axum::{BoxError, Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    domain::access::Peer,
    listener::{Listener, Lobby},
};

/// The longest headers of a request; hyper's least.
const MAX_HEADERS: usize = 8 * 1024;

/// A connection this old is asked to come again.
const AGE: Duration = Duration::from_mins(10);

/// Left to an aged connection for the answer under way.
const GRACE: Duration = Duration::from_secs(10);

/// How much is borne.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub places: usize,
    /// For the headers of a request to be told, and for the next request to begin.
    pub patience: Duration,
    /// For answers under way when the end has come.
    pub grace: Duration,
}

/// A bound socket and what is told there. Each request brings its [`Peer`] as an extension.
#[derive(Debug)]
pub struct Host {
    listener: Listener,
    routes: Router,
    limits: Limits,
}

impl Host {
    /// Whoever connects is told what `routes` say.
    pub fn new(listener: Listener, routes: Router, limits: Limits) -> Self {
        Self {
            listener,
            routes,
            limits,
        }
    }

    /// Where to reach it from this machine.
    pub fn url(&self) -> &str {
        self.listener.url()
    }

    /// Answers one request, as if it had come from `peer`.
    pub fn answer<B>(
        &self,
        request: Request<B>,
        peer: Peer,
    ) -> impl Future<Output = Response<Body>> + use<B>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        answer(self.routes.clone(), peer, request)
    }

    /// Answers until `end`, then lets answers finish, cuts what is left and returns.
    pub async fn serve(mut self, end: CancellationToken) {
        let Limits { places, grace, .. } = self.limits;
        let lobby = Lobby::new(places, AGE + 2 * GRACE);
        // Dropping it cuts every connection.
        let mut connections = JoinSet::new();
        loop {
            select! {
                biased;
                () = end.cancelled() => break,
                Some(_) = connections.join_next() => {}
                // Who is shown out has to be gone before the next comes in, or a crowd that arrives at once
                // takes more descriptors than there are places.
                (socket, peer) = self.listener.accept(), if connections.len() <= places => {
                    let talk = converse(socket, peer, self.routes.clone(), self.limits.patience, end.clone());
                    let lobby = lobby.clone();
                    connections.spawn(async move {
                        let _ = lobby.admit(talk).await;
                    });
                }
            }
        }
        drop(self.listener);
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(grace, all).await;
    }
}

/// One connection, from its first byte to its end.
async fn converse(
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Peer,
    routes: Router,
    patience: Duration,
    end: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(MAX_HEADERS);
    let answer = service_fn(|request| {
        let answer = answer(routes.clone(), peer, request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut talk = pin!(http.serve_connection(TokioIo::new(socket), answer));
    select! {
        // An error is the peer's: it left, or spoke no HTTP.
        _ = talk.as_mut() => return,
        () = sleep(AGE) => {}
        () = end.cancelled() => {}
    }
    talk.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, talk).await;
}

async fn answer<B>(routes: Router, peer: Peer, mut request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    request.extensions_mut().insert(peer);
    match routes.oneshot(request).await {
        Ok(answer) => answer,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
        spawn,
        time::Instant,
    };

    use axum::routing::get;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn talk(socket: DuplexStream) -> impl Future<Output = ()> {
        let routes = Router::new().route("/livez", get(|| async { "ok" }));
        let end = CancellationToken::new();
        converse(socket, Peer::Loopback, routes, PATIENCE, end)
    }

    const ASK: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A connection, and what the peer holds of it.
    fn connected() -> DuplexStream {
        let (peer, socket) = duplex(64 * 1024);
        spawn(talk(socket));
        peer
    }

    /// Everything it says until it closes, and how long that took.
    async fn said(peer: &mut (impl AsyncRead + Unpin)) -> (String, Duration) {
        let (mut bytes, began) = (Vec::new(), Instant::now());
        // A reset is an end, too.
        let _ = peer.read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (text, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_left_after_ten_seconds() {
        let (_, took) = said(&mut connected()).await;
        assert_eq!(took.as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_buys_no_time() {
        let (mut reader, mut writer) = split(connected());
        spawn(async move {
            for byte in ASK.bytes() {
                if writer.write_all(&[byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        let (answer, took) = said(&mut reader).await;
        assert!(!answer.contains("200 OK"), "{answer}");
        assert_eq!(took.as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_asks_no_more_is_left_after_ten_seconds() {
        let mut peer = connected();
        peer.write_all(ASK.as_bytes()).await.unwrap();
        let (answer, took) = said(&mut peer).await;
        assert!(answer.contains("200 OK"), "{answer}");
        assert_eq!(took.as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_ends_the_connection_at_once() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
        for garbage in [
            "\x16\x03\x01\x02\x00 hello",
            "PRI * HTTP/2.0\r\n\r\n",
            &long,
        ] {
            let mut peer = connected();
            peer.write_all(garbage.as_bytes()).await.unwrap();
            let (answer, took) = said(&mut peer).await;
            assert!(!answer.contains("200 OK"), "{answer}");
            assert_eq!(took, Duration::ZERO, "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_is_asked_to_come_again() {
        let (mut reader, mut writer) = split(connected());
        let asking = spawn(async move {
            while writer.write_all(ASK.as_bytes()).await.is_ok() {
                sleep(Duration::from_secs(5)).await;
            }
        });
        let (_, took) = said(&mut reader).await;
        assert!(AGE <= took && took < AGE + GRACE, "{took:?}");
        asking.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_reads_is_cut_in_the_end() {
        let (peer, socket) = duplex(16);
        let serving = spawn(talk(socket));
        let (_reader, mut writer) = split(peer);
        writer.write_all(ASK.as_bytes()).await.unwrap();
        let began = Instant::now();
        serving.await.unwrap();
        assert_eq!(began.elapsed(), AGE + GRACE);
    }
}
