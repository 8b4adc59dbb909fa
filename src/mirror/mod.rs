//! The owner of the tokens in a sidecar: it is pushed to by a server.
//!
//! One task writes, as in a server. Beside it each app is followed by a task of its own (`follow`), all
//! over the same connection (`servers`), and a report of a stale token goes to the server that knows
//! what to do about it (`report`). A token stays in force while every server is gone, until it dies.

mod follow;
mod news;
mod report;
mod servers;

use std::{collections::BTreeMap, panic::resume_unwind, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{follow::follow, news::News, report::Answered, servers::Servers};
use crate::{
    clock::Clock,
    config,
    domain::{AppName, Moment},
    tokens::{Current, Publisher, View},
};

/// How often the loop turns at least, so that it is known to be alive.
const BEAT: Duration = Duration::from_secs(10);

/// News on their way to the owner. Beyond that, those who bring them wait in line.
const LINE: usize = 64;

/// The owner of the tokens in a sidecar.
#[derive(Debug)]
pub struct Mirror {
    publisher: Publisher,
    views: BTreeMap<AppName, View>,
    /// Tokens of servers that lag behind, for the day when those in force are dead.
    behind: BTreeMap<AppName, Current>,
    servers: Arc<Servers>,
    clock: Clock,
}

/// So long before its end a token gives way to one that lives longer, if that is of an older generation.
const EARLY: Duration = Duration::from_millis(200);

impl Mirror {
    /// One that follows the apps of `settings` at its servers.
    pub fn new(publisher: Publisher, settings: &config::Agent, clock: Clock) -> Self {
        let nothing = View {
            mirrored: true,
            ..View::default()
        };
        for app in &settings.apps {
            publisher.publish(app, nothing.clone());
        }
        let views = settings.apps.iter();
        Self {
            views: views.map(|app| (app.clone(), nothing.clone())).collect(),
            publisher,
            behind: BTreeMap::new(),
            servers: Arc::new(Servers::new(settings)),
            clock,
        }
    }

    /// Runs until `stop`; each `nudge` ends the pauses before the next attempts. Dropping the publisher on
    /// the way out ends every watch.
    pub async fn run(mut self, stop: CancellationToken, nudge: Arc<Notify>) {
        let (tell, mut news) = mpsc::channel(LINE);
        // Dropping it ends everything that is under way.
        let mut following = JoinSet::new();
        for app in self.views.keys() {
            let (servers, nudge) = (Arc::clone(&self.servers), Arc::clone(&nudge));
            following.spawn(follow(app.clone(), servers, tell.clone(), nudge));
        }
        let mut reports = JoinSet::new();
        loop {
            let now = self.clock.now();
            self.publisher.beat(now.boot);
            self.replace_the_dead(now.boot);
            let nap = self.nap(now.boot);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((app, news)) = news.recv() => self.on_news(&app, news),
                Some(answered) = reports.join_next() => self.on_answer(answered),
                Some(reported) = self.publisher.reports.recv() => {
                    let held = self.views.get(&reported.app).and_then(|view| view.current.clone());
                    let servers = Arc::clone(&self.servers);
                    reports.spawn(report::answer(reported, held, servers));
                }
                // None of them ends by itself.
                Some(ended) = following.join_next() => crashed(ended),
                () = sleep(nap) => {}
            }
        }
        self.publisher.drain();
    }

    /// Better an older generation than none that lives. A little early: to wake up takes time, in which there
    /// would be none.
    fn replace_the_dead(&mut self, now: Moment) {
        for (app, view) in &mut self.views {
            if view.usable(now + EARLY).is_none()
                && let Some(behind) = self.behind.remove(app)
                && behind.token.expires_at > now + EARLY
            {
                warn!(app = %app, generation = behind.token.generation.0, "the servers have lost what they knew; going on with an older generation");
                view.current = Some(behind);
                self.publisher.publish(app, view.clone());
            }
        }
    }

    /// Until a token dies that has to be replaced, or for a beat.
    fn nap(&self, now: Moment) -> Duration {
        let waiting = self.behind.keys().filter_map(|app| self.views.get(app));
        let deaths = waiting.filter_map(|view| view.current.as_ref());
        let spans = deaths.map(|current| (current.token.expires_at - EARLY).since(now));
        spans.min().map_or(BEAT, |span| span.min(BEAT))
    }

    fn on_news(&mut self, app: &AppName, news: News) {
        let (Some(view), now) = (self.views.get_mut(app), self.clock.now()) else {
            return;
        };
        if let Some(behind) = news.behind(view, now) {
            self.behind.insert(app.clone(), behind);
            return;
        }
        if let News::Token(_) = &news {
            // The servers have caught up, and what they had before is retired.
            self.behind.remove(app);
        }
        if let Some(next) = news.after(view, now) {
            *view = next;
            self.publisher.publish(app, view.clone());
        }
    }

    fn on_answer(&mut self, answered: Result<Answered, JoinError>) {
        match answered {
            Ok(answered) => {
                // First the token, then the word that there is one.
                if let Some(token) = answered.token {
                    self.on_news(&answered.app, News::Token(token));
                }
                let _ = answered.reply.send(answered.outcome);
            }
            Err(error) => crashed(Err(error)),
        }
    }
}

/// A panic in a task is a panic of the owner: the process must not go on without it.
fn crashed(ended: Result<(), JoinError>) {
    match ended {
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        pb,
        tokens::{self, Outcome, Tokens},
    };

    /// One that follows `shop`.
    fn mirror() -> (Mirror, Tokens, AppName) {
        let text = "[agent]\nservers = ['http://127.0.0.1:1']\napps = ['shop']\n";
        let settings = config::Agent::parse(text, "agent.toml", []).unwrap();
        let app = settings.apps[0].clone();
        let names = [(app.clone(), "wx1".to_owned())];
        let (tokens, publisher) = tokens::channel(names, Clock::SYSTEM);
        let mirror = Mirror::new(publisher, &settings, Clock::SYSTEM);
        (mirror, tokens, app)
    }

    fn token(generation: u64, hours: u64) -> pb::Token {
        pb::Token {
            access_token: format!("98_{generation}"),
            generation,
            time_to_live: Duration::from_hours(hours).try_into().ok(),
            ..pb::Token::default()
        }
    }

    #[test]
    fn a_token_of_a_server_that_lagged_is_forgotten_once_it_has_caught_up() {
        let later = Clock::SYSTEM.now().boot + Duration::from_hours(2);
        for (told, left) in [
            (&[(9, 1), (8, 3)][..], Some(8)),
            (&[(9, 1), (8, 3), (10, 1)], None),
        ] {
            let (mut mirror, _, app) = mirror();
            for (generation, hours) in told {
                mirror.on_news(&app, News::Token(token(*generation, *hours)));
            }
            mirror.replace_the_dead(later);
            let usable = mirror.views[&app].usable(later);
            assert_eq!(
                usable.map(|current| current.token.generation.0),
                left,
                "{told:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_token_of_an_answer_is_in_force_before_the_answer_is_heard() {
        let (mut mirror, tokens, app) = mirror();
        let (reply, heard) = oneshot::channel();
        mirror.on_answer(Ok(Answered {
            app: app.clone(),
            token: Some(token(8, 2)),
            outcome: Ok(Outcome::Refreshed),
            reply,
        }));
        assert!(matches!(heard.await.unwrap(), Ok(Outcome::Refreshed)));
        let issued = tokens.current(&app, Duration::ZERO).await.unwrap();
        assert_eq!(issued.token.generation.0, 8);
    }
}
