//! An HTTP client that does nothing by itself.
//!
//! A fetch is not idempotent, so whatever a convenient client does behind one's back is a fault here:
//! it must not repeat a request, follow a redirect, reuse a connection that may be half dead, or ask
//! the environment for a proxy. It tries the next base URL only while nothing was sent.
//!
//! What it gives up is given up by the kernel as well: without that, bytes that were not acknowledged would be
//! sent again for minutes after the connection was closed.
//!
//! "Nothing was sent" is observed, not guessed from an error's kind: a [`Watched`] connector notes
//! that a connection, with its TLS or its proxy tunnel, is ready for the request. Before that, nothing of the
//! request can be on the wire; after it, everything may be. This also tells a time-out while
//! connecting from one while waiting.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use reqwest::{Proxy, Url, header, redirect, retry};
use rustls::ClientConfig;
use tokio::time::timeout;
use tower::util::MapResponseLayer;
use zeroize::Zeroizing;

use crate::config;

use super::{OpenError, error::Cause, tls};

/// The longest body that is read.
const BODY_LIMIT: usize = 64 * 1024;

/// How WeChat is reached.
pub(super) struct Client {
    base_urls: Vec<Url>,
    timeout: Duration,
    connect_timeout: Duration,
    proxy: Option<Proxy>,
    tls: ClientConfig,
}

/// A proxy's URL may hold a password, and its type prints it.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What is asked. The query and the body hold secrets, so there is no `Debug`.
pub(super) struct Request<'a> {
    pub(super) path: &'static str,
    pub(super) query: &'a [(&'static str, &'a str)],
    /// JSON; makes it a POST.
    pub(super) body: Option<Zeroizing<String>>,
}

/// A whole HTTP reply.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// No whole HTTP reply.
#[derive(Debug)]
pub(super) struct NoReply {
    pub(super) progress: Progress,
    pub(super) cause: Cause,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// Nothing was sent.
    Connecting,
    /// The request was sent, or some of it.
    Sent,
    /// A reply began.
    Replied,
}

impl Client {
    pub(super) fn new(config: &config::Upstream) -> Result<Self, OpenError> {
        let urls = config.base_urls.iter().enumerate();
        let base_urls = urls.map(|(index, url)| base_url(index, url));
        let proxy = config.proxy.as_deref().map(Proxy::all).transpose();
        let client = Self {
            base_urls: base_urls.collect::<Result<_, _>>()?,
            timeout: config.timeout,
            connect_timeout: config.connect_timeout,
            proxy: proxy.map_err(|_| OpenError::Proxy)?,
            tls: tls::config(config.ca_file.as_deref())?,
        };
        client
            .fresh(&Watched::default())
            .map_err(OpenError::Client)?;
        Ok(client)
    }

    /// Sends `request` to the first base URL that lets itself be connected, all in all within
    /// `limit`.
    pub(super) async fn send(
        &self,
        request: &Request<'_>,
        limit: Duration,
    ) -> Result<Reply, NoReply> {
        let watched = Watched::default();
        let outcome = match timeout(limit, self.try_each(request, &watched)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("there was no answer within {limit:?}").into()),
        };
        outcome.map_err(|cause| NoReply {
            progress: watched.progress(),
            cause,
        })
    }

    async fn try_each(&self, request: &Request<'_>, watched: &Watched) -> Result<Reply, Cause> {
        let mut failure: Cause = "no base URL is configured".into();
        for base_url in &self.base_urls {
            match self.try_one(base_url, request, watched).await {
                Ok(reply) => return Ok(reply),
                Err(cause) => failure = cause,
            }
            if watched.progress() > Progress::Connecting {
                break;
            }
        }
        Err(failure)
    }

    async fn try_one(
        &self,
        base_url: &Url,
        request: &Request<'_>,
        watched: &Watched,
    ) -> Result<Reply, Cause> {
        let client = self.fresh(watched).map_err(without_url)?;
        let mut url = base_url.clone();
        url.set_path(&format!(
            "{}{}",
            base_url.path().trim_end_matches('/'),
            request.path
        ));
        let call = match &request.body {
            None => client.get(url),
            Some(body) => client
                .post(url)
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.as_bytes().to_vec()),
        };
        let call = call.query(request.query);
        let response = call.send().await.map_err(without_url)?;
        watched.reached(Progress::Replied);
        whole(response).await
    }

    /// A client for one attempt: it has no connection that could be reused.
    fn fresh(&self, watched: &Watched) -> reqwest::Result<reqwest::Client> {
        let watched = watched.clone();
        let connected = MapResponseLayer::new(move |connection| {
            watched.reached(Progress::Sent);
            connection
        });
        let builder = reqwest::Client::builder()
            .http1_only()
            .tls_backend_preconfigured(self.tls.clone())
            .connect_timeout(self.connect_timeout)
            .connector_layer(connected)
            .pool_max_idle_per_host(0)
            .retry(retry::never())
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("wxtokend/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        // What was given up must not arrive when a network is mended, and retire the token obtained since.
        #[cfg(target_os = "linux")]
        let builder = builder.tcp_user_timeout(self.timeout);
        match &self.proxy {
            Some(proxy) => builder.proxy(proxy.clone()),
            None => builder,
        }
        .build()
    }
}

/// Reads the body to its end.
async fn whole(mut response: reqwest::Response) -> Result<Reply, Cause> {
    let status = response.status().as_u16();
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(without_url)? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err("the answer is longer than 64 KiB".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, body })
}

/// The progress of a request, shared with its connector.
#[derive(Clone, Default)]
struct Watched(Arc<AtomicU8>);

impl Watched {
    fn reached(&self, progress: Progress) {
        self.0.fetch_max(progress as u8, Ordering::SeqCst);
    }

    fn progress(&self) -> Progress {
        match self.0.load(Ordering::SeqCst) {
            0 => Progress::Connecting,
            1 => Progress::Sent,
            _ => Progress::Replied,
        }
    }
}

/// The URL of a classic fetch carries the secret, that of a look the token, and reqwest prints URLs.
fn without_url(error: reqwest::Error) -> Cause {
    error.without_url().into()
}

fn base_url(index: usize, url: &str) -> Result<Url, OpenError> {
    let usable = |url: &Url| matches!(url.scheme(), "http" | "https") && url.query().is_none();
    let url = Url::parse(url).ok().filter(usable);
    url.ok_or(OpenError::BaseUrl { index })
}
