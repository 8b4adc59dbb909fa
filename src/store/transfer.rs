//! Moving what is saved from one store to another, without asking WeChat.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Opened, Shared, Store as _, StoreError, shared::Holder};
use crate::{
    clock::Clock,
    domain::{Generation, Record},
};

/// A claim has to be taken, and a store to be reached.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two attempts.
const AGAIN: Duration = Duration::from_millis(100);

/// Long enough for a save.
const A_SAVE: Duration = Duration::from_secs(2);

/// What became of one app's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It is in the other store now.
    Done {
        /// The highest generation that was given to a token.
        generation: Generation,
        /// The life that the token has left; zero if there is none.
        left: Duration,
    },
    /// The other store has it already, or a later one.
    Already(Generation),
    /// Nothing was saved of the app.
    Nothing,
}

/// Copies the record of `appid`. Neither store may be in use by a server: what that obtains next would
/// be in one of the two only.
pub async fn copy(
    from: &Opened,
    to: &Opened,
    appid: &str,
    clock: Clock,
) -> Result<Copied, StoreError> {
    if let Opened::Shared(shared) = from {
        unused(shared, appid).await?;
    }
    let Some(record) = from.store().read(appid).await? else {
        return Ok(Copied::Nothing);
    };
    if let Opened::Shared(shared) = to {
        take(shared, appid).await?;
    }
    let there = to.store().load(appid).await?;
    let newest = there.as_ref().map(Record::taken).unwrap_or_default();
    if newest >= record.taken() && newest > Generation::default() {
        return Ok(Copied::Already(newest));
    }
    to.store().save(appid, &record).await?;
    let token = record.token.as_ref().filter(|_| !record.dead);
    let now = clock.now().boot;
    Ok(Copied::Done {
        generation: record.generation,
        left: token.map_or(Duration::ZERO, |token| token.expires_at.since(now)),
    })
}

async fn unused(shared: &Shared, appid: &str) -> Result<(), StoreError> {
    match shared.holder(appid).await? {
        Holder::Other(holder) => Err(in_use(appid, &holder)),
        Holder::Us | Holder::Nobody => Ok(()),
    }
}

/// Takes the claim, so that no server begins meanwhile.
async fn take(shared: &Shared, appid: &str) -> Result<(), StoreError> {
    let began = Instant::now();
    loop {
        unused(shared, appid).await?;
        // At the beginning there is no lease yet that it could live by.
        let tried = shared.claim(appid).await;
        if shared.may_ask(appid, A_SAVE).await {
            return Ok(());
        }
        if began.elapsed() >= PATIENCE {
            return Err(tried.err().unwrap_or(StoreError::Lost));
        }
        sleep(AGAIN).await;
    }
}

fn in_use(appid: &str, holder: &str) -> StoreError {
    StoreError::Held {
        place: format!("the record of `{appid}`"),
        holder: format!("replica {holder}"),
    }
}
