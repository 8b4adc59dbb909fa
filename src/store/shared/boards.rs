//! Reading boards, and saving to them under a claim.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::SemaphorePermit, time::timeout};
use tracing::{info, warn};

use super::{
    super::{
        StoreError,
        snapshot::{self, Damage},
    },
    Age, Claim, Entry, Holder, Inner, Kept, Letter, Posted, Seen, State,
    letters::About,
    text,
};
use crate::domain::{Moment, Record};

/// A local copy is waited for so long: a disk that hangs must not keep news from readers.
const COPY: Duration = Duration::from_secs(1);

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while a board is claimed or read.
    pub(super) async fn lane(&self) -> SemaphorePermit<'_> {
        self.lanes.acquire().await.expect("it is never closed")
    }

    pub(super) fn claim_until(&self, appid: &str) -> Option<Moment> {
        let state = self.state();
        let claim = state.boards.get(appid)?.claim.as_ref()?;
        let ours = claim.holder == self.sharing.me;
        let renewed = state.renewed.filter(|_| ours)?;
        Some(renewed + self.sharing.lease)
    }

    pub(super) async fn save(&self, appid: &str, record: &Record) -> Result<(), StoreError> {
        let now = self.sharing.clock.now();
        let state = snapshot::write(appid, record, now, &self.sharing.boot_id);
        let about = About::new(&self.sharing.me, record.trouble.as_deref());
        let about = text(&about);
        // A save that was given up may have arrived all the same: then it is ours that stands in the way.
        for _ in 0..2 {
            let Some((fence, version)) = self.standing(appid) else {
                return Err(StoreError::Lost);
            };
            let entry = Entry {
                fence,
                version,
                state: state.as_bytes(),
                about: about.as_bytes(),
            };
            match self.engine.post(appid, &entry).await? {
                Posted::Done(version) => {
                    let mut state = self.state();
                    state.read_only = false;
                    let known = state.board(appid);
                    (known.record, known.saved_at) = (version, Some((version, now.boot)));
                    return Ok(());
                }
                Posted::Lost | Posted::Changed => drop(self.look(appid).await?),
            }
        }
        match self.standing(appid) {
            None => Err(StoreError::Lost),
            Some(_) => Err(StoreError::Remote {
                place: "the record".to_owned(),
                action: "written",
                source: "it keeps changing although the claim is ours".into(),
            }),
        }
    }

    /// A claim could not be written. If the store can be read all the same, that is no moment's trouble on the way.
    pub(super) async fn wrote_nothing(&self, error: &StoreError) {
        if self.state().read_only || self.engine.versions().await.is_err() {
            return;
        }
        {
            let mut state = self.state();
            (state.read_only, state.why) = (true, Some(error.told().into()));
        }
        let error = error as &dyn std::error::Error;
        warn!(
            error,
            "the store can be read, but lets nobody refresh; it counts as down"
        );
    }

    /// The fence of our claim, and the version of the record.
    pub(super) fn standing(&self, appid: &str) -> Option<(i64, i64)> {
        let state = self.state();
        let known = state.boards.get(appid)?;
        let claim = known.claim.as_ref()?;
        (claim.holder == self.sharing.me).then_some((claim.fence, known.record))
    }

    /// Reads the board of `appid` and tells what is on it. Returns its record.
    pub(super) async fn look(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        let turns = self.state().board(appid).turns.clone();
        let _turn = turns.look.lock().await;
        let _lane = self.lane().await;
        let board = self.engine.board(appid).await?;
        {
            let mut state = self.state();
            let known = state.board(appid);
            let record = board.record.as_ref().map_or(0, |kept| kept.version);
            let written = known.record != record || known.claim != board.claim;
            known.record = record;
            known.claim.clone_from(&board.claim);
            state.read_only &= !(written && board.claim.is_some());
        }
        let (record, own) = self.record(appid, board.record.as_ref());
        if let Some(record) = &record {
            self.count_anew(appid, &board, record);
        }
        if let Some(record) = record.as_ref().filter(|_| !own) {
            self.keep_a_copy(appid, record).await;
        }
        let holder = self.holder(board.claim);
        // Only now: a look may be given up at any time, and then has told nothing.
        self.state().board(appid).version = Some(board.version);
        // Nobody listens at the end.
        let _ = self.seen.send(Seen {
            appid: appid.to_owned(),
            holder,
            record: record.clone(),
            own,
            letters: read_letters(board.letters),
        });
        Ok(record)
    }

    pub(super) fn holder(&self, claim: Option<Claim>) -> Holder {
        match claim {
            None => Holder::Nobody,
            Some(claim) if claim.holder == self.sharing.me => Holder::Us,
            Some(claim) => Holder::Other(claim.holder),
        }
    }

    /// What is kept, and whether we have saved it.
    pub(super) fn record(&self, appid: &str, kept: Option<&Kept>) -> (Option<Record>, bool) {
        let Some(kept) = kept else {
            return (None, false);
        };
        match self.believed(appid, kept) {
            Ok((record, own)) => (Some(record), own),
            Err(damage) => {
                warn!(appid, reason = %damage, "a record in the store is not believed; its app goes on as if there were none");
                (None, false)
            }
        }
    }

    pub(super) fn believed(&self, appid: &str, kept: &Kept) -> Result<(Record, bool), Damage> {
        let now = self.sharing.clock.now();
        let about: About = serde_json::from_slice(&kept.about).unwrap_or_default();
        let age = self.age(appid, kept, now.boot);
        let boot_id = &self.sharing.boot_id;
        let record = snapshot::read_aged(appid, &kept.state, now, age, boot_id)?;
        let own = about.holder == self.sharing.me;
        let trouble = about.trouble();
        Ok((Record { trouble, ..record }, own))
    }

    /// How old a record is. A store that has lost count is not asked about what it has told already.
    fn age(&self, appid: &str, kept: &Kept, now: Moment) -> Age {
        let mut state = self.state();
        let known = state.board(appid);
        match (kept.age, known.saved_at) {
            (_, Some((version, at))) if version == kept.version => Age::Known(now.since(at)),
            (Age::Known(age), _) => {
                known.saved_at = Some((kept.version, now - age));
                Age::Known(age)
            }
            (unsure, _) => unsure,
        }
    }

    /// A failure of it costs something only if the store is down at a start as well. What readers here have
    /// seen is not replaced by what is older.
    pub(super) async fn keep_a_copy(&self, appid: &str, record: &Record) {
        let Some(cache) = &self.sharing.cache else {
            return;
        };
        let turns = self.state().board(appid).turns.clone();
        let keep = async {
            let mut last = turns.copy.lock().await;
            let copied = if let Some(copied) = *last {
                copied
            } else {
                let copy = cache.load(appid).await.ok().flatten();
                copy.map(|copy| copy.taken()).unwrap_or_default()
            };
            *last = Some(copied.max(record.taken()));
            if record.taken() < copied {
                return Ok(());
            }
            cache.save(appid, record).await
        };
        let slow = StoreError::Slow { patience: COPY };
        let kept = timeout(COPY, keep).await;
        if let Err(error) = kept.unwrap_or(Err(slow)) {
            info!(appid, %error, "the local copy cannot be written");
        }
    }
}

/// What a newer version writes and this one does not understand is left to others.
fn read_letters(letters: BTreeMap<String, String>) -> BTreeMap<String, Letter> {
    let read = |(id, text): (String, String)| Some((id, serde_json::from_str(&text).ok()?));
    letters.into_iter().filter_map(read).collect()
}
