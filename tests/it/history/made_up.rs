//! Histories as they might have been, for the promises to judge.

use std::time::Duration;

use tonic::Code;
use wxtokend::pb::Cause;

use super::{Book, Heard, Message, Wait, Watched};

pub(super) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One that keeps every promise at `at`: generation `n` was minted at `100 n` and lives for 7200 s.
pub(super) fn message(at: u64, cause: Cause, generation: u64) -> Message {
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

pub(super) fn said(at: u64, cause: Cause, generation: u64) -> Wait {
    heard(at, at, Heard::Message(message(at, cause, generation)))
}

pub(super) fn ended(at: u64, code: Code, reason: &str) -> Wait {
    heard(at, at, Heard::End(code, reason.into()))
}

pub(super) fn heard(from: u64, until: u64, heard: Heard) -> Wait {
    let (from, until) = (s(from), s(until));
    Wait { from, until, heard }
}

/// A reader that never stops listening.
pub(super) fn stream(opened: u64, known: u64, mut waits: Vec<Wait>) -> Watched {
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
pub(super) fn book(streams: Vec<Watched>) -> Book {
    let mut book = Book {
        streams,
        ..Book::default()
    };
    for n in 1..=3 {
        book.in_force("shop", n, s(100 * n), s(100 * n + 7200));
    }
    book
}
