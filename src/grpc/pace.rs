//! Resets streams whose reader does not read.
//!
//! HTTP/2 lets a reader stop its stream by granting no more window. Then the stream is polled no
//! longer, so it cannot notice by itself that it is stuck; and the reader, which still answers pings,
//! holds an outdated token and believes itself up to date. What does go on is hyper's future for the
//! stream, which is ours to run. So what runs it watches, and the body of the answer tells it when a
//! chunk was handed over and when the transport came back for more.

use std::{
    cell::Cell,
    pin::Pin,
    task::{
        Context,
        Poll::{self, Pending, Ready},
        ready,
    },
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tracing::debug;

/// Contract: a rotation is handed to the transport within 30 s or the stream is reset.
pub(super) const STALL: Duration = Duration::from_secs(30);

thread_local! {
    /// Of the stream that this thread is running.
    static PACE: Cell<Pace> = const { Cell::new(Pace { handed: 0, taken: 0 }) };
}

/// How many chunks the body has handed over, and how many of them the transport has passed on.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    handed: u32,
    taken: u32,
}

impl Pace {
    /// The chunk that lies there, if one does.
    fn stuck(self) -> Option<u32> {
        (self.handed != self.taken).then_some(self.handed)
    }
}

/// The transport asks for a chunk, so it is rid of those before.
pub(super) fn asked() {
    PACE.with(|pace| {
        let handed = pace.get().handed;
        let taken = handed;
        pace.set(Pace { handed, taken });
    });
}

/// The transport got a chunk.
pub(super) fn handed() {
    PACE.with(|pace| {
        let Pace { handed, taken } = pace.get();
        let handed = handed.wrapping_add(1);
        pace.set(Pace { handed, taken });
    });
}

/// Runs `stream` to its end, or until a chunk lies there for [`STALL`]. Dropping it resets it.
pub(super) fn watched<F: Future<Output = ()>>(stream: F) -> Watched<F> {
    Watched {
        stream,
        pace: Pace::default(),
        stuck: None,
        patience: None,
    }
}

pin_project! {
    /// There are as many of these as there are streams, so it holds each thing once, and the timer
    /// only where it runs.
    pub(super) struct Watched<F> {
        #[pin]
        stream: F,
        pace: Pace,
        stuck: Option<u32>,
        patience: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        PACE.set(*this.pace);
        let ended = this.stream.poll(cx);
        *this.pace = PACE.take();
        if ended.is_ready() {
            return Ready(());
        }
        let stuck = this.pace.stuck();
        if stuck != *this.stuck {
            *this.stuck = stuck;
            *this.patience = stuck.map(|_| Box::pin(sleep(STALL)));
        }
        let Some(patience) = this.patience else {
            return Pending;
        };
        ready!(patience.as_mut().poll(cx));
        debug!("reset a stream whose reader does not read");
        Ready(())
    }
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
