//! What could be handed out when, from which follows what must arrive.

use std::{collections::BTreeMap, time::Duration};

use super::{Book, FIRST, Heard, SPREAD, Watched};

/// A token that the server could hand out to whoever asked, as somebody knows who is no stream.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) run: usize,
    pub(super) generation: u64,
    pub(super) from: Duration,
    pub(super) until: Duration,
}

/// What was in force at each server, in order.
pub(super) struct Facts<'a>(BTreeMap<(&'a str, usize), Vec<Fact>>);

impl<'a> Facts<'a> {
    /// As it was written, or else as the messages tell: what one reader has, the others must get.
    pub(super) fn of(book: &'a Book) -> Self {
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

    pub(super) fn about<'b>(&'b self, stream: &'b Watched) -> &'b [Fact] {
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
