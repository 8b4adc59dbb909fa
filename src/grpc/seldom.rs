//! Polls what seldom happens only when it may have.
//!
//! Whoever waits for several things at once polls all of them, whichever has woken it. A push wakes a
//! stream for its news, and then its alarm and the end of its connection are looked at too: locks and
//! cold memory, ten thousand times, for nothing. Behind this they have a waker of their own, which
//! remembers that it was meant.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    task::{
        Context,
        Poll::{self, Pending},
        Wake, Waker,
    },
};

/// Keeps a task from what it need not poll.
#[derive(Debug, Default)]
pub(super) struct Seldom(Option<Door>);

#[derive(Debug)]
struct Door {
    knock: Arc<Knock>,
    waker: Waker,
}

/// Who has woken the task.
#[derive(Debug)]
struct Knock {
    task: Waker,
    heard: AtomicBool,
}

impl Seldom {
    /// What `poll` finds, if it is new to this, or has been woken since it was pending.
    pub(super) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let known = self.0.take();
        let known = known.filter(|door| same(&door.knock.task, cx.waker()));
        let door = self.0.insert(known.unwrap_or_else(|| Door::new(cx)));
        if !door.knock.heard.swap(false, AcqRel) {
            return Pending;
        }
        let found = poll(&mut Context::from_waker(&door.waker));
        if found.is_ready() {
            self.renew();
        }
        found
    }

    /// Whether it has been woken since it was pending.
    pub(super) fn is_due(&self) -> bool {
        let door = self.0.as_ref();
        door.is_some_and(|door| door.knock.heard.load(Acquire))
    }

    /// The next poll goes through, since what it finds is another thing now.
    pub(super) fn renew(&self) {
        if let Some(door) = &self.0 {
            door.knock.heard.store(true, Release);
        }
    }
}

/// Whether both wake the same task, which lives as long as either. [`Waker::will_wake`] would also ask
/// for the same functions, of which a compiler may make several copies; then every poll would go through.
pub(super) fn same(one: &Waker, other: &Waker) -> bool {
    let told_apart = !one.data().is_null();
    one.will_wake(other) || (told_apart && one.data() == other.data())
}

impl Door {
    fn new(cx: &Context<'_>) -> Self {
        let knock = Arc::new(Knock {
            task: cx.waker().clone(),
            heard: AtomicBool::new(true),
        });
        let waker = Waker::from(Arc::clone(&knock));
        Self { knock, waker }
    }
}

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.heard.store(true, Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        pin::pin,
        time::Duration,
    };

    use tokio::{
        select, spawn,
        sync::Notify,
        time::{Instant, sleep},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_not_woken_the_task_is_not_polled() {
        let (mut seldom, mut polls) = (Seldom::default(), 0);
        let mut alarm = pin!(sleep(Duration::from_mins(1)));
        let start = Instant::now();
        let rings = poll_fn(|cx| {
            seldom.poll(cx, |cx| {
                polls += 1;
                alarm.as_mut().poll(cx)
            })
        });
        let mut rings = pin!(rings);
        for _ in 0..10 {
            select! {
                biased;
                () = &mut rings => panic!("too early"),
                () = sleep(Duration::from_secs(1)) => {}
            }
        }
        rings.await;
        assert_eq!(start.elapsed().as_secs(), 60);
        assert_eq!(polls, 2, "at first, and when it rang");
    }

    #[tokio::test]
    async fn another_task_is_woken_in_place_of_the_one_before() {
        let bell = Arc::new(Notify::new());
        let heard = Arc::clone(&bell);
        let mut wait = Box::pin(async move {
            let (mut seldom, mut rung) = (Seldom::default(), pin!(heard.notified()));
            poll_fn(|cx| seldom.poll(cx, |cx| rung.as_mut().poll(cx))).await;
        });
        select! {
            biased;
            () = &mut wait => panic!("nobody has rung"),
            () = async {} => {}
        }
        let wait = spawn(wait);
        tokio::task::yield_now().await;
        bell.notify_one();
        wait.await.unwrap();
    }

    #[tokio::test]
    async fn what_was_found_or_renewed_is_polled_again() {
        let (mut seldom, mut polls) = (Seldom::default(), 0);
        poll_fn(|cx| {
            for _ in 0..3 {
                let found = seldom.poll(cx, |_| {
                    polls += 1;
                    Poll::Ready(())
                });
                assert!(found.is_ready());
            }
            let mut never = pin!(pending::<()>());
            for renewed in [true, false, true] {
                let before = polls;
                let found = seldom.poll(cx, |cx| {
                    polls += 1;
                    never.as_mut().poll(cx)
                });
                assert!(found.is_pending());
                assert_eq!(polls > before, renewed);
                if !renewed {
                    seldom.renew();
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}
