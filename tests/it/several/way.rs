//! One replica's way to WeChat, and what everybody did on theirs.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use wxtokend::{
    domain::{Ask, Fetched, Secret, Sight},
    upstream::{FetchError, Upstream},
};

use super::{
    database::Database,
    links::{Link, Way as Open},
};
use crate::wire::Wire;

/// What became of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is under way, or its replica was killed.
    Open,
    Brought,
    /// WeChat refused, or never heard of it.
    Refused,
    Lost,
}

/// One fetch.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub(super) replica: usize,
    pub(super) sent: Instant,
    pub(super) ended: Option<Instant>,
    /// For how long the claim still was this replica's.
    pub(super) claimed: Option<Duration>,
    pub(super) outcome: Outcome,
}

impl Fetch {
    /// Whether it was sent under a claim that outlasts an answer, which takes so long at most.
    pub(super) fn lasts(&self, timeout: Duration) -> bool {
        self.claimed.is_some_and(|claimed| claimed >= timeout)
    }
}

/// All fetches of one app, in order.
pub(super) type Fetches = Arc<Mutex<Vec<Fetch>>>;

/// The way of one replica, for one app.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) wire: Wire,
    pub(super) replica: usize,
    /// What the database knows it by.
    pub(super) name: String,
    pub(super) link: Arc<Link>,
    pub(super) database: Arc<Database>,
    pub(super) fetches: Fetches,
}

impl Way {
    /// Through the cuts, there and back. What does not arrive fails, sooner or later.
    async fn through<T>(&self, call: impl Future<Output = T>) -> Result<T, FetchError> {
        match self.link.state().to_wechat {
            Open::Open => {}
            Open::Closed => return Err(FetchError::NotSent("connection refused".into())),
            Open::Silent => {
                sleep(self.wire.timeout).await;
                return Err(FetchError::Lost("time-out".into()));
            }
        }
        let answer = call.await;
        match self.link.state().back_from_wechat {
            Open::Open => {}
            Open::Closed => return Err(FetchError::Lost("connection closed".into())),
            Open::Silent => {
                sleep(self.wire.timeout).await;
                return Err(FetchError::Lost("time-out".into()));
            }
        }
        self.link.runs().await;
        Ok(answer)
    }

    fn sent(&self) -> usize {
        let appid = &self.wire.account.appid;
        let fetch = Fetch {
            replica: self.replica,
            sent: Instant::now(),
            ended: None,
            claimed: self.database.claimed_for(appid, &self.name),
            outcome: Outcome::Open,
        };
        let mut fetches = self.fetches.lock().expect("no panic");
        fetches.push(fetch);
        fetches.len() - 1
    }
}

#[async_trait]
impl Upstream for Way {
    async fn fetch(&self, ask: Ask) -> Result<Fetched, FetchError> {
        let n = self.sent();
        let answer = self.through(self.wire.fetch(ask)).await;
        let answer = answer.and_then(|answer| answer);
        let fetch = &mut self.fetches.lock().expect("no panic")[n];
        fetch.ended = Some(Instant::now());
        fetch.outcome = match &answer {
            Ok(_) => Outcome::Brought,
            Err(error) if error.definite() => Outcome::Refused,
            Err(_) => Outcome::Lost,
        };
        answer
    }

    async fn look(&self, token: &Secret) -> Sight {
        let sight = self.through(self.wire.look(token)).await;
        sight.ok().flatten().unwrap_or(Sight::Unreachable)
    }

    async fn secret_version(&self) -> Option<u64> {
        Some(0)
    }
}
