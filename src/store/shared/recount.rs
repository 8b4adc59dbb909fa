//! When the database has lost count of how old a record is.
//!
//! Then whoever has no memory of it, as a replica that starts, has nothing but the wall clock of the
//! machine that saved it, which may be minutes off. The replica that refreshes knows better.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::debug;

use super::{super::snapshot, Age, Board, Entry, Inner, letters::About, text};
use crate::domain::{Moment, Record};

/// How often it is tried: what makes a database lose count keeps it from answering for a moment, too.
const TRIES: u32 = 60;

/// The pause between.
const AGAIN: Duration = Duration::from_secs(1);

/// A record that is being counted anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recount {
    version: i64,
    fence: i64,
    /// When that is given up at the earliest.
    until: Moment,
}

impl Inner {
    /// Saves the `record` that is on the `board` as it is once more, if that has it counted anew.
    pub(super) fn count_anew(&self, appid: &str, board: &Board, record: &Record) {
        let (Some(kept), Some(claim)) = (&board.record, &board.claim) else {
            return;
        };
        {
            let mut state = self.state();
            let board = state.board(appid);
            let known = board
                .saved_at
                .is_some_and(|(version, _)| version == kept.version);
            let lost = matches!(kept.age, Age::AtLeast(_));
            let ours = claim.holder == self.sharing.me;
            let now = self.sharing.clock.now().boot;
            let before = board.recounting.filter(|before| before.until > now);
            let (version, fence) = (kept.version, claim.fence);
            let busy = before.is_some_and(|b| (b.version, b.fence) == (version, fence));
            if !(lost && known && ours) || busy {
                return;
            }
            let until = now + AGAIN * TRIES;
            board.recounting = Some(Recount {
                version,
                fence,
                until,
            });
        }
        let (engine, turn) = (Arc::clone(&self.engine), Arc::clone(&self.counting));
        let (clock, boot_id) = (self.sharing.clock, self.sharing.boot_id.clone());
        let (appid, record) = (appid.to_owned(), record.clone());
        let about = text(&About::new(&self.sharing.me, record.trouble.as_deref()));
        let (fence, version) = (claim.fence, kept.version);
        tokio::spawn(async move {
            for _ in 0..TRIES {
                // All apps lose count at once, and need not be saved at once.
                let one = turn.lock().await;
                let state = snapshot::write(&appid, &record, clock.now(), &boot_id);
                let entry = Entry {
                    fence,
                    version,
                    state: state.as_bytes(),
                    about: about.as_bytes(),
                };
                let posted = engine.post(&appid, &entry).await;
                drop(one);
                // If something else was saved instead, that is counted.
                let Err(error) = posted else { return };
                debug!(appid, %error, "the age of the record cannot be counted anew yet");
                sleep(AGAIN).await;
            }
        });
    }
}
