//! The life of a token, told in short stories.

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

#[test]
fn a_classic_token_is_refreshed_after_half_its_life() {
    let mut story = Story::settled(Mode::Classic);
    assert_eq!(story.wait_until_due(), secs(3600));
    let errand = story.expect_ask();
    let note = errand.note.and_then(|record| record.note);
    let reserved = note.expect("it is noted before").reserved;
    let rotation = story.rotate();
    assert_eq!(rotation.token.generation, reserved);
    let old_dies = story.slot.previous_expires_at();
    assert_eq!(old_dies, Some(story.now.boot + secs(300)));
}

#[test]
fn a_stable_token_is_asked_for_in_its_last_minutes_until_it_changes() {
    let mut story = Story::settled(Mode::Stable);
    assert_eq!(story.wait_until_due(), secs(6900));
    let generation = story.token().generation;
    for _ in 0..3 {
        assert!(story.expect_ask().note.is_none(), "nothing is retired");
        story.repeat();
        assert_eq!(story.token().generation, generation);
        assert_eq!(story.wait_until_due(), secs(30));
    }
    story.expect_ask();
    assert!(!story.rotate().foreign);
    assert!(story.token().generation > generation);
}

#[test]
fn a_failed_refresh_changes_no_token_and_no_expiry() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    story.expect_ask();
    let before = story.token();
    story.refuse();
    assert!(Arc::ptr_eq(&before, &story.token()));
    assert!(story.slot.trouble().is_some());
    assert_eq!(story.wait_until_due(), secs(1), "there is a next attempt");
}

#[test]
fn after_a_lost_reply_only_looks_are_sent_until_wechat_answers_one() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    story.expect_ask();
    let sent = story.now.boot;
    story.lose_reply();
    let mut looks = 0;
    while story.now.boot < sent + secs(100) {
        story.expect_look();
        story.see(Sight::Unreachable);
        looks += 1;
        story.wait_until_due();
    }
    assert!(looks < 12, "{looks} looks in 100 s");
    story.expect_look();
    story.see(Sight::Alive);
    story.expect_ask();
    assert!(story.slot.suspect.is_some());
    story.rotate();
    assert!(story.slot.suspect.is_none());
    assert_eq!(
        story.slot.previous_expires_at(),
        None,
        "it may be gone already"
    );
}

#[test]
fn an_open_outcome_shortens_what_callers_may_keep_and_nothing_else() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    story.expect_ask();
    let (sent, expiry) = (story.now.boot, story.token().expires_at);
    story.wait(secs(10));
    let sent_at = Now {
        boot: sent,
        ..story.now
    };
    let trouble = Trouble {
        remedy: Remedy::BackOff,
        errcode: None,
        definite: false,
        message: "lost".into(),
        hint: None,
    };
    story.slot.failed(trouble, sent_at, story.now, 0.0);
    assert_eq!(story.slot.keep_until(), Some(sent + secs(300)));
    assert_eq!(story.token().expires_at, expiry);
}

#[test]
fn no_blind_fetch_is_sent_before_the_overlap_is_over() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    story.expect_ask();
    let sent = story.now.boot;
    story.lose_reply();
    loop {
        match story.slot.woke(story.now) {
            Some(Start::Look(_)) => drop(story.see(Sight::Unreachable)),
            Some(Start::Ask(_)) => break,
            None => drop(story.wait_until_due()),
        }
    }
    assert_eq!(story.now.boot, sent + secs(300));
}

#[test]
fn a_look_that_succeeds_after_the_overlap_proves_that_nothing_was_made() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    story.expect_ask();
    story.lose_reply();
    story.expect_look();
    story.wait(secs(301));
    story.see(Sight::Alive);
    assert!(story.slot.suspect.is_none());
    assert!(story.slot.record().note.is_none());
}

#[test]
fn a_token_that_revives_while_an_outcome_is_open_is_replaced_all_the_same() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    story.report();
    story.prove_dead();
    story.expect_ask();
    story.lose_reply();
    story.expect_look();
    assert_eq!(story.see(Sight::Alive), Looked::Revived);
    assert_eq!(story.wait_until_due(), secs(1), "the pause after a failure");
    story.expect_ask();
}

#[test]
fn a_signal_hurries_nothing_once_the_trouble_is_over() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    story.report();
    story.prove_dead();
    story.expect_ask();
    story.lose_reply();
    story.expect_look();
    story.wait(secs(301));
    assert_eq!(story.see(Sight::Alive), Looked::Revived);
    let planned = story.slot.ask_at(story.now);
    story.slot.nudged(story.now);
    assert_eq!(story.slot.ask_at(story.now), planned);
}

#[test]
fn a_signal_does_not_break_the_spacing_of_a_token_that_works() {
    let mut story = Story::settled(Mode::Classic);
    let report = StaleReport {
        stale: Stale::Generation(story.token().generation),
        errcode: 0,
        leaked: true,
    };
    story.slot.reported(&report, story.now.boot, story.now);
    story.expect_ask();
    story.rotate();
    let minted = story.now.boot;
    story.wait_until_due();
    story.expect_ask();
    story.fail(Remedy::RiskRejected(secs(7200)), true);
    // A restart forgets the drill, and not the rejection.
    let mut story = story.restart();
    story.slot.nudged(story.now);
    assert_eq!(story.slot.ask_at(story.now), Some(minted + secs(300)));
}

#[test]
fn a_second_lost_reply_goes_back_to_looks() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    story.expect_ask();
    story.lose_reply();
    story.expect_look();
    story.see(Sight::Alive);
    story.wait_until_due();
    story.expect_ask();
    story.lose_reply();
    story.expect_look();
    story.expect_nothing();
}

#[test]
fn an_expired_token_lifts_every_restraint() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(7190));
    story.expect_ask();
    story.lose_reply();
    story.expect_look();
    story.wait(secs(11));
    story.expect_ask();
}

#[test]
fn a_report_of_an_older_token_asks_nobody() {
    let mut story = Story::settled(Mode::Classic);
    let old = story.token().generation;
    story.wait_until_due();
    story.expect_ask();
    story.rotate();
    story.wait(secs(1));
    assert_eq!(story.report_of(old, story.now.boot), Verdict::AlreadyNewer);
    story.expect_nothing();
}

#[test]
fn a_living_token_is_not_replaced() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut story = Story::settled(mode);
        story.wait(secs(60));
        let since = story.now.boot;
        let generation = story.token().generation;
        assert_eq!(story.report(), Verdict::Wait);
        if mode == Mode::Stable {
            assert_eq!(story.expect_ask().ask, Ask::Normal);
            story.repeat();
            assert_eq!(story.report_of(generation, since), Verdict::Wait);
        }
        story.expect_look();
        story.see(Sight::Alive);
        assert_eq!(story.report_of(generation, since), Verdict::StillValid);
        story.wait(secs(9));
        assert_eq!(story.report(), Verdict::StillValid, "remembered for 10 s");
        story.expect_nothing();
    }
}

#[test]
fn a_dead_classic_token_is_replaced_after_three_looks_over_two_seconds() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    let (since, generation) = (story.now.boot, story.token().generation);
    assert_eq!(story.report(), Verdict::Wait);
    story.prove_dead();
    assert_eq!(story.now.boot.since(since), secs(2));
    assert_eq!(story.report_of(generation, since), Verdict::Wait);
    story.expect_ask();
    let rotation = story.rotate();
    assert!(
        rotation.foreign,
        "it died although it was not replaced here"
    );
    assert_eq!(story.report_of(generation, since), Verdict::Refreshed);
}

#[test]
fn a_dead_stable_token_is_asked_for_normally_and_then_by_force() {
    let mut story = Story::settled(Mode::Stable);
    story.wait(secs(60));
    story.report();
    assert_eq!(story.expect_ask().ask, Ask::Normal);
    story.repeat();
    story.report();
    story.prove_dead();
    let errand = story.expect_ask();
    assert_eq!(errand.ask, Ask::Forced);
    let noted = errand.note.expect("a forced refresh is noted");
    assert_eq!(noted.ledger.forced, 1, "the ledger survives a crash");
    story.rotate();
}

#[test]
fn a_young_token_is_looked_at_when_it_is_ten_seconds_old() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(3));
    assert_eq!(story.report(), Verdict::Wait);
    story.expect_nothing();
    assert_eq!(story.wait_until_due(), secs(7));
    story.expect_look();
}

#[test]
fn replacements_keep_their_distance() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    let gaps: Vec<_> = (0..5)
        .map(|_| {
            story.slot.looks.want(story.now.boot);
            story.prove_dead();
            let begin = story.now.boot;
            if let Verdict::TooOften {
                retry_after: wait, ..
            } = story.report()
            {
                assert_eq!(story.slot.ask_at(story.now), Some(begin + wait));
                story.wait(wait);
            }
            story.expect_ask();
            story.rotate();
            // What the proof took counts as well.
            story.now.boot.since(begin).as_secs()
        })
        .collect();
    assert_eq!(gaps, [0, 28, 58, 118, 238]);
}

#[test]
fn a_dead_token_without_successor_is_looked_at_every_five_seconds_and_may_revive() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    story.report();
    story.prove_dead();
    story.expect_ask();
    story.fail(Remedy::DayQuota, true);
    assert!(story.slot.dead());
    assert_eq!(story.report(), Verdict::NoToken);
    for _ in 0..3 {
        assert_eq!(story.wait_until_due(), secs(5));
        story.expect_look();
        story.see(Sight::Refused);
    }
    story.wait_until_due();
    story.expect_look();
    assert_eq!(story.see(Sight::Alive), Looked::Revived);
    assert!(!story.slot.dead());
}

#[test]
fn a_token_that_dies_revives_and_dies_again_waits_no_longer_than_its_trouble_says() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    story.report();
    story.prove_dead();
    story.expect_ask();
    story.fail(Remedy::Refused(Refused::Credential), true);
    story.slot.looks.want(story.now.boot);
    story.expect_look();
    assert_eq!(story.see(Sight::Alive), Looked::Revived);
    // WeChat's back ends disagree.
    story.wait(secs(15));
    story.report();
    story.prove_dead();
    let wait = story.slot.retry_at(story.now).since(story.now.boot);
    assert!(wait <= secs(600), "{wait:?} as if it lived");
}

#[test]
fn an_errcode_that_no_token_cures_asks_nobody() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    for (errcode, expected) in [
        (48001, Verdict::NotATokenError),
        (45009, Verdict::NotATokenError),
        (0, Verdict::Wait),
        (42001, Verdict::Wait),
        (40014, Verdict::Wait),
    ] {
        let report = StaleReport {
            stale: Stale::Value(Secret::new("token-1")),
            errcode,
            leaked: false,
        };
        let verdict = story.slot.reported(&report, story.now.boot, story.now);
        assert_eq!(verdict, expected, "{errcode}");
    }
}

#[test]
fn a_look_without_a_verdict_leaves_the_token_in_force() {
    for (mode, sight, errcode) in [
        (Mode::Classic, Sight::Unreachable, None),
        (Mode::Classic, Sight::Busy, None),
        (
            Mode::Stable,
            Sight::NoVerdict { errcode: 48001 },
            Some(48001),
        ),
    ] {
        let mut story = Story::settled(mode);
        story.wait(secs(60));
        let since = story.now.boot;
        let generation = story.token().generation;
        story.report();
        if mode == Mode::Stable {
            story.expect_ask();
            story.repeat();
            story.report_of(generation, since);
        }
        story.expect_look();
        story.see(sight);
        let verdict = story.report_of(generation, since);
        let retry_after = secs(5);
        let expected = Verdict::Inconclusive {
            retry_after,
            errcode,
        };
        assert_eq!(verdict, expected);
        assert!(!story.slot.dead());
        story.expect_nothing();
    }
}

#[test]
fn a_classic_token_that_cannot_be_looked_at_is_replaced_within_the_spacing() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    story.report();
    story.expect_look();
    story.see(Sight::NoVerdict { errcode: 45009 });
    let too_often = Verdict::TooOften {
        retry_after: secs(240),
        errcode: Some(45009),
    };
    assert_eq!(story.report(), too_often);
    story.wait(secs(240));
    story.report();
    story.expect_look();
    story.see(Sight::NoVerdict { errcode: 45009 });
    assert_eq!(story.report(), Verdict::Wait);
    story.expect_ask();
    assert_eq!(story.slot.record().ledger.replacements, 1);
}

#[test]
fn nobody_is_promised_more_than_an_attempt_before_the_plan_leaves() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(400));
    story.report();
    story.expect_look();
    story.see(Sight::NoVerdict { errcode: 45009 });
    story.report();
    story.expect_ask();
    story.fail(Remedy::IpList, true);
    let next = story.slot.ask_at(story.now).expect("it is tried again");
    assert_eq!(story.slot.keep_until(), Some(next + secs(290)));
}

#[test]
fn reports_do_not_hammer_a_source_that_refuses() {
    let mut story = Story::settled(Mode::Stable);
    story.wait_until_due();
    story.expect_ask();
    story.fail(Remedy::Refused(Refused::Credential), true);
    for _ in 0..10 {
        story.wait(secs(1));
        story.report();
        while let Some(start) = story.slot.woke(story.now) {
            assert!(matches!(start, Start::Look(_)), "a fetch for a report");
            story.see(Sight::Alive);
        }
    }
}

#[test]
fn a_restart_with_a_living_token_fetches_nothing_and_looks_once() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut story = Story::settled(mode);
        story.wait(secs(600));
        let mut story = story.restart();
        assert!(story.slot.settled(), "it serves at once");
        story.expect_look();
        story.see(Sight::Alive);
        story.expect_nothing();
        let left = if mode == Mode::Classic { 3000 } else { 6300 };
        assert_eq!(story.wait_until_due(), secs(left));
    }
}

#[test]
fn a_young_note_found_at_start_makes_the_token_suspect_and_keeps_the_order() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    let errand = story.expect_ask();
    let record = errand.note.expect("it was noted");
    let reserved = record.taken();
    story.wait(secs(5));
    let mut story = story.restart_from(record);
    assert!(story.slot.settled(), "it serves at once");
    assert!(
        story.token().generation > reserved,
        "its token may have been seen"
    );
    assert_eq!(story.token().value.expose(), "token-1");
    story.expect_look();
    story.see(Sight::Alive);
    let errand = story.expect_ask();
    let again = errand.note.and_then(|r| r.note).expect("noted again");
    assert!(again.reserved > story.token().generation);
    assert_eq!(
        story.now.boot.since(again.asked_at),
        secs(5),
        "the oldest counts"
    );
}

#[test]
fn the_note_of_a_forced_refresh_keeps_the_order_as_well() {
    let mut story = Story::settled(Mode::Stable);
    story.wait(secs(60));
    story.report();
    story.expect_ask();
    story.repeat();
    story.report();
    story.prove_dead();
    let record = story.expect_ask().note.expect("force is noted");
    let seen = story.rotate().token.generation;
    // Killed before the new token was saved.
    let story = story.restart_from(record);
    assert!(story.token().generation > seen);
}

#[test]
fn the_generation_above_a_note_is_taken_although_the_token_has_expired() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    let record = story.expect_ask().note.expect("it was noted");
    let seen = story.restart_from(record.clone()).token().generation;
    story.wait(secs(3600));
    story.now.wall -= secs(86_400);
    let mut story = story.restart_from(record);
    story.expect_ask();
    assert!(story.rotate().token.generation > seen);
}

#[test]
fn an_old_note_found_at_start_is_looked_into_before_the_first_answer() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    let record = story.expect_ask().note.expect("it was noted");
    story.wait(secs(400));
    for (sight, dead) in [(Sight::Alive, false), (Sight::Refused, true)] {
        let mut story = story.restart_from(record.clone());
        assert!(story.slot.token().is_none(), "not shown yet");
        story.expect_look();
        story.see(sight);
        assert!(story.slot.settled());
        assert_eq!(story.slot.dead(), dead);
        assert_eq!(story.slot.suspect.is_some(), dead);
        story.wait_until_due();
        story.expect_ask();
    }
    let mut story = story.restart_from(record);
    story.expect_look();
    story.see(Sight::Unreachable);
    assert!(story.slot.token().is_some(), "nobody can know better");
    assert!(story.wait_until_due() <= secs(5));
}

#[test]
fn a_rejection_by_the_administrator_survives_a_restart() {
    let mut story = Story::settled(Mode::Stable);
    story.wait_until_due();
    story.expect_ask();
    story.fail(Remedy::RiskRejected(secs(3600)), true);
    story.wait(secs(100));
    let mut story = story.restart();
    assert!(story.slot.trouble().is_some());
    story.expect_look();
    story.see(Sight::Refused);
    let asked = story.slot.ask_at(story.now);
    assert_eq!(asked, Some(story.now.boot + secs(3500)));
    story.slot.nudged(story.now);
    assert_eq!(story.slot.ask_at(story.now), Some(story.now.boot));
}

#[test]
fn a_record_of_the_other_mode_lends_only_its_generation() {
    let story = Story::settled(Mode::Classic);
    let generation = story.token().generation;
    let mut other = Story::begin(Mode::Stable);
    other.slot.restored(story.slot.record(), other.now);
    other.expect_ask();
    assert!(other.rotate().token.generation > generation);
}

#[test]
fn a_forced_refresh_by_somebody_else_is_seen_before_the_old_token_dies() {
    let mut story = Story::begin(Mode::Stable);
    story.expect_ask();
    story.rotate();
    assert_eq!(story.wait_until_due(), secs(60));
    story.expect_ask();
    assert!(story.rotate().foreign);
}

#[test]
fn a_leaked_token_is_killed_by_two_mints() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut story = Story::settled(mode);
        story.wait(secs(60));
        let (since, report) = (
            story.now.boot,
            StaleReport {
                stale: Stale::Generation(story.token().generation),
                errcode: 0,
                leaked: true,
            },
        );
        let forced = if mode == Mode::Stable {
            Ask::Forced
        } else {
            Ask::Normal
        };
        for wait in [0, 30] {
            let verdict = story.slot.reported(&report, since, story.now);
            assert_eq!(verdict, Verdict::Wait);
            assert_eq!(story.wait_until_due(), secs(wait));
            assert_eq!(story.expect_ask().ask, forced);
            story.rotate();
        }
        let verdict = story.slot.reported(&report, since, story.now);
        assert_eq!(verdict, Verdict::Refreshed);
        story.expect_nothing();
    }
}

#[test]
fn whoever_reports_a_leak_hears_that_the_second_mint_failed() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut story = Story::settled(mode);
        story.wait(secs(60));
        let since = story.now.boot;
        let report = StaleReport {
            stale: Stale::Generation(story.token().generation),
            errcode: 0,
            leaked: true,
        };
        story.slot.reported(&report, since, story.now);
        story.expect_ask();
        story.rotate();
        story.wait_until_due();
        story.expect_ask();
        story.fail(Remedy::RiskRejected(secs(3600)), true);
        let verdict = story.slot.reported(&report, since, story.now);
        assert_eq!(verdict, Verdict::NoToken, "{mode:?}");
    }
}

#[test]
fn a_second_mint_that_has_to_wait_for_tomorrow_keeps_neither_the_caller_nor_the_plan_waiting() {
    let mut story = Story::settled(Mode::Stable);
    story.wait(secs(60));
    let since = story.now.boot;
    let report = StaleReport {
        stale: Stale::Generation(story.token().generation),
        errcode: 0,
        leaked: true,
    };
    for _ in 0..19 {
        story.slot.ledger.spend(Mode::Stable, story.now);
    }
    story.wait(secs(30));
    story.slot.reported(&report, since, story.now);
    story.expect_ask();
    story.rotate();
    let verdict = story.slot.reported(&report, since, story.now);
    assert!(matches!(verdict, Verdict::TooOften { .. }), "{verdict:?}");
    assert_eq!(story.wait_until_due(), secs(6900), "as planned");
    assert_eq!(story.expect_ask().ask, Ask::Normal);
}

#[test]
fn a_leaked_token_that_is_dead_already_waits_for_nobody() {
    let mut story = Story::with(Policy {
        mode: Mode::Classic,
        daily_replacements: 0,
        ..Policy::default()
    });
    story.expect_ask();
    story.rotate();
    story.wait(secs(60));
    story.prove_dead();
    let report = StaleReport {
        stale: Stale::Generation(story.token().generation),
        errcode: 0,
        leaked: true,
    };
    let verdict = story.slot.reported(&report, story.now.boot, story.now);
    assert!(matches!(verdict, Verdict::TooOften { .. }), "{verdict:?}");
}

#[test]
fn an_hour_of_outage_costs_at_most_80_fetches_and_90_looks() {
    for (mode, definite) in [
        (Mode::Classic, true),
        (Mode::Classic, false),
        (Mode::Stable, false),
    ] {
        for begin in [3600, 6900, 7100] {
            let mut story = Story::begin(mode);
            story.expect_ask();
            story.rotate();
            story.wait(secs(begin));
            story
                .slot
                .looks
                .plan_unasked(&story.slot.policy, story.now.boot);
            let end = story.now.boot + secs(3600);
            let (mut fetches, mut looks) = (0, 0);
            while story.now.boot < end {
                match story.slot.woke(story.now) {
                    Some(Start::Ask(_)) => {
                        fetches += 1;
                        story.fail(Remedy::BackOff, definite);
                    }
                    Some(Start::Look(_)) => {
                        looks += 1;
                        story.see(Sight::Unreachable);
                    }
                    None => drop(story.wait_until_due()),
                }
            }
            assert!(
                fetches <= 80 && looks <= 90,
                "{mode:?} {begin}: {fetches} fetches, {looks} looks"
            );
        }
    }
}

#[test]
fn the_clock_being_set_moves_no_expiry() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    let before = story.token();
    story.now.wall += secs(86_400);
    story.slot.clock_was_set(story.now);
    story.expect_look();
    story.see(Sight::Alive);
    assert_eq!(story.token().expires_at, before.expires_at);
    let (was, is) = (before.expire_time, story.token().expire_time);
    assert_eq!(is, was + secs(86_400), "people see it by the new clock");
    // Nor does it matter whether the server ran when it was set.
    story.now.wall -= secs(86_400);
    let restarted = story.restart();
    assert_eq!(restarted.token().expires_at, before.expires_at);
    assert_eq!(restarted.token().expire_time, was);
    assert_eq!(story.wait_until_due(), secs(3540));
}

#[test]
fn a_dead_stable_token_is_asked_for_normally_while_force_is_used_up() {
    let mut story = Story::settled(Mode::Stable);
    story.wait(secs(60));
    story.report();
    story.expect_ask();
    story.repeat();
    story.report();
    story.prove_dead();
    assert_eq!(story.expect_ask().ask, Ask::Forced);
    story.fail(Remedy::DayQuota, true);
    story.slot.looks.due = None;
    for _ in 0..3 {
        let pause = story.wait_until_due();
        assert!(pause <= secs(30) && pause >= secs(1), "{pause:?}");
        assert_eq!(story.expect_ask().ask, Ask::Normal);
        story.repeat();
        story.slot.looks.due = None;
    }
    story.wait_until_due();
    story.expect_ask();
    story.rotate();
    assert!(!story.slot.dead());
}

#[test]
fn many_reports_of_a_young_stable_token_ask_wechat_nothing() {
    let mut story = Story::settled(Mode::Stable);
    for _ in 0..9 {
        story.wait(secs(1));
        assert_eq!(story.report(), Verdict::Wait);
        story.expect_nothing();
    }
    story.wait_until_due();
    story.expect_look();
    story.see(Sight::Alive);
    assert_eq!(story.report(), Verdict::StillValid);
}

#[test]
fn an_older_stable_token_is_asked_for_once_however_many_report_it() {
    let mut story = Story::settled(Mode::Stable);
    story.wait(secs(60));
    story.report();
    story.expect_ask();
    story.repeat();
    for _ in 0..5 {
        story.wait(secs(1));
        assert_eq!(story.report(), Verdict::Wait);
        assert!(!matches!(story.slot.woke(story.now), Some(Start::Ask(_))));
    }
}

#[test]
fn a_dead_token_is_no_excuse_to_hammer_a_source_that_refuses() {
    let mut story = Story::settled(Mode::Stable);
    story.wait(secs(60));
    let (since, generation) = (story.now.boot, story.token().generation);
    story.report();
    story.expect_ask();
    story.fail(Remedy::Refused(Refused::Credential), true);
    story.report_of(generation, since);
    story.prove_dead();
    assert_eq!(story.slot.ask_at(story.now), Some(since + secs(60)));
    assert_eq!(story.report_of(generation, since), Verdict::NoToken);
}

#[test]
fn a_proof_takes_three_looks_however_often_the_token_is_looked_at() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut story = Story::with(Policy {
            mode,
            probe_every: secs(1),
            ..Policy::default()
        });
        story.expect_ask();
        story.rotate();
        story.wait(secs(60));
        let (begin, mut looks) = (story.now.boot, 0);
        while !story.slot.dead() {
            match story.slot.woke(story.now) {
                Some(Start::Ask(_)) => story.repeat(),
                Some(Start::Look(_)) => {
                    looks += 1;
                    story.see(Sight::Refused);
                }
                None => drop(story.wait_until_due()),
            }
        }
        assert_eq!(
            (looks, story.now.boot.since(begin)),
            (3, secs(2)),
            "{mode:?}"
        );
    }
}

#[test]
fn an_expired_token_is_not_looked_at() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(7000));
    story.expect_ask();
    story.refuse();
    story.wait(secs(300));
    story.slot.looks.want(story.now.boot);
    story.expect_ask();
    story.refuse();
    story.expect_nothing();
}

#[test]
fn reports_do_not_hammer_a_source_that_refuses_look_and_fetch_alike() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(1000));
    let mut fetches = 0;
    for _ in 0..60 {
        for _ in 0..3 {
            story.report();
            while let Some(start) = story.slot.woke(story.now) {
                match start {
                    Start::Look(_) => drop(story.see(Sight::NoVerdict { errcode: 40164 })),
                    Start::Ask(_) => {
                        fetches += 1;
                        story.fail(Remedy::IpList, true);
                    }
                }
            }
        }
        story.wait(secs(1));
    }
    assert!(fetches <= 2, "{fetches} fetches in a minute");
}

#[test]
fn a_dead_token_is_still_dead_after_a_restart() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    story.report();
    story.prove_dead();
    story.expect_ask();
    story.fail(Remedy::DayQuota, true);
    let story = story.restart();
    assert!(story.slot.dead());
}

#[test]
fn a_report_of_a_dead_token_is_answered_while_a_rejection_lasts() {
    let mut story = Story::settled(Mode::Stable);
    story.wait_until_due();
    story.expect_ask();
    story.fail(Remedy::RiskRejected(secs(86_400)), true);
    let mut story = story.restart();
    story.expect_look();
    story.see(Sight::Refused);
    for _ in 0..2 {
        story.wait_until_due();
        story.expect_look();
        story.see(Sight::Refused);
    }
    assert!(story.slot.dead());
    assert_eq!(story.report(), Verdict::NoToken);
}

#[test]
fn a_young_token_is_not_judged_sooner_because_of_a_restart() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(2));
    let mut story = story.restart();
    story.expect_nothing();
    assert_eq!(story.wait_until_due(), secs(8));
    story.expect_look();
}

#[test]
fn a_blind_recovery_keeps_to_the_budget() {
    let mut story = Story::with(Policy {
        mode: Mode::Classic,
        daily_replacements: 2,
        ceiling: secs(10),
        ..Policy::default()
    });
    story.expect_ask();
    story.rotate();
    story.wait_until_due();
    let (mut replacements, end) = (0, story.token().expires_at);
    while story.now.boot < end {
        match story.slot.woke(story.now) {
            Some(Start::Ask(_)) => {
                replacements += u32::from(story.slot.suspect.is_some());
                story.lose_reply();
            }
            Some(Start::Look(_)) => drop(story.see(Sight::Unreachable)),
            None => drop(story.wait_until_due()),
        }
    }
    assert_eq!(replacements, 2);
}

#[test]
fn nobody_is_promised_a_token_that_somebody_else_may_have_retired_long_ago() {
    let mut story = Story::begin(Mode::Stable);
    story.expect_ask();
    story.rotate();
    story.wait_until_due();
    story.expect_ask();
    assert!(story.rotate().foreign);
    assert_eq!(story.slot.previous_expires_at(), None);
}
