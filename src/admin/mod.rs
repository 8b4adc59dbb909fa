//! How people, Prometheus and probes look at the server: metrics, liveness, readiness. Nothing here
//! changes anything, and nothing here is secret, so nobody is asked for a key.
//!
//! Whoever probes must always get through, also while others misbehave. So there are no seats that a
//! flood could take: in a crowd the connection that has been here the longest is shown out, and an
//! answer that is ready is written in the same breath as its question is read.

mod facts;
mod pages;
mod probes;

use std::{pin::pin, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::pages::Pages;
use crate::{
    config,
    listener::{BindError, Listener, Lobby, room_for_probes},
    telemetry::Metrics,
    tokens::Tokens,
};

/// Connections at a time, if the limit of open files has room for them.
const PLACES: usize = 100;

/// For a request to be told, and for the next one to begin.
const HEAD: Duration = Duration::from_secs(10);

/// The longest headers of a request; hyper's least.
const MAX_HEADERS: usize = 8 * 1024;

/// A connection this old is asked to come again.
const AGE: Duration = Duration::from_mins(10);

/// Left to an aged connection for the answer under way.
const GRACE: Duration = Duration::from_secs(10);

/// A listener with its socket bound: callers may connect, and are answered once it serves.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    pages: Router,
}

impl Server {
    /// Binds the socket. From `stop` on the server counts as not ready.
    pub async fn bind(
        settings: &config::Admin,
        tokens: Tokens,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<Self, BindError> {
        Ok(Self {
            listener: Listener::bind(&settings.listen).await?,
            pages: Pages::new(tokens, metrics, stop).routes(),
        })
    }

    /// Where to reach it from this machine.
    pub fn local_url(&self) -> &str {
        self.listener.url()
    }

    /// Answers until `end`, which is later than the stop: the drain is what probes want to see. Then
    /// it cuts what is left and returns.
    pub async fn serve(mut self, end: CancellationToken) {
        let places = room_for_probes(PLACES);
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
                (socket, _) = self.listener.accept(), if connections.len() <= places => {
                    let (lobby, pages) = (lobby.clone(), self.pages.clone());
                    connections.spawn(async move {
                        let _ = lobby.admit(converse(socket, pages)).await;
                    });
                }
            }
        }
    }
}

/// One connection, from its first byte to its end.
async fn converse(socket: impl AsyncRead + AsyncWrite + Unpin + 'static, pages: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEADERS);
    let pages = TowerToHyperService::new(pages);
    let mut talk = pin!(http.serve_connection(TokioIo::new(socket), pages));
    select! {
        // An error is the peer's: it left, or spoke no HTTP.
        _ = talk.as_mut() => return,
        () = sleep(AGE) => {}
    }
    talk.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, talk).await;
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
        spawn,
        time::Instant,
    };

    use super::*;
    use crate::{clock::Clock, domain::AppName, tokens::channel};

    const ASK: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A connection, and what the peer holds of it.
    fn connected() -> DuplexStream {
        let app = AppName::parse("shop").unwrap();
        let (tokens, _publisher) = channel([(app, "wx1".into())], Clock::SYSTEM);
        let pages = Pages::new(tokens, Metrics::new(), CancellationToken::new());
        let (peer, socket) = duplex(64 * 1024);
        spawn(converse(socket, pages.routes()));
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
        let app = AppName::parse("shop").unwrap();
        let (tokens, _publisher) = channel([(app, "wx1".into())], Clock::SYSTEM);
        let pages = Pages::new(tokens, Metrics::new(), CancellationToken::new());
        let serving = spawn(converse(socket, pages.routes()));
        let (_reader, mut writer) = split(peer);
        writer.write_all(ASK.as_bytes()).await.unwrap();
        let began = Instant::now();
        serving.await.unwrap();
        assert_eq!(began.elapsed(), AGE + GRACE);
    }
}
