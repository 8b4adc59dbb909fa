//! What is done to a server: calls in a closed loop, and many streams that wait for news.

use std::{collections::HashMap, env, process::Stdio, time::Duration};

use prost::Message;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{Instant, timeout},
};
use wxtokend::pb;

use crate::wire::{Connection, Heard};

pub(crate) const GET: &str = "/wxtokend.v1.TokenService/GetToken";
pub(crate) const WATCH: &str = "/wxtokend.v1.TokenService/WatchToken";

/// Nothing is under way when nothing has come for so long.
const PAUSE: Duration = Duration::from_millis(500);

/// A push is over when nothing more has come for so long.
const QUIET: Duration = Duration::from_secs(5);

/// Durations of calls, sorted.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that so many of 1000 do not exceed, in milliseconds.
    pub(crate) fn at(&self, permille: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let time = self.0.get(last * permille / 1000);
        time.copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}

/// `connections` with `calls` under way on each, for a while: how long each call took.
pub(crate) async fn get(address: &str, connections: usize, calls: usize, span: Duration) -> Times {
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(get_on_one(address.to_owned(), calls, span));
    }
    Times::of(tasks.join_all().await.into_iter().flatten().collect())
}

async fn get_on_one(address: String, calls: usize, span: Duration) -> Vec<Duration> {
    let request = pb::GetTokenRequest {
        app_id: "shop".into(),
    }
    .encode_to_vec();
    let mut connection = Connection::open(&address, GET, &request)
        .await
        .expect("a connection");
    let (mut begun, mut took, mut over) = (HashMap::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    for _ in 0..calls {
        begun.insert(connection.call(), Instant::now());
    }
    connection.flush().await.expect("it reads");
    while start.elapsed() < span {
        let heard = |heard| {
            if let Heard::End { stream } = heard {
                over.push(stream);
            }
        };
        connection.listen(heard).await.expect("it answers");
        for stream in over.drain(..) {
            let since = begun.remove(&stream).expect("it was called");
            took.push(since.elapsed());
            begun.insert(connection.call(), Instant::now());
        }
        connection.flush().await.expect("it reads");
    }
    took
}

/// Streams that are open until this is dropped.
#[derive(Debug)]
pub(crate) struct Audience {
    streams: usize,
    news: UnboundedReceiver<Instant>,
    _readers: JoinSet<()>,
}

impl Audience {
    /// Opens `streams` on each of `connections`, and waits until each has the token in force.
    pub(crate) async fn gather(address: &str, connections: usize, streams: usize) -> Self {
        let (tell, mut news) = unbounded_channel();
        let mut readers = JoinSet::new();
        for _ in 0..connections {
            let request = pb::WatchTokenRequest {
                app_id: "shop".into(),
                known_generation: 0,
            };
            let mut connection = Connection::open(address, WATCH, &request.encode_to_vec())
                .await
                .expect("a connection");
            for _ in 0..streams {
                connection.call();
            }
            connection.flush().await.expect("it reads");
            readers.spawn(read(connection, tell.clone()));
        }
        let streams = connections * streams;
        for _ in 0..streams {
            timeout(QUIET, news.recv())
                .await
                .expect("a first message")
                .expect("a reader");
        }
        Self {
            streams,
            news,
            _readers: readers,
        }
    }

    /// How long after the first of them each of the streams heard of the next rotation.
    async fn hear(&mut self) -> Times {
        let first = timeout(Duration::from_mins(1), self.news.recv()).await;
        let first = first.expect("a rotation").expect("a reader");
        let mut after = vec![Duration::ZERO];
        while after.len() < self.streams {
            let next = timeout(QUIET, self.news.recv())
                .await
                .expect("every stream hears of it");
            after.push(next.expect("a reader") - first);
        }
        Times::of(after)
    }

    /// Forgets what comes until there is nothing for a while.
    async fn settle(&mut self) {
        while timeout(PAUSE, self.news.recv()).await.is_ok() {}
    }
}

/// Opens `connections` with a stream each, says so with a line, and then says of all news with one more
/// how many milliseconds after the first stream half of them had heard, and 99 %.
pub(crate) async fn listen(address: &str, connections: usize) {
    let mut audience = Audience::gather(address, connections, 1).await;
    println!();
    audience.settle().await;
    loop {
        let times = audience.hear().await;
        println!("{} {}", times.at(500), times.at(990));
    }
}

/// A process that does so: with those of two crowds, one would have too many descriptors.
#[derive(Debug)]
pub(crate) struct Crowd {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Crowd {
    /// Has opened all of its connections.
    pub(crate) async fn gather(address: &str, connections: usize) -> Self {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.args(["--listen", address, &connections.to_string()]);
        let pipes = command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = pipes.spawn().expect("a process");
        let stdout = child.stdout.take().expect("piped");
        let lines = BufReader::new(stdout).lines();
        let mut crowd = Self {
            _child: child,
            lines,
        };
        crowd.line().await;
        crowd
    }

    /// Forgets what it has said until now.
    pub(crate) async fn settle(&mut self) {
        while timeout(PAUSE, self.line()).await.is_ok() {}
    }

    /// The two times of the next news.
    pub(crate) async fn hear(&mut self) -> [f64; 2] {
        let line = self.line().await;
        let (half, most) = line.split_once(' ').expect("two figures");
        [half, most].map(|figure| figure.parse().expect("a figure"))
    }

    async fn line(&mut self) -> String {
        let line = self.lines.next_line().await.expect("it can be read");
        line.expect("it lives")
    }
}

async fn read(mut connection: Connection, tell: UnboundedSender<Instant>) {
    let heard = |heard| {
        if let Heard::Data = heard {
            let _ = tell.send(Instant::now());
        }
    };
    while connection.listen(heard).await.is_ok() {}
}
