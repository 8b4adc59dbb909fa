//! The configuration, valid by construction.
//!
//! A [`Config`] exists only if nothing is wrong with it; otherwise there are [`Problems`], all of them,
//! each with its place. What can be written, with defaults and bounds, is in `raw.rs`.

mod addresses;
mod agent;
mod env;
mod margins;
mod names;
mod places;
mod raw;
mod secrets;
mod section;
mod store;
mod tree;
mod values;
mod warnings;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

pub use agent::{Agent, Format, Notice, Output, TokenFile};
pub use env::environment;
pub use places::{Place, Problem, Problems};
pub use secrets::{SecretError, SecretSource};

use crate::domain::{AppName, Policy, access::Grant};
use places::{Lines, Report};
use section::Section;

/// Everything an operator can set.
#[derive(Debug)]
pub struct Config {
    /// The gRPC listener.
    pub grpc: Grpc,
    /// The listener for programs that speak WeChat's own protocol, if there is one.
    pub http: Option<Http>,
    /// The listener for metrics and probes, if there is one.
    pub admin: Option<Admin>,
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

impl Config {
    /// Reads a file and lays the environment's `WXTOKEND__…` over it.
    ///
    /// A file that cannot be read is a problem like any other.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        load(path, raw::config)
    }

    /// Reads `text`, which messages call `file_name`, and lays those of `variables` over it whose name
    /// starts with `WXTOKEND__`.
    ///
    /// Nothing else is read: whether secrets are there is asked by [`Config::warnings`].
    pub fn parse(
        text: &str,
        file_name: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        parse(text, file_name, variables, raw::config)
    }
}

fn load<T>(path: &Path, read: fn(&Section<'_>) -> T) -> Result<T, Problems> {
    let name = path.display().to_string();
    let bytes = fs::read(path)
        .map_err(|e| Problems::one(&name, Place::File, format!("cannot be read: {e}")))?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let place = Lines::of(&before).place(before.len());
        Problems::one(&name, place, "is not valid UTF-8".into())
    })?;
    parse(text, &name, environment(), read)
}

fn parse<T>(
    text: &str,
    file_name: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    read: fn(&Section<'_>) -> T,
) -> Result<T, Problems> {
    let report = Report::default();
    let mut tree = tree::read(text, &report);
    env::lay_over(&mut tree, variables, &report);
    let config = Section::root(&tree, &report).read(read);
    report.conclude(file_name, config)
}

/// `[grpc]`.
#[derive(Clone, Debug)]
pub struct Grpc {
    /// Where to listen.
    pub listen: Listen,
    /// Connections beyond this wait to be accepted.
    pub max_connections: usize,
    /// Connections that have not said their first bytes; beyond this the oldest of them is cut.
    pub max_handshakes: usize,
    /// Calls and streams at a time on one connection, at least 1000.
    pub max_streams_per_connection: u32,
    /// The longest request, in bytes.
    pub max_request_bytes: usize,
    /// After this long, more or less 20 %, a connection is asked to move on.
    pub max_connection_age: Duration,
    /// Pause between two HTTP/2 pings.
    pub keepalive_interval: Duration,
    /// A ping not answered for this long ends the connection.
    pub keepalive_timeout: Duration,
    /// A connection that says nothing for this long at its start is cut.
    pub first_bytes_timeout: Duration,
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1:50051".into()),
            max_connections: 20_000,
            max_handshakes: 1_000,
            max_streams_per_connection: 1_000,
            max_request_bytes: 64 * 1024,
            max_connection_age: Duration::from_mins(30),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            first_bytes_timeout: Duration::from_secs(10),
        }
    }
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where to listen.
    pub listen: Listen,
    /// Connections at a time; beyond this the oldest is shown out.
    pub max_connections: usize,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1:8080".into()),
            max_connections: 1_000,
        }
    }
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where to listen.
    pub listen: Listen,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1:9090".into()),
        }
    }
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
#[derive(Debug, PartialEq, Eq)]
pub enum Store {
    /// Nothing survives.
    Memory,
    /// A file for each app in this folder.
    File {
        /// The folder, created if missing.
        path: PathBuf,
    },
    /// Replicas share an etcd cluster.
    Etcd(Etcd, Sharing),
    /// Replicas share a Redis.
    Redis(Redis, Sharing),
}

/// How replicas share a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// How long a claim outlives the last sign of its replica.
    pub lease: Duration,
    /// The folder of the local copy, created if missing; `None` for no copy.
    pub cache: Option<PathBuf>,
}

/// `[store]` of the kind `etcd`.
#[derive(Debug, PartialEq, Eq)]
pub struct Etcd {
    /// The members, as URLs; all with TLS or none.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// A name, and the file with the password.
    pub user: Option<(String, PathBuf)>,
    /// For `https` endpoints.
    pub tls: Tls,
}

/// `[store]` of the kind `redis`.
#[derive(Debug, PartialEq, Eq)]
pub struct Redis {
    /// Where it is: `redis://`, `rediss://`, and for several nodes `redis-sentinel://` and `redis-cluster://`.
    pub url: String,
    /// What all keys begin with.
    pub prefix: String,
    /// Of an access list.
    pub user: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// For TLS.
    pub tls: Tls,
}

/// Files for TLS with a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates to trust, PEM, instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// A client's certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
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

impl Default for Upstream {
    fn default() -> Self {
        let servers = ["https://api.weixin.qq.com", "https://api2.weixin.qq.com"];
        Self {
            base_urls: servers.map(Into::into).into(),
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(10),
            proxy: None,
            ca_file: None,
        }
    }
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

/// `[[consumer]]`.
#[derive(Debug)]
pub struct Consumer {
    /// Where its key is.
    pub key: SecretSource,
    /// Who it is, and what it may see and do.
    pub grant: Grant,
}
