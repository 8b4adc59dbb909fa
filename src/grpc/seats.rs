//! How many connections there may be, and how many there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Gauge;

/// Room for connections.
#[derive(Debug)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    taken: Gauge,
}

impl Seats {
    /// Room for `count` connections; `taken` shows how many there are.
    pub(super) fn new(count: usize, taken: Gauge) -> Self {
        let free = Arc::new(Semaphore::new(count));
        Self { free, taken }
    }

    /// Waits for a free one.
    pub(super) async fn free(&self) -> Free {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        Free {
            permit: permit.expect("nobody closes it"),
            taken: self.taken.clone(),
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
