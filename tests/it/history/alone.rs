//! The promises that a stream keeps by itself: each a function that finds where a stream breaks it,
//! with a stream that it must refuse.

use std::time::Duration;

use anyhow::{Result, ensure};
use tonic::Code;
use wxtokend::pb::Cause;

use super::{BEAT, Heard, LAG, Message, ROUNDING, SPREAD, Wait, Watched};

/// Says where a stream breaks it.
type Promise = fn(&Watched, Duration) -> Result<()>;

/// What a stream by itself promises; the span is how long a message may be under way.
const OF_A_STREAM: [(&str, Promise); 8] = [
    ("ordered", ordered),
    ("unique", sent_once),
    ("snapshot first", snapshot_first),
    ("heartbeat true", heartbeat_true),
    ("never silent", never_silent),
    ("draining last", draining_last),
    ("the whole truth", whole_truth),
    ("an end says why", end_says_why),
];

/// Panics if one stream breaks a promise.
pub(super) fn check(stream: &Watched, way: Duration) {
    for (name, promise) in OF_A_STREAM {
        if let Err(broken) = promise(stream, way) {
            panic!("broken, `{name}`: {broken}, in {stream}");
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
    for (listening, wait) in stream.listened(way) {
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

#[cfg(test)]
mod tests {
    use Cause::{Current, Draining, Heartbeat, Rotated};

    use super::{
        super::made_up::{ended, heard, message, s, said, stream},
        *,
    };

    fn refused(promise: Promise, known: u64, waits: Vec<Wait>) {
        let stream = stream(100, known, waits);
        assert!(promise(&stream, s(0)).is_err(), "{stream}");
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
}
