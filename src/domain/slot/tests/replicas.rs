//! One replica of several: it follows, takes over, and gives up.

use super::*;
use crate::domain::Note;

impl Story {
    /// Another replica, to which the store has told `record` just now.
    fn follower(&self, record: Record) -> Self {
        let (now, tokens) = (self.now, self.tokens);
        let mut slot = Slot::new(self.slot.policy, now);
        slot.reaches(Reach::Following, now.boot, now);
        slot.followed(record, now);
        Self { slot, now, tokens }
    }

    pub(super) fn reach(&mut self, reach: Reach, contact: Moment) {
        self.slot.reaches(reach, contact, self.now);
    }

    /// The store is in touch, and says that the token is as it was.
    pub(super) fn hear_the_same(&mut self) {
        self.reach(Reach::Following, self.now.boot);
        let record = Record {
            dead: false,
            ..self.slot.record()
        };
        self.slot.followed(record, self.now);
    }

    pub(super) fn certain(&self) -> Option<Duration> {
        let until = self.slot.certain_until()?;
        Some(until.since(self.now.boot))
    }
}

/// A follower of a classic app whose token is ten minutes old.
pub(super) fn follower() -> Story {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(600));
    story.follower(story.slot.record())
}

/// When a replica that hears of nobody but WeChat since `contact`, and whose token works, asks for another:
/// so long before the end of its token.
pub(super) fn asks_alone(story: &mut Story, reach: Reach, contact: Moment) -> Option<Duration> {
    let end = story.token().expires_at;
    while end > story.now.boot {
        story.reach(reach, contact);
        match story.slot.woke(story.now) {
            Some(Start::Ask(_)) => return Some(end.since(story.now.boot)),
            Some(Start::Look(_)) => drop(story.see(Sight::Alive)),
            None => story.wait(secs(1)),
        }
    }
    None
}

#[test]
fn a_follower_shows_what_it_is_told_and_starts_nothing() {
    for mode in [Mode::Classic, Mode::Stable] {
        let mut holder = Story::settled(mode);
        let mut story = holder.follower(holder.slot.record());
        assert_eq!(story.token().generation, holder.token().generation);
        assert!(story.slot.settled());
        for _ in 0..118 {
            story.wait(secs(60));
            let now = story.now.boot;
            story.reach(Reach::Following, now);
            story.expect_nothing();
        }

        holder.wait_until_due();
        holder.expect_ask();
        let newer = holder.rotate().token;
        story.slot.followed(holder.slot.record(), holder.now);
        assert_eq!(story.token().generation, newer.generation);
    }
}

#[test]
fn a_follower_asks_for_a_stable_token_a_minute_before_its_end_if_no_trouble_is_told() {
    let holder = Story::settled(Mode::Stable);
    let record = holder.slot.record();
    let trouble = Record {
        trouble: Some(Arc::new(Trouble {
            remedy: Remedy::BackOff,
            errcode: None,
            definite: true,
            message: "down".into(),
            hint: None,
        })),
        ..record.clone()
    };
    for (record, asks) in [(record, true), (trouble, false)] {
        let mut story = holder.follower(record);
        let (end, before) = (story.token().expires_at, story.token().generation);
        let left = asks_alone(&mut story, Reach::Following, holder.now.boot);
        assert_eq!(left, asks.then_some(secs(60)));
        if asks {
            let next = story.rotate().token;
            assert_eq!(
                next.generation.0,
                before.0 + 1,
                "the smallest that is not taken"
            );
            assert!(next.expires_at > end);
        }
    }
    let mut story = follower();
    assert_eq!(
        asks_alone(&mut story, Reach::Following, holder.now.boot),
        None,
        "classic"
    );
}

#[test]
fn a_follower_with_another_mode_shows_what_there_is_and_asks_in_its_own_when_it_takes_over() {
    for (one, other) in [(Mode::Classic, Mode::Stable), (Mode::Stable, Mode::Classic)] {
        let holder = Story::settled(one);
        let record = holder.slot.record();
        let mut story = Story::settled(other).follower(record.clone());
        assert!(story.slot.settled());
        let shown = story.token();
        assert_eq!(shown.value, holder.token().value);

        story.slot.took_over(Some(record), story.now);
        story.reach(Reach::Everything, story.now.boot + secs(7200));
        while !matches!(story.slot.woke(story.now), Some(Start::Ask(_))) {
            story.wait_until_due();
        }
        let rotation = story.rotate();
        assert!(!rotation.foreign && rotation.token.generation > shown.generation);
    }
}

#[test]
fn a_follower_never_goes_back() {
    let mut holder = Story::settled(Mode::Classic);
    let old = holder.slot.record();
    holder.wait_until_due();
    holder.expect_ask();
    let newer = holder.rotate().token;
    let mut story = holder.follower(holder.slot.record());
    story.slot.followed(old, story.now);
    assert_eq!(story.token().generation, newer.generation);
}

#[test]
fn what_was_dead_at_the_one_that_refreshes_is_dead_here_and_lives_again_with_it() {
    let mut story = follower();
    let record = story.slot.record();
    for dead in [true, false] {
        let record = Record {
            dead,
            ..record.clone()
        };
        story.slot.followed(record, story.now);
        assert_eq!(story.slot.dead(), dead);
    }
}

#[test]
fn a_replica_that_finds_a_note_at_its_start_shows_nothing_until_that_is_settled() {
    let mut holder = Story::settled(Mode::Classic);
    holder.wait_until_due();
    let note = holder.expect_ask().note.expect("it was noted");
    let mut story = holder.follower(note);
    assert!(story.slot.token().is_none() && !story.slot.settled());
    let newer = holder.rotate().token;
    story.slot.followed(holder.slot.record(), story.now);
    let shown = story.slot.token().expect("it is settled");
    assert_eq!(shown.generation, newer.generation);
}

#[test]
fn while_the_one_that_refreshes_asks_the_others_go_on_with_what_they_have() {
    let mut holder = Story::settled(Mode::Classic);
    let mut story = holder.follower(holder.slot.record());
    holder.wait_until_due();
    let note = holder.expect_ask().note.expect("it was noted");
    story.slot.followed(note, holder.now);
    assert!(story.slot.token().is_some() && story.slot.suspect());
    holder.rotate();
    story.slot.followed(holder.slot.record(), holder.now);
    assert!(!story.slot.suspect());
}

#[test]
fn who_takes_over_keeps_the_token_and_looks_once() {
    let mut story = follower();
    let (generation, record) = (story.token().generation, story.slot.record());
    story.slot.took_over(Some(record), story.now);
    assert_eq!(story.token().generation, generation);
    story.expect_look();
    story.see(Sight::Alive);
    story.expect_nothing();
    assert_eq!(story.wait_until_due(), secs(3000), "as planned");
}

#[test]
fn who_takes_over_and_finds_a_note_goes_on_as_after_a_restart() {
    let mut story = follower();
    let reserved = Generation(story.token().generation.0 + 5);
    let record = Record {
        note: Some(Note {
            asked_at: story.now.boot - secs(20),
            reserved,
        }),
        ..story.slot.record()
    };
    story.slot.followed(record.clone(), story.now);
    story.slot.took_over(Some(record), story.now);
    assert_eq!(
        story.token().generation.0,
        reserved.0 + 1,
        "the reserved one may be in use"
    );
    story.expect_look();
    story.see(Sight::Alive);
    let errand = story.expect_ask();
    let again = errand.note.and_then(|record| record.note).expect("noted");
    assert!(again.reserved > story.token().generation);
}

#[test]
fn what_the_store_does_not_know_yet_is_kept_by_who_takes_over() {
    let mut story = Story::settled(Mode::Classic);
    story.wait_until_due();
    let noted = story.expect_ask().note.expect("it was noted");
    let own = story.rotate().token;
    // The save failed, the claim was lost, and nobody else has taken it.
    story.slot.stepped_down();
    story.slot.followed(noted.clone(), story.now);
    assert_eq!(story.token().generation, own.generation);
    story.slot.took_over(Some(noted), story.now);
    assert_eq!(story.token().value, own.value);
    assert!(story.slot.record().generation >= own.generation);
    story.wait(secs(10));
    story.expect_look();
    story.see(Sight::Alive);
    story.expect_nothing();
}

#[test]
fn a_living_token_is_numbered_above_what_others_have_seen_and_an_expired_one_is_left_alone() {
    let mut story = follower();
    let seen = Generation(story.token().generation.0 + 5);
    assert!(story.slot.outnumbered(seen, story.now));
    assert_eq!(story.token().generation, Generation(seen.0 + 1));
    assert!(!story.slot.outnumbered(seen, story.now));

    let mut story = follower();
    let expired = story.token().generation;
    story.wait(secs(7200));
    assert!(!story.slot.outnumbered(seen, story.now));
    assert_eq!(story.token().generation, expired);
    assert_eq!(story.slot.taken(), seen, "the next one is above it");
}

#[test]
fn who_takes_over_from_an_expired_token_numbers_its_own_above() {
    let mut story = follower();
    let own = story.token();
    let saved = Generation(own.generation.0 + 1);
    let record = Record {
        token: Some(Arc::new(Token {
            value: Secret::new("70_expired"),
            generation: saved,
            expires_at: story.now.boot,
            ..*own
        })),
        generation: saved,
        ..story.slot.record()
    };
    assert!(story.slot.took_over(Some(record), story.now), "to be saved");
    assert_eq!(story.token().value, own.value);
    assert!(story.token().generation > saved);
}

#[test]
fn the_first_replica_of_all_asks_at_once() {
    let mut story = Story::begin(Mode::Classic);
    story.reach(Reach::Following, story.now.boot);
    story.expect_nothing();
    story.slot.took_over(None, story.now);
    story.expect_ask();
}

#[test]
fn a_fetch_that_was_not_sent_is_no_failure_and_costs_nothing() {
    let mut story = Story::settled(Mode::Classic);
    story.prove_dead_at_once();
    let left = |story: &Story| story.slot.allowance().left(story.now.wall);
    let before = left(&story);
    story.expect_ask();
    story.slot.gave_up(story.now);
    assert_eq!(left(&story), before);
    assert!(story.slot.trouble().is_none());
    assert_eq!(story.wait_until_due(), secs(1));
    story.expect_ask();
}

impl Story {
    fn prove_dead_at_once(&mut self) {
        self.wait(secs(60));
        self.report();
        self.prove_dead();
    }
}

#[test]
fn a_fetch_of_another_replica_that_outlived_its_claim_is_answered_by_a_look_and_one_fetch() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    story.slot.strayed(story.now.boot, story.now);
    story.expect_look();
    story.see(Sight::Alive);
    story.expect_ask();
    story.slot.strayed(story.now.boot, story.now);
    story.rotate();
    story.expect_nothing();

    // One that was older than the token has been retired by it.
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(60));
    let before = story.token().asked_at - secs(1);
    assert!(!story.slot.strayed(before, story.now));
    story.expect_nothing();

    let mut story = Story::settled(Mode::Stable);
    story.wait(secs(60));
    story.slot.strayed(story.now.boot, story.now);
    story.expect_ask();
    story.repeat();
    story.expect_nothing();
}

#[test]
fn a_holder_that_stands_still_does_not_trust_its_token_for_longer_than_its_claim_and_the_overlap() {
    let mut story = Story::settled(Mode::Classic);
    assert_eq!(story.certain(), None, "alone there is nobody to end it");
    let claim = story.now.boot + secs(15);
    story.reach(Reach::Everything, claim);
    assert_eq!(story.certain(), Some(secs(315)));
    story.wait_until_due();
    story.expect_ask();
    let claim = story.now.boot + secs(15);
    story.reach(Reach::Everything, claim);
    assert_eq!(story.certain(), Some(secs(300)), "its own fetch may end it");
}

#[test]
fn a_look_that_is_under_way_is_made_anew_at_a_token_that_gets_another_number() {
    let mut story = Story::settled(Mode::Classic);
    story.wait(secs(600));
    assert_eq!(story.report(), Verdict::Wait);
    story.expect_look();
    let before = story.token().generation;
    let seen = Generation(before.0 + 10);
    assert!(story.slot.outnumbered(seen, story.now));
    let late = story.slot.looked(before, Sight::Alive, story.now, 0.0);
    assert_eq!(late, Looked::Unchanged);
    assert_eq!(story.wait_until_due(), Duration::ZERO);
    story.expect_look();
    story.see(Sight::Alive);
    assert_eq!(story.report(), Verdict::StillValid);
}
