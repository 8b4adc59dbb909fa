//! The configuration, valid by construction.

use std::{path::PathBuf, time::Duration};

use crate::domain::{AppName, Policy, Secret};

/// Everything an operator can set.
#[derive(Debug)]
pub struct Config {
    /// The gRPC listener.
    pub grpc: Grpc,
    /// Where tokens survive.
    pub store: Store,
    /// How WeChat is reached.
    pub upstream: Upstream,
    /// How the program talks.
    pub log: Log,
    /// The apps, at least one; names and appids are unique.
    pub apps: Vec<App>,
    /// Who may ask; none means: loopback and unix sockets only.
    pub consumers: Vec<Consumer>,
}

/// `[grpc]`.
#[derive(Clone, Debug)]
pub struct Grpc {
    /// Where to listen.
    pub listen: Listen,
    /// Connections beyond this wait to be accepted.
    pub max_connections: usize,
    /// Calls and streams at a time on one connection, at least 1000.
    pub max_streams_per_connection: u32,
    /// After this long, more or less 20 %, a connection is asked to move on.
    pub max_connection_age: Duration,
    /// Pause between two HTTP/2 pings.
    pub keepalive_interval: Duration,
    /// A ping not answered for this long ends the connection.
    pub keepalive_timeout: Duration,
    /// A connection that says nothing for this long at its start is cut.
    pub first_bytes_timeout: Duration,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`; port 0 takes any free one.
    Tcp(String),
    /// A unix socket's path.
    Unix(PathBuf),
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// Nothing survives.
    Memory,
    /// A file for each app in this folder.
    File {
        /// The folder, created if missing.
        path: PathBuf,
    },
}

/// `[upstream]`.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Tried in order; the next one only if nothing was sent to the one before.
    pub base_urls: Vec<String>,
    /// For TCP and TLS, each base URL.
    pub connect_timeout: Duration,
    /// For a whole fetch, over all base URLs.
    pub timeout: Duration,
    /// An HTTP proxy.
    pub proxy: Option<String>,
    /// More certificates to trust, PEM.
    pub ca_file: Option<PathBuf>,
}

/// `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// `[[app]]`.
#[derive(Debug)]
pub struct App {
    /// WeChat's id.
    pub appid: String,
    /// What it is called here.
    pub name: AppName,
    /// `mode`, `[refresh]` and its overrides, and the time-out of `[upstream]`.
    pub policy: Policy,
    /// Where its AppSecret is.
    pub secret: SecretSource,
}

/// Where a secret is read from, at each use.
#[derive(Debug)]
pub enum SecretSource {
    /// A file; white space around the secret is dropped.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// The sandbox's own.
    Fixed(Secret),
}

/// `[[consumer]]`.
#[derive(Debug)]
pub struct Consumer {
    /// For logs and errors.
    pub name: String,
    /// Where its key is.
    pub key: SecretSource,
    /// What it may see and do.
    pub grant: crate::domain::access::Grant,
}

impl SecretSource {
    /// Reads the secret as it is now.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let value = match self {
            Self::Fixed(secret) => secret.expose().to_owned(),
            Self::File(path) => {
                let place = format!("`{}`", path.display());
                std::fs::read_to_string(path)
                    .map_err(|source| SecretError::Unreadable { place, source })?
            }
            Self::Env(name) => {
                std::env::var(name).map_err(|_| SecretError::Missing { name: name.clone() })?
            }
        };
        Ok(Secret::new(value.trim()))
    }
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{place} cannot be read")]
    Unreadable {
        /// The file.
        place: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The environment variable is not set.
    #[error("the environment variable `{name}` is not set")]
    Missing {
        /// Its name.
        name: String,
    },
}
