//! Callers that reported a token and wait for the answer.

use tokio::sync::oneshot;

use super::{App, relay::inconclusive};
use crate::{
    domain::{Moment, Now, report::StaleReport, slot::Verdict},
    tokens::{NoToken, Outcome, Reported},
};

/// A caller that reported a token and has no answer yet.
#[derive(Debug)]
pub(super) struct Waiting {
    report: StaleReport,
    since: Moment,
    reply: oneshot::Sender<Result<Outcome, NoToken>>,
    /// It came from another replica.
    relayed: bool,
}

impl Waiting {
    /// A report that another replica passes on.
    pub(super) fn relayed(
        report: StaleReport,
        since: Moment,
        reply: oneshot::Sender<Result<Outcome, NoToken>>,
    ) -> Self {
        Self {
            report,
            since,
            reply,
            relayed: true,
        }
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.relayed
    }

    pub(super) fn report(&self) -> &StaleReport {
        &self.report
    }

    pub(super) fn since(&self) -> Moment {
        self.since
    }

    pub(super) fn answer(self, answer: Result<Outcome, NoToken>) {
        // The caller may have hung up.
        drop(self.reply.send(answer));
    }
}

impl App {
    pub(in crate::refresher) fn on_report(&mut self, reported: Reported, now: Now) {
        let Reported { report, reply, .. } = reported;
        let since = now.boot;
        self.judge(
            Waiting {
                report,
                since,
                reply,
                relayed: false,
            },
            now,
        );
    }

    pub(super) fn judge(&mut self, waiting: Waiting, now: Now) {
        if waiting.reply.is_closed() {
            return;
        }
        if self.keeps_back() {
            return self.waiting.push(waiting);
        }
        let cut_off = self.cut_off(now);
        if !self.refreshes() && !cut_off {
            return self.relay(waiting, now);
        }
        if cut_off && self.slot.dead() {
            // Nothing can be done about it from here.
            return waiting.answer(Err(self.view(now).missing(now.boot)));
        }
        if cut_off && waiting.report.leaked {
            // Whoever refreshes may kill it; from here that cannot be done.
            return waiting.answer(Err(inconclusive()));
        }
        let verdict = self.slot.reported(&waiting.report, waiting.since, now);
        self.figures.judged(&verdict);
        match self.answer(verdict, &waiting.report, now) {
            None => self.waiting.push(waiting),
            Some(answer) => waiting.answer(answer),
        }
    }

    fn answer(
        &self,
        verdict: Verdict,
        report: &StaleReport,
        now: Now,
    ) -> Option<Result<Outcome, NoToken>> {
        Some(match verdict {
            Verdict::Wait => return None,
            Verdict::AlreadyNewer => Ok(Outcome::AlreadyNewer),
            Verdict::Refreshed => Ok(Outcome::Refreshed),
            Verdict::StillValid => Ok(Outcome::StillValid),
            Verdict::NoToken => Err(self.view(now).missing(now.boot)),
            Verdict::Inconclusive {
                retry_after,
                errcode,
            } => Err(NoToken::Inconclusive {
                retry_after,
                errcode,
            }),
            Verdict::TooOften {
                retry_after,
                errcode,
            } => Err(NoToken::TooOften {
                retry_after,
                errcode,
            }),
            Verdict::NotATokenError => Err(NoToken::NotATokenError(report.errcode)),
        })
    }
}
