//! Who may ask for what.
//!
//! Without consumers, programs on this machine may do everything and others nothing. With consumers,
//! a caller is who its key says; only a unix socket, which the file system guards, needs none.

use std::{collections::BTreeSet, hint::black_box, sync::Arc, time::Duration};

use super::{AppName, Secret};

/// Where a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over a unix socket.
    Unix,
    /// From this machine's loopback interface.
    Loopback,
    /// From anywhere else.
    Remote,
}

/// What a caller may do with an app that it may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Get and watch tokens.
    Read,
    /// Report stale tokens.
    Refresh,
    /// Report leaked tokens.
    Admin,
}

/// The apps and rights of one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name of the consumer, for logs.
    pub holder: String,
    /// The apps it may see; `None` means all.
    pub apps: Option<BTreeSet<AppName>>,
    /// What it may do with them.
    pub rights: BTreeSet<Right>,
    /// How long before the end of the life that it is told it drops a token.
    pub margin: Duration,
}

impl Grant {
    /// Everything, for programs on this machine.
    pub fn all() -> Self {
        Self {
            holder: "this machine".into(),
            apps: None,
            rights: [Right::Read, Right::Refresh, Right::Admin].into(),
            margin: Duration::ZERO,
        }
    }

    /// Whether `app` exists for the caller.
    pub fn sees(&self, app: &AppName) -> bool {
        self.apps.as_ref().is_none_or(|apps| apps.contains(app))
    }

    /// Whether the caller may do this with the apps that it sees.
    pub fn has(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }
}

/// A consumer with its key.
#[derive(Debug)]
pub struct Consumer {
    /// What it shows to prove who it is.
    pub key: Secret,
    /// What it may do.
    pub grant: Arc<Grant>,
}

/// Everybody who may ask.
#[derive(Debug)]
pub struct Access {
    consumers: Vec<Consumer>,
    everything: Arc<Grant>,
}

/// The credential is missing or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// Consumers are configured and the caller showed no key.
    #[error("a key is required: send it as metadata `authorization: Bearer …`")]
    NoKey,
    /// No consumer has this key.
    #[error("the key belongs to no consumer")]
    WrongKey,
    /// No consumers are configured, so only this machine may ask.
    #[error("no `[[consumer]]` is configured, so only programs on the same machine may ask")]
    Remote,
}

impl Access {
    /// Lets `consumers` in, or this machine if there are none.
    pub fn new(consumers: Vec<Consumer>) -> Self {
        let everything = Arc::new(Grant::all());
        Self {
            consumers,
            everything,
        }
    }

    /// Lets this machine in, whose programs drop a token so long before the end that they are told.
    pub fn of_this_machine(margin: Duration) -> Self {
        let everything = Grant {
            margin,
            ..Grant::all()
        };
        Self {
            consumers: Vec::new(),
            everything: Arc::new(everything),
        }
    }

    /// What the caller may do.
    pub fn identify(&self, peer: Peer, key: Option<&str>) -> Result<&Arc<Grant>, Stranger> {
        match (key, peer) {
            (_, Peer::Unix | Peer::Loopback) if self.consumers.is_empty() => Ok(&self.everything),
            (_, Peer::Remote) if self.consumers.is_empty() => Err(Stranger::Remote),
            (None, Peer::Unix) => Ok(&self.everything),
            (None, _) => Err(Stranger::NoKey),
            (Some(key), _) => self.with_key(key).ok_or(Stranger::WrongKey),
        }
    }

    /// Compares with every key, so that the time taken tells nothing about where they differ.
    fn with_key(&self, key: &str) -> Option<&Arc<Grant>> {
        let mut found = None;
        for consumer in &self.consumers {
            if same(consumer.key.expose().as_bytes(), key.as_bytes()) {
                found = Some(&consumer.grant);
            }
        }
        found
    }
}

fn same(one: &[u8], other: &[u8]) -> bool {
    let mut difference = u8::from(one.len() != other.len());
    for (a, b) in one.iter().zip(other) {
        difference |= black_box(a ^ b);
    }
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Consumer {
        Consumer {
            key: Secret::new("key-of-orders"),
            grant: Arc::new(Grant {
                holder: "orders".into(),
                apps: Some([AppName::parse("shop").unwrap()].into()),
                rights: [Right::Read].into(),
                margin: Duration::ZERO,
            }),
        }
    }

    #[test]
    fn without_consumers_only_this_machine_may_ask() {
        let access = Access::new(Vec::new());
        assert_eq!(
            access.identify(Peer::Unix, None),
            Ok(&Arc::new(Grant::all()))
        );
        assert_eq!(
            access.identify(Peer::Loopback, Some("x")),
            Ok(&Arc::new(Grant::all()))
        );
        assert_eq!(access.identify(Peer::Remote, None), Err(Stranger::Remote));
    }

    #[test]
    fn with_consumers_the_key_decides() {
        let access = Access::new(vec![orders()]);
        let grant = orders().grant;
        // (peer, key, expected)
        let table = [
            (Peer::Remote, Some("key-of-orders"), Ok(&grant)),
            (Peer::Remote, Some("key-of-order"), Err(Stranger::WrongKey)),
            (Peer::Remote, Some(""), Err(Stranger::WrongKey)),
            (Peer::Remote, None, Err(Stranger::NoKey)),
            (Peer::Loopback, None, Err(Stranger::NoKey)),
            (Peer::Unix, Some("key-of-orders"), Ok(&grant)),
        ];
        for (peer, key, expected) in table {
            assert_eq!(access.identify(peer, key), expected, "{peer:?} {key:?}");
        }
        assert_eq!(
            access.identify(Peer::Unix, None),
            Ok(&Arc::new(Grant::all()))
        );
    }

    #[test]
    fn a_grant_limits_apps_and_rights() {
        let (shop, other) = (AppName::parse("shop"), AppName::parse("other"));
        let grant = orders().grant;
        assert!(grant.sees(&shop.unwrap()));
        assert!(!grant.sees(&other.unwrap()));
        assert!(grant.has(Right::Read) && !grant.has(Right::Refresh));
    }
}
