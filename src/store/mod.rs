//! Where tokens survive.
//!
//! One trait, because a single server wants files and a fleet wants something shared; one match in
//! [`open`], because the configuration chooses.

mod file;
mod lock;
mod memory;
mod snapshot;
mod times;

use std::{io, mem::discriminant, path::Path, sync::Arc};

use async_trait::async_trait;

pub use snapshot::{Damage, read as read_state, write as write_state};

use crate::{clock::Clock, config, domain::Record};

/// Keeps one [`Record`] for each app, by appid.
///
/// A later `save` replaces an earlier one whole, also after a crash in the middle of it. Two servers
/// on one store are kept apart by [`open`], which fails for the second.
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// What was saved last, `None` if nothing was. Moments are translated to this machine's present
    /// uptime; no token has more life left than it had when it was made.
    async fn load(&self, appid: &str) -> Result<Option<Record>, StoreError>;

    /// Saves durably: a crash right after it loses nothing.
    async fn save(&self, appid: &str, record: &Record) -> Result<(), StoreError>;
}

/// Opens the configured store. Blocks for as long as the disk does.
pub fn open(config: &config::Store, clock: Clock) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match config {
        config::Store::Memory => Arc::new(memory::Memory::default()),
        config::Store::File { path } => Arc::new(file::Files::open(path, clock)?),
    })
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
        patience: std::time::Duration,
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
