//! The seam between the one task that owns the tokens and everybody who reads them.
//!
//! [`channel`] makes two halves, as `mpsc::channel` does. [`Tokens`] is for readers: cheap to clone,
//! answers from memory, and waits for WeChat only if asked to or if a token may have ended unheard.
//! [`Publisher`] is for the owner: it cannot be cloned, so there is exactly one. The owner is the
//! refresher in a server and the mirror in a sidecar; readers cannot tell which.

mod doubts;
mod publisher;
mod refusal;
mod view;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use self::view::Word;
pub use self::{
    doubts::Doubts,
    publisher::Publisher,
    refusal::{Gone, NoToken},
    view::{Current, Issued, View},
};
use crate::{
    clock::Clock,
    domain::{AppName, Moment, Now, report::StaleReport},
};

/// Stale reports that wait for the owner. Beyond that, reporters wait in line.
const REPORTS: usize = 1024;

/// The longest a reader waits for the first outcome.
pub const FIRST_OUTCOME: Duration = Duration::from_secs(10);

/// The longest a reader waits for WeChat's word on a token that may have ended.
const WORD: Duration = Duration::from_secs(1);

/// The owner's loop counts as stuck if it has not turned for this long.
const STUCK: Duration = Duration::from_mins(1);

/// What a stale report led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reported token was not the current one any more.
    AlreadyNewer,
    /// There is a new token.
    Refreshed,
    /// WeChat accepts the reported token.
    StillValid,
}

/// A stale report on its way to the owner, with the way back.
#[derive(Debug)]
pub struct Reported {
    /// About which app.
    pub app: AppName,
    /// What is reported.
    pub report: StaleReport,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Outcome, NoToken>>,
}

/// Makes the two halves for a fixed set of apps, each with its name and its appid.
pub fn channel(
    apps: impl IntoIterator<Item = (AppName, String)>,
    clock: Clock,
) -> (Tokens, Publisher) {
    let (report, reports) = mpsc::channel(REPORTS);
    let (draining, is_draining) = watch::channel(false);
    let mut names = BTreeMap::new();
    let mut readers = BTreeMap::new();
    let mut writers = BTreeMap::new();
    for (app, appid) in apps {
        let (writer, reader) = watch::channel(View::default());
        names.insert(appid, app.clone());
        names.insert(app.as_str().to_owned(), app.clone());
        readers.insert(app.clone(), reader);
        writers.insert(app, writer);
    }
    let doubts = Arc::new(Doubts::new(readers.keys().cloned()));
    let beat = Arc::new(AtomicI64::new(clock.now().boot.as_millis()));
    let stopping = Arc::new(AtomicBool::new(false));
    let tokens = Tokens {
        names: Arc::new(names),
        readers: Arc::new(readers),
        report,
        doubts: Arc::clone(&doubts),
        draining: is_draining,
        beat: Arc::clone(&beat),
        stopping: Arc::clone(&stopping),
        clock,
    };
    let publisher = Publisher {
        writers,
        draining,
        beat,
        stopping,
        clock,
        doubts,
        reports,
    };
    (tokens, publisher)
}

/// The readers' half.
#[derive(Clone, Debug)]
pub struct Tokens {
    names: Arc<BTreeMap<String, AppName>>,
    readers: Arc<BTreeMap<AppName, watch::Receiver<View>>>,
    report: mpsc::Sender<Reported>,
    doubts: Arc<Doubts>,
    draining: watch::Receiver<bool>,
    beat: Arc<AtomicI64>,
    stopping: Arc<AtomicBool>,
    clock: Clock,
}

impl Tokens {
    /// The app that a caller means by a name or an appid.
    pub fn resolve(&self, name_or_appid: &str) -> Result<AppName, NoToken> {
        let app = self.names.get(name_or_appid).cloned();
        app.ok_or_else(|| NoToken::UnknownApp(name_or_appid.to_owned()))
    }

    /// All apps.
    pub fn apps(&self) -> impl Iterator<Item = &AppName> {
        self.readers.keys()
    }

    /// The present, by the clock that the tokens live by.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Everything that becomes known about `app`, beginning with what is known now. Ends when the
    /// owner does.
    pub fn watch(&self, app: &AppName) -> Result<watch::Receiver<View>, NoToken> {
        let reader = self.readers.get(app).cloned();
        reader.ok_or_else(|| NoToken::UnknownApp(app.to_string()))
    }

    /// What `view` offers a caller now.
    pub fn answer(&self, view: &View) -> Result<Issued, NoToken> {
        view.answer(self.clock.now())
    }

    /// The token in force. Waits only if nothing at all is known yet, or if the token may have ended and WeChat has
    /// to say whether it has; at most for `patience`.
    pub async fn current(&self, app: &AppName, patience: Duration) -> Result<Issued, NoToken> {
        let asked = self.clock.now();
        if let Some(view) = self.readers.get(app).map(watch::Receiver::borrow)
            && view.settled
            && view.word(asked.boot, asked.boot) == Word::Good
        {
            return view.answer(asked);
        }
        let (begun, mut reader) = (Instant::now(), self.watch(app)?);
        let first = reader.wait_for(|view| view.settled);
        match timeout(patience.min(FIRST_OUTCOME), first).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(NoToken::Draining),
            Err(_) => return Err(View::default().missing(self.clock.now().boot)),
        }
        // Without a word what was certain before stays so.
        let patience = patience.saturating_sub(begun.elapsed());
        let _ = timeout(patience.min(WORD), self.word(app, &reader, asked.boot)).await;
        self.answer(&reader.borrow())
    }

    /// Returns once WeChat has said whether the token of `app` lives, to a question sent at `asked` or little before.
    async fn word(&self, app: &AppName, reader: &watch::Receiver<View>, asked: Moment) {
        let Some(known) = self.doubts.known(app) else {
            return;
        };
        loop {
            let mut news = pin!(known.notified());
            news.as_mut().enable();
            let word = reader.borrow().word(asked, self.clock.now().boot);
            if word != Word::Good {
                self.doubts.want(app);
            }
            if word != Word::Needed {
                return;
            }
            news.await;
        }
    }

    /// Reports a token that WeChat refused and returns the one to use now.
    pub async fn report(
        &self,
        app: &AppName,
        report: StaleReport,
    ) -> Result<(Issued, Outcome), NoToken> {
        let view = self.watch(app)?;
        let (reply, answer) = oneshot::channel();
        let app = app.clone();
        let reported = Reported { app, report, reply };
        let sent = self.report.send(reported).await;
        sent.map_err(|_| NoToken::Draining)?;
        let outcome = answer.await.map_err(|_| NoToken::Draining)??;
        let issued = self.answer(&view.borrow())?;
        Ok((issued, outcome))
    }

    /// Becomes true once, when the server begins to shut down.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.clone()
    }

    /// What is known about `app` now; nothing if it is not configured.
    pub fn view(&self, app: &AppName) -> View {
        let view = self.readers.get(app);
        view.map(|view| view.borrow().clone()).unwrap_or_default()
    }

    /// Whether the owner's loop turns.
    pub fn alive(&self) -> bool {
        self.silence() < STUCK
    }

    /// How long ago the owner's loop turned.
    pub fn silence(&self) -> Duration {
        let beat = Moment::from_millis(self.beat.load(Ordering::Relaxed));
        self.clock.now().boot.since(beat)
    }

    /// Whether callers can be served: every app has had a first outcome, at least one has a usable
    /// token, and the server is not about to stop.
    pub fn ready(&self) -> bool {
        let settled = self.readers.values().all(|view| view.borrow().settled);
        let usable = self.readers.keys().any(|app| self.usable(app));
        settled && usable && !self.stopping.load(Ordering::Relaxed)
    }

    /// Whether `app` has a token that can be handed out.
    pub fn usable(&self, app: &AppName) -> bool {
        let now = self.clock.now().boot;
        let view = self.readers.get(app);
        view.is_some_and(|view| view.borrow().usable(now).is_some())
    }
}

#[cfg(test)]
mod tests;
