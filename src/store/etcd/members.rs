//! The members of a cluster, and which of them is talked to.
//!
//! One at a time; when it does not answer, the next. The client's own balancing goes on sending to a
//! member that has stopped.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::{Instant, timeout},
};
use zeroize::Zeroizing;

use super::super::StoreError;
use crate::config::{self, SecretError, SecretSource};

/// For one call of one member. A fleet's calls are answered within milliseconds.
pub(super) const CALL: Duration = Duration::from_millis(700);

/// To reach a member.
const CONNECT: Duration = Duration::from_millis(500);

/// The pause after a name and password that are refused: each try costs etcd as much as a right one.
const REFUSED: Duration = Duration::from_secs(5);

/// The pause between two signs of life of a connection, and how long the second is waited for. etcd hangs
/// up on whoever pings more often than each five seconds.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));

/// The members of a cluster, of which one at a time is talked to.
pub(super) struct Members {
    endpoints: Vec<String>,
    user: Option<(String, PathBuf)>,
    options: ConnectOptions,
    current: Mutex<Current>,
    /// One connection is made at a time, for all who wait.
    connecting: AsyncMutex<()>,
    /// Another member is talked to.
    pub(super) moved: watch::Sender<()>,
}

#[derive(Default)]
struct Current {
    at: usize,
    client: Option<Arc<Client>>,
    /// When the name and password were refused last, and in what words.
    refused: Option<(Instant, String)>,
}

/// Not derived: the options of a client hold the password.
impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Members").field(&self.endpoints).finish()
    }
}

impl Members {
    pub(super) fn new(config: &config::Etcd) -> Result<Self, StoreError> {
        let (every, patience) = KEEPALIVE;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(every, patience)
            .with_require_leader(true);
        if config.endpoints.iter().any(|at| at.starts_with("https://")) {
            options = options.with_tls(tls(&config.tls)?);
        }
        Ok(Self {
            endpoints: config.endpoints.clone(),
            user: config.user.clone(),
            options,
            // So that not all replicas talk to the same one.
            current: Mutex::new(Current {
                at: fastrand::usize(..config.endpoints.len().max(1)),
                ..Current::default()
            }),
            connecting: AsyncMutex::default(),
            moved: watch::Sender::default(),
        })
    }

    /// Asks a member, and when it does not answer or knows no leader, the next one. What is asked must
    /// bear to be asked twice.
    pub(super) async fn call<T, A>(
        &self,
        action: &'static str,
        ask: impl Fn(Client) -> A,
    ) -> Result<T, StoreError>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let mut tries = self.endpoints.len().min(2);
        loop {
            let at = self.present();
            let answer = timeout(CALL, async {
                let client = self.client().await?;
                ask(client).await.map_err(Failure::Etcd)
            });
            let error = match answer.await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => Failure::Silent,
            };
            tries -= 1;
            self.forget_if_refused(at, &error);
            let elsewhere = error.is_about_the_member();
            if elsewhere {
                self.go_on(at);
            }
            if !elsewhere || tries == 0 {
                return Err(error.at(action));
            }
        }
    }

    /// A client of the present member.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        if let Some(client) = &self.current().client {
            return Ok((**client).clone());
        }
        let _turn = self.connecting.lock().await;
        let at = {
            let current = self.current();
            if let Some(client) = &current.client {
                return Ok((**client).clone());
            }
            if let Some((since, why)) = &current.refused
                && since.elapsed() < REFUSED
            {
                return Err(Failure::Refused(why.clone()));
            }
            current.at
        };
        let mut options = self.options.clone();
        if let Some((name, password)) = &self.user {
            let password = SecretSource::File(password.clone()).read()?;
            options = options
                .with_user(name.as_str(), password.expose())
                .with_auto_token_refresh(true);
        }
        let endpoint = self.endpoints[at].as_str();
        let connected = Client::connect([endpoint], Some(options)).await;
        let mut current = self.current();
        current.refused = match &connected {
            Err(Error::GRpcStatus(status)) if is_about_the_user(status.code().into()) => {
                Some((Instant::now(), status.message().to_owned()))
            }
            _ => None,
        };
        let client = connected?;
        if current.at == at {
            current.client = Some(Arc::new(client.clone()));
        }
        Ok(client)
    }

    /// The password of a client may have been changed since it was made: then it is read again.
    pub(super) fn forget_if_refused(&self, at: usize, error: &Failure) {
        let refused = match error {
            Failure::Etcd(Error::GRpcStatus(status)) => [3, 16].contains(&i32::from(status.code())),
            _ => false,
        };
        let mut current = self.current();
        if refused && self.user.is_some() && current.at == at {
            current.client = None;
        }
    }

    /// Which member is talked to.
    pub(super) fn present(&self) -> usize {
        self.current().at
    }

    /// Turns to the next member, if nobody has turned away from the one `at` this place yet.
    pub(super) fn go_on(&self, at: usize) {
        let mut current = self.current();
        if current.at != at {
            return;
        }
        current.at = (current.at + 1) % self.endpoints.len();
        current.client = None;
        self.moved.send_replace(());
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls(files: &config::Tls) -> Result<TlsOptions, StoreError> {
    let read = |path: &Path| fs::read(path).map_err(StoreError::io(path, "read"));
    let mut tls = TlsOptions::new();
    tls = match &files.ca_file {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_webpki_roots(),
    };
    if let Some((cert, key)) = &files.identity {
        tls = tls.identity(Identity::from_pem(read(cert)?, Zeroizing::new(read(key)?)));
    }
    Ok(tls)
}

/// Why a member did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Etcd(#[from] Error),
    #[error("no answer within {} ms", CALL.as_millis())]
    Silent,
    #[error("{0}")]
    Refused(String),
    #[error("this replica has no lease yet")]
    NoLease,
    #[error("another member is asked now")]
    Moved,
    #[error(transparent)]
    Password(#[from] SecretError),
}

impl Failure {
    /// Whether another member may do better.
    pub(super) fn is_about_the_member(&self) -> bool {
        // Of gRPC: cancelled, unknown, deadline exceeded, internal, unavailable, unauthenticated.
        const ELSEWHERE: [i32; 6] = [1, 2, 4, 13, 14, 16];
        match self {
            Self::Etcd(Error::GRpcStatus(status)) => ELSEWHERE.contains(&status.code().into()),
            Self::NoLease
            | Self::Moved
            | Self::Refused(_)
            | Self::Password(_)
            | Self::Etcd(Error::InvalidArgs(_) | Error::LeaseKeepAliveError(_)) => false,
            Self::Silent | Self::Etcd(_) => true,
        }
    }

    pub(super) fn at(self, action: &'static str) -> StoreError {
        StoreError::Remote {
            place: "etcd".to_owned(),
            action,
            source: Box::new(self),
        }
    }
}

/// Of gRPC: invalid argument, as of a wrong password; permission denied; failed precondition, where nobody has one;
/// unauthenticated.
fn is_about_the_user(code: i32) -> bool {
    [3, 7, 9, 16].contains(&code)
}

/// Whether the lease is over.
pub(super) fn is_about_the_lease(error: &StoreError) -> bool {
    let StoreError::Remote { source, .. } = error else {
        return false;
    };
    matches!(
        source.downcast_ref::<Failure>(),
        Some(Failure::Etcd(Error::LeaseKeepAliveError(_)))
    )
}
