//! How a simulated WeChat starts out.
//!
//! The defaults are WeChat's own numbers; a command line offers most of them as flags, and
//! [`Knobs`](super::Knobs) change them while it runs.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

use super::{ip_list::IpList, pool::BACK_ENDS};

const DAY: Duration = Duration::from_hours(24);

/// An account's name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The account's `appid`.
    pub appid: String,
    /// Its AppSecret.
    pub secret: String,
}

/// The account of a sandbox that was told of none.
impl Default for Credentials {
    fn default() -> Self {
        Self {
            appid: "wx5a9db0c5a9db0c01".into(),
            secret: "5a9db0c05a9db0c05a9db0c05a9db0c0".into(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("appid", &self.appid)
            .finish_non_exhaustive()
    }
}

/// How a simulated WeChat starts out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// The accounts; by default one, [`Credentials::default`].
    #[serde(skip)]
    pub accounts: Vec<Credentials>,

    /// A new token's life, cut to whole seconds. 1 s to 24 h; default 2 h.
    #[serde(serialize_with = "as_seconds")]
    pub life: Duration,
    /// How long a replaced token goes on working, and how long before the end of a token's life the
    /// stable endpoint offers the next. 0 to 24 h; default 5 min.
    ///
    /// With an overlap as long as the life every stable call mints.
    #[serde(serialize_with = "as_seconds")]
    pub overlap: Duration,
    /// Whether a forced refresh kills the old token at once (as Douyin does); default no.
    pub forced_kills: bool,
    /// Whether the stable endpoint in normal mode replaces a revoked token; default no: it goes on
    /// repeating it, and only force helps.
    pub heals_revoked: bool,

    /// Who may ask: addresses, networks (`10.0.0.0/8`) or patterns (`10.0.0.*`). Empty (default):
    /// everybody.
    pub ip_list: Vec<String>,
    /// Whether the list holds for business calls too, as it does for official accounts; default no.
    pub ip_list_on_business: bool,

    /// How long every reply takes at least; default 0.
    #[serde(serialize_with = "as_seconds")]
    pub latency: Duration,
    /// How much longer it may take, evenly spread; default 0.
    #[serde(serialize_with = "as_seconds")]
    pub jitter: Duration,
    /// The share of calls that are answered `-1` and not carried out. 0 to 1; default 0.
    pub busy_rate: f64,
    /// The share of calls that are carried out but whose reply is lost. 0 to 1; default 0.
    pub lost_rate: f64,
    /// How long a call hangs that hangs; default 10 min. Then its connection is closed.
    #[serde(serialize_with = "as_seconds")]
    pub hang: Duration,

    /// How many back ends take turns at random in judging tokens. 1 (default) to 4.
    pub back_ends: usize,
    /// How late a back end learns of a new token and of the death of a replaced one, at most; each time
    /// a random part of it. Default 0: all agree.
    #[serde(serialize_with = "as_seconds")]
    pub lag: Duration,
    /// The chance that a replaced token outlives its overlap. 0 to 1; default 0.
    pub survival: f64,
    /// For how long it does so at most; default 5 min, never beyond its own expiry.
    #[serde(serialize_with = "as_seconds")]
    pub survives_for: Duration,

    /// Classic fetches a day (midnight in Beijing); default 2,000.
    pub classic_per_day: u64,
    /// Classic fetches a minute; default 10,000.
    pub classic_per_minute: u64,
    /// Stable fetches in normal mode a day; default 500,000.
    pub stable_per_day: u64,
    /// Stable fetches in normal mode a minute; default 10,000.
    pub stable_per_minute: u64,
    /// Forced stable fetches a day; default 20.
    pub forced_per_day: u64,
    /// Within this time after a forced fetch another one changes nothing; default 30 s.
    #[serde(serialize_with = "as_seconds")]
    pub force_gap: Duration,
}

pub(super) fn as_seconds<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(span.as_secs_f64())
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            accounts: vec![Credentials::default()],
            life: Duration::from_hours(2),
            overlap: Duration::from_mins(5),
            forced_kills: false,
            heals_revoked: false,
            ip_list: Vec::new(),
            ip_list_on_business: false,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            busy_rate: 0.0,
            lost_rate: 0.0,
            hang: Duration::from_mins(10),
            back_ends: 1,
            lag: Duration::ZERO,
            survival: 0.0,
            survives_for: Duration::from_mins(5),
            classic_per_day: 2_000,
            classic_per_minute: 10_000,
            stable_per_day: 500_000,
            stable_per_minute: 10_000,
            forced_per_day: 20,
            force_gap: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Whether the values make sense.
    ///
    /// # Errors
    ///
    /// A sentence about the first value that does not.
    pub fn check(&self) -> Result<(), String> {
        if !(Duration::from_secs(1)..=DAY).contains(&self.life) {
            return Err("`life` must be between 1 s and 24 h".into());
        }
        for (name, span) in self.spans() {
            if span > DAY {
                return Err(format!("`{name}` must be at most 24 h"));
            }
        }
        for (name, share) in [
            ("busy_rate", self.busy_rate),
            ("lost_rate", self.lost_rate),
            ("survival", self.survival),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("`{name}` must be between 0 and 1"));
            }
        }
        if !(1..=BACK_ENDS).contains(&self.back_ends) {
            return Err(format!("`back_ends` must be between 1 and {BACK_ENDS}"));
        }
        IpList::parse(&self.ip_list).map(drop)
    }

    fn spans(&self) -> [(&'static str, Duration); 7] {
        [
            ("overlap", self.overlap),
            ("latency", self.latency),
            ("jitter", self.jitter),
            ("hang", self.hang),
            ("lag", self.lag),
            ("survives_for", self.survives_for),
            ("force_gap", self.force_gap),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        type Spoil = fn(&mut Settings);
        let table: [(&str, Spoil); 7] = [
            ("`life`", |s| s.life = Duration::ZERO),
            ("`life`", |s| s.life = DAY + Duration::from_secs(1)),
            ("`overlap`", |s| s.overlap = DAY * 2),
            ("`busy_rate`", |s| s.busy_rate = 1.5),
            ("`survival`", |s| s.survival = f64::NAN),
            ("`back_ends`", |s| s.back_ends = 5),
            ("`10.0.0.0/33`", |s| s.ip_list = vec!["10.0.0.0/33".into()]),
        ];
        for (name, spoil) in table {
            let mut settings = Settings::default();
            spoil(&mut settings);
            let told = settings.check().unwrap_err();
            assert!(told.contains(name), "{told}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let printed = format!("{:?}", Settings::default());
        assert!(!printed.contains(&Credentials::default().secret));
    }
}
