//! The servers that a sidecar may follow, and the connection to the one that it follows now.
//!
//! A server is a name, and a name may have several addresses, as that of a headless service has. Each
//! address counts as a server: when one fails the next is tried, and the name is looked up anew each
//! time, because pods come and go.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::lookup_host, time::timeout};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    config::{self, SecretError, SecretSource},
    pb::token_service_client::TokenServiceClient,
};

/// For a name to be looked up, and for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Both ends notice a dead path.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    /// No address is known for any of the servers.
    #[error("the name of no server can be looked up")]
    Unknown,
    /// Nobody answers there.
    #[error("`{address}` cannot be reached")]
    Connect {
        /// Who was tried.
        address: String,
    },
    /// The key cannot be read.
    #[error("the key cannot be used: {0}")]
    Key(#[from] SecretError),
    /// The key cannot be sent.
    #[error("the key cannot be used: it must be plain text without white space")]
    BadKey,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) address: String,
    pub(super) calls: TokenServiceClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

impl Line {
    /// `message` with the key and, if it is a call, with the time that it has.
    pub(super) fn request<T>(&self, message: T, limit: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            request.metadata_mut().insert("authorization", key.clone());
        }
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        request
    }
}

#[derive(Debug)]
pub(super) struct Servers {
    urls: Vec<String>,
    key: Option<Arc<SecretSource>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// All apps stay with one server, until it fails.
    followed: Option<String>,
    lines: BTreeMap<String, Channel>,
}

impl Servers {
    pub(super) fn new(settings: &config::Agent) -> Self {
        // Sidecars that start together spread over the servers.
        let mut urls = settings.servers.clone();
        fastrand::shuffle(&mut urls);
        Self {
            urls,
            key: settings.key.clone(),
            state: Mutex::default(),
        }
    }

    /// A connection to the server that is followed now.
    pub(super) async fn line(&self) -> Result<Line, Unreachable> {
        let key = self.key.as_deref().map(bearer).transpose()?;
        let address = self.followed().await?;
        let known = self.state().lines.get(&address).cloned();
        let channel = match known {
            Some(channel) => channel,
            None => self.connect(&address).await?,
        };
        Ok(Line {
            address,
            calls: TokenServiceClient::new(channel),
            key,
        })
    }

    /// `address` did not do: whoever comes next tries another one.
    pub(super) fn give_up(&self, address: &str) {
        let mut state = self.state();
        state.lines.remove(address);
    }

    async fn connect(&self, address: &str) -> Result<Channel, Unreachable> {
        let unreachable = || Unreachable::Connect {
            address: address.to_owned(),
        };
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| unreachable())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true);
        match timeout(CONNECT, endpoint.connect()).await {
            Ok(Ok(channel)) => {
                let mut state = self.state();
                let lines = &mut state.lines;
                // Another app may have been faster.
                let line = lines.entry(address.to_owned()).or_insert(channel);
                Ok(line.clone())
            }
            _ => Err(unreachable()),
        }
    }

    /// The one that is connected, or the next one after it.
    async fn followed(&self) -> Result<String, Unreachable> {
        let (before, is_connected) = {
            let state = self.state();
            let before = state.followed.clone();
            let is_connected = before.as_ref().is_some_and(|b| state.lines.contains_key(b));
            (before, is_connected)
        };
        if let (Some(before), true) = (&before, is_connected) {
            return Ok(before.clone());
        }
        let all = self.addresses().await;
        let next = before.and_then(|before| all.iter().position(|address| *address == before));
        let next = next.map_or(0, |at| (at + 1) % all.len());
        let next = all.get(next).cloned().ok_or(Unreachable::Unknown)?;
        let mut state = self.state();
        // Another app may have chosen meanwhile.
        let chosen = state.followed.clone();
        if let Some(chosen) = chosen.filter(|chosen| state.lines.contains_key(chosen)) {
            return Ok(chosen);
        }
        state.followed = Some(next.clone());
        Ok(next)
    }

    /// Every address of every server, as URLs.
    async fn addresses(&self) -> Vec<String> {
        let mut all = Vec::new();
        for url in &self.urls {
            let Some(host) = url.strip_prefix("http://") else {
                all.push(url.clone()); // a unix socket
                continue;
            };
            let host = host.trim_end_matches('/');
            let found = timeout(CONNECT, lookup_host(host)).await;
            let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let mut found: Vec<String> = found
                .into_iter()
                .flatten()
                .map(|address| format!("http://{address}"))
                .collect();
            fastrand::shuffle(&mut found);
            found.retain(|address| !all.contains(address));
            all.append(&mut found);
        }
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bearer(key: &SecretSource) -> Result<MetadataValue<Ascii>, Unreachable> {
    let value = format!("Bearer {}", key.read()?.expose());
    let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| Unreachable::BadKey)?;
    value.set_sensitive(true);
    Ok(value)
}
