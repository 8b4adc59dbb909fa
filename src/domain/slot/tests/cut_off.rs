//! One replica of several that does not hear of the others.

use super::{
    replicas::{asks_alone, follower},
    *,
};

const BLIND: Reach = Reach::CutOff { named: false };
const NAMED: Reach = Reach::CutOff { named: true };

#[test]
fn cut_off_a_stable_token_is_asked_for_as_ever_but_not_by_force() {
    let mut story = Story::settled(Mode::Stable);
    let before = story.token().generation;
    story.wait(secs(60));
    story.reach(Reach::Harmless, story.now.boot);
    story.report();
    story.expect_ask();
    story.repeat();
    story.report();
    story.prove_dead();
    for _ in 0..20 {
        story.wait_until_due();
        match story.slot.woke(story.now) {
            Some(Start::Ask(errand)) => {
                assert_eq!(errand.ask, Ask::Normal);
                story.repeat();
            }
            Some(Start::Look(_)) => drop(story.see(Sight::Refused)),
            None => {}
        }
    }
    story.wait_until_due();
    while !matches!(story.slot.woke(story.now), Some(Start::Ask(_))) {
        story.see(Sight::Refused);
        story.wait_until_due();
    }
    let next = story.rotate().token.generation;
    assert_eq!(next.0, before.0 + 1, "the smallest that is not taken");
}

#[test]
fn cut_off_a_classic_token_is_certain_until_another_replica_could_have_ended_it() {
    let mut story = follower();
    // The plan is 50 minutes ahead; the overlap follows.
    assert_eq!(story.certain(), Some(secs(3000 + 300)));
    let contact = story.now.boot;
    story.wait(secs(1000));
    story.reach(BLIND, contact);
    assert_eq!(story.certain(), Some(secs(2000 + 300)));
    // When the plan is over, what was heard last counts.
    story.wait(secs(2500));
    let contact = story.now.boot;
    story.reach(Reach::Following, contact);
    assert_eq!(story.certain(), Some(secs(300)));
}

#[test]
fn a_token_that_could_not_be_saved_is_certain_only_until_the_next_one_with_the_claim_may_have_ended_it()
 {
    // The plan is an hour ahead, the end of the claim ten minutes; the overlap follows.
    for (saved, certain) in [(true, 3600), (false, 600)] {
        let mut story = follower();
        story.reach(Reach::Everything, story.now.boot);
        story.wait_until_due();
        while !matches!(story.slot.woke(story.now), Some(Start::Ask(_))) {
            story.see(Sight::Alive);
            story.wait_until_due();
        }
        let token = story.rotate().token;
        if saved {
            story.slot.told(token.generation);
        }
        story.reach(NAMED, story.now.boot + secs(600));
        assert_eq!(story.certain(), Some(secs(certain + 300)), "saved: {saved}");
    }
}

#[test]
fn while_it_is_doubtful_wechat_is_asked_and_one_refusal_is_enough() {
    let mut story = follower();
    let contact = story.now.boot;
    story.reach(BLIND, contact);
    story.slot.policy.probe_every = secs(60);
    story.wait(story.certain().unwrap().saturating_sub(secs(11)));
    story.reach(BLIND, contact);
    // Early enough for an answer, whoever gives it.
    assert_eq!(story.wait_until_due(), Duration::ZERO);
    // What told nothing is asked again soon.
    for (sight, pause) in [
        (Sight::Alive, 5),
        (Sight::Unreachable, 1),
        (Sight::Alive, 5),
    ] {
        story.expect_look();
        story.see(sight);
        story.reach(BLIND, contact);
        assert!(story.certain().unwrap() > secs(5), "{sight:?}");
        assert_eq!(story.wait_until_due(), secs(pause), "{sight:?}");
    }
    story.wait(secs(5));
    story.expect_look();
    assert_eq!(story.see(Sight::Refused), Looked::Died);
    assert!(story.slot.dead());
    // Nothing is fetched: somebody else did that.
    for _ in 0..20 {
        story.wait_until_due();
        story.reach(BLIND, contact);
        story.expect_look();
        story.see(Sight::Refused);
    }
}

/// A follower that heard of nobody until the token may have ended, and its contact.
fn in_doubt(reach: Reach) -> (Story, Moment) {
    let mut story = follower();
    let contact = story.now.boot;
    story.wait(story.certain().unwrap());
    story.reach(reach, contact);
    (story, contact)
}

/// So old a look may be that a reader relies on.
fn age(story: &Story) -> Option<Duration> {
    let doubt = story.slot.doubt(story.now)?;
    let begun = doubt.since <= story.now.boot;
    begun.then_some(doubt.age)
}

#[test]
fn when_another_replica_was_due_a_reader_needs_a_look_of_its_own_and_later_a_fresh_one() {
    let (mut story, contact) = in_doubt(BLIND);
    // The claim of whoever was due has a minute to end, the successor three seconds and a time-out to ask WeChat.
    let due = secs(60 + 3) + story.slot.policy.timeout;
    for second in 0..100 {
        assert!(story.slot.asked_for_a_word(story.now));
        let sent = story.now.boot;
        story.expect_look();
        story.see(Sight::Alive);
        let doubt = story.slot.doubt(story.now).unwrap();
        assert_eq!(doubt.accepted, Some(sent));
        let fresh = u64::from(secs(second) >= due);
        assert_eq!(doubt.age, secs(fresh), "after {second} s");
        story.wait(secs(1));
        story.reach(BLIND, contact);
    }
}

#[test]
fn a_report_of_a_token_in_doubt_is_answered_by_a_look_that_was_sent_after_it() {
    let (mut story, contact) = in_doubt(BLIND);
    story.expect_look();
    story.see(Sight::Alive);
    story.wait(secs(1));
    story.reach(BLIND, contact);
    let (generation, since) = (story.token().generation, story.now.boot);
    assert_eq!(story.report_of(generation, since), Verdict::Wait);
    story.expect_look();
    story.see(Sight::Alive);
    let verdict = story.report_of(generation, since);
    assert_eq!(verdict, Verdict::StillValid);
}

#[test]
fn a_copy_that_others_may_have_outlived_is_looked_at_before_it_is_handed_out() {
    // How old the token is, and whether it is shown at once.
    for (age, shown) in [(200, true), (301, false)] {
        let holder = Story::settled(Mode::Classic);
        for sight in [Sight::Alive, Sight::Unreachable, Sight::Refused] {
            let mut story = holder.restart();
            let born = story.token().asked_at;
            story.wait((born + secs(age)).since(story.now.boot));
            let copy = story.slot.record();
            story.slot = Slot::new(story.slot.policy, story.now);
            story.slot.restored_copy(copy, story.now);
            assert_eq!(story.slot.settled(), shown, "{age} s old");
            story.reach(BLIND, Moment::default());
            if !shown {
                story.expect_look();
                story.see(sight);
            }
            assert!(story.slot.settled());
            let usable = !story.slot.dead() && story.certain() > Some(Duration::ZERO);
            assert_eq!(usable, shown || sight == Sight::Alive, "{age}, {sight:?}");
        }
    }
}

#[test]
fn wechats_silence_counts_only_once_it_is_plain_that_nobody_else_refreshes() {
    for (alone, goes_on) in [(false, false), (true, true)] {
        let (mut story, contact) = in_doubt(BLIND);
        if alone {
            story.wait(secs(3) + story.slot.policy.timeout);
            story.expect_look();
            story.see(Sight::Alive);
        }
        for _ in 0..60 {
            story.wait(secs(1));
            story.reach(BLIND, contact);
            if let Some(Start::Look(_)) = story.slot.woke(story.now) {
                story.see(Sight::Unreachable);
            }
        }
        let certain = story.certain() > Some(Duration::ZERO);
        assert_eq!(certain, goes_on, "alone: {alone}");
    }
}

type Change = fn(&mut Story);

#[test]
fn no_reader_waits_for_a_look_that_tells_nothing_or_is_not_to_be_made() {
    let table: [(&str, bool, Change); 6] = [
        ("nothing else", true, |_| {}),
        ("WeChat cannot be asked", false, |story| {
            story.expect_look();
            story.see(Sight::Unreachable);
        }),
        ("WeChat refuses it", false, |story| {
            story.expect_look();
            story.see(Sight::Refused);
        }),
        ("there were too many looks", false, |story| {
            story.expect_look();
            story.see(Sight::NoVerdict { errcode: 45009 });
        }),
        (
            "there were too many looks, before one that told",
            false,
            |story| {
                story.expect_look();
                story.see(Sight::NoVerdict { errcode: 45009 });
                story.slot.looks.want(story.now.boot);
                story.expect_look();
                story.see(Sight::Alive);
            },
        ),
        ("the others are heard of", false, |story| {
            story.reach(Reach::Following, story.now.boot);
        }),
    ];
    for (what, waits, change) in table {
        let (mut story, _) = in_doubt(BLIND);
        change(&mut story);
        story.wait(secs(5));
        assert_eq!(story.slot.asked_for_a_word(story.now), waits, "{what}");
        assert_eq!(age(&story).is_some() && !story.slot.dead(), waits, "{what}");
    }
}

#[test]
fn whoever_went_on_alone_needs_a_fresh_look_as_nobody_is_due_to_replace_its_token() {
    let mut story = follower();
    let contact = story.now.boot;
    asks_alone(&mut story, NAMED, contact).expect("it asks");
    assert_eq!(age(&story), None, "it is being replaced");
    story.rotate();
    assert_eq!(age(&story), None, "nobody else can have replaced it yet");
    story.wait(story.slot.policy.overlap);
    story.reach(NAMED, contact);
    assert_eq!(age(&story), Some(secs(1)));
}

#[test]
fn only_the_replica_that_refreshed_last_fetches_when_it_is_plain_that_nobody_else_does() {
    for (reach, fetches) in [(NAMED, true), (BLIND, false)] {
        let mut story = follower();
        let contact = story.now.boot;
        let left = asks_alone(&mut story, reach, contact);
        assert_eq!(left, fetches.then_some(secs(300)), "{reach:?}");
    }
}

#[test]
fn whoever_went_on_alone_hands_its_token_out_however_seldom_looks_are_otherwise() {
    let mut story = follower();
    (story.slot.policy.overlap, story.slot.policy.probe_every) = (secs(10), secs(60));
    let contact = story.now.boot;
    asks_alone(&mut story, NAMED, contact).expect("it asks");
    story.rotate();
    for second in 0..120 {
        story.reach(NAMED, contact);
        if let Some(Start::Look(_)) = story.slot.woke(story.now) {
            story.see(Sight::Alive);
        }
        assert!(story.certain() > Some(Duration::ZERO), "after {second} s");
        story.wait(secs(1));
    }
}

#[test]
fn it_waits_for_as_long_as_another_may_take_to_replace_the_token() {
    let mut story = follower();
    let end = story.token().expires_at;
    // Whoever has taken the claim over then may have ended the token 300 s later, and needs some time.
    let claim = end - secs(605);
    story.wait(claim.since(story.now.boot));
    let left = asks_alone(&mut story, NAMED, claim).expect("it asks");
    assert!(left <= secs(305 - 13), "{left:?}");
    assert!(left > secs(280), "{left:?}");
}

/// To which WeChat refuses the token while nothing is heard, and which is in touch again then.
fn refused_and_in_touch_again() -> Story {
    let mut story = follower();
    let contact = story.now.boot;
    story.reach(BLIND, contact);
    story.wait(story.certain().unwrap());
    story.reach(BLIND, contact);
    story.expect_look();
    assert_eq!(story.see(Sight::Refused), Looked::Died);
    story.hear_the_same();
    story
}

#[test]
fn what_wechat_refused_while_nothing_was_heard_is_not_handed_out_because_the_others_do_not_know() {
    let mut story = refused_and_in_touch_again();
    for _ in 0..3 {
        assert!(story.slot.dead());
        story.wait_until_due();
        story.expect_look();
        assert_eq!(story.see(Sight::Refused), Looked::Unchanged);
        story.hear_the_same();
    }
    assert!(story.wait_until_due() <= secs(5));
    story.expect_look();
    assert_eq!(story.see(Sight::Alive), Looked::Revived);
    story.hear_the_same();
    assert!(!story.slot.dead());
    let due = story.slot.due(story.now);
    assert_eq!(due, None, "from now on the looks are the other's");
}

#[test]
fn it_is_handed_out_again_when_the_one_that_refreshes_has_looked_too() {
    let settle = secs(10);
    // What that one answers at once may be what it saw before.
    for (later, dead) in [(Duration::ZERO, true), (settle, false)] {
        let mut story = refused_and_in_touch_again();
        let (generation, at) = (story.token().generation, story.now.boot + later);
        story.slot.vouched(generation, at);
        story.hear_the_same();
        assert_eq!(story.slot.dead(), dead, "asked {later:?} after the refusal");
    }
}

#[test]
fn it_stays_refused_under_another_number() {
    let mut story = refused_and_in_touch_again();
    let record = story.slot.record();
    let token = record.token.as_ref().unwrap();
    let higher = Generation(token.generation.0 + 1);
    let token = Token {
        value: Secret::new(token.value.expose()),
        generation: higher,
        ..**token
    };
    let record = Record {
        token: Some(Arc::new(token)),
        generation: higher,
        dead: false,
        ..record
    };
    story.slot.followed(record, story.now);
    assert_eq!(story.token().generation, higher);
    assert!(story.slot.dead());
}

#[test]
fn whoever_takes_over_looks_before_it_replaces_what_was_refused_once() {
    let mut story = refused_and_in_touch_again();
    let record = Record {
        dead: false,
        ..story.slot.record()
    };
    story.slot.took_over(Some(record), story.now);
    assert!(story.slot.dead(), "it is not handed out meanwhile");
    story.expect_look();
    assert_eq!(story.see(Sight::Alive), Looked::Revived);
}
