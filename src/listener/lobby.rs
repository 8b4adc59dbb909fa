//! Where connections wait that have not shown yet what they want.
//!
//! Who never says a word would hold a place for ever, and a time-out alone lets a flood fill all
//! places anew each time. An honest client is through in milliseconds; so in a crowd the one who has
//! waited the longest is the one to show out, and the door never closes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

/// A bounded number of places, and a bounded time in each.
#[derive(Clone, Debug)]
pub struct Lobby {
    places: usize,
    patience: Duration,
    guests: Arc<Mutex<Guests>>,
}

#[derive(Debug, Default)]
struct Guests {
    arrived: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// Gives its place back when the wait is over, however it ends.
struct Place<'a> {
    lobby: &'a Lobby,
    number: u64,
    shown_out: CancellationToken,
}

impl Lobby {
    /// `places` for those who wait, each for `patience` at most.
    pub fn new(places: usize, patience: Duration) -> Self {
        Self {
            places,
            patience,
            guests: Arc::default(),
        }
    }

    /// What comes of `wait`, unless it takes too long or others need the place.
    pub async fn admit<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let place = self.take();
        select! {
            biased;
            done = wait => Some(done),
            () = place.shown_out.cancelled() => None,
            () = sleep(self.patience) => None,
        }
    }

    fn take(&self) -> Place<'_> {
        let shown_out = CancellationToken::new();
        let mut guests = self.guests();
        guests.arrived += 1;
        let number = guests.arrived;
        guests.waiting.insert(number, shown_out.clone());
        if guests.waiting.len() > self.places
            && let Some((_, longest)) = guests.waiting.pop_first()
        {
            longest.cancel();
        }
        Place {
            lobby: self,
            number,
            shown_out,
        }
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        let guests = self.guests.lock();
        guests.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.lobby.guests().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::{spawn, task::yield_now, time::Instant};

    use super::*;

    fn lobby() -> Lobby {
        Lobby::new(2, Duration::from_secs(10))
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_allowed() {
        let start = Instant::now();
        assert_eq!(lobby().admit(pending::<()>()).await, None);
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_crowd_the_one_who_waited_longest_is_shown_out() {
        let (lobby, start) = (lobby(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..3 {
            let lobby = lobby.clone();
            waits.push(spawn(async move { lobby.admit(pending::<()>()).await }));
            yield_now().await;
        }
        assert_eq!(waits.remove(0).await.unwrap(), None);
        assert!(start.elapsed() < Duration::from_secs(1), "the first left");
        assert_eq!(waits.remove(0).await.unwrap(), None);
        assert_eq!(start.elapsed().as_secs(), 10, "the others stayed");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_done_leaves_the_place_to_others() {
        let lobby = lobby();
        for _ in 0..10 {
            assert_eq!(lobby.admit(ready(7)).await, Some(7));
        }
        assert!(lobby.guests().waiting.is_empty());
    }
}
