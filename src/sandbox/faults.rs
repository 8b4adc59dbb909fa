//! What goes wrong with a call.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Errcode, exchange::JSON, knobs::seconds, settings::as_seconds};

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `GET /cgi-bin/token`.
    Classic,
    /// `POST /cgi-bin/stable_token`.
    Stable,
    /// Calls that use a token.
    Business,
}

impl Endpoint {
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/cgi-bin/token" => Some(Self::Classic),
            "/cgi-bin/stable_token" => Some(Self::Stable),
            "/cgi-bin/get_api_domain_ip" | "/cgi-bin/getcallbackip" | "/cgi-bin/user/get" => {
                Some(Self::Business)
            }
            _ => None,
        }
    }
}

/// Nobody can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outage {
    /// All is well.
    None,
    /// Connections are refused: a caller can know that nothing happened.
    Refuse,
    /// Connections are closed without a reply: a caller cannot know.
    Cut,
    /// Every call hangs.
    Hang,
    /// A gateway answers 502.
    Gateway,
}

/// What happens instead of a good reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The call is refused with [`Fault::errcode`] and never carried out.
    Errcode,
    /// No reply for [`Settings::hang`](super::Settings::hang).
    Hang,
    /// Like `Hang`, but the call is carried out [`Fault::after`] its arrival, when the caller may have
    /// given up long ago.
    Late,
    /// The connection is closed without a reply.
    Lost,
    /// The connection is torn in the middle of the body.
    Cut,
    /// The body is half of the JSON, with a `Content-Length` that fits it.
    Truncated,
    /// A gateway answers 502 in HTML.
    Gateway,
    /// Status 200 and no body.
    Empty,
    /// [`Fault::status`], [`Fault::content_type`], [`Fault::body`].
    Reply,
}

/// What goes wrong, with which calls, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// Which calls; default all.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
    /// Whose calls; default everybody's.
    #[serde(default)]
    pub appid: Option<String>,
    /// How many calls it strikes; default: until `clear_faults`.
    #[serde(default)]
    pub calls: Option<u32>,
    /// The chance that it strikes. 0 to 1; default 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// Whether the call is carried out all the same (a token is minted, but its reply goes wrong);
    /// default yes. Without meaning for `Errcode`, and for `Late`, which is always carried out.
    #[serde(default = "yes")]
    pub carried_out: bool,
    /// `Late`: how long after its arrival the call is carried out; default 0.
    #[serde(default, deserialize_with = "seconds", serialize_with = "as_seconds")]
    pub after: Duration,
    /// `Errcode`: WeChat's number; default -1.
    #[serde(default = "busy")]
    pub errcode: Errcode,
    /// `Errcode`: a text of one's own; default WeChat's.
    #[serde(default)]
    pub errmsg: Option<String>,
    /// `Reply`: HTTP's status; default 200.
    #[serde(default = "ok")]
    pub status: u16,
    /// `Reply`: the content type; default WeChat's.
    #[serde(default = "json")]
    pub content_type: String,
    /// `Reply`: the body; default empty.
    #[serde(default)]
    pub body: String,
}

fn always() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

fn busy() -> Errcode {
    super::replies::BUSY
}

fn ok() -> u16 {
    200
}

fn json() -> String {
    JSON.into()
}

impl Fault {
    /// A fault that strikes every call from now on.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            endpoint: None,
            appid: None,
            calls: None,
            probability: always(),
            carried_out: yes(),
            after: Duration::ZERO,
            errcode: busy(),
            errmsg: None,
            status: ok(),
            content_type: json(),
            body: String::new(),
        }
    }

    /// A refusal with this number.
    pub fn errcode(errcode: Errcode) -> Self {
        Self {
            errcode,
            ..Self::new(Kind::Errcode)
        }
    }

    /// Only for calls of `endpoint`.
    #[must_use]
    pub fn on(self, endpoint: Endpoint) -> Self {
        Self {
            endpoint: Some(endpoint),
            ..self
        }
    }

    /// Only for the next `calls` calls.
    #[must_use]
    pub fn times(self, calls: u32) -> Self {
        Self {
            calls: Some(calls),
            ..self
        }
    }

    /// Only with this chance, 0 to 1.
    #[must_use]
    pub fn with_probability(self, probability: f64) -> Self {
        Self {
            probability,
            ..self
        }
    }

    /// The call is not carried out.
    #[must_use]
    pub fn in_vain(self) -> Self {
        Self {
            carried_out: false,
            ..self
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.probability) {
            return Err("a fault's `probability` must be between 0 and 1".into());
        }
        if !(200..=599).contains(&self.status) {
            return Err("a fault's `status` must be between 200 and 599".into());
        }
        if self.kind == Kind::Errcode && self.errcode == 0 {
            return Err("a fault's `errcode` must not be 0, which means success".into());
        }
        Ok(())
    }

    fn concerns(&self, endpoint: Endpoint, appid: Option<&str>) -> bool {
        self.endpoint.is_none_or(|it| it == endpoint)
            && (self.appid.is_none() || self.appid.as_deref() == appid)
    }
}

/// Which of `faults` strikes this call; the first one wins. Used up ones are removed.
pub(super) fn strike(
    faults: &mut Vec<Fault>,
    endpoint: Endpoint,
    appid: Option<&str>,
    mut roll: impl FnMut() -> f64,
) -> Option<Fault> {
    faults.retain(|fault| fault.calls != Some(0));
    let fault = faults
        .iter_mut()
        .find(|fault| fault.concerns(endpoint, appid) && roll() < fault.probability)?;
    fault.calls = fault.calls.map(|left| left - 1);
    Some(fault.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_what_it_concerns_as_often_as_it_says() {
        let one = Fault {
            appid: Some("a".into()),
            ..Fault::new(Kind::Lost).on(Endpoint::Classic)
        };
        let faults = &mut vec![one.times(2)];
        let mut strikes = |endpoint, appid| strike(faults, endpoint, appid, || 0.5).is_some();
        assert!(!strikes(Endpoint::Stable, Some("a")));
        assert!(!strikes(Endpoint::Classic, Some("b")));
        assert!(!strikes(Endpoint::Classic, None));
        assert!(strikes(Endpoint::Classic, Some("a")));
        assert!(strikes(Endpoint::Classic, Some("a")));
        assert!(!strikes(Endpoint::Classic, Some("a")));
        assert!(faults.is_empty());
    }

    #[test]
    fn a_fault_strikes_with_its_probability() {
        let faults = &mut vec![Fault::new(Kind::Lost).with_probability(0.5)];
        for (roll, struck) in [(0.0, true), (0.49, true), (0.5, false), (0.99, false)] {
            let got = strike(faults, Endpoint::Business, None, || roll);
            assert_eq!(got.is_some(), struck, "{roll}");
        }
    }

    #[test]
    fn what_is_left_out_of_a_fault_has_the_documented_default() {
        let read: Fault = serde_json::from_str(r#"{"kind":"lost"}"#).unwrap();
        assert_eq!(read, Fault::new(Kind::Lost));
    }
}
