//! A token that must die although it lives.

use super::*;

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

fn leak(token: &Token) -> StaleReport {
    StaleReport {
        stale: Stale::Generation(token.generation),
        errcode: 0,
        leaked: true,
    }
}

#[test]
fn after_a_restart_between_the_two_mints_the_same_report_asks_for_the_second_one_only() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut story = Story::settled(mode);
        story.wait(secs(60));
        let report = leak(&story.token());
        story.slot.reported(&report, story.now.boot, story.now);
        story.expect_ask();
        story.rotate();
        story.wait(secs(10));
        let mut story = story.restart();
        let since = story.now.boot;
        let verdict = story.slot.reported(&report, since, story.now);
        assert_eq!(verdict, Verdict::Wait, "{mode:?}");
        // WeChat's own pause between two forced fetches.
        let mut waited = story.wait_until_due();
        while !matches!(story.slot.woke(story.now), Some(Start::Ask(_))) {
            story.see(Sight::Alive);
            waited += story.wait_until_due();
        }
        assert_eq!(waited, secs(20), "{mode:?}");
        story.rotate();
        let verdict = story.slot.reported(&report, since, story.now);
        assert_eq!(verdict, Verdict::Refreshed, "{mode:?}");
        let verdict = story.slot.reported(&report, story.now.boot, story.now);
        assert_eq!(verdict, Verdict::AlreadyNewer, "{mode:?}");
    }
}

#[test]
fn a_leaked_token_that_was_replaced_is_killed_while_it_may_still_work() {
    for (age, works) in [(10, true), (299, true), (301, false)] {
        let mut story = Story::settled(Mode::Classic);
        let token = story.token();
        story.wait_until_due();
        while !matches!(story.slot.woke(story.now), Some(Start::Ask(_))) {
            story.see(Sight::Alive);
            story.wait_until_due();
        }
        story.rotate();
        story.wait(secs(age));
        for stale in [
            Stale::Generation(token.generation),
            Stale::Value(Secret::new(token.value.expose())),
        ] {
            let outlives = story.slot.outlives(&stale, story.now);
            assert_eq!(outlives, works.then_some(token.generation), "{stale:?}");
            // A replica that has not seen it takes a number in between.
            let (older, between) = (token.generation.0 - 1, token.generation.0 + 1);
            let outlives = |generation| {
                let stale = Stale::Generation(Generation(generation));
                story.slot.outlives(&stale, story.now).is_some()
            };
            assert!(!outlives(older));
            assert_eq!(outlives(between), works);
        }
        let now = story.now;
        let verdict = story.slot.reported(&leak(&token), now.boot, now);
        if works {
            assert_eq!(verdict, Verdict::Wait, "{age} s after its end");
        } else {
            assert_eq!(verdict, Verdict::AlreadyNewer, "{age} s after its end");
        }
    }
}

#[test]
fn a_token_that_has_another_number_after_a_restart_is_killed_by_the_one_that_the_operator_knows() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut story = Story::settled(mode);
        story.wait(secs(600));
        let report = leak(&story.token());
        story.slot.reported(&report, story.now.boot, story.now);
        let note = story.expect_ask().note.expect("such a fetch is noted");
        let mut story = story.restart_from(note);
        // WeChat may have heard of the first attempt, and wants a pause.
        story.wait(secs(31));
        assert_ne!(story.token().generation, leaked_generation(&report));
        let since = story.now.boot;
        for _ in 0..2 {
            let verdict = story.slot.reported(&report, since, story.now);
            assert_eq!(verdict, Verdict::Wait, "{mode:?}");
            while !matches!(story.slot.woke(story.now), Some(Start::Ask(_))) {
                story.see(Sight::Alive);
                story.wait_until_due();
            }
            story.rotate();
        }
        let verdict = story.slot.reported(&report, since, story.now);
        assert_eq!(verdict, Verdict::Refreshed, "{mode:?}");
    }
}

fn leaked_generation(report: &StaleReport) -> Generation {
    match report.stale {
        Stale::Generation(generation) => generation,
        Stale::Value(_) => panic!("it is reported by its number"),
    }
}
