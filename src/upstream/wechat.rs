//! WeChat's two interfaces for tokens, and the look.
//!
//! *Classic* is a GET with the secret in the query, and every success retires the token before. *Stable*
//! is a POST that repeats its token until the last minutes. Their tokens look alike and do not know
//! of each other.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use tokio::{task::spawn_blocking, time::timeout};
use zeroize::Zeroizing;

use crate::{
    config::{App, SecretSource},
    domain::{Ask, Fetched, Mode, Secret, Sight},
};

use super::{
    FetchError, Upstream,
    client::{Client, NoReply, Progress, Reply, Request},
    reply::{read_fetch, read_look},
};

/// A look is not worth more.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// An official account or a mini program.
#[derive(Debug)]
pub(super) struct WeChat {
    client: Client,
    appid: String,
    mode: Mode,
    secret: Arc<SecretSource>,
    timeout: Duration,
    hasher: RandomState,
}

impl WeChat {
    /// A fetch is bounded by `timeout`.
    pub(super) fn new(client: Client, app: App, timeout: Duration) -> Self {
        Self {
            client,
            appid: app.appid,
            mode: app.policy.mode,
            secret: Arc::new(app.secret),
            timeout,
            hasher: RandomState::new(),
        }
    }

    async fn classic(&self, secret: &Secret) -> Result<Reply, NoReply> {
        let query = [
            ("grant_type", "client_credential"),
            ("appid", &self.appid),
            ("secret", secret.expose()),
        ];
        let request = Request {
            path: "/cgi-bin/token",
            query: &query,
            body: None,
        };
        self.client.send(&request, self.timeout).await
    }

    async fn stable(&self, secret: &Secret, ask: Ask) -> Result<Reply, NoReply> {
        let body = json!({
            "grant_type": "client_credential",
            "appid": self.appid,
            "secret": secret.expose(),
            "force_refresh": ask == Ask::Forced,
        });
        let request = Request {
            path: "/cgi-bin/stable_token",
            query: &[],
            body: Some(Zeroizing::new(body.to_string())),
        };
        self.client.send(&request, self.timeout).await
    }

    /// Reads the secret beside the runtime: a file on a network that hangs must not stop everything.
    async fn read_secret(&self) -> Result<Secret, FetchError> {
        let source = Arc::clone(&self.secret);
        let read = spawn_blocking(move || source.read());
        let read = timeout(self.timeout, read).await;
        let place = || place(&self.secret);
        match read {
            Ok(Ok(read)) => read.map_err(|source| FetchError::Secret {
                place: place(),
                source,
            }),
            _ => Err(FetchError::NotSent(
                format!("{} does not answer", place()).into(),
            )),
        }
    }
}

#[async_trait]
impl Upstream for WeChat {
    async fn fetch(&self, ask: Ask) -> Result<Fetched, FetchError> {
        let secret = self.read_secret().await?;
        let reply = match self.mode {
            Mode::Classic => self.classic(&secret).await,
            Mode::Stable => self.stable(&secret, ask).await,
        };
        match reply {
            Ok(reply) => read_fetch(reply.status, &reply.body),
            Err(none) if none.progress == Progress::Connecting => {
                Err(FetchError::NotSent(none.cause))
            }
            Err(none) => Err(FetchError::Lost(none.cause)),
        }
    }

    async fn look(&self, token: &Secret) -> Sight {
        let request = Request {
            path: "/cgi-bin/get_api_domain_ip",
            query: &[("access_token", token.expose())],
            body: None,
        };
        let limit = self.timeout.min(LOOK_TIMEOUT);
        match self.client.send(&request, limit).await {
            Ok(reply) => read_look(reply.status, &reply.body),
            Err(none) if none.progress == Progress::Replied => Sight::Busy,
            Err(_) => Sight::Unreachable,
        }
    }

    async fn secret_version(&self) -> Option<u64> {
        let secret = self.read_secret().await.ok()?;
        // Keyed at random in each process, so that the number is of no use to anybody else.
        Some(self.hasher.hash_one(secret.expose()))
    }
}

fn place(source: &SecretSource) -> String {
    match source {
        SecretSource::File(path) => format!("the file `{}`", path.display()),
        SecretSource::Env(name) => format!("the environment variable `{name}`"),
        SecretSource::Fixed(_) => "the configuration".to_owned(),
    }
}
