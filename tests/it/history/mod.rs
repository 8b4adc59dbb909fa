//! What the readers of streams were told, and what must be true of it.
//!
//! A test that reads a stream reads it through [`Watching`], which writes down each wait and how it
//! ended. [`alone`] judges a stream when it ends, [`together`] all of them when the last of the history
//! goes, one promise at a time. So no test can forget to ask. The idea is etcd's: of the bugs that its
//! robustness suite found, half were in watches.
//!
//! A history knows less than the server. It knows when a message was received, and the earliest moment
//! at which it can have been made. Where both are one, as they are without a socket, it is exact.

mod alone;
mod facts;
#[cfg(test)]
mod made_up;
mod together;
mod watching;

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt, fs,
    hash::{Hash, Hasher},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wxtokend::pb::{Cause, WatchTokenRequest, WatchTokenResponse};

use self::facts::Fact;
pub(crate) use self::watching::Watching;

/// The longest way of a message over a socket, on a machine that builds something else as well.
const WAY: Duration = Duration::from_secs(5);

/// Contract: a sign of life after so much silence.
const BEAT: Duration = Duration::from_secs(30);

/// Contract: a stream whose token dies goes on waiting for another for so long at most.
const SPREAD: Duration = Duration::from_secs(2);

/// Contract: nobody who listens lacks the newest token for longer.
const LAG: Duration = Duration::from_secs(1);

/// Contract: a stream that has not begun waits so long for a token.
const FIRST: Duration = Duration::from_secs(10);

/// Times are counted in milliseconds, and rounded more than once.
const ROUNDING: Duration = Duration::from_millis(10);

/// The last messages of a stream tell what happened to it.
const SHOWN: usize = 20;

/// All streams of one server, or of several that follow each other on one disk.
#[derive(Clone, Debug)]
pub(crate) struct History(Arc<Open>);

#[derive(Debug)]
struct Open {
    begin: Instant,
    book: Mutex<Book>,
}

/// What is written. Times count from its beginning.
#[derive(Clone, Debug, Default)]
struct Book {
    streams: Vec<Watched>,
    facts: BTreeMap<String, Vec<Fact>>,
    /// How long a message may be under way.
    way: Duration,
    /// How far two statements of one token's end may be apart.
    apart: Duration,
    /// The servers that have followed each other.
    run: usize,
}

/// One stream.
#[derive(Clone, Debug)]
struct Watched {
    app: String,
    known: u64,
    run: usize,
    opened: Duration,
    waits: Vec<Wait>,
}

/// A reader waited for a message.
#[derive(Clone, Debug)]
struct Wait {
    from: Duration,
    until: Duration,
    heard: Heard,
}

#[derive(Clone, Debug)]
enum Heard {
    /// The reader stopped waiting.
    Nothing,
    Message(Message),
    /// The end, with its code and reason.
    End(Code, String),
}

/// A message, with a fingerprint in place of its token.
#[derive(Clone, Debug)]
struct Message {
    /// It was not made before, and not after `at`.
    made_after: Duration,
    at: Duration,
    cause: Cause,
    generation: u64,
    fingerprint: u64,
    expire_time: (i64, i32),
    life: Duration,
    keep_for: Duration,
}

/// How much a history holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) tokens: usize,
    pub(crate) streams: usize,
    pub(crate) messages: usize,
}

impl History {
    /// Of streams over sockets.
    pub(crate) fn over_sockets() -> Self {
        Self::of_servers(Duration::ZERO, Duration::ZERO)
    }

    /// The same of servers that may differ by `apart` in what they say of one token's end, and are stopped for up to
    /// `standstill`.
    pub(crate) fn of_servers(apart: Duration, standstill: Duration) -> Self {
        Self::new(WAY + standstill, apart)
    }

    /// Of streams without a transport, on a paused clock.
    pub(crate) fn exact() -> Self {
        Self::new(Duration::ZERO, Duration::ZERO)
    }

    fn new(way: Duration, apart: Duration) -> Self {
        let book = Book {
            way,
            apart,
            ..Book::default()
        };
        Self(Arc::new(Open {
            begin: Instant::now(),
            book: Mutex::new(book),
        }))
    }

    /// Another server goes on where the last one ended.
    pub(crate) fn next_server(&self) {
        self.0.book().run += 1;
    }

    /// The server has handed out a token of `app`, or would have, `since` a moment; it dies at `dies`.
    pub(crate) fn in_force(&self, app: &str, generation: u64, since: Instant, dies: Instant) {
        let since = self.0.since_begin(since);
        let dies = self.0.since_begin(dies);
        self.0.book().in_force(app, generation, since, dies);
    }

    /// There is no token of `app` to hand out.
    pub(crate) fn none_in_force(&self, app: &str) {
        let now = self.0.now();
        self.0.book().none_in_force(app, now);
    }

    /// How much of everything there is so far.
    pub(crate) fn seen(&self) -> Seen {
        let book = self.0.book();
        Seen {
            tokens: book.facts.values().map(Vec::len).sum(),
            streams: book.streams.len(),
            messages: book.streams.iter().map(|s| s.messages().count()).sum(),
        }
    }

    fn open(&self, request: &WatchTokenRequest, opened: Duration) -> usize {
        let mut book = self.0.book();
        let run = book.run;
        book.streams.push(Watched {
            app: request.app_id.clone(),
            known: request.known_generation,
            run,
            opened,
            waits: Vec::new(),
        });
        book.streams.len() - 1
    }
}

impl Open {
    /// A test that fails while it writes leaves a book that can still be read.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn since_begin(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.begin)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !thread::panicking() {
            together::check(&self.book());
        }
    }
}

impl Book {
    fn in_force(&mut self, app: &str, generation: u64, from: Duration, until: Duration) {
        let run = self.run;
        let facts = self.facts.entry(app.to_owned()).or_default();
        if let Some(last) = facts.last_mut().filter(|last| last.run == run) {
            let open = last.until > from;
            if last.generation > generation || (last.generation == generation && open) {
                return;
            }
            last.until = last.until.min(from);
        }
        facts.push(Fact {
            run,
            generation,
            from,
            until,
        });
    }

    fn none_in_force(&mut self, app: &str, at: Duration) {
        let last = self.facts.get_mut(app).and_then(|facts| facts.last_mut());
        if let Some(last) = last {
            last.until = last.until.min(at);
        }
    }
}

impl Watched {
    fn messages(&self) -> impl DoubleEndedIterator<Item = &Message> {
        self.waits.iter().filter_map(|wait| match &wait.heard {
            Heard::Message(message) => Some(message),
            _ => None,
        })
    }

    /// Every wait, with the moment from which on its reader has been listening in vain: one that is given
    /// up and taken up again at once is still the same. What comes at last may have been there for as long
    /// as nobody looked.
    fn listened(&self, way: Duration) -> impl Iterator<Item = (Duration, &Wait)> {
        let mut before: Option<(Duration, Duration)> = None;
        self.waits.iter().map(move |wait| {
            let again = before.filter(|(_, until)| wait.from <= *until + way);
            let since = again.map_or(wait.from, |(since, _)| since);
            if matches!(wait.heard, Heard::Nothing) {
                before = Some((since, wait.until));
                (since, wait)
            } else {
                before = None;
                (wait.from, wait)
            }
        })
    }

    /// A message that came after a wait was made during it, but for its way here. Any other may have
    /// lain in a buffer since the stream was opened.
    fn made_after(&self, from: Duration, at: Duration, way: Duration) -> Duration {
        if at.saturating_sub(from) >= way {
            self.opened.max(at.saturating_sub(way))
        } else {
            self.opened
        }
    }
}

/// Enough to find it among others.
impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            app, known, opened, ..
        } = self;
        write!(
            f,
            "a stream of {app} from {opened:?} for who knows {known}:"
        )?;
        let ended = self
            .waits
            .iter()
            .filter(|wait| !matches!(wait.heard, Heard::Nothing));
        let skipped = ended.clone().count().saturating_sub(SHOWN);
        for Wait { until, heard, .. } in ended.skip(skipped) {
            match heard {
                Heard::Nothing => {}
                Heard::Message(Message {
                    cause,
                    generation,
                    life,
                    ..
                }) => {
                    write!(f, "\n  {until:?} {cause:?} {generation}, {life:?} to live")?;
                }
                Heard::End(code, reason) => write!(f, "\n  {until:?} {code:?} {reason}")?,
            }
        }
        Ok(())
    }
}

impl Message {
    fn new(response: &WatchTokenResponse, made_after: Duration, at: Duration) -> Self {
        let token = response.token.as_ref().expect("always the whole truth");
        let mut fingerprint = DefaultHasher::new();
        token.access_token.hash(&mut fingerprint);
        let span = |span: Option<prost_types::Duration>| {
            let span = span.expect("always the whole truth").try_into();
            span.expect("a span is not negative")
        };
        let time = |time: prost_types::Timestamp| (time.seconds, time.nanos);
        Self {
            made_after,
            at,
            cause: response.cause(),
            generation: token.generation,
            fingerprint: fingerprint.finish(),
            expire_time: token.expire_time.map(time).expect("the whole truth"),
            life: span(token.time_to_live),
            keep_for: span(token.keep_for),
        }
    }
}

impl Heard {
    fn end(status: &Status) -> Self {
        let info = status.get_details_error_info();
        Self::End(
            status.code(),
            info.map(|info| info.reason).unwrap_or_default(),
        )
    }
}

#[test]
fn every_stream_that_a_test_opens_is_written_down() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    let opens = Path::new("it/history/watching.rs");
    let call = concat!(".watch_", "token(");
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with(opens) {
                let text = fs::read_to_string(&path).unwrap();
                let file = path.display();
                assert!(!text.contains(call), "{file}: use `History::watch`");
            }
        }
    }
}
