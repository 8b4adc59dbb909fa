//! The life of a token, told in short stories.

mod ability;
mod cut_off;
mod dead;
mod leaks;
mod open_outcomes;
mod plan;
mod replicas;
mod reports;
mod restarts;

use std::time::{Duration, SystemTime};

use super::*;
use crate::domain::{
    Fetched, Generation, Record, Remedy, Secret, Sight,
    report::{Stale, StaleReport},
    trouble::Refused,
};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A slot and a clock that moves only when told to.
struct Story {
    slot: Slot,
    now: Now,
    tokens: u32,
}

impl Story {
    fn begin(mode: Mode) -> Self {
        let policy = Policy {
            mode,
            ..Policy::default()
        };
        Self::with(policy)
    }

    fn with(policy: Policy) -> Self {
        let now = Now {
            boot: Moment::since_boot(secs(1_000_000)),
            wall: SystemTime::UNIX_EPOCH + secs(1_795_300_000),
        };
        Self {
            slot: Slot::new(policy, now),
            now,
            tokens: 0,
        }
    }

    /// A classic or stable app with its first token, and no looks that nobody asked for.
    fn settled(mode: Mode) -> Self {
        let mut story = Self::with(Policy {
            mode,
            probe_every: Duration::ZERO,
            ..Policy::default()
        });
        story.expect_ask();
        story.rotate();
        story
    }

    fn wait(&mut self, span: Duration) {
        self.now.boot = self.now.boot + span;
        self.now.wall += span;
    }

    /// Lets time pass until something is due; returns how long that took.
    fn wait_until_due(&mut self) -> Duration {
        let due = self.slot.due(self.now).expect("nothing is under way");
        let span = due.since(self.now.boot);
        self.wait(span);
        span
    }

    fn expect_ask(&mut self) -> Errand {
        match self.slot.woke(self.now) {
            Some(Start::Ask(errand)) => errand,
            other => panic!("expected a fetch, not {other:?}"),
        }
    }

    fn expect_look(&mut self) {
        match self.slot.woke(self.now) {
            Some(Start::Look(_)) => {}
            other => panic!("expected a look, not {other:?}"),
        }
    }

    fn expect_nothing(&mut self) {
        let started = self.slot.woke(self.now);
        assert!(started.is_none(), "{started:?}");
    }

    fn rotate(&mut self) -> Rotation {
        self.tokens += 1;
        let value = format!("token-{}", self.tokens);
        let rotation = self.answer(&value, secs(7200));
        rotation.expect("a new value is a rotation")
    }

    fn repeat(&mut self) {
        let left = self.token().expires_at.since(self.now.boot);
        let value = format!("token-{}", self.tokens);
        assert!(self.answer(&value, left).is_none(), "no rotation");
    }

    fn answer(&mut self, value: &str, time_to_live: Duration) -> Option<Rotation> {
        let value = Secret::new(value);
        let got = Fetched {
            value,
            time_to_live,
        };
        self.slot.fetched(got, self.now, self.now)
    }

    fn fail(&mut self, remedy: Remedy, definite: bool) {
        let trouble = Trouble {
            remedy,
            errcode: None,
            definite,
            message: "of a test".into(),
            hint: None,
        };
        self.slot.failed(trouble, self.now, self.now, 0.0);
    }

    fn refuse(&mut self) {
        self.fail(Remedy::BackOff, true);
    }

    fn lose_reply(&mut self) {
        self.fail(Remedy::BackOff, false);
    }

    fn see(&mut self, sight: Sight) -> Looked {
        let generation = self.token().generation;
        self.slot.looked(generation, sight, self.now, 0.0)
    }

    /// Three looks over two seconds.
    fn prove_dead(&mut self) {
        for _ in 0..2 {
            self.expect_look();
            assert_eq!(self.see(Sight::Refused), Looked::Unchanged);
            assert_eq!(self.wait_until_due(), secs(1));
        }
        self.expect_look();
        assert_eq!(self.see(Sight::Refused), Looked::Died);
    }

    fn token(&self) -> Arc<Token> {
        Arc::clone(&self.slot.held.as_ref().expect("a token is held").token)
    }

    fn report(&mut self) -> Verdict {
        self.report_of(self.token().generation, self.now.boot)
    }

    fn report_of(&mut self, generation: Generation, since: Moment) -> Verdict {
        let report = StaleReport {
            stale: Stale::Generation(generation),
            errcode: 40001,
            leaked: false,
        };
        self.slot.reported(&report, since, self.now)
    }

    /// The same app after a restart.
    fn restart(&self) -> Self {
        self.restart_from(self.slot.record())
    }

    fn restart_from(&self, record: Record) -> Self {
        let mut slot = Slot::new(self.slot.policy, self.now);
        slot.restored(record, self.now);
        let (now, tokens) = (self.now, self.tokens);
        Self { slot, now, tokens }
    }
}
