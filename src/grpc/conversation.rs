//! A connection and its streams, run by one task.
//!
//! hyper hands every stream to an executor, which is expected to give it a task of its own. Then news
//! for ten thousand readers wake ten thousand streams, of which each locks its connection and wakes
//! that, to have its message written. Here the task of the connection runs the streams too, first
//! them and then the connection, so that what they have to say is on its way in the same turn, nobody
//! else wants the lock, and one peer keeps at most one thread busy.

use std::{
    cell::RefCell,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::AcqRel},
    },
    task::{
        Context,
        Poll::{self, Pending},
        Wake, Waker,
    },
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper::rt::Executor;

use super::{
    pace::watched,
    seldom::{Seldom, same},
};

/// Turns without a pause. Whoever needs more lets others go first.
const TURNS: usize = 4;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// Streams that the connection which this thread is running has just begun.
    static NEWCOMERS: RefCell<Vec<Stream>> = const { RefCell::new(Vec::new()) };
}

/// Takes streams from hyper, for the [`Conversation`] that runs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newcomers;

impl<F> Executor<F> for Newcomers
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        NEWCOMERS.with_borrow_mut(|newcomers| newcomers.push(Box::pin(watched(stream))));
    }
}

/// Runs a connection that spawns on [`Newcomers`], together with its streams. Ends with the connection,
/// and whatever streams are left end with it.
pub(super) struct Conversation<C> {
    pub(super) connection: C,
    /// The only stream of most connections, which need no set to find it in.
    solo: Option<Stream>,
    choir: FuturesUnordered<Stream>,
    /// Keeps the task from streams that have nothing to say.
    called: Seldom,
    /// For the task that ran it last.
    ringer: Option<Ringer>,
}

impl<C: Future + Unpin> Conversation<C> {
    pub(super) fn new(connection: C) -> Self {
        Self {
            connection,
            solo: None,
            choir: FuturesUnordered::new(),
            called: Seldom::default(),
            ringer: None,
        }
    }

    fn turns(&mut self, bell: &Bell, cx: &mut Context<'_>) -> Poll<C::Output> {
        for _ in 0..TURNS {
            bell.mute();
            self.run_streams(cx);
            // Whoever rang until now meant the connection, whose turn it is, or a stream, which is due.
            bell.mute();
            let ended = Pin::new(&mut self.connection).poll(cx);
            let welcomed = self.welcome();
            if ended.is_ready() {
                return ended;
            }
            if !welcomed && !self.called.is_due() && bell.unmute() {
                return Pending;
            }
        }
        bell.unmute();
        bell.task.wake_by_ref();
        Pending
    }

    fn run_streams(&mut self, cx: &Context<'_>) {
        // A set that has run all it holds rings, as if there were more to do. So it is asked once more,
        // and a ring after that is meant.
        for _ in 0..2 {
            let Self { solo, choir, .. } = self;
            let _: Poll<Infallible> = self.called.poll(cx, |cx| {
                if let Some(stream) = solo
                    && stream.as_mut().poll(cx).is_ready()
                {
                    *solo = None;
                }
                while !choir.is_empty() && choir.poll_next_unpin(cx).is_ready() {}
                Pending
            });
        }
    }

    /// Takes in the streams that have just begun, if there are any.
    fn welcome(&mut self) -> bool {
        NEWCOMERS.with_borrow_mut(|newcomers| {
            let any = !newcomers.is_empty();
            for stream in newcomers.drain(..) {
                match self.solo {
                    None => self.solo = Some(stream),
                    Some(_) => self.choir.push(stream),
                }
            }
            if any {
                self.called.renew();
            }
            any
        })
    }
}

impl<C: Future + Unpin> Future for Conversation<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let known = self.ringer.take();
        let known = known.filter(|ringer| same(&ringer.bell.task, cx.waker()));
        let ringer = known.unwrap_or_else(|| Ringer::new(cx.waker()));
        let mut inner = Context::from_waker(&ringer.waker);
        let ended = self.turns(&ringer.bell, &mut inner);
        self.ringer = Some(ringer);
        ended
    }
}

/// A bell, and the way to ring it.
#[derive(Debug)]
struct Ringer {
    bell: Arc<Bell>,
    waker: Waker,
}

impl Ringer {
    fn new(task: &Waker) -> Self {
        let bell = Arc::new(Bell {
            task: task.clone(),
            state: AtomicU8::new(OPEN),
        });
        let waker = Waker::from(Arc::clone(&bell));
        Self { bell, waker }
    }
}

/// Wakes the task of a conversation, unless that is awake.
///
/// A stream that writes wakes its connection, which is about to run anyway. Without this each message
/// would cost a second, empty turn after everybody else's.
#[derive(Debug)]
struct Bell {
    task: Waker,
    state: AtomicU8,
}

const OPEN: u8 = 0;
const MUTED: u8 = 1;
const RUNG: u8 = 2;

impl Bell {
    /// Only takes note from now on.
    fn mute(&self) {
        self.state.swap(MUTED, AcqRel);
    }

    /// Wakes the task from now on; whether all is quiet, so that the task may sleep.
    fn unmute(&self) -> bool {
        self.state.swap(OPEN, AcqRel) & RUNG == 0
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(RUNG, AcqRel) & MUTED == 0 {
            self.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{Mutex, MutexGuard},
        time::Duration,
    };

    use tokio::{
        spawn,
        sync::{mpsc, watch},
        task::yield_now,
        time::timeout,
    };

    use super::*;

    /// What a connection and its streams share, as in h2.
    #[derive(Clone, Default)]
    struct Wire(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        begun: Vec<Stream>,
        task: Option<Waker>,
        said: Vec<mpsc::UnboundedSender<()>>,
        turns: usize,
        closed: bool,
    }

    impl Wire {
        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }

        fn begin(&self, stream: impl Future<Output = ()> + Send + 'static) {
            self.state().begun.push(Box::pin(stream));
        }

        fn wake(&self) {
            if let Some(task) = self.state().task.take() {
                task.wake();
            }
        }

        /// A stream that says, for each of some news, that it has heard them.
        fn hear(&self, mut news: watch::Receiver<usize>) -> mpsc::UnboundedReceiver<()> {
            let (heard, hear) = mpsc::unbounded_channel();
            let wire = self.clone();
            self.begin(async move {
                while news.changed().await.is_ok() {
                    wire.state().said.push(heard.clone());
                    wire.wake();
                }
            });
            hear
        }

        async fn turns(&self) -> usize {
            for _ in 0..10 {
                yield_now().await;
            }
            self.state().turns
        }
    }

    impl Future for Wire {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let mut state = self.state();
            state.turns += 1;
            state.task = Some(cx.waker().clone());
            for stream in state.begun.drain(..) {
                Newcomers.execute(stream);
            }
            for heard in state.said.drain(..) {
                let _ = heard.send(());
            }
            if state.closed {
                Poll::Ready(())
            } else {
                Pending
            }
        }
    }

    #[tokio::test]
    async fn what_a_stream_says_leaves_in_the_same_turn_which_is_the_only_one() {
        let (wire, (tell, news)) = (Wire::default(), watch::channel(0));
        let mut heard = [wire.hear(news.clone()), wire.hear(news)];
        spawn(Conversation::new(wire.clone()));
        assert_eq!(wire.turns().await, 2, "one more for those that began");
        tell.send_replace(1);
        assert_eq!(wire.turns().await, 3);
        for heard in &mut heard {
            assert!(heard.try_recv().is_ok());
        }
    }

    #[tokio::test]
    async fn a_connection_alone_turns_once_for_each_time_it_is_woken() {
        let wire = Wire::default();
        spawn(Conversation::new(wire.clone()));
        for turns in 1..5 {
            assert_eq!(wire.turns().await, turns);
            wire.wake();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_news_are_lost_whenever_they_come() {
        let wire = Wire::default();
        let mut tellers = Vec::new();
        for _ in 0..8 {
            let (tell, news) = watch::channel(0);
            let mut heard = wire.hear(news);
            tellers.push(async move {
                for n in 0..5000 {
                    tell.send_replace(n);
                    heard.recv().await.unwrap();
                }
            });
        }
        spawn(Conversation::new(wire));
        for told in tellers.into_iter().map(spawn).collect::<Vec<_>>() {
            let told = timeout(Duration::from_secs(30), told).await;
            told.expect("a stream sleeps on its news").unwrap();
        }
    }

    #[tokio::test]
    async fn a_stream_without_rest_keeps_nobody_from_theirs() {
        let (wire, (tell, news)) = (Wire::default(), watch::channel(0));
        let restless = || async {
            loop {
                yield_now().await;
            }
        };
        for _ in 0..3 {
            wire.begin(restless());
        }
        let mut heard = wire.hear(news);
        spawn(Conversation::new(wire.clone()));
        for n in 1..100 {
            tell.send_replace(n);
            heard.recv().await.unwrap();
        }
    }

    /// Wakes its task at once, so often, each time before it is left.
    async fn hurry(times: usize) {
        for _ in 0..times {
            let mut again = true;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::take(&mut again) {
                    Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
        }
    }

    #[tokio::test]
    async fn whoever_wakes_the_task_while_it_runs_is_run_again() {
        let patience = Duration::from_secs(30);
        let connection = Conversation::new(Box::pin(hurry(100)));
        let ended = timeout(patience, spawn(connection)).await;
        ended.expect("the connection sleeps").unwrap();

        for streams in 1..3 {
            let wire = Wire::default();
            let (over, mut ended) = mpsc::unbounded_channel();
            for _ in 0..streams {
                let over = over.clone();
                wire.begin(async move {
                    hurry(100).await;
                    over.send(()).unwrap();
                });
            }
            spawn(Conversation::new(wire.clone()));
            for _ in 0..streams {
                let ended = timeout(patience, ended.recv()).await;
                ended.expect("a stream sleeps").unwrap();
            }
        }
    }

    #[tokio::test]
    async fn streams_end_with_their_connection() {
        let (wire, (tell, news)) = (Wire::default(), watch::channel(0));
        wire.hear(news);
        let conversation = spawn(Conversation::new(wire.clone()));
        wire.turns().await;
        assert_eq!(tell.receiver_count(), 1);
        wire.state().closed = true;
        wire.wake();
        conversation.await.unwrap();
        assert_eq!(tell.receiver_count(), 0);
    }
}
