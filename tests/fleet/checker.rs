//! What callers of three replicas saw, and what must be true of it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::{
    history::History,
    process::{WeChat, get, watch_request},
    seen::Seen,
    served::Client,
};

/// From the publication of a token until every replica that is connected has it: the contract's second, and
/// another one for a machine that is busy with all of this.
const DELIVERY: Duration = Duration::from_secs(2);

/// A replica that was in trouble is given so long to connect again.
const RECOVERY: Duration = Duration::from_secs(4);

/// A stream that says nothing for so long is dead, whatever its connection says.
const BEAT: Duration = Duration::from_secs(40);

/// The pause between two questions of one caller.
const PAUSE: Duration = Duration::from_millis(10);

/// One answer.
#[derive(Clone, Debug)]
struct Answer {
    at: Instant,
    took: Duration,
    generation: u64,
    refused: bool,
}

/// What one caller saw of one app at one replica.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) app: String,
    pub(crate) replica: usize,
    answers: Vec<Answer>,
    pub(crate) unanswered: u64,
}

/// Asks one replica over and over, whatever becomes of it, until it is `over`.
pub(crate) async fn ask_all_the_time(
    url: String,
    (app, replica): (&'static str, usize),
    wechat: Arc<WeChat>,
    over: Arc<AtomicBool>,
) -> Account {
    let channel = || -> Channel { Endpoint::from_shared(url.clone()).unwrap().connect_lazy() };
    let (mut client, mut seen) = (Client::new(channel()), Seen::default());
    let mut account = Account {
        app: app.to_owned(),
        replica,
        answers: Vec::new(),
        unanswered: 0,
    };
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = timeout(Duration::from_millis(500), client.get_token(get(app))).await;
        // A process that stood still answers late: what it says then is from then.
        if let Ok(Ok(answer)) = answer {
            let took = asked.elapsed();
            let token = answer.into_inner().token.unwrap();
            let refused = !wechat.accepts(app, &token.access_token);
            seen.sees(app, &token, &format!("at replica {replica}"));
            account.answers.push(Answer {
                at: Instant::now(),
                took,
                generation: token.generation,
                refused,
            });
        } else {
            account.unanswered += 1;
            if asked.elapsed() >= Duration::from_millis(500) {
                client = Client::new(channel());
            }
        }
        sleep(PAUSE).await;
    }
    account
}

/// Follows one replica's stream, and its next one, and so on, until it is `over`. The history judges them.
pub(crate) async fn watch_all_the_time(
    url: String,
    app: &'static str,
    history: History,
    over: Arc<AtomicBool>,
) -> u64 {
    let mut messages = 0;
    while !over.load(Ordering::Relaxed) {
        let channel = Endpoint::from_shared(url.clone()).unwrap().connect_lazy();
        let mut client = Client::new(channel);
        if let Ok(mut stream) = history.watch(&mut client, watch_request(app)).await {
            while let Ok(Ok(Some(_))) = timeout(BEAT, stream.message()).await {
                messages += 1;
            }
        }
        sleep(PAUSE * 5).await;
    }
    messages
}

/// When which replicas were in trouble.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles(Vec<(Vec<usize>, Instant, Instant)>);

impl Troubles {
    pub(crate) fn add(&mut self, replicas: &[usize], from: Instant, to: Instant) {
        self.0.push((replicas.to_vec(), from, to));
    }

    fn free(&self, replica: usize, from: Instant, to: Instant) -> bool {
        let meets = |(replicas, begin, end): &(Vec<usize>, Instant, Instant)| {
            replicas.contains(&replica) && *begin <= to && from <= *end + RECOVERY
        };
        !self.0.iter().any(meets)
    }
}

/// How many moments there were in which answers held a token that WeChat refused, and how long the longest was.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) moments: u64,
    pub(crate) longest: Duration,
    pub(crate) told: String,
}

impl Account {
    pub(crate) fn answered(&self) -> usize {
        self.answers.len()
    }

    /// The time that 99 of a hundred answers did not exceed, before `begin` and from then on.
    pub(crate) fn p99(&self, begin: Instant) -> (Duration, Duration) {
        let (calm, then): (Vec<_>, Vec<_>) = self.answers.iter().partition(|a| a.at < begin);
        let p99 = |answers: Vec<&Answer>| {
            let mut took: Vec<_> = answers.iter().map(|answer| answer.took).collect();
            took.sort_unstable();
            took.get(took.len() * 99 / 100).copied().unwrap_or_default()
        };
        (p99(calm), p99(then))
    }

    pub(crate) fn refusals(&self, begin: Instant) -> Refusals {
        let mut all = Refusals::default();
        let runs = self
            .answers
            .chunk_by(|one, other| one.refused == other.refused);
        for run in runs.filter(|run| run[0].refused) {
            let (first, last) = (&run[0], &run[run.len() - 1]);
            all.moments += 1;
            all.longest = all.longest.max(last.at - first.at);
            writeln!(
                all.told,
                "{} at replica {}: generation {} refused {} times, from {:?} for {:?}",
                self.app,
                self.replica,
                first.generation,
                run.len(),
                first.at - begin,
                last.at - first.at
            )
            .unwrap();
        }
        all
    }
}

/// Where a replica without trouble did not have in time what another one had.
pub(crate) fn late(accounts: &[Account], troubles: &Troubles, begin: Instant) -> Vec<String> {
    let mut first: BTreeMap<(&str, u64), Instant> = BTreeMap::new();
    for account in accounts {
        // Who is cut off cannot tell anybody what it has.
        let told = |answer: &&Answer| troubles.free(account.replica, answer.at, answer.at);
        for answer in account.answers.iter().filter(told) {
            let at = first.entry((&account.app, answer.generation));
            let at = at.or_insert(answer.at);
            *at = answer.at.min(*at);
        }
    }
    let mut late = Vec::new();
    for account in accounts {
        for ((app, generation), published) in &first {
            let due = *published + DELIVERY;
            if *app != account.app || !troubles.free(account.replica, *published, due) {
                continue;
            }
            let old = |answer: &&Answer| answer.at > due && answer.generation < *generation;
            if let Some(answer) = account.answers.iter().find(old) {
                late.push(format!(
                    "{app} at replica {}: {} still after {:?}, but {generation} was there after {:?}",
                    account.replica,
                    answer.generation,
                    answer.at - begin,
                    *published - begin
                ));
            }
        }
    }
    late
}
