//! What happens when nothing goes wrong, and when an attempt fails.

use super::*;

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
    assert_eq!(story.slot.keep_until(story.now), Some(next + secs(290)));
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
fn nobody_is_promised_a_token_that_somebody_else_may_have_retired_long_ago() {
    let mut story = Story::begin(Mode::Stable);
    story.expect_ask();
    story.rotate();
    story.wait_until_due();
    story.expect_ask();
    assert!(story.rotate().foreign);
    assert_eq!(story.slot.previous_expires_at(), None);
}
