//! Callers that reported a token and wait for the answer.

use tokio::sync::oneshot;

use super::App;
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
            },
            now,
        );
    }

    pub(super) fn judge(&mut self, waiting: Waiting, now: Now) {
        if waiting.reply.is_closed() {
            return;
        }
        if self.withheld {
            return self.waiting.push(waiting);
        }
        let verdict = self.slot.reported(&waiting.report, waiting.since, now);
        self.figures.judged(&verdict);
        match self.answer(verdict, &waiting.report, now) {
            None => self.waiting.push(waiting),
            // The caller may have hung up.
            Some(answer) => drop(waiting.reply.send(answer)),
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
