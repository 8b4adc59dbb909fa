//! A token that is proven dead, and how often another is asked for.

use super::*;

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
