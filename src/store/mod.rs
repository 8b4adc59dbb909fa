//! Where tokens survive.
//!
//! One trait, because a single server wants files and a fleet wants something shared; one match in
//! [`open`], because the configuration chooses.

#[cfg(feature = "etcd")]
mod etcd;
mod file;
mod lock;
mod memory;
mod redis;
pub mod shared;
mod snapshot;
mod times;
mod transfer;

use std::{error::Error, io, mem::discriminant, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use shared::Shared;
pub use snapshot::{Damage, read as read_state, write as write_state};
pub use transfer::{Copied, copy};

use crate::{clock::Clock, config, domain::Record};

/// Keeps one [`Record`] for each app, by appid.
///
/// A later `save` replaces an earlier one whole, also after a crash in the middle of it. Two servers on a
/// store that is meant for one are kept apart by [`open`], which fails for the second; on a shared one
/// ([`shared`]) only the replica that holds an app's claim can save.
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// What was saved last, `None` if nothing was. Moments are translated to this machine's present
    /// uptime; no token has more life left than it had when it was made.
    async fn load(&self, appid: &str) -> Result<Option<Record>, StoreError>;

    /// The same for whoever moves it elsewhere: what cannot be believed is an error, and stays where it is.
    async fn read(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        self.load(appid).await
    }

    /// Saves durably: a crash right after it loses nothing.
    async fn save(&self, appid: &str, record: &Record) -> Result<(), StoreError>;

    /// Whether this server may ask WeChat for a token of `appid` and will still be the only one to do so
    /// for `span` from now. Always, if it has the store to itself.
    async fn may_ask(&self, _appid: &str, _span: Duration) -> bool {
        true
    }
}

/// Opens the configured store. Blocks for as long as the disk does.
///
/// `apps` are the appids. A store that replicas share is used from now on, by a task of its own.
pub fn open(config: &config::Store, apps: Vec<String>, clock: Clock) -> Result<Opened, StoreError> {
    Ok(match config {
        config::Store::Memory => Opened::Own(Arc::new(memory::Memory::default())),
        config::Store::File { path } => Opened::Own(Arc::new(file::Files::open(path, clock)?)),
        config::Store::Etcd(etcd, sharing) => {
            let sharing = shared::Sharing::new(sharing, apps, clock);
            let engine = open_etcd(etcd, &sharing)?;
            Opened::Shared(Arc::new(Shared::begin(engine, sharing)))
        }
        config::Store::Redis(redis, sharing) => {
            let sharing = shared::Sharing::new(sharing, apps, clock);
            let engine = redis::Redis::new(redis, &sharing.me, &sharing.apps, sharing.lease)?;
            Opened::Shared(Arc::new(Shared::begin(Arc::new(engine), sharing)))
        }
    })
}

#[cfg(feature = "etcd")]
fn open_etcd(
    config: &config::Etcd,
    sharing: &shared::Sharing,
) -> Result<Arc<dyn shared::Engine>, StoreError> {
    let engine = etcd::Etcd::new(config, &sharing.me, sharing.lease)?;
    Ok(Arc::new(engine))
}

#[cfg(not(feature = "etcd"))]
fn open_etcd(
    _config: &config::Etcd,
    _sharing: &shared::Sharing,
) -> Result<Arc<dyn shared::Engine>, StoreError> {
    Err(StoreError::NotBuilt { kind: "etcd" })
}

/// A store that is ready for use.
#[derive(Clone, Debug)]
pub enum Opened {
    /// This server has it to itself.
    Own(Arc<dyn Store>),
    /// Other replicas use it too.
    Shared(Arc<Shared>),
}

impl From<Arc<dyn Store>> for Opened {
    fn from(store: Arc<dyn Store>) -> Self {
        Self::Own(store)
    }
}

impl Opened {
    /// What loads and saves.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Own(store) => Arc::clone(store),
            Self::Shared(store) => Arc::<Shared>::clone(store),
        }
    }
}

impl StoreError {
    /// Whether `other` is the same trouble again. Names of temporary files do not count.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Io { action, source, .. },
                Self::Io {
                    action: a,
                    source: s,
                    ..
                },
            ) => (*action, source.kind()) == (*a, s.kind()),
            (Self::Remote { action, .. }, Self::Remote { action: a, .. }) => action == a,
            _ => discriminant(self) == discriminant(other),
        }
    }
}

/// Why a store could not be used. Names the place and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another server holds the store.
    #[error("{place} is in use by {holder}")]
    Held {
        /// The folder.
        place: String,
        /// Who holds it, as far as it says.
        holder: String,
    },
    /// Writing takes too long.
    #[error("the store did not answer within {} s", .patience.as_secs())]
    Slow {
        /// How long it was waited for.
        patience: Duration,
    },
    /// The program was built without it.
    #[error("this program was built without the store `{kind}`")]
    NotBuilt {
        /// Which one.
        kind: &'static str,
    },
    /// Another replica refreshes the app, or nobody does: what this one knows is out of date.
    #[error("this replica does not hold the claim any more")]
    Lost,
    /// A database could not be used.
    #[error("{place} cannot be {action}")]
    Remote {
        /// Which one.
        place: String,
        /// What was tried, as a participle.
        action: &'static str,
        /// What its client says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Reading or writing failed.
    #[error("{place} cannot be {action}")]
    Io {
        /// The file or folder.
        place: String,
        /// What was tried, as a participle.
        action: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// The error and its cause. Its words hold places and no secret.
    pub fn told(&self) -> String {
        let source = self.source().map(|source| format!(": {source}"));
        format!("{self}{}", source.unwrap_or_default())
    }

    /// For `map_err`.
    fn io(place: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let place = format!("`{}`", place.display());
        move |source| Self::Io {
            place,
            action,
            source,
        }
    }
}
