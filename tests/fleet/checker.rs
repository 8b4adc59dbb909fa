//! What callers of three replicas saw, and what must be true of it.

use std::{
    collections::BTreeMap,
    pin::pin,
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
    mischief::Fault,
    process::{WeChat, get, watch_request},
    replicas::longest_fault,
    seen::Seen,
    served::Client,
};

/// From the publication of a token until every replica that is connected has it.
const DELIVERY: Duration = Duration::from_secs(1);

/// A replica that was in trouble is given so long to connect again.
const RECOVERY: Duration = Duration::from_secs(4);

/// A stream that says nothing for so long is dead, whatever its connection says: longer than its history allows.
fn silence() -> Duration {
    Duration::from_secs(40) + longest_fault()
}

/// The pause between two questions of one caller.
const PAUSE: Duration = Duration::from_millis(10);

/// One answer.
#[derive(Clone, Debug)]
struct Answer {
    at: Instant,
    took: Duration,
    generation: u64,
    /// Counts the tokens that WeChat made for the app. A token may get another generation.
    made: usize,
    refused: bool,
}

/// What one caller saw of one app at one replica.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) app: String,
    pub(crate) replica: usize,
    answers: Vec<Answer>,
    /// When there was none, and why.
    pub(crate) unanswered: Vec<(Instant, String)>,
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
    let (mut value, mut made) = (String::new(), 0);
    let mut account = Account {
        app: app.to_owned(),
        replica,
        answers: Vec::new(),
        unanswered: Vec::new(),
    };
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = timeout(Duration::from_millis(500), client.get_token(get(app))).await;
        // A process that stood still answers late: what it says then is from then.
        if let Ok(Ok(answer)) = answer {
            let took = asked.elapsed();
            let token = answer.into_inner().token.unwrap();
            // Its end may have come on the way, as its answer says.
            let left = Duration::try_from(token.time_to_live.unwrap()).unwrap_or_default();
            let refused = !wechat.accepts(app, &token.access_token) && asked.elapsed() < left;
            if token.access_token != value {
                let all = wechat.tokens(app);
                value.clone_from(&token.access_token);
                made = all
                    .iter()
                    .rposition(|one| *one == value)
                    .expect("one of WeChat's");
            }
            seen.sees(app, &token, &format!("at replica {replica}"));
            account.answers.push(Answer {
                at: Instant::now(),
                took,
                generation: token.generation,
                made,
                refused,
            });
        } else {
            let why = answer.map_or("silence".into(), |answer| {
                answer.map_or_else(|status| status.message().to_owned(), |_| String::new())
            });
            account.unanswered.push((asked, why));
            if asked.elapsed() >= Duration::from_millis(500) {
                client = Client::new(channel());
            }
        }
        sleep(PAUSE).await;
    }
    account
}

/// Follows one replica's stream, and its next one, and so on, until it is `over`. The history judges each of
/// them when it ends, and a judgment is a panic.
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
            let end = async {
                while !over.load(Ordering::Relaxed) {
                    sleep(PAUSE).await;
                }
            };
            let mut end = pin!(end);
            loop {
                let message = tokio::select! {
                    message = timeout(silence(), stream.message()) => message,
                    () = &mut end => break,
                };
                if !matches!(message, Ok(Ok(Some(_)))) {
                    break;
                }
                messages += 1;
            }
        }
        sleep(PAUSE * 5).await;
    }
    messages
}

/// Something was wrong for a while.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) fault: Fault,
    /// The replicas that did not hear of others, or could not tell them anything.
    pub(crate) apart: Vec<usize>,
    /// The one that could not answer.
    pub(crate) mute: Option<usize>,
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

/// All that was wrong, in the order in which it began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles {
    all: Vec<Trouble>,
    longest: Duration,
}

impl Troubles {
    pub(crate) fn add(&mut self, trouble: Trouble) {
        self.longest = self.longest.max(trouble.to - trouble.from);
        let at = self.all.partition_point(|other| other.from <= trouble.from);
        self.all.insert(at, trouble);
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether a replica was well all the time, and had been for a while.
    pub(crate) fn free(&self, replica: usize, from: Instant, to: Instant) -> bool {
        let mut met = self.met(from, to, RECOVERY);
        !met.any(|trouble| trouble.apart.contains(&replica))
    }

    /// Whether it could answer.
    fn could_answer(&self, replica: usize, at: Instant) -> bool {
        let mut met = self.met(at, at, RECOVERY);
        !met.any(|trouble| trouble.mute == Some(replica))
    }

    /// Whether nothing was wrong, and had not been for so long.
    fn none(&self, at: Instant, before: Duration) -> bool {
        self.met(at, at, before).next().is_none()
    }

    /// What was wrong at some time, or within so long before it.
    pub(crate) fn met(
        &self,
        from: Instant,
        to: Instant,
        before: Duration,
    ) -> impl Iterator<Item = &Trouble> {
        let reach = before + self.longest;
        let first = self
            .all
            .partition_point(|trouble| trouble.from + reach < from);
        let begun = self.all[first..]
            .iter()
            .take_while(move |trouble| trouble.from <= to);
        begun.filter(move |trouble| trouble.to + before >= from)
    }
}

/// A replica handed out a token that WeChat refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) from: Instant,
    pub(crate) to: Instant,
    pub(crate) answers: usize,
    pub(crate) told: String,
}

impl Account {
    pub(crate) fn answered(&self) -> usize {
        self.answers.len()
    }

    /// The time that 99 of a hundred answers did not exceed, while something was wrong and while nothing was.
    pub(crate) fn p99(&self, troubles: &Troubles) -> (Duration, Duration) {
        let all = self.answers.iter();
        let (wrong, well): (Vec<_>, Vec<_>) =
            all.partition(|answer| !troubles.none(answer.at, Duration::ZERO));
        let p99 = |answers: Vec<&Answer>| {
            let mut took: Vec<_> = answers.iter().map(|answer| answer.took).collect();
            took.sort_unstable();
            took.get(took.len() * 99 / 100).copied().unwrap_or_default()
        };
        (p99(wrong), p99(well))
    }

    /// When there was no answer although this replica could have given one, and why.
    pub(crate) fn let_down(&self, troubles: &Troubles) -> Vec<&(Instant, String)> {
        let all = self.unanswered.iter();
        all.filter(|(at, _)| troubles.could_answer(self.replica, *at))
            .collect()
    }

    /// There was no answer although nothing had been wrong with anything for so long.
    pub(crate) fn let_down_in_calm(
        &self,
        troubles: &Troubles,
        calm: Duration,
    ) -> Vec<&(Instant, String)> {
        let all = self.unanswered.iter();
        all.filter(|(at, _)| troubles.none(*at, calm)).collect()
    }

    pub(crate) fn refusals(&self, begin: Instant) -> impl Iterator<Item = Refusal> {
        let runs = self
            .answers
            .chunk_by(|one, other| one.refused == other.refused);
        runs.filter(|run| run[0].refused).map(move |run| {
            let (from, to) = (run[0].at, run[run.len() - 1].at);
            let told = format!(
                "{} at replica {}: generation {} refused {} times, from {:?} for {:?}",
                self.app,
                self.replica,
                run[0].generation,
                run.len(),
                from - begin,
                to - from
            );
            Refusal {
                from,
                to,
                answers: run.len(),
                told,
            }
        })
    }
}

/// How soon replicas without trouble had what another one had, and where that was too late.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    took: Vec<Duration>,
    pub(crate) late: Vec<String>,
}

impl Deliveries {
    pub(crate) fn of(accounts: &[Account], troubles: &Troubles, begin: Instant) -> Self {
        let published = published(accounts, troubles);
        let mut all = Self::default();
        for account in accounts {
            for ((app, made), (at, generation)) in &published {
                let free = troubles.free(account.replica, *at, *at + DELIVERY);
                if *app == account.app && free {
                    let told = format!("{generation} was there after {:?}", *at - begin);
                    all.judge(account, *made, *at, begin, &told);
                }
            }
        }
        all.took.sort_unstable();
        all
    }

    fn judge(
        &mut self,
        account: &Account,
        made: usize,
        published: Instant,
        begin: Instant,
        told: &str,
    ) {
        let since = account
            .answers
            .iter()
            .filter(|answer| answer.at >= published);
        let mut old = since
            .clone()
            .filter(|answer| answer.at > published + DELIVERY);
        if let Some(answer) = old.find(|answer| answer.made < made) {
            self.late.push(format!(
                "{} at replica {}: {} still after {:?}, but {told}",
                account.app,
                account.replica,
                answer.generation,
                answer.at - begin
            ));
        }
        let first = since.clone().find(|answer| answer.made >= made);
        self.took.extend(first.map(|answer| answer.at - published));
    }

    /// How many there were, and the times that 99 of a hundred and all of them did not exceed.
    pub(crate) fn told(&self) -> String {
        let (count, last) = (self.took.len(), self.took.last().copied());
        let p99 = self.took.get(count * 99 / 100).copied();
        let (p99, last) = (p99.unwrap_or_default(), last.unwrap_or_default());
        format!("{count} deliveries, p99 {p99:?}, at most {last:?}")
    }
}

/// When each token was first handed out by a replica that could tell others of it, and under which generation.
fn published<'a>(
    accounts: &'a [Account],
    troubles: &Troubles,
) -> BTreeMap<(&'a str, usize), (Instant, u64)> {
    let mut first: BTreeMap<(&str, usize), (Instant, u64)> = BTreeMap::new();
    for account in accounts {
        let told = |answer: &&Answer| troubles.free(account.replica, answer.at, answer.at);
        for answer in account.answers.iter().filter(told) {
            let (this, seen) = (
                first.entry((&account.app, answer.made)),
                (answer.at, answer.generation),
            );
            let earliest = this.or_insert(seen);
            *earliest = seen.min(*earliest);
        }
    }
    first
}
