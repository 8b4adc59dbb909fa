//! The stream: the token in force, then each later one, a sign of life every 30 s, a last word.
//!
//! Nothing is queued. Each message is made at the moment the transport asks for it, from what is
//! known then. So a slow reader skips to the newest token, every life and `keep_for` is right when it
//! leaves, and a stream that nobody reads costs nothing.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use async_stream::stream;
use bytes::Bytes;
use tokio::{
    select,
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tonic::Status;

use super::{press, readers::Reader, seldom::Seldom};
use crate::{
    domain::{AppName, Generation},
    pb::{Cause, WatchTokenRequest},
    tokens::{FIRST_OUTCOME, Issued, NoToken, View},
};

/// Contract: both ends notice a dead path.
const BEAT: Duration = Duration::from_secs(30);

/// Contract: the ends of streams whose token died are spread over this long, and so are the callers
/// who come back.
const SPREAD: Duration = Duration::from_secs(2);

/// What one stream knows.
#[derive(Debug)]
pub(super) struct Watch {
    app_id: String,
    known: Generation,
    /// The generation that the reader holds, once we know that it holds one of ours.
    held: Option<Generation>,
    view: watch::Receiver<View>,
    reader: Reader,
    beat: Instant,
    /// What there is has been looked at, so that something must happen before it is again.
    looked: bool,
    /// When the token dies, or when to give up waiting for one; `None` is never.
    limit: Option<Instant>,
    /// Since there is no usable token: until when to wait for one.
    give_up: Option<Instant>,
    /// The last message has been sent.
    over: bool,
}

enum Event {
    News,
    Beat,
    End,
}

/// What wakes a stream, besides news.
struct Wakers<'a, 'c> {
    /// Of the connection.
    end: Pin<&'a mut WaitForCancellationFuture<'c>>,
    /// Rings in time for all that time alone brings, sometimes too early.
    alarm: Pin<&'a mut Sleep>,
    /// There are many news before one of the two has any.
    seldom: Seldom,
}

impl Wakers<'_, '_> {
    /// Most alarms would be set anew before they ring, for each message of each stream. So an alarm is
    /// only ever moved forward, and one that rings too early is news of nothing.
    fn wake_at(&mut self, at: Instant) {
        if self.alarm.deadline() > at || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(at);
            self.seldom.renew();
        }
    }

    /// `true` when the connection ends, `false` when the alarm rings.
    async fn ended(&mut self) -> bool {
        let Self { end, alarm, seldom } = self;
        poll_fn(|cx| {
            seldom.poll(cx, |cx| {
                if end.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                alarm.as_mut().poll(cx).map(|()| false)
            })
        })
        .await
    }
}

impl Watch {
    pub(super) fn new(
        app: &AppName,
        request: WatchTokenRequest,
        reader: Reader,
    ) -> Result<Self, NoToken> {
        Ok(Self {
            app_id: request.app_id,
            known: Generation(request.known_generation),
            held: None,
            view: reader.tokens().watch(app)?,
            reader,
            beat: Instant::now() + BEAT,
            looked: false,
            limit: None,
            give_up: None,
            over: false,
        })
    }

    /// All messages until `connection` ends.
    pub(super) fn into_stream(mut self, connection: CancellationToken) -> TokenStream {
        TokenStream(Box::pin(stream! {
            let mut wakers = Wakers {
                end: pin!(connection.cancelled()),
                alarm: pin!(sleep_until(self.beat)),
                seldom: Seldom::default(),
            };
            loop {
                let next = self.next(&mut wakers).await;
                let over = next.is_err();
                yield next.map_err(Status::from);
                if over {
                    break;
                }
                // The transport comes back, so it has taken what it got.
                self.reader.took();
            }
        }))
    }

    /// The next message, or why there is none any more.
    async fn next(&mut self, wakers: &mut Wakers<'_, '_>) -> Result<Bytes, NoToken> {
        let mut beat = false;
        while !self.over {
            if self.looked {
                match self.event(wakers).await {
                    Event::News => {}
                    Event::Beat => {
                        // With no token there is nothing to say now: it is owed until there is.
                        self.beat = Instant::now() + BEAT;
                        beat = true;
                    }
                    Event::End => return self.last_word(),
                }
            }
            self.looked = true;
            let (found, now) = (self.look(), Instant::now());
            match found {
                // A sidecar's servers may have lost what they knew. Within a stream no generation falls.
                Ok(issued) if self.held > Some(issued.token.generation) => {
                    return Err(NoToken::Draining);
                }
                Ok(issued) => {
                    self.give_up = None;
                    self.limit = now.checked_add(issued.time_to_live);
                    if let Some(cause) = self.cause(issued.token.generation, beat) {
                        return Ok(self.message(&issued, cause, now));
                    }
                }
                Err(error) => {
                    let give_up = self.give_up_at(now);
                    if give_up <= now {
                        return Err(error);
                    }
                    self.limit = Some(give_up);
                }
            }
        }
        Err(NoToken::Draining)
    }

    fn look(&mut self) -> Result<Issued, NoToken> {
        self.reader.tokens().answer(&self.view.borrow_and_update())
    }

    /// Why the reader should hear of the token in force, if it should.
    fn cause(&mut self, generation: Generation, beat: bool) -> Option<Cause> {
        match self.held {
            None if generation == self.known => {
                self.held = Some(generation);
                None
            }
            None => Some(Cause::Current),
            Some(held) if generation > held => Some(Cause::Rotated),
            Some(held) if beat && generation == held => Some(Cause::Heartbeat),
            Some(_) => None,
        }
    }

    fn message(&mut self, issued: &Issued, cause: Cause, now: Instant) -> Bytes {
        self.beat = now + BEAT;
        self.held = Some(issued.token.generation);
        self.reader
            .hand(issued.token.generation, issued.published_at);
        press::frame(&self.app_id, issued, cause)
    }

    /// A stream that has not begun waits as `GetToken` does. One whose token died ends soon: its
    /// reader has nothing to use.
    fn give_up_at(&mut self, now: Instant) -> Instant {
        let patience = match self.held {
            None => FIRST_OUTCOME,
            Some(_) => SPREAD.mul_f64(fastrand::f64()),
        };
        *self.give_up.get_or_insert(now + patience)
    }

    /// What happens first.
    async fn event(&mut self, wakers: &mut Wakers<'_, '_>) -> Event {
        wakers.wake_at(self.limit.map_or(self.beat, |at| at.min(self.beat)));
        select! {
            biased;
            // No news any more: the owner of the tokens is gone.
            news = self.view.changed() => if news.is_ok() { Event::News } else { Event::End },
            ended = wakers.ended() => match ended {
                true => Event::End,
                false if self.beat <= Instant::now() => Event::Beat,
                false => Event::News,
            },
        }
    }

    /// The server or the connection ends: the token in force once more, if there is one.
    fn last_word(&mut self) -> Result<Bytes, NoToken> {
        self.over = true;
        let issued = self.look().map_err(|_| NoToken::Draining)?;
        if self.held > Some(issued.token.generation) {
            return Err(NoToken::Draining);
        }
        Ok(self.message(&issued, Cause::Draining, Instant::now()))
    }
}

/// One stream of `WatchToken`, as a transport polls it: frames of gRPC, which are a `WatchTokenResponse`
/// after five bytes. Ends after the first error.
pub struct TokenStream(Pin<Box<dyn Stream<Item = Said> + Send>>);

type Said = Result<Bytes, Status>;

impl Stream for TokenStream {
    type Item = Said;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Said>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenStream").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use prost::Message;
    use tokio::time::{Instant, advance, sleep, timeout};
    use tokio_stream::StreamExt;
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;
    use crate::{
        clock::Clock,
        domain::{Moment, Now, Secret, Token},
        grpc::streams::Streams,
        pb,
        telemetry::Metrics,
        tokens::{Current, Publisher, Tokens, channel},
    };

    /// No socket is near, so time may jump.
    struct Bench {
        tokens: Tokens,
        publisher: Publisher,
        connection: CancellationToken,
    }

    fn shop() -> AppName {
        AppName::parse("shop").unwrap()
    }

    impl Bench {
        fn new() -> Self {
            let clock = Clock::simulated(Now {
                boot: Moment::since_boot(Duration::from_secs(1000)),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
            });
            let (tokens, publisher) = channel([(shop(), "wx1".to_owned())], clock);
            Self {
                tokens,
                publisher,
                connection: CancellationToken::new(),
            }
        }

        /// Everything but the generation is the same for all.
        fn view(&self, generation: u64, life: u64) -> View {
            let now = self.tokens.now();
            let life = Duration::from_secs(life);
            let token = Token {
                value: Secret::new(format!("token-{generation}")),
                generation: Generation(generation),
                asked_at: now.boot,
                expires_at: now.boot + life,
                issue_time: now.wall,
                expire_time: now.wall + life,
            };
            let current = Current {
                keep_at_most: None,
                certain_until: None,
                doubt: None,
                token: Arc::new(token),
                keep_until: now.boot + life / 2,
                published_at: now.boot,
                previous_expires_at: None,
                dead: false,
            };
            View {
                current: Some(current),
                settled: true,
                ..View::default()
            }
        }

        fn publish(&self, generation: u64, life: u64) {
            let view = self.view(generation, life);
            self.publisher.publish(&shop(), view);
        }

        fn kill(&self, generation: u64) {
            let mut view = self.view(generation, 7200);
            view.current.as_mut().unwrap().dead = true;
            self.publisher.publish(&shop(), view);
        }

        fn watch(&self, known_generation: u64) -> TokenStream {
            let request = WatchTokenRequest {
                app_id: "wx1".into(),
                known_generation,
            };
            let streams = Streams::new(&self.tokens, &Metrics::new());
            let connection = self.connection.clone();
            streams.open(&shop(), request, connection).unwrap()
        }
    }

    async fn next(stream: &mut TokenStream) -> (Cause, pb::Token) {
        let frame = stream.next().await.unwrap().unwrap();
        let message = pb::WatchTokenResponse::decode(&frame[5..]).unwrap();
        (message.cause(), message.token.unwrap())
    }

    async fn told(stream: &mut TokenStream) -> (Cause, u64) {
        let (cause, token) = next(stream).await;
        (cause, token.generation)
    }

    async fn end(stream: &mut TokenStream) -> (Code, String) {
        let status = stream.next().await.unwrap().unwrap_err();
        assert!(stream.next().await.is_none(), "nothing follows an error");
        (
            status.code(),
            status.get_details_error_info().unwrap().reason,
        )
    }

    async fn is_silent(stream: &mut TokenStream) -> bool {
        timeout(Duration::from_secs(29), stream.next())
            .await
            .is_err()
    }

    fn draining() -> (Code, String) {
        (Code::Unavailable, "DRAINING".to_owned())
    }

    fn no_token() -> (Code, String) {
        (Code::Unavailable, "NO_VALID_TOKEN".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_message_comes_at_once_unless_the_caller_holds_it() {
        let bench = Bench::new();
        bench.publish(5, 7200);
        for known in [0, 4, 6] {
            let first = told(&mut bench.watch(known)).await;
            assert_eq!(first, (Cause::Current, 5), "known: {known}");
        }
        let mut stream = bench.watch(5);
        assert!(is_silent(&mut stream).await);
        bench.publish(6, 7200);
        assert_eq!(told(&mut stream).await, (Cause::Rotated, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_is_sent_after_30_s_of_silence() {
        let bench = Bench::new();
        bench.publish(1, 7200);
        for known in [0, 1] {
            let (start, mut stream) = (Instant::now(), bench.watch(known));
            let first = told(&mut stream).await;
            if first == (Cause::Current, 1) {
                assert_eq!(told(&mut stream).await, (Cause::Heartbeat, 1));
            }
            assert_eq!(start.elapsed().as_secs(), 30, "{first:?}");
        }
        let mut stream = bench.watch(0);
        told(&mut stream).await;
        advance(Duration::from_secs(29)).await;
        bench.publish(2, 7200);
        assert_eq!(told(&mut stream).await, (Cause::Rotated, 2));
        assert!(is_silent(&mut stream).await, "a rotation is a sign of life");
        assert_eq!(told(&mut stream).await, (Cause::Heartbeat, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_skips_to_the_newest_and_reads_what_is_true_then() {
        let bench = Bench::new();
        bench.publish(1, 7200);
        let mut stream = bench.watch(0);
        told(&mut stream).await;
        for generation in 2..=9 {
            bench.publish(generation, 7200);
        }
        advance(Duration::from_secs(200)).await;
        let (cause, token) = next(&mut stream).await;
        assert_eq!((cause, token.generation), (Cause::Rotated, 9));
        assert_eq!(token.app_id, "wx1", "the name the caller asked with");
        assert_eq!(token.time_to_live.unwrap().seconds, 7000);
        assert_eq!(token.keep_for.unwrap().seconds, 3400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotation_between_two_steps_is_told_at_once() {
        let bench = Bench::new();
        bench.publish(1, 7200);
        let mut stream = bench.watch(0);
        assert_eq!(told(&mut stream).await, (Cause::Current, 1));
        // The next step has not begun to wait.
        bench.publish(2, 7200);
        let start = Instant::now();
        assert_eq!(told(&mut stream).await, (Cause::Rotated, 2));
        assert_eq!(start.elapsed(), Duration::ZERO, "not with the next beat");
    }

    #[tokio::test(start_paused = true)]
    async fn no_news_are_passed_on_and_an_older_token_ends_the_stream() {
        let bench = Bench::new();
        bench.publish(5, 7200);
        let mut stream = bench.watch(0);
        told(&mut stream).await;
        bench.publish(5, 7200);
        assert!(is_silent(&mut stream).await);
        bench.publish(4, 7200);
        assert_eq!(end(&mut stream).await, draining());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_message_says_why_the_stream_ends() {
        let ends: [fn(Bench); 2] = [
            |bench| bench.connection.cancel(),
            |bench| drop(bench.publisher),
        ];
        for (case, cause_end) in ends.into_iter().enumerate() {
            let bench = Bench::new();
            bench.publish(1, 7200);
            let mut stream = bench.watch(0);
            told(&mut stream).await;
            cause_end(bench);
            let last = told(&mut stream).await;
            assert_eq!(last, (Cause::Draining, 1), "case {case}");
            assert_eq!(end(&mut stream).await, draining(), "case {case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_token_the_stream_waits_10_s_for_one() {
        let bench = Bench::new();
        let start = Instant::now();
        let mut stream = bench.watch(0);
        assert_eq!(end(&mut stream).await, no_token());
        assert_eq!(start.elapsed().as_secs(), 10);

        let mut stream = bench.watch(0);
        let late = async {
            sleep(Duration::from_secs(9)).await;
            bench.publish(1, 7200);
        };
        let (first, ()) = tokio::join!(told(&mut stream), late);
        assert_eq!(first, (Cause::Current, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_never_had_a_token_ends_without_a_last_message() {
        let mut stream = Bench::new().watch(0);
        assert_eq!(end(&mut stream).await, draining(), "the owner is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn streams_of_a_token_that_dies_end_within_two_seconds_spread() {
        let bench = Bench::new();
        bench.publish(1, 20);
        let start = Instant::now();
        let mut ends = Vec::new();
        let streams: Vec<_> = (0..50).map(|_| bench.watch(1)).collect();
        for mut stream in streams {
            ends.push(tokio::spawn(async move {
                assert_eq!(end(&mut stream).await, no_token());
                start.elapsed()
            }));
        }
        let mut after = Vec::new();
        for end in ends {
            after.push(end.await.unwrap());
        }
        let first = after.iter().min().unwrap().as_millis();
        let last = after.iter().max().unwrap().as_millis();
        assert!(first >= 20_000 && last <= 22_010, "{first} to {last}");
        assert!(last > first + 1000, "not spread: {first} to {last}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_proven_dead_ends_the_stream_within_two_seconds() {
        let bench = Bench::new();
        bench.publish(1, 7200);
        let mut stream = bench.watch(1);
        assert!(is_silent(&mut stream).await);
        bench.kill(1);
        let start = Instant::now();
        assert_eq!(end(&mut stream).await, no_token());
        assert!(start.elapsed() <= Duration::from_millis(2010));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_outlives_its_token_if_that_returns_or_is_replaced_in_time() {
        let bench = Bench::new();
        bench.publish(1, 7200);
        let mut stream = bench.watch(1);
        assert!(is_silent(&mut stream).await);
        bench.kill(1);
        assert!(timeout(Duration::ZERO, stream.next()).await.is_err());
        bench.publish(1, 7200);
        let beat = told(&mut stream).await;
        assert_eq!(beat, (Cause::Heartbeat, 1), "it came back to life");
        bench.kill(1);
        assert!(timeout(Duration::ZERO, stream.next()).await.is_err());
        bench.publish(2, 7200);
        assert_eq!(told(&mut stream).await, (Cause::Rotated, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_that_was_due_without_a_token_comes_with_it() {
        let bench = Bench::new();
        bench.publish(1, 7200);
        // A stream whose token is dead ends after a random while.
        fastrand::seed(1);
        let (start, mut stream) = (Instant::now(), bench.watch(1));
        let almost = Duration::from_millis(29_999);
        assert!(timeout(almost, stream.next()).await.is_err());
        bench.kill(1);
        let revive = async {
            sleep(Duration::from_millis(2)).await;
            bench.publish(1, 7200);
        };
        let (beat, ()) = tokio::join!(told(&mut stream), revive);
        assert_eq!(beat, (Cause::Heartbeat, 1));
        assert_eq!(start.elapsed().as_secs(), 30, "not a beat later");
    }
}
