//! WeChat without a socket. What it answers is read by the same code as from a socket.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::time::{sleep, timeout};
use wxtokend::{
    clock::Clock,
    domain::{Ask, Fetched, Mode, Secret, Sight},
    sandbox::{Call, Credentials, Delivery, Model, Reply},
    upstream::{FetchError, read_fetch, read_look},
};

/// The way to WeChat and back takes this long.
pub(crate) const WAY: Duration = Duration::from_millis(20);

/// The longest a look may take.
const LOOK: Duration = Duration::from_secs(5);

/// One account's way to a model of WeChat.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) account: Credentials,
    pub(crate) mode: Mode,
    pub(crate) model: Arc<Mutex<Model>>,
    /// The model's.
    pub(crate) clock: Clock,
    /// The longest a fetch may take.
    pub(crate) timeout: Duration,
}

impl Wire {
    pub(crate) async fn fetch(&self, ask: Ask) -> Result<Fetched, FetchError> {
        let call = match self.mode {
            Mode::Classic => Call::classic(&self.account),
            Mode::Stable => Call::stable(&self.account, ask == Ask::Forced),
        };
        let reply = timeout(self.timeout, self.call(call)).await;
        let reply = reply.unwrap_or_else(|_| Err(FetchError::Lost("time-out".into())))?;
        read_fetch(reply.status, reply.body.as_bytes())
    }

    /// `None` if no reply came.
    pub(crate) async fn look(&self, token: &Secret) -> Option<Sight> {
        let call = self.call(Call::look(token.expose()));
        let reply = timeout(self.timeout.min(LOOK), call).await;
        let reply = reply.ok()?.ok()?;
        Some(read_look(reply.status, reply.body.as_bytes()))
    }

    async fn call(&self, call: Call) -> Result<Reply, FetchError> {
        sleep(WAY / 2).await;
        let at = since_epoch(self.clock);
        let reply = self.model.lock().expect("no panic").handle(at, &call);
        sleep(reply.delay + WAY / 2).await;
        match reply.delivery {
            Delivery::Whole => Ok(reply),
            Delivery::Refused => Err(FetchError::NotSent("connection refused".into())),
            _ => Err(FetchError::Lost("connection closed".into())),
        }
    }
}

/// The time as the model counts it.
pub(crate) fn since_epoch(clock: Clock) -> Duration {
    let since = clock.now().wall.duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970")
}
