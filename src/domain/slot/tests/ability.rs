//! When another replica had better try, and what that costs if none has better luck.

use super::*;

impl Story {
    fn needs_another(&self) -> bool {
        self.slot.needs_another(self.now)
    }

    /// The replica that takes over what this one gives up.
    fn successor(&self) -> Self {
        let (now, tokens, record) = (self.now, self.tokens, self.slot.record());
        let mut slot = Slot::new(self.slot.policy, now);
        slot.reaches(Reach::Following, now.boot, now);
        slot.followed(record.clone(), now);
        slot.took_over(Some(record), now);
        Self { slot, now, tokens }
    }

    /// Looks and attempts, all without an answer, until another one had better try.
    fn attempts_until_another_had_better_try(&mut self) -> u32 {
        let mut attempts = 0;
        while !self.needs_another() {
            self.wait_until_due();
            match self.slot.woke(self.now).expect("something is due") {
                Start::Ask(_) => self.lose_reply(),
                Start::Look(_) => {
                    self.see(Sight::Unreachable);
                }
            }
            attempts += 1;
            assert!(attempts < 100, "it tries for ever");
        }
        attempts
    }
}

/// A token that is to be replaced by now.
fn due(mode: Mode) -> Story {
    let mut story = Story::settled(mode);
    story.wait(secs(3599));
    story
}

#[test]
fn one_failure_may_be_chance_and_two_are_not() {
    let mut story = Story::begin(Mode::Classic);
    for (failures, another) in [(0, false), (1, true), (2, true)] {
        story.wait_until_due();
        story.expect_ask();
        story.refuse();
        assert_eq!(story.needs_another(), another, "after {failures}");
    }
    story.wait_until_due();
    story.expect_ask();
    story.rotate();
    assert!(!story.needs_another(), "it works again");
}

#[test]
fn while_an_outcome_is_open_a_look_without_an_answer_is_a_failure() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut story = due(mode);
        let attempts = story.attempts_until_another_had_better_try();
        assert!((2..=4).contains(&attempts), "{mode:?}: {attempts}");
    }
}

#[test]
fn what_another_machine_would_hear_as_well_is_no_reason() {
    let rows = [
        (Remedy::IpList, true),
        (Remedy::BackOff, true),
        (Remedy::NextMinute, false),
        (Remedy::Slowly, false),
        (Remedy::RiskPending, false),
        (Remedy::DayQuota, false),
    ];
    for (remedy, another) in rows {
        let mut story = Story::begin(Mode::Stable);
        for _ in 0..3 {
            story.wait_until_due();
            story.expect_ask();
            story.fail(remedy, true);
        }
        assert_eq!(story.needs_another(), another, "{remedy:?}");
    }
}

#[test]
fn a_token_that_need_not_be_replaced_needs_nobody() {
    let mut story = Story::settled(Mode::Classic);
    for _ in 0..5 {
        story.slot.looks.want(story.now.boot);
        story.expect_look();
        story.see(Sight::Unreachable);
    }
    assert!(!story.needs_another());
}

#[test]
fn who_takes_over_after_failures_tries_once_and_keeps_the_pause() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut one = Story::begin(mode);
        for _ in 0..2 {
            one.wait_until_due();
            one.expect_ask();
            one.refuse();
        }
        let mut other = one.successor();
        assert!(!other.needs_another(), "it has not tried yet");
        other.expect_ask();
        other.refuse();
        assert!(other.needs_another());
        assert_eq!(other.wait_until_due(), secs(60), "{mode:?}");
        other.expect_ask();
        other.rotate();
    }
}

#[test]
fn who_takes_over_an_open_outcome_looks_once_before_it_gives_up() {
    let mut one = due(Mode::Classic);
    one.attempts_until_another_had_better_try();
    let mut other = one.successor();
    assert_eq!(other.attempts_until_another_had_better_try(), 1);
    let mut third = other.successor();
    third.wait_until_due();
    third.expect_look();
    third.see(Sight::Alive);
    third.wait_until_due();
    third.expect_ask();
    third.rotate();
    assert!(!third.needs_another());
}
