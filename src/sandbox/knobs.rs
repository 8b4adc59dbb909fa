//! What can be changed while it runs.
//!
//! One flat list, so that a person with `curl` and a test in Rust turn the same knobs. All of a
//! request is checked before any of it takes effect.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Deserializer};

use super::{
    Errcode, Fault, Outage, Settings,
    gate::{Change, Secret},
    ip_list::IpList,
};

/// Changes; `None` leaves a thing as it is. In JSON spans are numbers of seconds.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "those of `Settings` are described there")]
pub struct Knobs {
    #[serde(deserialize_with = "some_seconds")]
    pub life: Option<Duration>,
    #[serde(deserialize_with = "some_seconds")]
    pub overlap: Option<Duration>,
    pub forced_kills: Option<bool>,
    pub heals_revoked: Option<bool>,
    #[serde(deserialize_with = "some_seconds")]
    pub latency: Option<Duration>,
    #[serde(deserialize_with = "some_seconds")]
    pub jitter: Option<Duration>,
    pub busy_rate: Option<f64>,
    pub lost_rate: Option<f64>,
    #[serde(deserialize_with = "some_seconds")]
    pub hang: Option<Duration>,
    pub back_ends: Option<usize>,
    #[serde(deserialize_with = "some_seconds")]
    pub lag: Option<Duration>,
    pub survival: Option<f64>,
    #[serde(deserialize_with = "some_seconds")]
    pub survives_for: Option<Duration>,
    pub classic_per_day: Option<u64>,
    pub classic_per_minute: Option<u64>,
    pub stable_per_day: Option<u64>,
    pub stable_per_minute: Option<u64>,
    pub forced_per_day: Option<u64>,
    #[serde(deserialize_with = "some_seconds")]
    pub force_gap: Option<Duration>,

    /// Nobody can be reached, until this is `None` again or `outage_for` has passed.
    pub outage: Option<Outage>,
    /// How long the outage of the same request lasts; default: until it is lifted.
    #[serde(deserialize_with = "some_seconds")]
    pub outage_for: Option<Duration>,
    /// Forgets the faults there are, before it adds those of the same request.
    pub clear_faults: bool,
    /// Adds these faults.
    pub faults: Vec<Fault>,

    /// Which account the following concern; default all.
    pub appid: Option<String>,
    /// After what time the following take effect; default at once. WeChat: up to 10 min.
    #[serde(deserialize_with = "some_seconds")]
    pub change_delay: Option<Duration>,
    /// A new AppSecret. Tokens stay as they are.
    pub secret: Option<String>,
    /// Whether the secret is frozen (40243).
    pub secret_frozen: Option<bool>,
    pub ip_list: Option<Vec<String>>,
    pub ip_list_on_business: Option<bool>,
    /// 89501 or 89503: waits for the administrator. 89507, 89506: rejected, for 1 h or 24 h. 0: none.
    pub risk: Option<Errcode>,
    /// Whose calls are risky; default everybody's.
    pub risk_ip: Option<IpAddr>,
    /// 50004, 50007: no tokens. 48001, 48004, 50002: no business calls either. 0: none.
    pub ban: Option<Errcode>,
    /// Whether this is a third-party platform's account, which has other endpoints (61024).
    pub component: Option<bool>,
}

/// `Knobs` may hold a secret.
impl std::fmt::Debug for Knobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Knobs").finish_non_exhaustive()
    }
}

impl Knobs {
    /// `settings` with the changes.
    pub(super) fn turned(&self, settings: &Settings) -> Result<Settings, String> {
        let mut new = settings.clone();
        macro_rules! set {
            ($($name:ident)*) => {$(
                if let Some(value) = self.$name { new.$name = value; }
            )*};
        }
        set!(life overlap forced_kills heals_revoked latency jitter busy_rate lost_rate hang back_ends
            lag survival survives_for classic_per_day classic_per_minute stable_per_day
            stable_per_minute forced_per_day force_gap);
        new.check()?;
        if self.outage_for.is_some() && self.outage.is_none() {
            return Err("`outage_for` says how long, `outage` must say what".into());
        }
        self.faults.iter().try_for_each(Fault::check)?;
        Ok(new)
    }

    /// What changes about accounts.
    pub(super) fn change(&self) -> Result<Change, String> {
        Ok(Change {
            secret: self.secret.clone().map(Secret),
            secret_frozen: self.secret_frozen,
            ip_list: self.ip_list.as_deref().map(IpList::parse).transpose()?,
            ip_list_on_business: self.ip_list_on_business,
            risk: self.risk,
            risk_ip: self.risk_ip,
            ban: self.ban,
            component: self.component,
        })
    }
}

pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    const LONGEST: f64 = 30.0 * 86_400.0;
    let number = f64::deserialize(from)?;
    if (0.0..=LONGEST).contains(&number) {
        return Ok(Duration::from_secs_f64(number));
    }
    let told = format!("`{number}` is not a number of seconds between 0 and {LONGEST}");
    Err(serde::de::Error::custom(told))
}

fn some_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    seconds(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Kind;

    fn read(json: &str) -> Result<Knobs, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn spans_are_seconds() {
        let knobs = read(r#"{"life": 6, "lag": 0.5}"#).unwrap();
        assert_eq!(knobs.life, Some(Duration::from_secs(6)));
        assert_eq!(knobs.lag, Some(Duration::from_millis(500)));
        for wrong in ["-1", "1e30", "2592001", "\"6\""] {
            assert!(read(&format!("{{\"life\": {wrong}}}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_knob_is_refused_with_a_list_of_the_known_ones() {
        let told = read(r#"{"lifetime": 6}"#).unwrap_err();
        for word in ["`lifetime`", "`life`", "`faults`", "`change_delay`"] {
            assert!(told.contains(word), "{told}");
        }
        let told = read(r#"{"faults": [{"kind": "explode"}]}"#).unwrap_err();
        assert!(
            told.contains("`explode`") && told.contains("`lost`"),
            "{told}"
        );
    }

    #[test]
    fn senseless_values_are_refused() {
        let bad_fault = Fault::new(Kind::Lost).with_probability(2.0);
        for knobs in [
            Knobs {
                life: Some(Duration::ZERO),
                ..Knobs::default()
            },
            Knobs {
                busy_rate: Some(-0.1),
                ..Knobs::default()
            },
            Knobs {
                faults: vec![bad_fault],
                ..Knobs::default()
            },
            Knobs {
                outage_for: Some(Duration::from_secs(1)),
                ..Knobs::default()
            },
            Knobs {
                faults: vec![Fault::errcode(0)],
                ..Knobs::default()
            },
        ] {
            assert!(knobs.turned(&Settings::default()).is_err());
        }
    }
}
