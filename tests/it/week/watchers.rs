//! Programs that watch an app for a whole week, each in its manner, and what they were told.
//!
//! They read the streams that callers get, without a socket, come back when one ends, and say what they
//! have then. The history that they leave is judged when the week is over.

use std::{panic, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use futures_util::{StreamExt, stream::Map};
use prost::Message;
use tokio::{
    select,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use wxtokend::{
    domain::{AppName, Generation, Moment},
    grpc::TokenStream,
    pb::{WatchTokenRequest, WatchTokenResponse},
    tokens::{Issued, View},
};

use crate::{
    history::{History, Seen, Watching},
    world::{Door, World},
};

/// How a program behaves, in lives of a token.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// The longest that a stream is read.
    stays: f64,
    /// The longest pause after each message.
    dawdles: f64,
    /// The longest pause between two streams.
    away: f64,
}

/// A service: always there. Most of what it hears is signs of life, which cost time, so one week in
/// eight has one, for either app.
const SERVICE: Manner = Manner {
    stays: 8.0,
    dawdles: 0.0,
    away: 0.002,
};

/// One that is busy, or out of window.
const BUSY: Manner = Manner {
    stays: 4.0,
    dawdles: 0.6,
    away: 0.1,
};

/// A job that runs now and then.
const JOB: Manner = Manner {
    stays: 0.2,
    dawdles: 0.0,
    away: 2.0,
};

/// All that watch in one week.
#[derive(Debug)]
pub(super) struct Watchers {
    history: History,
    programs: JoinSet<()>,
}

impl Watchers {
    pub(super) fn new(world: &World, life: Duration, dice: &mut Rng) -> Self {
        let history = History::exact();
        let mut programs = JoinSet::new();
        let served = dice.usize(..8 * world.apps.len());
        for (n, app) in world.apps.iter().enumerate() {
            let door = world.door.subscribe();
            programs.spawn(note_down(history.clone(), door, app.name.clone()));
            let service = (n == served).then_some(SERVICE);
            for manner in [BUSY, JOB].into_iter().chain(service) {
                let watcher = Watcher {
                    history: history.clone(),
                    door: world.door.subscribe(),
                    app: app.name.clone(),
                    life,
                    manner,
                    dice: dice.fork(),
                    held: [0, 0],
                };
                programs.spawn(watcher.watch());
            }
        }
        Self { history, programs }
    }

    /// Before a server starts on the same disk.
    pub(super) fn next_server(&self) {
        self.history.next_server();
    }

    /// A caller who does not watch was handed this.
    pub(super) fn handed_out(&self, app: &AppName, issued: &Issued, now: Moment) {
        let at = Instant::now();
        let since = at - now.since(issued.published_at);
        let generation = issued.token.generation;
        let dies = at + issued.time_to_live;
        self.history
            .in_force(app.as_str(), generation.0, since, dies);
    }

    /// What they have seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.history.seen()
    }

    /// Ends them all. Panics if one of them, or all together, saw a promise broken.
    pub(super) async fn end(mut self) {
        self.programs.abort_all();
        while let Some(ended) = self.programs.join_next().await {
            if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
                panic::resume_unwind(panic);
            }
        }
    }
}

/// Writes down what is in force, as whoever looks without a stream can see it.
async fn note_down(history: History, mut door: watch::Receiver<Option<Door>>, app: AppName) {
    while let Some(open) = enter(&mut door).await {
        let mut view = open.tokens.watch(&app).expect("configured");
        loop {
            let now = open.tokens.now().boot;
            match in_force(&view.borrow_and_update(), now) {
                Some((generation, life)) => {
                    let at = Instant::now();
                    history.in_force(app.as_str(), generation.0, at, at + life);
                }
                None => history.none_in_force(app.as_str()),
            }
            if view.changed().await.is_err() {
                break;
            }
        }
        if door.changed().await.is_err() {
            return;
        }
    }
}

fn in_force(view: &View, now: Moment) -> Option<(Generation, Duration)> {
    let current = view.usable(now)?;
    let life = current.token.expires_at.since(now);
    Some((current.token.generation, life))
}

/// Waits for a server. There is none any more once the world has ended.
async fn enter(door: &mut watch::Receiver<Option<Door>>) -> Option<Door> {
    let open = door.wait_for(Option::is_some).await;
    open.ok().and_then(|open| open.clone())
}

/// What a client makes of the frames of a stream.
type Messages = Map<TokenStream, fn(Result<Bytes, Status>) -> Result<WatchTokenResponse, Status>>;

fn message(frame: Result<Bytes, Status>) -> Result<WatchTokenResponse, Status> {
    frame.map(|frame| WatchTokenResponse::decode(&frame[5..]).expect("a message"))
}

struct Watcher {
    history: History,
    door: watch::Receiver<Option<Door>>,
    app: AppName,
    life: Duration,
    manner: Manner,
    dice: Rng,
    /// The generation it has, and the one before.
    held: [u64; 2],
}

impl Watcher {
    async fn watch(mut self) {
        while let Some(open) = enter(&mut self.door).await {
            let request = WatchTokenRequest {
                app_id: self.app.to_string(),
                known_generation: match self.dice.u32(..8) {
                    0 => 0,
                    1 => self.held[1],
                    _ => self.held[0],
                },
            };
            let connection = CancellationToken::new();
            let stream = open
                .streams
                .open(&self.app, request.clone(), connection.clone());
            let messages = stream.expect("configured").map(message as fn(_) -> _);
            let stream = self.history.follow(&request, messages);
            let mut door = self.door.clone();
            select! {
                biased;
                // The server is no more, and cannot say so.
                _ = door.changed() => {}
                () = self.read(stream, connection) => {}
            }
            sleep(self.up_to(self.manner.away)).await;
        }
    }

    /// Until the server ends the stream, the connection is too old, or the program has had enough.
    async fn read(&mut self, mut stream: Watching<Messages>, connection: CancellationToken) {
        let stays = sleep(self.up_to(self.manner.stays));
        tokio::pin!(stays);
        let is_polite = self.dice.bool();
        loop {
            let message = select! {
                biased;
                () = &mut stays, if !connection.is_cancelled() => {
                    if !is_polite {
                        return;
                    }
                    connection.cancel();
                    continue;
                }
                message = stream.message() => message,
            };
            let Ok(Some(message)) = message else { return };
            let generation = message.token.expect("always").generation;
            if generation != self.held[0] {
                self.held = [generation, self.held[0]];
            }
            if self.manner.dawdles > 0.0 {
                sleep(self.up_to(self.manner.dawdles)).await;
            }
        }
    }

    fn up_to(&mut self, lives: f64) -> Duration {
        self.life.mul_f64(lives * self.dice.f64())
    }
}
