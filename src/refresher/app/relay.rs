//! Reports that reach a replica which does not refresh: they go to the one that does, through the store,
//! and its one answer is everybody's.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::oneshot, task::JoinSet, time::sleep};
use tracing::{debug, warn};

use super::{App, Event, reports::Waiting};
use crate::{
    domain::{
        AppName, Generation, Moment, Now, blames_the_token,
        report::{Stale, StaleReport},
    },
    store::shared::{Letter, Reply, Request, millis},
    tokens::{NoToken, Outcome},
};

/// The longest an answer is waited for: a claim has to change hands and a token to be looked at.
const PATIENCE: Duration = Duration::from_secs(40);

/// When to report again what could not be settled.
const LATER: Duration = Duration::from_secs(5);

/// How often a letter is tried to be sent, and the pause between.
const TRIES: u32 = 100;
const AGAIN: Duration = Duration::from_millis(200);

/// What was asked of the replica that refreshes.
#[derive(Debug)]
pub(super) struct Asked {
    id: String,
    since: Moment,
    reply: Option<Reply>,
    waiting: Vec<Waiting>,
}

impl Asked {
    pub(super) fn expires_at(&self) -> Moment {
        self.since + PATIENCE
    }
}

impl App {
    /// Answers a report if that is possible without the replica that refreshes, or asks that.
    pub(super) fn relay(&mut self, waiting: Waiting, now: Now) {
        let held = self
            .slot
            .token()
            .filter(|token| token.expires_at > now.boot);
        let Some(held) = held else {
            let known = self.slot.trouble().is_some();
            if known {
                waiting.answer(Err(self.view(now).missing(now.boot)));
            } else {
                self.waiting.push(waiting);
            }
            return;
        };
        let report = waiting.report();
        // One that leaked works for a while although it was replaced, and has to be killed.
        let outlives = self.slot.outlives(&report.stale, now);
        let outlives = outlives.filter(|_| report.leaked);
        let generation = match (&report.stale, outlives) {
            (_, Some(generation)) => generation,
            (stale, None) if self.slot.is_meant(stale) => held.generation,
            (Stale::Generation(generation), None) => *generation,
            // What is not known here is older, but for the moment in which a new one is on its way.
            (Stale::Value(_), None) => return waiting.answer(Ok(Outcome::AlreadyNewer)),
        };
        if generation < held.generation && outlives.is_none() {
            let since = self
                .slot
                .held_since()
                .is_some_and(|at| at > waiting.since());
            let outcome = if since {
                Outcome::Refreshed
            } else {
                Outcome::AlreadyNewer
            };
            return waiting.answer(Ok(outcome));
        }
        if report.errcode != 0 && !blames_the_token(report.errcode) {
            let errcode = report.errcode;
            return waiting.answer(Err(NoToken::NotATokenError(errcode)));
        }
        let request = Request::Stale {
            generation: generation.0,
            leaked: report.leaked,
        };
        self.ask(request.clone(), now);
        let asked = self
            .replica
            .as_mut()
            .and_then(|r| r.asked.get_mut(&request));
        if let Some(asked) = asked {
            asked.waiting.push(waiting);
        }
    }

    /// Asks the replica that refreshes, unless that is being done.
    pub(super) fn ask(&mut self, request: Request, now: Now) {
        let Some(replica) = &mut self.replica else {
            return;
        };
        if replica.asked.contains_key(&request) {
            return;
        }
        let since = now.wall.duration_since(SystemTime::UNIX_EPOCH);
        let id = format!(
            "{}-{}-{:04x}",
            replica.shared.me(),
            since.map_or(0, millis),
            fastrand::u16(..)
        );
        let asked = Asked {
            id: id.clone(),
            since: now.boot,
            reply: None,
            waiting: Vec::new(),
        };
        replica.asked.insert(request.clone(), asked);
        let (shared, appid) = (
            Arc::clone(&replica.shared),
            Arc::clone(&self.adapters.appid),
        );
        // A replica that stood still needs a new lease first. If it does not get through, whoever waits is
        // told so in the end.
        tokio::spawn(async move {
            for _ in 0..TRIES {
                match shared.ask(&appid, &id, request.clone()).await {
                    Ok(()) => return,
                    Err(error) => debug!(%error, "a report cannot be passed on yet"),
                }
                sleep(AGAIN).await;
            }
        });
    }

    /// Reads what replicas ask of us, and what they answer.
    pub(super) fn read_letters(&mut self, now: Now, events: &mut JoinSet<(AppName, Event)>) {
        let Some(replica) = &mut self.replica else {
            return;
        };
        let letters = replica.last().map(|seen| seen.letters.clone());
        let letters = letters.unwrap_or_default();
        replica.answering.retain(|id| letters.contains_key(id));
        let me = replica.shared.me().to_owned();
        let (own, others): (BTreeMap<_, _>, BTreeMap<_, _>) = letters
            .into_iter()
            .partition(|(_, letter)| letter.from == me);
        for (id, letter) in own {
            self.hear_reply(id, letter);
        }
        self.settle_asked(now);
        for (id, letter) in others {
            self.hear_request(id, letter, now, events);
        }
    }

    fn hear_reply(&mut self, id: String, letter: Letter) {
        let Some(replica) = &mut self.replica else {
            return;
        };
        let holds = replica.holds;
        let asked = replica.asked.get_mut(&letter.request);
        let known = asked.filter(|asked| asked.id == id);
        let over = known.is_none() || letter.reply.is_some() || holds;
        if let Some(asked) = known {
            asked.reply = letter.reply;
        }
        if over {
            let (shared, appid) = (
                Arc::clone(&replica.shared),
                Arc::clone(&self.adapters.appid),
            );
            // One that is left over ends with this replica's lease.
            tokio::spawn(async move { drop(shared.discard(&appid, &id).await) });
        }
    }

    fn hear_request(
        &mut self,
        id: String,
        letter: Letter,
        now: Now,
        events: &mut JoinSet<(AppName, Event)>,
    ) {
        let Some(replica) = self.replica.as_mut().filter(|replica| replica.holds) else {
            return;
        };
        if letter.reply.is_some() || !replica.answering.insert(id.clone()) {
            return;
        }
        let (name, request) = (self.name.clone(), letter.request.clone());
        match request {
            Request::Stray { ago_ms } => {
                let at = now.boot - Duration::from_millis(ago_ms);
                if self.slot.strayed(at, now) {
                    warn!(app = %self.name, from = letter.from, "another replica fetched without a claim, or for longer than it had one, and may have retired the token; a new one is fetched");
                }
                let reply = Reply::Noted;
                events.spawn(async move { (name, Event::Judged(id, letter, reply)) });
            }
            Request::Ahead { generation } => {
                replica.outnumbered = replica.outnumbered.max(Some(Generation(generation)));
                let reply = Reply::Noted;
                events.spawn(async move { (name, Event::Judged(id, letter, reply)) });
            }
            Request::Stale { generation, leaked } => {
                let report = StaleReport {
                    stale: Stale::Generation(Generation(generation)),
                    errcode: 0,
                    leaked,
                };
                let (reply, answer) = oneshot::channel();
                self.judge(Waiting::relayed(report, now.boot, reply), now);
                events.spawn(async move {
                    let reply = answer.await.map_or(Reply::Stopping, |answer| told(&answer));
                    (name, Event::Judged(id, letter, reply))
                });
            }
        }
    }

    /// A letter can be answered.
    pub(super) fn on_judged(&mut self, id: String, letter: Letter, reply: Reply) {
        let generation = self.slot.token().map_or(0, |token| token.generation.0);
        let Some(replica) = &mut self.replica else {
            return;
        };
        if reply == Reply::Stopping {
            // Another replica answers it, or this one if it refreshes again.
            replica.answering.remove(&id);
            return;
        }
        let reply = match reply {
            Reply::AlreadyNewer { .. } => Reply::AlreadyNewer { generation },
            Reply::Refreshed { .. } => Reply::Refreshed { generation },
            other => other,
        };
        let letter = Letter {
            reply: Some(reply),
            ..letter
        };
        let (shared, appid) = (
            Arc::clone(&replica.shared),
            Arc::clone(&self.adapters.appid),
        );
        tokio::spawn(async move {
            for _ in 0..TRIES {
                if shared.answer(&appid, &id, &letter).await.is_ok() {
                    return;
                }
                sleep(AGAIN).await;
            }
        });
    }

    /// Answers those whose answer is here, and of whose token we have heard.
    pub(super) fn settle_asked(&mut self, now: Now) {
        let known = self.slot.token().map_or(Generation(0), |t| t.generation);
        let Some(replica) = &mut self.replica else {
            return;
        };
        let (mut settled, mut vouched) = (Vec::new(), false);
        for (request, asked) in mem::take(&mut replica.asked) {
            let Request::Stale { generation, leaked } = request else {
                if asked.reply.is_none() {
                    replica.asked.insert(request, asked);
                }
                continue;
            };
            let newer = known > Generation(generation);
            let answer = match &asked.reply {
                // One that leaked works until it was replaced twice, and only the one that refreshes knows.
                None if newer && !leaked => Ok(Outcome::Refreshed),
                Some(Reply::AlreadyNewer { generation }) if known.0 >= *generation => {
                    Ok(Outcome::AlreadyNewer)
                }
                Some(Reply::Refreshed { generation }) if known.0 >= *generation => {
                    Ok(Outcome::Refreshed)
                }
                Some(Reply::StillValid) if newer => Ok(Outcome::AlreadyNewer),
                Some(Reply::StillValid) => {
                    self.slot.vouched(Generation(generation), asked.since);
                    vouched = true;
                    Ok(Outcome::StillValid)
                }
                Some(Reply::Inconclusive { retry_ms, errcode }) => Err(NoToken::Inconclusive {
                    retry_after: Duration::from_millis(*retry_ms),
                    errcode: *errcode,
                }),
                Some(Reply::TooOften { retry_ms, errcode }) => Err(NoToken::TooOften {
                    retry_after: Duration::from_millis(*retry_ms),
                    errcode: *errcode,
                }),
                Some(Reply::NoToken | Reply::Noted | Reply::Stopping) => Err(inconclusive()),
                _ => {
                    replica.asked.insert(request, asked);
                    continue;
                }
            };
            settled.push((asked, answer));
        }
        if vouched {
            self.follow(now);
        }
        for (asked, answer) in settled {
            for waiting in asked.waiting {
                let answer = match asked.reply {
                    Some(Reply::NoToken) => Err(self.view(now).missing(now.boot)),
                    _ => answer.clone(),
                };
                waiting.answer(answer);
            }
        }
    }

    /// Judges all that wait anew, after this replica began or ceased to refresh.
    pub(super) fn judge_all(&mut self, now: Now) {
        let refreshes = self.refreshes();
        let mut all = mem::take(&mut self.waiting);
        if let Some(replica) = &mut self.replica {
            if refreshes {
                let asked = mem::take(&mut replica.asked).into_values();
                all.extend(asked.flat_map(|asked| asked.waiting));
            } else {
                // Whoever sent it waits for another replica's answer.
                all.retain(|waiting| !waiting.is_relayed());
            }
        }
        for waiting in all {
            self.judge(waiting, now);
        }
    }

    /// Tells those who have waited for too long, or whose question cannot be passed on any more.
    pub(super) fn give_up_waiting(&mut self, now: Now) {
        let cut_off = self.cut_off(now);
        let Some(replica) = &mut self.replica else {
            return;
        };
        let (late, still): (BTreeMap<_, _>, BTreeMap<_, _>) = mem::take(&mut replica.asked)
            .into_iter()
            .partition(|(_, asked)| cut_off || asked.expires_at() <= now.boot);
        replica.asked = still;
        for waiting in late.into_values().flat_map(|asked| asked.waiting) {
            if cut_off {
                self.judge(waiting, now);
            } else {
                waiting.answer(Err(inconclusive()));
            }
        }
    }
}

pub(super) fn inconclusive() -> NoToken {
    NoToken::Inconclusive {
        retry_after: LATER,
        errcode: None,
    }
}

/// An answer, as it is told. The generation is that of the moment in which it is sent.
fn told(answer: &Result<Outcome, NoToken>) -> Reply {
    match answer {
        Ok(Outcome::AlreadyNewer) => Reply::AlreadyNewer { generation: 0 },
        Ok(Outcome::Refreshed) => Reply::Refreshed { generation: 0 },
        Ok(Outcome::StillValid) => Reply::StillValid,
        Err(NoToken::Inconclusive {
            retry_after,
            errcode,
        }) => Reply::Inconclusive {
            retry_ms: millis(*retry_after),
            errcode: *errcode,
        },
        Err(NoToken::TooOften {
            retry_after,
            errcode,
        }) => Reply::TooOften {
            retry_ms: millis(*retry_after),
            errcode: *errcode,
        },
        Err(_) => Reply::NoToken,
    }
}
