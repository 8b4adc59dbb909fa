//! Resets streams whose reader does not read.
//!
//! HTTP/2 lets a reader stop its stream by granting no more window. Then the stream is polled no
//! longer, so it cannot notice by itself that it is stuck; and the reader, which still answers pings,
//! holds an outdated token and believes itself up to date. What does go on is the task in which hyper
//! runs the stream: it is ours, because the executor is. So the task watches, and the body of the
//! answer tells it when a chunk was handed over and when the transport came back for more.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll::{Pending, Ready},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{
    task_local,
    time::{Sleep, sleep},
};
use tracing::debug;

/// Contract: a rotation is handed to the transport within 30 s or the stream is reset.
pub(super) const STALL: Duration = Duration::from_secs(30);

task_local! {
    static PACE: Pace;
}

/// How many chunks the body has handed over, and how many of them the transport has passed on.
#[derive(Default)]
struct Pace {
    handed: Cell<u64>,
    taken: Cell<u64>,
}

/// The transport asks for a chunk, so it is rid of those before.
pub(super) fn asked() {
    // An error means that nobody watches this stream, as in a test.
    let _ = PACE.try_with(|pace| pace.taken.set(pace.handed.get()));
}

/// The transport got a chunk.
pub(super) fn handed() {
    let _ = PACE.try_with(|pace| pace.handed.set(pace.handed.get() + 1));
}

/// Runs hyper's streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(watched(stream));
    }
}

/// Runs `stream` to its end, or until a chunk lies there for [`STALL`]. Dropping it resets it.
async fn watched(stream: impl Future<Output = ()>) {
    let mut stream = pin!(stream);
    let mut patience = pin!(None::<Sleep>);
    let mut stuck_at = None;
    let paced = poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Ready(());
        }
        let stuck = PACE.with(|pace| {
            let handed = pace.handed.get();
            (handed > pace.taken.get()).then_some(handed)
        });
        if stuck != stuck_at {
            stuck_at = stuck;
            patience.set(stuck.map(|_| sleep(STALL)));
        }
        let over = |patience: Pin<&mut Sleep>| patience.poll(cx).is_ready();
        if patience.as_mut().as_pin_mut().is_some_and(over) {
            debug!("reset a stream whose reader does not read");
            return Ready(());
        }
        Pending
    });
    PACE.scope(Pace::default(), paced).await;
}

#[cfg(test)]
mod tests {
    use tokio::{spawn, sync::mpsc, time::Instant};

    use super::*;

    /// Passes on one chunk for each permit, as hyper does when the window opens.
    async fn transport(mut window: mpsc::Receiver<()>) {
        loop {
            asked();
            handed();
            if window.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_reset_30_s_after_its_reader_stopped() {
        let start = Instant::now();
        let (grant, window) = mpsc::channel(1);
        let stream = spawn(watched(transport(window)));
        for _ in 0..10 {
            sleep(Duration::from_secs(29)).await;
            grant.send(()).await.unwrap();
        }
        drop(grant);
        stream.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 10 * 29 + 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_with_nothing_to_say_is_left_alone() {
        let start = Instant::now();
        let quiet = async {
            handed();
            asked();
            sleep(Duration::from_hours(1)).await;
        };
        watched(quiet).await;
        assert_eq!(start.elapsed(), Duration::from_hours(1));
    }
}
