//! How many connections there may be, and how many there are.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tracing::warn;

use crate::telemetry::Gauge;

/// Between two warnings that there is none.
const AGAIN: Duration = Duration::from_hours(1);

/// Room for connections.
#[derive(Debug)]
pub(super) struct Seats {
    count: usize,
    free: Arc<Semaphore>,
    taken: Gauge,
    complained: Option<Instant>,
}

impl Seats {
    /// Room for `count` connections; `taken` shows how many there are.
    pub(super) fn new(count: usize, taken: Gauge) -> Self {
        let free = Arc::new(Semaphore::new(count));
        Self {
            count,
            free,
            taken,
            complained: None,
        }
    }

    /// Waits for a free one.
    pub(super) async fn free(&mut self) -> Free {
        if self.free.available_permits() == 0 {
            self.complain();
        }
        let permit = Arc::clone(&self.free).acquire_owned().await;
        Free {
            permit: permit.expect("nobody closes it"),
            taken: self.taken.clone(),
        }
    }

    /// Once an hour: at the limit, seats come and go by the second.
    fn complain(&mut self) {
        let now = Instant::now();
        if self.complained.is_none_or(|at| now >= at + AGAIN) {
            self.complained = Some(now);
            warn!(
                connections = self.count,
                "all connections are taken; more wait until others leave"
            );
        }
    }
}

/// Kept for whoever comes next.
#[derive(Debug)]
pub(super) struct Free {
    permit: OwnedSemaphorePermit,
    taken: Gauge,
}

impl Free {
    /// Somebody came.
    pub(super) fn take(self) -> Seat {
        self.taken.inc();
        Seat {
            _permit: self.permit,
            taken: self.taken,
        }
    }
}

/// Free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    _permit: OwnedSemaphorePermit,
    taken: Gauge,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.dec();
    }
}
