//! How often a peer may change its settings.
//!
//! Each change may resize the window of every open stream, and h2 walks through all of them: with a
//! thousand streams, fifteen bytes of a peer's cost us a thousand steps, and a few such peers hold every
//! thread. h2 does not limit that. Honest peers send their settings when they begin, and some now and
//! then another size of window, as they learn what the way can carry.

use std::{io, time::Duration};

use tokio::time::Instant;

/// Frames that may come at once.
const BURST: u32 = 100;

/// One more is allowed after so long.
const EVERY: Duration = Duration::from_millis(100);

/// A frame begins with its length, its kind and its flags, and the number of its stream.
const HEAD: usize = 9;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;

/// Follows the frames that a peer sends.
#[derive(Debug, Default)]
pub(super) struct Calm {
    head: [u8; HEAD],
    known: usize,
    /// What is left of the frame.
    rest: usize,
    spent: u32,
    since: Option<Instant>,
}

impl Calm {
    /// The peer goes on with `bytes`. An error if it has changed its settings too often.
    pub(super) fn hears(&mut self, bytes: &[u8]) -> io::Result<()> {
        let changes = self.changes(bytes);
        if changes == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let regained = (now - since).as_millis() / EVERY.as_millis();
        let regained = u32::try_from(regained).unwrap_or(u32::MAX);
        if regained > 0 {
            self.spent = self.spent.saturating_sub(regained);
            self.since = Some(now);
        }
        self.spent = self.spent.saturating_add(changes);
        if self.spent > BURST {
            let excess = "the peer changes its settings all the time";
            return Err(io::Error::other(excess));
        }
        Ok(())
    }

    /// How many changes of settings begin in `bytes`.
    fn changes(&mut self, mut bytes: &[u8]) -> u32 {
        let mut changes = 0;
        loop {
            bytes = &bytes[self.pass(bytes.len())..];
            let more = bytes.len().min(HEAD - self.known);
            self.head[self.known..][..more].copy_from_slice(&bytes[..more]);
            self.known += more;
            bytes = &bytes[more..];
            if self.known < HEAD {
                return changes;
            }
            let [a, b, c, kind, flags, ..] = self.head;
            self.known = 0;
            self.rest = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            changes += u32::from(kind == SETTINGS && flags & ACK == 0);
        }
    }

    /// How much of the next `length` bytes belongs to the frame under way.
    fn pass(&mut self, length: usize) -> usize {
        let passed = self.rest.min(length);
        self.rest -= passed;
        passed
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn changes_are_counted_however_they_are_cut() {
        let all = [
            frame(SETTINGS, 0, &[0; 18]),
            frame(SETTINGS, ACK, b""),
            frame(0, 1, &[SETTINGS; 30]),
            frame(6, 0, &[0; 8]),
            frame(SETTINGS, 0, b""),
        ]
        .concat();
        for size in 1..=all.len() {
            let mut calm = Calm::default();
            let changes = all.chunks(size).map(|chunk| calm.changes(chunk));
            assert_eq!(changes.sum::<u32>(), 2, "in chunks of {size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_changes_a_second_are_heard_for_ever() {
        let mut calm = Calm::default();
        let change = frame(SETTINGS, 0, &[0; 6]);
        for _ in 0..10_000 {
            calm.hears(&change).unwrap();
            sleep(EVERY).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_changes_its_settings_all_the_time_is_an_error() {
        let mut calm = Calm::default();
        let change = frame(SETTINGS, 0, &[0; 6]);
        for _ in 0..BURST {
            calm.hears(&change).unwrap();
        }
        assert!(calm.hears(&change).is_err());
        sleep(Duration::from_mins(1)).await;
        calm.hears(&change).unwrap();
    }
}
