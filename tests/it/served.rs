//! A gRPC server whose tokens are published by hand, and clients for it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use wxtokend::{
    clock::Clock,
    config::{self, Listen},
    domain::{
        AppName, Generation, Moment, Remedy, Secret, Token, Trouble,
        access::{Access, Consumer},
    },
    grpc::Server,
    pb::token_service_client::TokenServiceClient,
    telemetry::Metrics,
    tokens::{self, Current, Publisher, Tokens, View},
};

use crate::history::History;

/// What any wait in a test may take at most: a test that hangs should say where.
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) type Client = TokenServiceClient<Channel>;

/// A server that is being served, with the hand that drives it.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) tokens: Tokens,
    pub(crate) publisher: Publisher,
    pub(crate) metrics: Metrics,
    /// What its streams say.
    pub(crate) history: History,
    pub(crate) access: watch::Sender<Arc<Access>>,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

/// Settings that no test waits for.
pub(crate) fn settings() -> config::Grpc {
    config::Grpc {
        listen: Listen::Tcp("127.0.0.1:0".into()),
        max_connections: 1000,
        max_handshakes: 100,
        max_streams_per_connection: 1000,
        max_request_bytes: 64 * 1024,
        max_connection_age: Duration::from_hours(1),
        keepalive_interval: Duration::from_secs(30),
        keepalive_timeout: Duration::from_secs(10),
        first_bytes_timeout: Duration::from_secs(10),
    }
}

pub(crate) async fn serve() -> Running {
    serve_with(settings(), Vec::new(), Duration::from_secs(10)).await
}

/// Serves the apps `shop` (`wx1`) and `other` (`wx2`) until `stop`, and `limit` longer at most.
pub(crate) async fn serve_with(
    settings: config::Grpc,
    consumers: Vec<Consumer>,
    limit: Duration,
) -> Running {
    let apps = [("shop", "wx1"), ("other", "wx2")];
    let apps = apps.map(|(name, appid)| (app(name), appid.to_owned()));
    let (tokens, publisher) = tokens::channel(apps, Clock::SYSTEM);
    let (access, reader) = watch::channel(Arc::new(Access::new(consumers)));
    let metrics = Metrics::new();
    let server = Server::bind(&settings, tokens.clone(), reader, &metrics).await;
    let server = server.unwrap();
    let stop = CancellationToken::new();
    Running {
        url: server.local_url().to_owned(),
        tokens,
        publisher,
        metrics,
        history: History::over_sockets(),
        access,
        stop: stop.clone(),
        serving: tokio::spawn(server.serve(stop, limit)),
    }
}

impl Running {
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.url.clone()).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::new(self.channel().await)
    }

    /// A bare connection, to misbehave with.
    pub(crate) async fn socket(&self) -> TcpStream {
        let address = self.url.strip_prefix("http://").unwrap();
        let address: SocketAddr = address.parse().unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    /// Publishes a token of `shop` with two hours to live.
    pub(crate) fn publish(&self, generation: u64) {
        let view = self.alive(generation, Duration::from_hours(2));
        self.publisher.publish(&app("shop"), view);
    }

    pub(crate) fn alive(&self, generation: u64, life: Duration) -> View {
        alive(&self.tokens, generation, life)
    }

    /// Ends it as the program does: no owner, no stream.
    pub(crate) async fn drain_and_stop(self) {
        self.publisher.drain();
        self.stop.cancel();
        within(self.serving, "the server ends").await.unwrap();
    }
}

/// A view of a token called `token-GENERATION`, a minute old, that lives so long from now on, and may be
/// kept for half of that.
pub(crate) fn alive(tokens: &Tokens, generation: u64, life: Duration) -> View {
    let (now, minute) = (tokens.now(), Duration::from_mins(1));
    let token = Token {
        value: Secret::new(format!("token-{generation}")),
        generation: Generation(generation),
        asked_at: now.boot - minute,
        expires_at: now.boot + life,
        issue_time: now.wall - minute,
        expire_time: now.wall + life,
    };
    let current = Current {
        published_at: now.boot,
        keep_at_most: None,
        certain_until: None,
        doubt: None,
        token: Arc::new(token),
        keep_until: now.boot + life / 2,
        previous_expires_at: Some(now.boot + Duration::from_mins(5)),
        dead: false,
    };
    View {
        current: Some(current),
        settled: true,
        ..View::default()
    }
}

pub(crate) fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

/// A first outcome that is none.
pub(crate) fn failed(remedy: Remedy, retry_at: Moment) -> View {
    let trouble = Trouble {
        remedy,
        errcode: Some(40164),
        definite: true,
        message: "WeChat refused".into(),
        hint: Some("do this".into()),
    };
    View {
        trouble: Some(Arc::new(trouble)),
        retry_at: Some(retry_at),
        settled: true,
        ..View::default()
    }
}

/// Waits for a fact, not for ever.
pub(crate) async fn within<F: Future>(fact: F, what: &str) -> F::Output {
    let output = tokio::time::timeout(SOON, fact).await;
    output.unwrap_or_else(|_| panic!("this did not happen in {SOON:?}: {what}"))
}

/// Asks again until the answer is true.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut ask: impl FnMut() -> F, what: &str) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(asking, what).await;
}
