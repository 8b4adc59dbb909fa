//! What programs get that speak WeChat's own protocol, or just HTTP, over real sockets.

mod sdks;
mod versioned;
mod wechat;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use wxtokend::{
    clock::Clock,
    config::{self, Listen},
    domain::{
        Secret,
        access::{Access, Consumer, Grant, Right},
    },
    http::Server,
    telemetry::Metrics,
    tokens::{self, Publisher, Tokens},
};

use crate::served::{alive, app, within};

const OVERLAP: Duration = Duration::from_mins(5);

/// A server with the apps `shop` (`wx1`) and `other` (`wx2`), whose tokens are published by hand.
struct Site {
    url: String,
    tokens: Tokens,
    publisher: Publisher,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Site {
    async fn open(consumers: Vec<Consumer>) -> Self {
        let apps = [("shop", "wx1"), ("other", "wx2")];
        Self::of(&apps, consumers).await
    }

    async fn of(apps: &[(&str, &str)], consumers: Vec<Consumer>) -> Self {
        let names = apps
            .iter()
            .map(|&(name, appid)| (app(name), appid.to_owned()));
        let (tokens, publisher) = tokens::channel(names, Clock::SYSTEM);
        let (_, access) = watch::channel(Arc::new(Access::new(consumers)));
        let settings = config::Http {
            listen: Listen::Tcp("127.0.0.1:0".into()),
            ..config::Http::default()
        };
        let overlaps = apps.iter().map(|&(name, _)| (app(name), OVERLAP)).collect();
        let (metrics, grace) = (Metrics::new(), Duration::from_secs(5));
        let server = Server::bind(&settings, tokens.clone(), access, overlaps, &metrics, grace);
        let server = server.await.unwrap();
        let stop = CancellationToken::new();
        Self {
            url: server.local_url().to_owned(),
            tokens,
            publisher,
            stop: stop.clone(),
            serving: tokio::spawn(server.serve(stop)),
        }
    }

    /// A token of `name` called `token-GENERATION`, to be kept for half of its life.
    fn publish(&self, name: &str, generation: u64, life: Duration) {
        let view = alive(&self.tokens, generation, life);
        self.publisher.publish(&app(name), view);
    }

    async fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[], "").await
    }

    async fn ask(&self, method: &str, target: &str, headers: &[&str], body: &str) -> Reply {
        let asking = ask(&self.url, method, target, headers, body);
        within(asking, &format!("{method} {target} is answered")).await
    }
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }
}

/// One exchange of HTTP, by hand, on a connection of its own.
async fn ask(url: &str, method: &str, target: &str, headers: &[&str], body: &str) -> Reply {
    let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let more = headers.iter().flat_map(|header| [*header, "\r\n"]);
    let more: String = more.collect();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    Reply {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// A consumer that sees `shop`, with the key `key-of-NAME`.
fn consumer(name: &str, rights: &[Right], margin: u64) -> Consumer {
    Consumer {
        key: Secret::new(format!("key-of-{name}")),
        grant: Arc::new(Grant {
            holder: name.into(),
            apps: Some([app("shop")].into()),
            rights: rights.iter().copied().collect(),
            margin: Duration::from_secs(margin),
        }),
    }
}
