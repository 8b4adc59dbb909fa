//! Deaths at a failpoint: how a server comes to its end there, and what its clients see.

use std::{os::unix::process::ExitStatusExt, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Endpoint;
use wxtokend::pb;

use crate::{
    process::{PATIENCE, Server, token, watch_request},
    seen::Seen,
    served::Client,
};

/// The steps of a classic fetch: it is noted, and its result published before it is saved.
pub(crate) const CLASSIC: [&str; 8] = [
    "noting",
    "noted",
    "asking",
    "answered",
    "publishing",
    "published",
    "saving",
    "saved",
];

/// Those of a stable one, which is not noted, and saved before it is published.
pub(crate) const STABLE: [&str; 5] = ["asking", "answered", "saving", "saved", "publishing"];

/// Servers that die at a time: they wait most of it.
const AT_A_TIME: usize = 6;

/// A death: at which failpoint, and how many times that was passed alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) point: &'static str,
    pub(crate) passes: u32,
}

impl Death {
    /// Where that is.
    pub(crate) fn place(self) -> String {
        format!("killed at `{}` after {} passes", self.point, self.passes)
    }

    /// The value of `FAILPOINTS`.
    pub(crate) fn failpoints(self) -> String {
        format!("{}={}*off->return", self.point, self.passes)
    }
}

/// Each point, after so many passes less than `times`.
pub(crate) fn deaths(points: &[&'static str], times: u32) -> impl Iterator<Item = Death> {
    let of = move |point| (0..times).map(move |passes| Death { point, passes });
    points.iter().copied().flat_map(of)
}

/// Goes through `deaths`, some at a time, and tells after how long each was overcome.
pub(crate) async fn all<F>(
    name: &str,
    deaths: impl Iterator<Item = Death>,
    overcome: impl Fn(Death) -> F,
) where
    F: Future<Output = Duration> + Send + 'static,
{
    let (seats, mut tasks) = (Arc::new(Semaphore::new(AT_A_TIME)), JoinSet::new());
    for death in deaths {
        let (seats, overcome) = (Arc::clone(&seats), overcome(death));
        tasks.spawn(async move {
            let _seat = seats.acquire_owned().await;
            (death, overcome.await)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (death, back) = done.unwrap();
        println!("{name}, {death:?}: served again after {back:?}");
        took.push(back);
    }
    println!("{} deaths, at most {:?}", took.len(), took.iter().max());
}

/// What two clients see, one that asks again and again and one that watches, until the server is
/// dead. It must die by itself.
pub(crate) async fn read_until_the_end(server: Server, name: &str, place: &str) -> Vec<pb::Token> {
    let mut watched = Vec::new();
    // It may be dead before they connect.
    let channel = || {
        Endpoint::from_shared(server.url.clone())
            .unwrap()
            .connect_lazy()
    };
    let (mut asking, mut watching) = (Client::new(channel()), Client::new(channel()));
    let ask = async {
        let mut asked = Vec::new();
        // Only a dead server leaves no `ErrorInfo`: others say why there is no token.
        loop {
            match token(&mut asking, name).await {
                Ok(token) => asked.push(token),
                Err(status) if status.details().is_empty() => return asked,
                Err(_) => {}
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    let watch = async {
        let history = &server.history;
        while let Ok(mut stream) = history.watch(&mut watching, watch_request(name)).await {
            while let Ok(Some(message)) = stream.message().await {
                watched.extend(message.token);
            }
        }
    };
    let both = async { tokio::join!(ask, watch).0 };
    let asked = timeout(PATIENCE, both).await;
    let asked = asked.unwrap_or_else(|_| panic!("not {place}: {}", server.process.stderr()));
    let ended = server.process.end().await;
    assert_eq!(ended.status.signal(), Some(9), "{place}: {ended:?}");
    // Each client's own order holds; between them, the higher one was seen by somebody.
    for tokens in [&asked, &watched] {
        let mut own = Seen::default();
        for token in tokens {
            own.sees(name, token, place);
        }
    }
    let mut all = asked;
    all.extend(watched);
    all.sort_by_key(|token| token.generation);
    all
}
