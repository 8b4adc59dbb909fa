//! Follows one app for ever: a stream, its end, a pause, the next stream, at another server if that one
//! failed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    select,
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use tonic::{Status, Streaming};
use tracing::{info, warn};

use super::{
    news::{News, span},
    servers::{Line, Servers},
};
use crate::{
    domain::AppName,
    pb::{Cause, GetTokenRequest, Token, WatchTokenRequest, WatchTokenResponse},
};

/// A server that has no token yet takes 10 s to say so.
const FIRST_WORD: Duration = Duration::from_secs(15);

/// Two signs of life that did not come.
const SILENCE: Duration = Duration::from_secs(70);

/// The first pause; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A longer pause takes half of what is left to keep the token, or to live, at most.
const HURRIED_PAUSE: Duration = Duration::from_secs(1);

/// The way to the owner.
type Tell = mpsc::Sender<(AppName, News)>;

/// Tells all that becomes known of `app`. Ends with the owner.
pub(super) async fn follow(app: AppName, servers: Arc<Servers>, tell: Tell, nudge: Arc<Notify>) {
    let mut follower = Follower::new(app, servers, tell);
    while !follower.tell.is_closed() {
        let (begin, heard) = (Instant::now(), follower.messages);
        let trouble = follower.stream().await;
        follower.complain(trouble).await;
        // A server that says a word and hangs up is no better than one that says none.
        if follower.messages > heard && begin.elapsed() >= follower.pause {
            follower.pause = FIRST_PAUSE;
        }
        follower.pause = rest(follower.pause.min(follower.longest_pause()), &nudge).await;
    }
}

/// About as long as `pause`, so that sidecars do not return in step, unless there is a nudge. How long the
/// next one is.
async fn rest(pause: Duration, nudge: &Notify) -> Duration {
    select! {
        () = sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())) => (pause * 2).min(LONGEST_PAUSE),
        () = nudge.notified() => FIRST_PAUSE,
    }
}

fn silent() -> Status {
    Status::unavailable("the server does not answer")
}

struct Follower {
    app: AppName,
    servers: Arc<Servers>,
    tell: Tell,
    /// The newest generation.
    known: u64,
    /// When the last token was heard of, and for how long it was to be kept, and to live, then.
    heard: Instant,
    spans: [Duration; 2],
    pause: Duration,
    /// How many there were on all streams.
    messages: u64,
    /// Whom it has been logged that it follows.
    followed: Option<String>,
    /// What has been logged since it was followed last.
    complaints: BTreeSet<Arc<str>>,
}

impl Follower {
    fn new(app: AppName, servers: Arc<Servers>, tell: Tell) -> Self {
        Self {
            app,
            servers,
            tell,
            known: 0,
            heard: Instant::now(),
            spans: [Duration::ZERO; 2],
            pause: FIRST_PAUSE,
            messages: 0,
            followed: None,
            complaints: BTreeSet::new(),
        }
    }

    /// One stream, from the connection to its end. Why it ended, if that was not announced.
    async fn stream(&mut self) -> Option<News> {
        let mut line = match self.servers.line().await {
            Ok(line) => line,
            Err(error) => return Some(News::unreachable(&error.to_string())),
        };
        if self.known == 0
            && let Err(status) = self.ask(&mut line).await
        {
            self.servers.give_up(&line.address);
            return Some(News::refused(&status, &line.address));
        }
        let ended = match self.open(&mut line).await {
            Ok(stream) => self.read(stream, &line.address).await,
            Err(status) => Err(status),
        };
        // Also if it does not know us: while keys and apps are being changed, servers differ.
        self.servers.give_up(&line.address);
        ended
            .err()
            .map(|status| News::refused(&status, &line.address))
    }

    /// Whoever asks here before there is a token wants to know why, and a stream says so after 10 s only.
    /// An error is that of a server that says nothing.
    async fn ask(&mut self, line: &mut Line) -> Result<(), Status> {
        let app_id = self.app.to_string();
        let request = line.request(GetTokenRequest { app_id }, Some(FIRST_WORD));
        match timeout(FIRST_WORD, line.calls.get_token(request)).await {
            Ok(Ok(answer)) => {
                if let Some(token) = answer.into_inner().token {
                    self.token(token).await;
                }
            }
            Ok(Err(status)) => self.pass_on(News::refused(&status, &line.address)).await,
            Err(_) => return Err(silent()),
        }
        Ok(())
    }

    async fn open(&self, line: &mut Line) -> Result<Streaming<WatchTokenResponse>, Status> {
        let message = WatchTokenRequest {
            app_id: self.app.to_string(),
            known_generation: self.known,
        };
        let request = line.request(message, None);
        let answer = timeout(FIRST_WORD, line.calls.watch_token(request)).await;
        let answer = answer.map_err(|_| silent())??;
        Ok(answer.into_inner())
    }

    /// Passes messages on until the server says goodbye.
    async fn read(
        &mut self,
        mut stream: Streaming<WatchTokenResponse>,
        address: &str,
    ) -> Result<(), Status> {
        loop {
            let message = timeout(SILENCE, stream.message()).await;
            let message = message.map_err(|_| Status::unavailable("the server is silent"))??;
            let Some(message) = message else {
                return Err(Status::unavailable("the stream ended"));
            };
            let cause = message.cause();
            if let Some(token) = message.token {
                self.known = self.known.max(token.generation);
                self.token(token).await;
            }
            self.follows(address);
            self.messages += 1;
            if cause == Cause::Draining {
                return Ok(());
            }
        }
    }

    async fn token(&mut self, token: Token) {
        self.heard = Instant::now();
        self.spans = [token.keep_for, token.time_to_live].map(span);
        self.pass_on(News::Token(token)).await;
    }

    /// Servers that come and go must not cost the time in which there is a token. With none left to lose,
    /// there is no such hurry.
    fn longest_pause(&self) -> Duration {
        let past = self.heard.elapsed();
        let left = self.spans.into_iter();
        let left = left.filter_map(|span| span.checked_sub(past).filter(|left| !left.is_zero()));
        let half = left.min().map_or(LONGEST_PAUSE, |left| left / 2);
        half.clamp(HURRIED_PAUSE, LONGEST_PAUSE)
    }

    fn follows(&mut self, address: &str) {
        if !self.complaints.is_empty() {
            info!(app = %self.app, server = address, "following again");
        } else if self.followed.as_deref() != Some(address) {
            info!(app = %self.app, server = address, "following");
        }
        self.complaints.clear();
        self.followed = Some(address.to_owned());
    }

    async fn complain(&mut self, trouble: Option<News>) {
        let Some(trouble) = trouble else {
            return;
        };
        if let News::Trouble(trouble) = &trouble
            && self.complaints.insert(Arc::clone(&trouble.message))
        {
            warn!(app = %self.app, reason = %trouble.message, "no server can be followed");
        }
        self.pass_on(trouble).await;
    }

    async fn pass_on(&self, news: News) {
        // There is no owner any more: this is about to end.
        let _ = self.tell.send((self.app.clone(), news)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep_until;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_ten_seconds_and_are_random_in_part() {
        let (mut pause, mut pauses) = (FIRST_PAUSE, Vec::new());
        for _ in 0..9 {
            let begin = Instant::now();
            let next = rest(pause, &Notify::new()).await;
            let took = begin.elapsed();
            // Timers count in whole milliseconds.
            let longest = pause + Duration::from_millis(2);
            assert!(
                pause / 2 <= took && took <= longest,
                "{took:?} of {pause:?}"
            );
            pauses.push(pause.as_millis());
            pause = next;
        }
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert_eq!(pauses, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn no_pause_takes_more_than_half_of_what_is_left_of_a_token() {
        let settings = "[agent]\nservers = ['http://127.0.0.1:1']\napps = ['shop']\n";
        let settings = crate::config::Agent::parse(settings, "agent.toml", []).unwrap();
        let (tell, mut heard) = mpsc::channel(1);
        let app = settings.apps[0].clone();
        let mut follower = Follower::new(app, Arc::new(Servers::new(&settings)), tell);
        let longest = |follower: &Follower| follower.longest_pause().as_millis();
        assert_eq!(longest(&follower), 10_000, "before there is a token");
        let secs = |secs| Duration::from_secs(secs).try_into().ok();
        let token = Token {
            keep_for: secs(24),
            time_to_live: secs(40),
            ..Token::default()
        };
        follower.token(token).await;
        assert!(matches!(heard.try_recv(), Ok((_, News::Token(_)))));
        // First until it is to be asked for again, then until its death, then there is nothing left to lose.
        for (at, expected) in [
            (0, 10_000),
            (14, 5_000),
            (23, 1_000),
            (24, 8_000),
            (38, 1_000),
            (40, 10_000),
        ] {
            sleep_until(follower.heard + Duration::from_secs(at)).await;
            assert_eq!(longest(&follower), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_nudge_ends_a_pause_at_once() {
        let (nudge, begin) = (Notify::new(), Instant::now());
        let (next, ()) = tokio::join!(rest(LONGEST_PAUSE, &nudge), async {
            nudge.notify_waiters();
        });
        assert_eq!((next, begin.elapsed()), (FIRST_PAUSE, Duration::ZERO));
    }
}
