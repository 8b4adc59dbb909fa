//! What goes into the model and what comes out of it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde_json::json;

use super::Credentials;

/// The content type of nearly every reply: `encoding`, where `charset` would be right.
pub(super) const JSON: &str = "application/json; encoding=utf-8";

/// A request to WeChat.
#[derive(Clone)]
pub struct Call {
    /// The method, in capitals.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query's pairs, decoded.
    pub query: Vec<(String, String)>,
    /// The body; empty if there is none.
    pub body: String,
    /// Where it comes from.
    pub client_ip: IpAddr,
}

impl Call {
    /// A call without body, from 127.0.0.1.
    pub fn get(path: &str, query: &[(&str, &str)]) -> Self {
        let owned = |&(key, value): &(&str, &str)| (key.into(), value.into());
        Self {
            method: "GET".into(),
            path: path.into(),
            query: query.iter().map(owned).collect(),
            body: String::new(),
            client_ip: Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A fetch that mints.
    pub fn classic(account: &Credentials) -> Self {
        let query = [
            ("grant_type", "client_credential"),
            ("appid", &account.appid),
            ("secret", &account.secret),
        ];
        Self::get("/cgi-bin/token", &query)
    }

    /// A fetch at the stable endpoint.
    pub fn stable(account: &Credentials, forced: bool) -> Self {
        let body = json!({
            "grant_type": "client_credential",
            "appid": account.appid,
            "secret": account.secret,
            "force_refresh": forced,
        });
        Self {
            method: "POST".into(),
            body: body.to_string(),
            ..Self::get("/cgi-bin/stable_token", &[])
        }
    }

    /// The cheapest business call: it does nothing but judge the token.
    pub fn look(token: &str) -> Self {
        Self::get("/cgi-bin/get_api_domain_ip", &[("access_token", token)])
    }

    /// The query's value for `key`, unless it is missing or empty.
    pub(super) fn parameter(&self, key: &str) -> Option<&str> {
        let (_, value) = self.query.iter().find(|(name, _)| name == key)?;
        (!value.is_empty()).then_some(value)
    }
}

/// Query and body hold secrets and tokens.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What is put on the wire, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP's status; 200 for WeChat's errors too.
    pub status: u16,
    /// The content type; empty = none is sent.
    pub content_type: String,
    /// The body.
    pub body: String,
    /// How long it takes.
    pub delay: Duration,
    /// How, or whether, it arrives.
    pub delivery: Delivery,
}

/// How a reply arrives; all after [`Reply::delay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// As it should.
    Whole,
    /// `Content-Length` announces all of it, half of it is sent, the connection is torn.
    Cut,
    /// The connection is closed without a byte.
    Lost,
    /// Nothing for a very long time, then the connection is closed without a byte.
    Hang,
    /// There is no connection: nothing was ever written.
    Refused,
}

impl Reply {
    /// A reply in JSON.
    pub(super) fn json(body: impl fmt::Display) -> Self {
        Self {
            status: 200,
            content_type: JSON.into(),
            body: body.to_string(),
            delay: Duration::ZERO,
            delivery: Delivery::Whole,
        }
    }

    /// A status and nothing else.
    pub(super) fn bare(status: u16) -> Self {
        Self {
            status,
            content_type: String::new(),
            ..Self::json("")
        }
    }

    /// No reply at all.
    pub(super) fn none(delivery: Delivery) -> Self {
        Self {
            delivery,
            ..Self::bare(200)
        }
    }
}

/// The body may hold a token.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("delay", &self.delay)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_neither_secret_nor_token() {
        let account = Credentials::default();
        let printed = format!(
            "{:?} {:?} {:?}",
            Call::classic(&account),
            Call::stable(&account, true),
            Reply::json(&account.secret)
        );
        assert!(!printed.contains(&account.secret));
    }

    #[test]
    fn an_empty_parameter_is_a_missing_one() {
        let call = Call::get("/", &[("a", ""), ("b", "1")]);
        assert_eq!(
            (call.parameter("a"), call.parameter("b")),
            (None, Some("1"))
        );
    }
}
