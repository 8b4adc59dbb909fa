//! What callers report, and what it takes to believe them.

use super::*;

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
