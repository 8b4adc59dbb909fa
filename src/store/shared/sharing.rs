//! How one replica shares.

use std::{error::Error, fs, sync::Arc, time::Duration};

use tracing::warn;

use super::super::{Store, file::Files};
use crate::{clock::Clock, config};

/// How replicas share.
#[derive(Debug)]
pub struct Sharing {
    /// The name of this replica, unlike any other's.
    pub me: String,
    /// The appids.
    pub apps: Vec<String>,
    /// How long a claim outlives the last sign of its replica.
    pub lease: Duration,
    /// Where to keep a local copy for a start without the store.
    pub cache: Option<Arc<dyn Store>>,
    /// Tells one start of this machine from another; empty if it cannot be known.
    pub boot_id: String,
    /// The time.
    pub clock: Clock,
}

impl Sharing {
    /// As configured, under a new name for this replica. Without a local copy if that cannot be had.
    pub(in crate::store) fn new(config: &config::Sharing, apps: Vec<String>, clock: Clock) -> Self {
        let cache = config.cache.as_deref().map(|path| Files::open(path, clock));
        if let Some(Err(error)) = &cache {
            let error = error as &dyn Error;
            warn!(
                error,
                "there is no local copy for a start while the store is down"
            );
        }
        let cache = cache.and_then(Result::ok);
        Self {
            me: name(),
            apps,
            lease: config.lease,
            cache: cache.map(|files| Arc::new(files) as Arc<dyn Store>),
            boot_id: boot_id(clock),
            clock,
        }
    }
}

/// A name for a replica that says where it runs, and that no other has or had.
fn name() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "replica" } else { host };
    format!("{host}-{:08x}", fastrand::u32(..))
}

/// Of no use to a clock that is not this machine's.
fn boot_id(clock: Clock) -> String {
    if !clock.is_real() {
        return String::new();
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
