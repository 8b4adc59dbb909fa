//! Programs that behave: one asks again and again, one watches.

use std::time::Duration;

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use wxtokend::pb;

use crate::{
    history::History,
    process::{PATIENCE, get, watch_request},
    served::Client,
};

/// So often the one asks that asks.
const PAUSE: Duration = Duration::from_millis(10);

/// Both, each with a connection of its own.
pub(super) struct Neighbours {
    tasks: JoinSet<()>,
    answers: watch::Receiver<u64>,
    newest: watch::Receiver<u64>,
}

impl Neighbours {
    pub(super) const CONNECTIONS: u64 = 2;

    /// Who want the token of `app` at `url` and have it; what they are told goes into `history`.
    pub(super) async fn of(url: &str, app: &'static str, history: &History) -> Self {
        let (count, answers) = watch::channel(0);
        let (tell, newest) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(ask(client(url).await, app, count));
        tasks.spawn(listen(client(url).await, app, tell, history.clone()));
        let mut this = Self {
            tasks,
            answers,
            newest,
        };
        this.see(1).await;
        this.are_served().await;
        this
    }

    /// The generation that the watcher has.
    pub(super) fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Waits until the watcher has a token of this generation or a later one.
    pub(super) async fn see(&mut self, generation: u64) {
        let newest = self.newest.clone();
        let what = format!("the watcher sees generation {generation}");
        self.reaches(newest, generation, &what).await;
    }

    /// Waits for some more answers.
    pub(super) async fn are_served(&mut self) {
        let answers = self.answers.clone();
        let enough = *answers.borrow() + 5;
        self.reaches(answers, enough, "the caller gets answers")
            .await;
    }

    async fn reaches(&mut self, mut number: watch::Receiver<u64>, least: u64, what: &str) {
        let reached = async {
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => ended.unwrap(),
                reached = number.wait_for(|number| *number >= least) => drop(reached.unwrap()),
            }
        };
        within(reached, what).await;
    }
}

/// What must come to those who behave. How soon it comes, a benchmark says.
async fn within<F: Future>(fact: F, what: &str) -> F::Output {
    let output = timeout(PATIENCE, fact).await;
    output.unwrap_or_else(|_| panic!("this did not happen in {PATIENCE:?}: {what}"))
}

async fn client(url: &str) -> Client {
    let connecting = Client::connect(url.to_owned());
    within(connecting, "a connection").await.unwrap()
}

/// Asks for ever; each answer must be good and come soon.
async fn ask(mut client: Client, app: &str, count: watch::Sender<u64>) {
    let mut last = 0;
    loop {
        let answer = within(client.get_token(get(app)), "an answer").await;
        let token = answer.unwrap().into_inner().token.unwrap();
        assert!(token.generation >= last, "it went back");
        last = token.generation;
        count.send_modify(|count| *count += 1);
        sleep(PAUSE).await;
    }
}

/// Watches for ever: the stream must not end.
async fn listen(mut client: Client, app: &str, tell: watch::Sender<u64>, history: History) {
    let stream = history.watch(&mut client, watch_request(app)).await;
    let mut stream = stream.unwrap();
    loop {
        let message = stream.message().await.unwrap();
        let token: pb::Token = message.expect("no end").token.unwrap();
        let before = tell.send_replace(token.generation);
        assert!(token.generation >= before, "it went back");
    }
}
