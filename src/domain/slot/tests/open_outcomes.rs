//! After a reply that never came: WeChat may have made a token that ends ours.

use super::*;

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
    assert_eq!(story.slot.keep_until(story.now), Some(sent + secs(300)));
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
fn after_each_blind_fetch_the_next_one_waits_for_the_overlap_again() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    let mut asked = Vec::new();
    while asked.len() < 4 {
        match story.slot.woke(story.now) {
            Some(Start::Look(_)) => drop(story.see(Sight::Unreachable)),
            Some(Start::Ask(_)) => {
                asked.push(story.now.boot);
                story.lose_reply();
            }
            None => drop(story.wait_until_due()),
        }
    }
    let gaps = asked.windows(2).map(|pair| pair[1].since(pair[0]));
    assert!(
        gaps.eq([secs(300); 3]),
        "two tokens so soon would end the old one at once"
    );
}

#[test]
fn a_look_that_succeeds_proves_nothing_about_a_later_fetch() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    story.expect_ask();
    let sent = story.now.boot;
    story.lose_reply();
    while story.now.boot < sent + secs(300) {
        story.expect_look();
        story.see(Sight::Unreachable);
        story.wait_until_due();
    }
    story.expect_ask();
    let again = story.now.boot;
    story.lose_reply();
    story.wait_until_due();
    story.expect_look();
    story.see(Sight::Alive);
    let note = story.slot.record().note;
    assert_eq!(note.map(|note| note.asked_at), Some(again));
    story.expect_ask();
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
