//! Who asks, and whether they may: the one door that all calls go through.
//!
//! The order matters. Strangers learn nothing, not even what a good request looks like. An app that
//! the caller may not see looks exactly like one that does not exist.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Status, metadata::MetadataMap};

use super::{connection::Connection, request::Ask, status};
use crate::{
    domain::{
        AppName,
        access::{Access, Peer},
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

    /// The app that the request is about, if the caller may do this with it.
    pub(super) fn admit<T: Ask>(&self, request: &Request<T>) -> Result<AppName, Status> {
        let access = Arc::clone(&self.access.borrow());
        let grant = access.identify(peer(request), key(request.metadata()))?;
        let ask = request.get_ref();
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

fn peer<T>(request: &Request<T>) -> Peer {
    let connection = request.extensions().get::<Connection>();
    connection.map_or(Peer::Remote, |connection| connection.peer)
}

fn key(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
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
            let mut metadata = MetadataMap::new();
            if let Some(value) = value {
                metadata.insert("authorization", value.parse().unwrap());
            }
            assert_eq!(key(&metadata), expected, "{value:?}");
        }
    }

    #[test]
    fn a_request_of_unknown_origin_counts_as_remote() {
        assert_eq!(peer(&Request::new(())), Peer::Remote);
    }
}
