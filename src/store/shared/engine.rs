//! What a database must be able to do to hold the tokens of a fleet.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::super::{StoreError, times::Age};

/// A database that replicas share.
///
/// For each app there is a *board*: who has the claim, the record, and letters between replicas. Every
/// call may be given up by its caller at any time, and may then have taken effect or not.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Prolongs the lease that this replica's claims live by, or begins one. From the call on, the
    /// claims hold for the length of the lease.
    async fn renew(&self) -> Result<Lease, StoreError>;

    /// A number for each board that changes with it. A board that is not listed is empty.
    async fn versions(&self) -> Result<BTreeMap<String, u64>, StoreError>;

    /// The board of `appid`, at one moment.
    async fn board(&self, appid: &str) -> Result<Board, StoreError>;

    /// Takes the claim of `appid` if nobody has it.
    async fn claim(&self, appid: &str) -> Result<(), StoreError>;

    /// Gives up the claim of `appid` if this replica has it.
    async fn release(&self, appid: &str) -> Result<(), StoreError>;

    /// Replaces the record of `appid` if the claim is still the one of `fence` and the record still the
    /// one of `version`; says what stood in the way if not.
    async fn post(&self, appid: &str, entry: &Entry<'_>) -> Result<Posted, StoreError>;

    /// Leaves a letter, which ends with this replica's lease if nobody takes it away.
    async fn send(&self, appid: &str, id: &str, letter: &str) -> Result<(), StoreError>;

    /// Replaces a letter that is still there.
    async fn reply(&self, appid: &str, id: &str, letter: &str) -> Result<(), StoreError>;

    /// Takes a letter away.
    async fn discard(&self, appid: &str, id: &str) -> Result<(), StoreError>;

    /// Ends this replica's lease, and with it its claims.
    async fn leave(&self) -> Result<(), StoreError>;

    /// Sends the appid of each board that changes, until that is possible no more; says why it is not.
    async fn watch(&self, changed: &mpsc::Sender<String>) -> StoreError;
}

/// What became of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It goes on, and so do the claims.
    Renewed,
    /// It is a new one, without any claims.
    Begun,
}

/// What is known in the store about one app.
#[derive(Debug, Default)]
pub struct Board {
    /// Changes with everything below.
    pub version: u64,
    /// Who refreshes the app.
    pub claim: Option<Claim>,
    /// What that replica saved.
    pub record: Option<Kept>,
    /// What replicas ask of each other, by an id that each is given by its sender.
    pub letters: BTreeMap<String, String>,
}

/// Who refreshes an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The name of the replica.
    pub holder: String,
    /// Grows with every claim of the app: tells this one from all others.
    pub fence: i64,
}

/// A record as it is kept.
pub struct Kept {
    /// A state file's text.
    pub state: Zeroizing<Vec<u8>>,
    /// What people and replicas may know beside it.
    pub about: Vec<u8>,
    /// Changes with every save.
    pub version: i64,
    /// How long ago it was saved.
    pub age: Age,
}

/// A record to be kept.
pub struct Entry<'e> {
    /// See [`Claim::fence`].
    pub fence: i64,
    /// See [`Kept::version`]; 0 if there is no record yet.
    pub version: i64,
    /// See [`Kept::state`].
    pub state: &'e [u8],
    /// See [`Kept::about`].
    pub about: &'e [u8],
}

/// Whether a record was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// Yes, and this is its version now.
    Done(i64),
    /// Another replica has the claim, or nobody.
    Lost,
    /// The record has another version.
    Changed,
}

/// Not derived: the state holds a token.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, age, .. } = self;
        f.debug_struct("Kept")
            .field("version", version)
            .field("age", age)
            .finish_non_exhaustive()
    }
}

/// Not derived: the state holds a token.
impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fence, version, .. } = self;
        f.debug_struct("Entry")
            .field("fence", fence)
            .field("version", version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn debug_shows_no_state() {
        let kept = Kept {
            state: Zeroizing::new(b"CANARY".to_vec()),
            about: b"CANARY".to_vec(),
            version: 7,
            age: Age::Known(Duration::ZERO),
        };
        let entry = Entry {
            fence: 1,
            version: 7,
            state: &kept.state,
            about: &kept.about,
        };
        for shown in [format!("{entry:?}"), format!("{kept:?}")] {
            let bytes = format!("{:?}", b"CANARY");
            assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
        }
    }
}
