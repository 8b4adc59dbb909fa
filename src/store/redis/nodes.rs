//! Connections to Redis, in each of its forms.

use std::{
    fmt, fs,
    path::Path,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{Either, select};
use redis::{
    Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsCertificates, TlsMode,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use tokio::time::timeout;

use super::super::StoreError;
use crate::{
    config::{self, SecretError, SecretSource},
    domain::Secret,
};

/// For one call.
pub(super) const CALL: Duration = Duration::from_millis(700);

/// Where it is, and the connection that is in use.
pub(super) struct Nodes {
    form: Form,
    addresses: Vec<(String, u16)>,
    /// Of a database, or of a master.
    name: String,
    encrypted: bool,
    user: Option<String>,
    password: Option<SecretSource>,
    certificates: TlsCertificates,
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Single,
    Sentinel,
    Cluster,
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Not derived: what connections are made of holds the password.
impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nodes").field(&self.addresses).finish()
    }
}

/// Why Redis did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("no answer within {} ms", CALL.as_millis())]
    Silent,
    #[error(transparent)]
    Password(#[from] SecretError),
}

impl Failure {
    fn is_about_the_password(&self) -> bool {
        let Self::Redis(error) = self else {
            return false;
        };
        error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("NOAUTH")
    }

    pub(super) fn at(self, action: &'static str) -> StoreError {
        StoreError::Remote {
            place: "Redis".to_owned(),
            action,
            source: Box::new(self),
        }
    }
}

impl Nodes {
    pub(super) fn new(config: &config::Redis) -> Result<Self, StoreError> {
        let (scheme, rest) = config.url.split_once("://").unwrap_or_default();
        let (hosts, name) = rest.split_once('/').unwrap_or((rest, ""));
        let form = match scheme.split_once('-').map_or("", |(_, form)| form) {
            "sentinel" => Form::Sentinel,
            "cluster" => Form::Cluster,
            _ => Form::Single,
        };
        let address = |host: &str| {
            let (host, port) = host.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host.to_owned(), port.parse().ok()?))
        };
        Ok(Self {
            form,
            addresses: hosts.split(',').filter_map(address).collect(),
            name: name.to_owned(),
            encrypted: scheme.starts_with("rediss"),
            user: config.user.clone(),
            password: config.password_file.clone().map(SecretSource::File),
            certificates: certificates(&config.tls)?,
            connection: Mutex::default(),
        })
    }

    /// Sends a command, over a new connection if the last one failed.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        action: &'static str,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        let answer = timeout(CALL, async {
            let answer = match self.connection().await? {
                Connection::Single(mut connection) => command.query_async(&mut connection).await,
                Connection::Cluster(mut connection) => command.query_async(&mut connection).await,
            };
            answer.map_err(Failure::Redis)
        });
        let failure = match answer.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Silent,
        };
        // It may be another server's turn by now.
        *self.lock() = None;
        Err(failure.at(action))
    }

    async fn connection(&self) -> Result<Connection, Failure> {
        if let Some(connection) = self.lock().clone() {
            return Ok(connection);
        }
        let connection = match self.form {
            Form::Cluster => Connection::Cluster(self.cluster().await?),
            Form::Single | Form::Sentinel => {
                let client = self.client().await?;
                Connection::Single(client.get_multiplexed_async_connection().await?)
            }
        };
        *self.lock() = Some(connection.clone());
        Ok(connection)
    }

    /// A connection that hears what is published.
    pub(super) async fn ear(&self) -> Result<PubSub, Failure> {
        Ok(self.client().await?.get_async_pubsub().await?)
    }

    /// A client of the one server, of the present master, or of any node.
    async fn client(&self) -> Result<Client, Failure> {
        if self.form == Form::Sentinel {
            return self.master().await;
        }
        let any = fastrand::usize(..self.addresses.len().max(1));
        let info = self.info(any)?;
        let client = if self.encrypted {
            Client::build_with_tls(info, self.certificates.clone())?
        } else {
            Client::open(info)?
        };
        Ok(client)
    }

    /// Sentinels that have a password have that of Redis; one that has none refuses whoever sends one. Both are
    /// tried at once: a sentinel that does not answer takes all the time that there is.
    async fn master(&self) -> Result<Client, Failure> {
        let password = self.password.as_ref().map(SecretSource::read).transpose()?;
        let Some(password) = &password else {
            return self.master_told_by_sentinels(None, None).await;
        };
        let known = pin!(self.master_told_by_sentinels(Some(password), Some(password)));
        let open = pin!(self.master_told_by_sentinels(Some(password), None));
        let (one, other) = match select(known, open).await {
            Either::Left((Ok(client), _)) | Either::Right((Ok(client), _)) => return Ok(client),
            Either::Left((Err(one), open)) => (one, open.await),
            Either::Right((Err(one), known)) => (one, known.await),
        };
        // One of them is about nothing but the password that a sentinel wants or does not want.
        other.map_err(|other| {
            if other.is_about_the_password() {
                one
            } else {
                other
            }
        })
    }

    async fn master_told_by_sentinels(
        &self,
        password: Option<&Secret>,
        of_sentinels: Option<&Secret>,
    ) -> Result<Client, Failure> {
        // Their answers are taken in this order, and the first one may never come.
        let first = fastrand::usize(..self.addresses.len().max(1));
        let order = (first..self.addresses.len()).chain(0..first);
        let sentinels = order.map(|n| self.address(n));
        let mut builder =
            SentinelClientBuilder::new(sentinels, &self.name, SentinelServerType::Master)?;
        if let Some(user) = &self.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = password {
            builder = builder.set_client_to_redis_password(password.expose());
        }
        if let Some(password) = of_sentinels {
            builder = builder.set_client_to_sentinel_password(password.expose());
        }
        if self.encrypted {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(self.certificates.clone())
                .set_client_to_sentinel_certificates(self.certificates.clone());
        }
        Ok(builder.build()?.async_get_client().await?)
    }

    async fn cluster(&self) -> Result<ClusterConnection, Failure> {
        let nodes: Result<Vec<ConnectionInfo>, Failure> =
            (0..self.addresses.len()).map(|n| self.info(n)).collect();
        let mut builder = ClusterClient::builder(nodes?)
            .connection_timeout(CALL)
            .response_timeout(CALL);
        if self.encrypted {
            builder = builder
                .tls(TlsMode::Secure)
                .certs(self.certificates.clone());
        }
        Ok(builder.build()?.get_async_connection().await?)
    }

    fn address(&self, n: usize) -> ConnectionAddr {
        let (host, port) = self.addresses[n].clone();
        if self.encrypted {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn info(&self, n: usize) -> Result<ConnectionInfo, Failure> {
        let mut settings = RedisConnectionInfo::default();
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.read()?.expose());
        }
        if let Ok(database) = self.name.parse() {
            settings = settings.set_db(database);
        }
        let info = self.address(n).into_connection_info()?;
        Ok(info.set_redis_settings(settings))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn certificates(files: &config::Tls) -> Result<TlsCertificates, StoreError> {
    let read = |path: &Path| fs::read(path).map_err(StoreError::io(path, "read"));
    let client_tls = match &files.identity {
        Some((cert, key)) => Some(ClientTlsConfig {
            client_cert: read(cert)?,
            client_key: read(key)?,
        }),
        None => None,
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert: files.ca_file.as_deref().map(read).transpose()?,
    })
}
