//! The promises of a stream, each a function that finds where a history breaks it, each with a
//! history that it must refuse.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use tonic::Code;
use wxtokend::pb::Cause;

use super::{Book, Fact, Heard, Message, Wait, Watched};

/// Contract: a sign of life after so much silence.
const BEAT: Duration = Duration::from_secs(30);

/// Contract: a stream whose token dies goes on waiting for another for so long at most.
const SPREAD: Duration = Duration::from_secs(2);

/// Contract: nobody who listens lacks the newest token for longer.
const LAG: Duration = Duration::from_secs(1);

/// Contract: a stream that has not begun waits so long for a token.
const FIRST: Duration = Duration::from_secs(10);

/// Times are counted in milliseconds, and rounded more than once.
const ROUNDING: Duration = Duration::from_millis(10);

/// What a stream by itself promises; the span is how long a message may be under way.
const OF_A_STREAM: [(&str, fn(&Watched, Duration) -> Result<()>); 8] = [
    ("ordered", ordered),
    ("unique", sent_once),
    ("snapshot first", snapshot_first),
    ("heartbeat true", heartbeat_true),
    ("never silent", never_silent),
    ("draining last", draining_last),
    ("the whole truth", whole_truth),
    ("an end says why", end_says_why),
];

/// What the streams promise together.
const OF_ALL_STREAMS: [(&str, fn(&Book) -> Result<()>); 7] = [
    ("ordered across streams", ordered_across),
    ("unique across streams", unique),
    ("heartbeat true across streams", one_death),
    ("resumable", resumable),
    ("newest is sent", newest_is_sent),
    ("newest always arrives", newest_arrives),
    ("draining is said", last_word),
];

/// Panics if one stream breaks a promise.
pub(super) fn of_a_stream(stream: &Watched, way: Duration) {
    for (name, promise) in OF_A_STREAM {
        if let Err(broken) = promise(stream, way) {
            panic!("broken, `{name}`: {broken}, in {stream}");
        }
    }
}

/// Panics if the streams together break a promise.
pub(super) fn of_all_streams(book: &Book) {
    for (name, promise) in OF_ALL_STREAMS {
        if let Err(broken) = promise(book) {
            panic!("broken, `{name}`: {broken}");
        }
    }
}

/// A generation never falls, and a rotation is strictly newer.
fn ordered(stream: &Watched, _: Duration) -> Result<()> {
    let mut held = 0;
    for Message {
        cause,
        generation,
        at,
        ..
    } in stream.messages()
    {
        ensure!(*generation >= held, "{generation} after {held} at {at:?}");
        let fine = *cause != Cause::Rotated || *generation > held.max(stream.known);
        ensure!(fine, "a rotation from {held} to {generation} at {at:?}");
        held = *generation;
    }
    Ok(())
}

/// A token that a reader has is sent again only as a sign of life or as the last word.
fn sent_once(stream: &Watched, _: Duration) -> Result<()> {
    let mut held = None;
    for Message {
        cause,
        generation,
        at,
        ..
    } in stream.messages()
    {
        let again = [Cause::Heartbeat, Cause::Draining].contains(cause);
        let fine = again || held != Some(*generation);
        ensure!(fine, "{generation} at {at:?} once more");
        held = Some(*generation);
    }
    Ok(())
}

/// The first message, and no other, is `CURRENT`; it is left out if the reader has that token.
fn snapshot_first(stream: &Watched, _: Duration) -> Result<()> {
    let mut messages = stream.messages();
    let Some(first) = messages.next() else {
        return Ok(());
    };
    let (known, generation) = (stream.known, first.generation);
    let fine = match first.cause {
        Cause::Current => generation != known,
        Cause::Rotated => known > 0 && generation > known,
        Cause::Heartbeat => known > 0 && generation == known,
        Cause::Draining => known > 0 && generation >= known,
        Cause::Unspecified => false,
    };
    ensure!(fine, "it begins with {:?} {generation}", first.cause);
    for Message { cause, at, .. } in messages {
        ensure!(*cause != Cause::Current, "another snapshot at {at:?}");
    }
    Ok(())
}

/// A heartbeat repeats the token that the reader has, with as much less life as time has passed, after
/// so much silence and not before.
fn heartbeat_true(stream: &Watched, _: Duration) -> Result<()> {
    let mut last: Option<&Message> = None;
    for message in stream.messages() {
        if message.cause == Cause::Heartbeat {
            let (at, generation) = (message.at, message.generation);
            let held = last.map_or(stream.known, |last| last.generation);
            ensure!(
                generation == held,
                "{generation} instead of {held} at {at:?}"
            );
            let silent_since = last.map_or(stream.opened, |last| last.made_after);
            let early = at + ROUNDING < silent_since + BEAT;
            ensure!(
                !early,
                "at {at:?} although not silent since {silent_since:?}"
            );
            if let Some(last) = last {
                let same = message.fingerprint == last.fingerprint;
                ensure!(same, "another token of {generation} at {at:?}");
                let in_step = deaths_agree(last, message);
                ensure!(in_step, "{:?} to live at {at:?}, not in step", message.life);
            }
        }
        last = Some(message);
    }
    Ok(())
}

fn deaths_agree(one: &Message, other: &Message) -> bool {
    let meet = |one: &Message, other: &Message| {
        one.made_after + one.life <= other.at + other.life + ROUNDING
    };
    meet(one, other) && meet(other, one)
}

/// Whoever listens hears something: a sign of life, or the end of a stream that has no token.
fn never_silent(stream: &Watched, way: Duration) -> Result<()> {
    let mut last = stream.opened;
    for (listening, wait) in listened(stream, way) {
        let due = (last + BEAT).max(listening) + SPREAD + LAG + way;
        ensure!(
            wait.until <= due,
            "nothing from {last:?} to {:?}",
            wait.until
        );
        if matches!(wait.heard, Heard::Message(_)) {
            last = wait.until;
        }
    }
    Ok(())
}

/// Nothing follows `DRAINING` but the status that says so too.
fn draining_last(stream: &Watched, _: Duration) -> Result<()> {
    let is_last = |wait: &Wait| match &wait.heard {
        Heard::Message(message) => message.cause == Cause::Draining,
        _ => false,
    };
    let Some(said) = stream.waits.iter().position(is_last) else {
        return Ok(());
    };
    for wait in &stream.waits[said + 1..] {
        let fine = match &wait.heard {
            Heard::Nothing => true,
            Heard::Message(_) => false,
            Heard::End(code, reason) => (*code, &**reason) == (Code::Unavailable, "DRAINING"),
        };
        ensure!(fine, "{:?} after the last word", wait.heard);
    }
    Ok(())
}

/// No token that has expired, and none that may be kept for longer than it lives.
fn whole_truth(stream: &Watched, _: Duration) -> Result<()> {
    for Message {
        life, keep_for, at, ..
    } in stream.messages()
    {
        ensure!(!life.is_zero(), "an expired token at {at:?}");
        ensure!(keep_for <= life, "{keep_for:?} of {life:?} at {at:?}");
    }
    Ok(())
}

/// A stream without end ends with an error, which has a reason unless the transport broke.
fn end_says_why(stream: &Watched, _: Duration) -> Result<()> {
    for Wait { until, heard, .. } in &stream.waits {
        let fine = !matches!(heard, Heard::End(Code::Ok, _));
        ensure!(fine, "an end with `OK` at {until:?}");
    }
    Ok(())
}

/// Whoever asks later gets nothing older than what anybody has already.
fn ordered_across(book: &Book) -> Result<()> {
    for (app, messages) in by_app(book) {
        let mut arrivals: Vec<_> = messages.iter().map(|m| (m.at, m.generation)).collect();
        arrivals.sort_unstable();
        let mut newest = 0;
        for (_, generation) in &mut arrivals {
            newest = newest.max(*generation);
            *generation = newest;
        }
        for Message {
            made_after,
            generation,
            at,
            ..
        } in messages
        {
            let before = arrivals.partition_point(|(at, _)| at < made_after);
            let newest = arrivals[..before].last().map_or(0, |(_, newest)| *newest);
            ensure!(
                *generation >= newest,
                "{app} {generation} at {at:?} although {newest} was out"
            );
        }
    }
    Ok(())
}

/// A generation names one token and one expiry.
fn unique(book: &Book) -> Result<()> {
    for (app, messages) in by_app(book) {
        let mut names = BTreeMap::new();
        for message in messages {
            let Message { generation, at, .. } = message;
            let first = names.entry(generation).or_insert(message);
            let same = first.fingerprint == message.fingerprint;
            ensure!(
                same,
                "two tokens of {app} {generation}, the second at {at:?}"
            );
            let same = first.expire_time == message.expire_time;
            ensure!(
                same,
                "two expiries of {app} {generation}, the second at {at:?}"
            );
        }
    }
    Ok(())
}

/// Whenever a message was made, what it says of the life left leads to the same moment.
fn one_death(book: &Book) -> Result<()> {
    for (app, messages) in by_app(book) {
        let mut deaths = BTreeMap::new();
        for Message {
            generation,
            made_after,
            at,
            life,
            ..
        } in messages
        {
            let (earliest, latest) = (*made_after + *life, *at + *life);
            let death = deaths.entry(generation).or_insert((earliest, latest));
            *death = (death.0.max(earliest), death.1.min(latest));
            let agree = death.0 <= death.1 + ROUNDING;
            ensure!(agree, "{app} {generation} dies twice, as said at {at:?}");
        }
    }
    Ok(())
}

/// Whoever comes back with a token that was handed out here gets none that is older or the same.
fn resumable(book: &Book) -> Result<()> {
    let mut handed_out = BTreeMap::new();
    for stream in &book.streams {
        for Message { generation, at, .. } in stream.messages() {
            let first = handed_out.entry((&stream.app, generation)).or_insert(*at);
            *first = (*first).min(*at);
        }
    }
    for stream in &book.streams {
        let known = stream.known;
        let handed_out = handed_out.get(&(&stream.app, &known));
        let is_ours = handed_out.is_some_and(|at| *at <= stream.opened);
        if let Some(first) = stream.messages().next().filter(|_| is_ours) {
            let Message {
                cause, generation, ..
            } = first;
            let again = [Cause::Heartbeat, Cause::Draining].contains(cause);
            let fine = *generation > known || (again && *generation == known);
            ensure!(fine, "{cause:?} {generation} comes first in {stream}");
        }
    }
    Ok(())
}

/// Every message has the newest token that was in force when it was made.
fn newest_is_sent(book: &Book) -> Result<()> {
    let facts = Facts::of(book);
    for stream in &book.streams {
        let facts = facts.about(stream);
        for Message {
            generation,
            made_after,
            at,
            ..
        } in stream.messages()
        {
            let known = facts.partition_point(|fact| fact.from < *made_after);
            let newest = facts[..known].last().map_or(0, |fact| fact.generation);
            ensure!(
                *generation >= newest,
                "{generation} at {at:?} instead of {newest}, in {stream}"
            );
        }
    }
    Ok(())
}

/// Whoever listens has the newest token soon, or is told why there is none.
fn newest_arrives(book: &Book) -> Result<()> {
    let (facts, grace) = (Facts::of(book), LAG + book.way);
    for stream in &book.streams {
        let facts = facts.about(stream);
        let mut held = None;
        for (listening, Wait { until, heard, .. }) in listened(stream, book.way) {
            let told_why = matches!(heard, Heard::End(..));
            let lacks = |fact: &&Fact| match held {
                None => fact.generation != stream.known,
                Some(held) => fact.generation > held,
            };
            let known = facts.partition_point(|fact| fact.from + grace < *until);
            for fact in facts[..known].iter().rev().take_while(lacks) {
                let due = fact.from.max(listening) + grace;
                let late = !told_why && due < *until && due <= fact.until;
                let Fact {
                    generation, from, ..
                } = fact;
                ensure!(
                    !late,
                    "{generation} of {from:?} is not there at {until:?}, in {stream}"
                );
            }
            if let Heard::Message(message) = heard {
                held = Some(message.generation);
            }
        }
    }
    Ok(())
}

/// A stream that ends because the server does says so first, if there is a token to say it with.
fn last_word(book: &Book) -> Result<()> {
    for stream in &book.streams {
        let is_end = |wait: &&Wait| match &wait.heard {
            Heard::End(_, reason) => reason == "DRAINING",
            _ => false,
        };
        let Some(end) = stream.waits.iter().find(is_end) else {
            continue;
        };
        let last = stream.messages().next_back();
        let said = last.is_some_and(|last| last.cause == Cause::Draining);
        let facts = book.facts.get(&stream.app).map_or(&[][..], Vec::as_slice);
        let owed = facts.iter().any(|fact| {
            fact.run == stream.run && fact.from + LAG <= end.until && end.until < fact.until
        });
        ensure!(
            said || !owed,
            "an end without one at {:?}, in {stream}",
            end.until
        );
    }
    Ok(())
}

fn by_app(book: &Book) -> BTreeMap<&str, Vec<&Message>> {
    let mut apps = BTreeMap::<_, Vec<_>>::new();
    for stream in &book.streams {
        apps.entry(&*stream.app)
            .or_default()
            .extend(stream.messages());
    }
    apps
}

/// Every wait, with the moment from which on its reader has been listening in vain: one that is given
/// up and taken up again at once is still the same. What comes at last may have been there for as long
/// as nobody looked.
fn listened(stream: &Watched, way: Duration) -> impl Iterator<Item = (Duration, &Wait)> {
    let mut before: Option<(Duration, Duration)> = None;
    stream.waits.iter().map(move |wait| {
        let again = before.filter(|(_, until)| wait.from <= *until + way);
        let since = again.map_or(wait.from, |(since, _)| since);
        if matches!(wait.heard, Heard::Nothing) {
            before = Some((since, wait.until));
            (since, wait)
        } else {
            before = None;
            (wait.from, wait)
        }
    })
}

/// What was in force at each server, in order.
struct Facts<'a>(BTreeMap<(&'a str, usize), Vec<Fact>>);

impl<'a> Facts<'a> {
    /// As it was written, or else as the messages tell: what one reader has, the others must get.
    fn of(book: &'a Book) -> Self {
        let mut known = BTreeMap::<_, Vec<_>>::new();
        for (app, facts) in &book.facts {
            for fact in facts {
                known
                    .entry((&**app, fact.run))
                    .or_default()
                    .push(fact.clone());
            }
        }
        if known.is_empty() {
            known = told(book);
        }
        Self(known)
    }

    fn about<'b>(&'b self, stream: &'b Watched) -> &'b [Fact] {
        let facts = self.0.get(&(&*stream.app, stream.run));
        facts.map_or(&[], Vec::as_slice)
    }
}

fn told(book: &Book) -> BTreeMap<(&str, usize), Vec<Fact>> {
    let mut known = BTreeMap::<_, Vec<_>>::new();
    for stream in &book.streams {
        let facts = known.entry((&*stream.app, stream.run)).or_default();
        facts.extend(stream.messages().map(|message| Fact {
            run: stream.run,
            generation: message.generation,
            from: message.at,
            until: message.made_after + message.life,
        }));
    }
    for ((app, run), facts) in &mut known {
        // Whoever is told that there is none has been waiting for one.
        let here = book
            .streams
            .iter()
            .filter(|s| s.app == *app && s.run == *run);
        let ends = here
            .flat_map(|stream| &stream.waits)
            .filter(|wait| match &wait.heard {
                Heard::End(_, reason) => ["NO_VALID_TOKEN", "NEEDS_OPERATOR"].contains(&&**reason),
                _ => false,
            });
        let gone: Vec<_> = ends
            .map(|end| end.until.saturating_sub(FIRST + SPREAD))
            .collect();
        facts.sort_unstable_by_key(|fact| (fact.generation, fact.from));
        facts.dedup_by_key(|fact| fact.generation);
        for fact in facts.iter_mut() {
            let end = gone
                .iter()
                .filter(|at| **at + FIRST + SPREAD >= fact.from)
                .min();
            fact.until = end.map_or(fact.until, |end| fact.until.min(*end));
        }
        // What was received late was in force before.
        for n in (1..facts.len()).rev() {
            facts[n - 1].from = facts[n - 1].from.min(facts[n].from);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use Cause::{Current, Draining, Heartbeat, Rotated};

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// One that keeps every promise at `at`: generation `n` was minted at `100 n` and lives for 7200 s.
    fn message(at: u64, cause: Cause, generation: u64) -> Message {
        let death = 100 * generation + 7200;
        Message {
            made_after: s(at),
            at: s(at),
            cause,
            generation,
            fingerprint: generation,
            expire_time: (death.cast_signed(), 0),
            life: s(death - at),
            keep_for: s(60),
        }
    }

    fn said(at: u64, cause: Cause, generation: u64) -> Wait {
        heard(at, at, Heard::Message(message(at, cause, generation)))
    }

    fn ended(at: u64, code: Code, reason: &str) -> Wait {
        heard(at, at, Heard::End(code, reason.into()))
    }

    fn heard(from: u64, until: u64, heard: Heard) -> Wait {
        let (from, until) = (s(from), s(until));
        Wait { from, until, heard }
    }

    /// A reader that never stops listening.
    fn stream(opened: u64, known: u64, mut waits: Vec<Wait>) -> Watched {
        let mut since = s(opened);
        for wait in &mut waits {
            wait.from = wait.from.min(since);
            since = wait.until;
        }
        Watched {
            app: "shop".into(),
            known,
            run: 0,
            opened: s(opened),
            waits,
        }
    }

    /// Generations 1, 2, 3 from 100 s, 200 s, 300 s on.
    fn book(streams: Vec<Watched>) -> Book {
        let mut book = Book {
            streams,
            ..Book::default()
        };
        for n in 1..=3 {
            book.in_force("shop", n, s(100 * n), s(100 * n + 7200));
        }
        book
    }

    fn refused(promise: fn(&Watched, Duration) -> Result<()>, known: u64, waits: Vec<Wait>) {
        let stream = stream(100, known, waits);
        assert!(promise(&stream, s(0)).is_err(), "{stream}");
    }

    fn refused_together(promise: fn(&Book) -> Result<()>, streams: Vec<Watched>) {
        let book = book(streams);
        assert!(promise(&book).is_err(), "{book:#?}");
    }

    #[test]
    fn a_good_history_is_accepted() {
        let drained = || ended(340, Code::Unavailable, "DRAINING");
        let eager = vec![
            said(100, Current, 1),
            said(130, Heartbeat, 1),
            said(160, Heartbeat, 1),
            said(190, Heartbeat, 1),
            said(200, Rotated, 2),
            said(230, Heartbeat, 2),
            said(260, Heartbeat, 2),
            said(290, Heartbeat, 2),
            said(300, Rotated, 3),
            said(330, Heartbeat, 3),
            said(340, Draining, 3),
            drained(),
        ];
        let knows = vec![said(230, Heartbeat, 2), said(232, Draining, 2)];
        let mut slow = stream(100, 0, vec![said(100, Current, 1), said(310, Rotated, 3)]);
        slow.waits[1].from = s(310);
        let none_any_more = vec![ended(110, Code::Unavailable, "NO_VALID_TOKEN")];
        let mut early = stream(90, 0, none_any_more);
        early.waits.insert(0, heard(90, 95, Heard::Nothing));
        let streams = vec![
            stream(100, 0, eager),
            stream(200, 2, knows),
            slow,
            early,
            stream(250, 1, vec![said(250, Current, 2), said(280, Heartbeat, 2)]),
        ];
        for stream in &streams {
            of_a_stream(stream, s(0));
        }
        let mut book = book(streams);
        of_all_streams(&book);
        book.facts.clear();
        of_all_streams(&book);
    }

    #[test]
    fn a_generation_that_falls_is_refused() {
        refused(
            ordered,
            0,
            vec![said(200, Current, 2), said(201, Rotated, 1)],
        );
        refused(
            ordered,
            0,
            vec![said(200, Current, 2), said(230, Heartbeat, 1)],
        );
        refused(
            ordered,
            0,
            vec![said(200, Current, 2), said(201, Rotated, 2)],
        );
        refused(ordered, 2, vec![said(200, Rotated, 2)]);
    }

    #[test]
    fn a_token_that_is_sent_again_is_refused() {
        refused(
            sent_once,
            0,
            vec![said(200, Current, 2), said(201, Current, 2)],
        );
        refused(
            sent_once,
            0,
            vec![said(200, Current, 2), said(201, Rotated, 2)],
        );
    }

    #[test]
    fn a_stream_without_its_snapshot_is_refused() {
        refused(snapshot_first, 0, vec![said(200, Rotated, 2)]);
        refused(snapshot_first, 0, vec![said(200, Heartbeat, 2)]);
        refused(snapshot_first, 0, vec![said(200, Draining, 2)]);
        refused(snapshot_first, 2, vec![said(200, Current, 2)]);
        refused(snapshot_first, 1, vec![said(200, Heartbeat, 2)]);
        refused(
            snapshot_first,
            0,
            vec![said(200, Current, 2), said(300, Current, 3)],
        );
    }

    #[test]
    fn a_heartbeat_that_is_wrong_in_any_way_is_refused() {
        let beats = |at, spoil: fn(&mut Message)| {
            let mut message = message(at, Heartbeat, 1);
            spoil(&mut message);
            let beat = heard(at, at, Heard::Message(message));
            refused(heartbeat_true, 0, vec![said(110, Current, 1), beat]);
        };
        beats(120, |_| {});
        beats(140, |beat| beat.generation = 2);
        beats(140, |beat| beat.fingerprint = 2);
        beats(140, |beat| beat.life += s(1));
        beats(140, |beat| beat.life -= s(1));
        refused(heartbeat_true, 1, vec![said(120, Heartbeat, 1)]);
        refused(heartbeat_true, 1, vec![said(130, Heartbeat, 2)]);
    }

    #[test]
    fn silence_is_refused_unless_nobody_listens() {
        let silent = vec![said(100, Current, 1), said(134, Heartbeat, 1)];
        refused(never_silent, 0, silent.clone());
        let given_up = heard(100, 134, Heard::Nothing);
        refused(never_silent, 0, vec![said(100, Current, 1), given_up]);
        let again = [(100, 110), (110, 134)].map(|(a, b)| heard(a, b, Heard::Nothing));
        refused(
            never_silent,
            0,
            [vec![said(100, Current, 1)], again.to_vec()].concat(),
        );
        let mut slow = stream(100, 0, silent);
        slow.waits[1].from = s(134);
        never_silent(&slow, s(0)).unwrap();
    }

    #[test]
    fn whatever_follows_the_last_word_is_refused() {
        let last = || said(100, Draining, 1);
        refused(draining_last, 1, vec![last(), said(101, Rotated, 2)]);
        refused(draining_last, 1, vec![last(), ended(101, Code::Ok, "")]);
        let dead = ended(101, Code::Unavailable, "NO_VALID_TOKEN");
        refused(draining_last, 1, vec![last(), dead]);
    }

    #[test]
    fn a_message_with_less_than_the_truth_is_refused() {
        let mut expired = message(100, Current, 1);
        expired.life = s(0);
        refused(
            whole_truth,
            0,
            vec![heard(100, 100, Heard::Message(expired))],
        );
        let mut kept = message(100, Current, 1);
        kept.keep_for = s(8000);
        refused(whole_truth, 0, vec![heard(100, 100, Heard::Message(kept))]);
    }

    #[test]
    fn an_end_with_ok_is_refused() {
        refused(end_says_why, 0, vec![ended(100, Code::Ok, "")]);
    }

    #[test]
    fn a_later_reader_with_an_older_token_is_refused() {
        let early = stream(200, 0, vec![said(200, Current, 2)]);
        let late = stream(201, 0, vec![said(201, Current, 1)]);
        refused_together(ordered_across, vec![late.clone(), early.clone()]);
        // The same on the disk of another server.
        let restarted = Watched { run: 1, ..late };
        refused_together(ordered_across, vec![early, restarted]);
    }

    #[test]
    fn a_generation_of_two_tokens_or_two_ends_is_refused() {
        let spoils: [(fn(&Book) -> Result<()>, fn(&mut Message)); 3] = [
            (unique, |other| other.fingerprint = 9),
            (unique, |other| other.expire_time.0 += 1),
            (one_death, |other| other.life -= s(1)),
        ];
        for (promise, spoil) in spoils {
            let mut other = message(150, Current, 1);
            spoil(&mut other);
            let other = heard(150, 150, Heard::Message(other));
            let streams = [said(100, Current, 1), other].map(|said| stream(100, 0, vec![said]));
            refused_together(promise, streams.to_vec());
        }
    }

    #[test]
    fn who_comes_back_and_is_sent_the_same_or_an_older_token_is_refused() {
        let before = || stream(200, 0, vec![said(200, Current, 2)]);
        for (cause, generation) in [(Current, 2), (Current, 1), (Rotated, 2), (Heartbeat, 1)] {
            let back = stream(210, 2, vec![said(240, cause, generation)]);
            refused_together(resumable, vec![before(), back]);
        }
    }

    #[test]
    fn a_message_with_an_outdated_token_is_refused() {
        refused_together(
            newest_is_sent,
            vec![stream(210, 0, vec![said(210, Current, 1)])],
        );
        let beat = vec![said(190, Current, 1), said(220, Heartbeat, 1)];
        refused_together(newest_is_sent, vec![stream(190, 0, beat)]);
    }

    #[test]
    fn a_reader_who_is_forgotten_is_refused() {
        let deaf = heard(190, 202, Heard::Nothing);
        let forgotten = stream(190, 0, vec![said(190, Current, 1), deaf.clone()]);
        refused_together(newest_arrives, vec![forgotten.clone()]);
        let late = stream(190, 0, vec![said(190, Current, 1), said(202, Rotated, 2)]);
        refused_together(newest_arrives, vec![late]);
        refused_together(newest_arrives, vec![stream(201, 1, vec![deaf])]);
        // What another reader has tells as much.
        let lucky = stream(190, 1, vec![said(200, Rotated, 2)]);
        let mut told = book(vec![forgotten, lucky]);
        told.facts.clear();
        assert!(newest_arrives(&told).is_err());
    }

    #[test]
    fn an_end_without_a_last_word_is_refused_while_there_is_a_token() {
        let end = ended(150, Code::Unavailable, "DRAINING");
        let mut cut = book(vec![stream(100, 0, vec![said(100, Current, 1), end])]);
        assert!(last_word(&cut).is_err());
        cut.facts.get_mut("shop").unwrap()[0].until = s(149);
        last_word(&cut).unwrap();
    }
}
