//! The promises that all streams keep together: each a function that finds where a history breaks it,
//! with a history that it must refuse.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use wxtokend::pb::Cause;

use super::{
    Book, Heard, LAG, Message, ROUNDING, Wait, Watched,
    facts::{Fact, Facts},
};

/// Says where a history breaks it.
type Promise = fn(&Book) -> Result<()>;

/// What the streams promise together.
const OF_ALL_STREAMS: [(&str, Promise); 7] = [
    ("ordered across streams", ordered_across),
    ("unique across streams", unique),
    ("heartbeat true across streams", one_death),
    ("resumable", resumable),
    ("newest is sent", newest_is_sent),
    ("newest always arrives", newest_arrives),
    ("draining is said", last_word),
];

/// Panics if the streams together break a promise.
pub(super) fn check(book: &Book) {
    for (name, promise) in OF_ALL_STREAMS {
        if let Err(broken) = promise(book) {
            panic!("broken, `{name}`: {broken}");
        }
    }
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

/// How far two times of day are apart.
fn apart(one: (i64, i32), other: (i64, i32)) -> Duration {
    let nanos = |(secs, nanos): (i64, i32)| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
    let apart = nanos(one).abs_diff(nanos(other));
    Duration::from_nanos(u64::try_from(apart).unwrap_or(u64::MAX))
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
            let same = apart(first.expire_time, message.expire_time) <= book.apart;
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
            let agree = death.0 <= death.1 + ROUNDING + book.apart;
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
        for (listening, Wait { until, heard, .. }) in stream.listened(book.way) {
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

#[cfg(test)]
mod tests {
    use Cause::{Current, Draining, Heartbeat, Rotated};
    use tonic::Code;

    use super::{
        super::{
            alone,
            made_up::{book, ended, heard, message, s, said, stream},
        },
        *,
    };

    fn refused_together(promise: Promise, streams: Vec<Watched>) {
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
            alone::check(stream, s(0));
        }
        let mut book = book(streams);
        check(&book);
        book.facts.clear();
        check(&book);
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
        type Spoil = fn(&mut Message);
        let spoils: [(Promise, Spoil); 3] = [
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
