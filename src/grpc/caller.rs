//! Who asks, and whether they may: the one door that all calls go through.
//!
//! The order matters. Strangers learn nothing, not even what a good request looks like. An app that
//! the caller may not see looks exactly like one that does not exist.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use tokio::sync::watch;
use tonic::Status;

use super::{request::Ask, status};
use crate::{
    domain::{
        AppName,
        access::{Access, Grant, Peer},
    },
    tokens::{NoToken, Tokens},
};

/// Lets calls in.
#[derive(Clone, Debug)]
pub(super) struct Door {
    tokens: Tokens,
    /// Replaced when the secrets are read again.
    access: watch::Receiver<Arc<Access>>,
}

impl Door {
    pub(super) fn new(tokens: Tokens, access: watch::Receiver<Arc<Access>>) -> Self {
        Self { tokens, access }
    }

    /// What the caller may do.
    pub(super) fn identify(&self, peer: Peer, headers: &HeaderMap) -> Result<Arc<Grant>, Status> {
        let access = self.access.borrow();
        Ok(Arc::clone(access.identify(peer, key(headers))?))
    }

    /// The app that the request is about, if `grant` allows this with it.
    pub(super) fn admit(&self, grant: &Grant, ask: &impl Ask) -> Result<AppName, Status> {
        let violations = ask.violations();
        if !violations.is_empty() {
            return Err(status::bad_request(violations));
        }
        let app = self.tokens.resolve(ask.app_id())?;
        if !grant.sees(&app) {
            return Err(NoToken::UnknownApp(ask.app_id().to_owned()).into());
        }
        if !grant.has(ask.right()) {
            return Err(status::not_allowed(ask.right()));
        }
        Ok(app)
    }
}

fn key(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| key.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_what_follows_bearer() {
        // (authorization, key)
        let table = [
            (Some("Bearer k"), Some("k")),
            (Some("bearer  k"), Some("k")),
            (Some("Basic k"), None),
            (Some("Bearer"), None),
            (Some("k"), None),
            (None, None),
        ];
        for (value, expected) in table {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(key(&headers), expected, "{value:?}");
        }
    }
}
