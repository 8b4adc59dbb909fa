//! What peers that misbehave cost those who behave: the time of calls with and without them.
//!
//! The calls come at a fixed, moderate rate, because callers do not wait for each other, and because
//! the question is not how much the server can do but whether anybody stands in the way. The crowd
//! runs on the same two cores, so all that it does is cheap for itself: it mostly holds on to things,
//! and what it repeats comes at a rate that one ordinary machine could keep up over a network. What is
//! seen is still the sum of what the server does for it and of what it takes away itself, so the true
//! ratio is lower. No rotation falls into the measurement: to push to ten thousand streams is the
//! server's work, and measured by `watch`.

use std::{io, thread, time::Duration};

use prost::Message;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    runtime,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, interval, sleep, sleep_until},
};
use wxtokend::pb;

use crate::{
    load::{GET, Times, WATCH},
    wire::{Connection, Heard, PREFACE},
};

/// Connections of those who behave, and how often each of them asks.
const CALLERS: usize = 8;
const EVERY: Duration = Duration::from_millis(5);

/// A call that begins later than this was kept waiting by the one before; a timer is off by less.
const SLACK: Duration = Duration::from_millis(2);

/// Who say nothing, or half a greeting.
const SILENT: usize = 200;
/// Who say a byte now and then.
const SLOW: usize = 50;
/// Who watch and grant no window.
const NARROW: usize = 50;
/// Streams of the one that opens many.
pub(crate) const STREAMS: usize = 10_000;
/// Strangers that come and go, and calls that are taken back, a second.
const COMERS: u64 = 50;
const RESETS: u64 = 500;

/// How long calls take that come at a fixed rate.
pub(crate) async fn steady(address: &str, span: Duration) -> Times {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(steady_on_one(address.to_owned(), span));
    }
    Times::of(callers.join_all().await.into_iter().flatten().collect())
}

async fn steady_on_one(address: String, span: Duration) -> Vec<Duration> {
    let mut connection = caller(&address, GET).await.expect("a connection");
    let (mut due, mut took) = (Instant::now(), Vec::new());
    let end = due + span;
    while due < end {
        sleep_until(due).await;
        let now = Instant::now();
        let begun = if now > due + SLACK { due } else { now };
        connection.call();
        connection.flush().await.expect("it reads");
        let mut over = false;
        while !over {
            let heard = |heard| over |= matches!(heard, Heard::End { .. });
            connection.listen(heard).await.expect("it answers");
        }
        took.push(begun.elapsed());
        due += EVERY;
    }
    took
}

/// Ready to call `path` for the one app.
async fn caller(address: &str, path: &str) -> io::Result<Connection> {
    // Both requests look alike: the first field is the app.
    let app_id = "shop".into();
    let request = pb::GetTokenRequest { app_id }.encode_to_vec();
    Connection::open(address, path, &request).await
}

/// Peers that misbehave, on a thread of their own, until this is dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    _leave: oneshot::Sender<()>,
}

impl Crowd {
    /// All of them, each at its work.
    pub(crate) async fn gather(address: &str) -> Self {
        let (leave, left) = oneshot::channel();
        let (tell, mut told) = mpsc::channel(1);
        let address = address.to_owned();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let _crowd = crowd(&address).await.expect("the server accepts");
                tell.send(()).await.expect("somebody waits");
                let _ = left.await;
            });
        });
        told.recv().await.expect("it gathers");
        Self { _leave: leave }
    }
}

async fn crowd(address: &str) -> io::Result<JoinSet<()>> {
    let mut all = JoinSet::new();
    for at in 0..SILENT {
        all.spawn(silent(address.to_owned(), at % 2 == 0));
    }
    for _ in 0..SLOW {
        all.spawn(slow(address.to_owned()));
    }
    for _ in 0..NARROW {
        let mut narrow = caller(address, WATCH).await?;
        narrow.shut();
        for _ in 0..10 {
            narrow.call();
        }
        narrow.flush().await?;
        all.spawn(async move { while narrow.listen(|_| {}).await.is_ok() {} });
    }
    let mut many = caller(address, WATCH).await?;
    let mut heard = 0;
    for opened in (100..=STREAMS).step_by(100) {
        for _ in 0..100 {
            many.call();
        }
        many.flush().await?;
        // Who is answered has been read, so there is window for the next.
        while heard < opened {
            many.listen(|frame| heard += usize::from(matches!(frame, Heard::Data)))
                .await?;
        }
    }
    all.spawn(async move { while many.listen(|_| {}).await.is_ok() {} });
    all.spawn(comers(address.to_owned()));
    all.spawn(resets(address.to_owned()));
    Ok(all)
}

/// Comes again when it is cut.
async fn silent(address: String, half: bool) {
    while let Ok(mut socket) = TcpStream::connect(&address).await {
        if half && socket.write_all(&PREFACE[..12]).await.is_err() {
            continue;
        }
        let _ = socket.readable().await;
    }
}

async fn slow(address: String) {
    while let Ok(mut socket) = TcpStream::connect(&address).await {
        // A greeting, then settings without an end.
        let _ = socket.write_all(PREFACE).await;
        let mut bytes = [0, 0x17, 0x70, 4, 0, 0, 0, 0, 0]
            .into_iter()
            .chain([0; 6000]);
        while socket.write_all(&[bytes.next().unwrap_or(0)]).await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Strangers that say half a greeting and leave.
async fn comers(address: String) {
    let mut turn = interval(Duration::from_secs(1) / u32::try_from(COMERS).expect("a few"));
    loop {
        turn.tick().await;
        if let Ok(mut socket) = TcpStream::connect(&address).await {
            let _ = socket.write_all(&PREFACE[..12]).await;
        }
    }
}

/// Calls that are taken back at once, ten at a time; comes again when it is told to leave.
async fn resets(address: String) {
    let mut turn = interval(Duration::from_secs(1) * 10 / u32::try_from(RESETS).expect("a few"));
    while let Ok(mut connection) = caller(&address, GET).await {
        loop {
            turn.tick().await;
            for _ in 0..10 {
                let stream = connection.call();
                connection.take_back(stream);
            }
            if connection.flush().await.is_err() {
                break;
            }
            let heard = connection.listen(|_| {});
            // Nothing need come back.
            if let Ok(Err(_)) = tokio::time::timeout(Duration::from_millis(1), heard).await {
                break;
            }
        }
    }
}
