//! What a restart knows.

use super::*;

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
fn a_young_token_is_not_judged_sooner_because_of_a_restart() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(2));
    let mut story = story.restart();
    story.expect_nothing();
    assert_eq!(story.wait_until_due(), secs(8));
    story.expect_look();
}
