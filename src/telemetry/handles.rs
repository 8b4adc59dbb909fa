//! What those count with to whom things happen. Each handle is made once and costs a few atomic
//! additions from then on; only an errcode that comes for the first time costs more.

use std::{sync::Arc, time::Duration};

use super::instruments::{Count, Family, Gauge, Histogram};
use crate::domain::{AppName, Remedy, Trouble, slot::Verdict};

/// For the streams of one app.
#[derive(Clone, Debug)]
pub struct Watching {
    /// Those that are open.
    pub streams: Gauge,
    /// Those whose reader has not taken the newest token yet.
    pub behind: Gauge,
    /// From the publication of a token until a stream wrote it.
    pub delivery: Histogram,
}

/// For whoever refreshes one app.
#[derive(Clone, Debug)]
pub struct Refreshing {
    app: AppName,
    refreshes: Family<Count>,
    duration: Histogram,
    forced: [Count; OUTCOMES.len()],
    foreign: Count,
}

/// WeChat's errcode for a success, and the word for an answer without one.
const SUCCESS: &str = "0";
const NO_ERRCODE: &str = "none";

impl Refreshing {
    pub(super) fn new(
        app: &AppName,
        refreshes: &Family<Count>,
        duration: Histogram,
        forced: &Family<Count>,
        foreign: Count,
    ) -> Self {
        let this = Self {
            app: app.clone(),
            refreshes: refreshes.clone(),
            duration,
            forced: OUTCOMES.map(|outcome| forced.of(&[app.as_str(), outcome])),
            foreign,
        };
        // A series that begins at zero shows its first event; one that begins with it does not.
        for (result, errcode) in [
            ("rotated", SUCCESS),
            ("unchanged", SUCCESS),
            ("failed", NO_ERRCODE),
            ("unknown", NO_ERRCODE),
        ] {
            this.series(result, errcode);
        }
        this
    }

    /// WeChat answered after `took`; `rotated` if that brought a new token.
    pub fn answered(&self, rotated: bool, took: Duration) {
        let result = if rotated { "rotated" } else { "unchanged" };
        self.series(result, SUCCESS).inc();
        self.duration.observe(took);
    }

    /// No token came, after `took`.
    pub fn failed(&self, trouble: &Trouble, took: Duration) {
        let result = if trouble.definite {
            "failed"
        } else {
            "unknown"
        };
        self.series(result, &errcode(trouble)).inc();
        self.duration.observe(took);
    }

    /// A report of a stale token is answered.
    pub fn judged(&self, verdict: &Verdict) {
        if let Some(outcome) = outcome(verdict) {
            self.forced[outcome].inc();
        }
    }

    /// Somebody else's fetch ended a token.
    pub fn foreign_rotation(&self) {
        self.foreign.inc();
    }

    fn series(&self, result: &str, errcode: &str) -> Count {
        self.refreshes.of(&[self.app.as_str(), result, errcode])
    }
}

/// A number without a known meaning must not become a series: WeChat has thousands.
fn errcode(trouble: &Trouble) -> String {
    match (trouble.errcode, trouble.remedy) {
        (None, _) => NO_ERRCODE.into(),
        (Some(_), Remedy::Slowly) => "other".into(),
        (Some(errcode), _) => errcode.to_string(),
    }
}

/// What becomes of a stale report, in the order of [`outcome`].
const OUTCOMES: [&str; 7] = [
    "already_newer",
    "refreshed",
    "still_valid",
    "no_token",
    "inconclusive",
    "too_often",
    "not_a_token_error",
];

fn outcome(verdict: &Verdict) -> Option<usize> {
    Some(match verdict {
        Verdict::Wait => return None,
        Verdict::AlreadyNewer => 0,
        Verdict::Refreshed => 1,
        Verdict::StillValid => 2,
        Verdict::NoToken => 3,
        Verdict::Inconclusive { .. } => 4,
        Verdict::TooOften { .. } => 5,
        Verdict::NotATokenError => 6,
    })
}

/// A call of the contract, or any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GetToken`
    GetToken,
    /// `ForceRefresh`
    ForceRefresh,
    /// `WatchToken`
    WatchToken,
    /// Health, reflection, and whatever is not served here.
    Other,
}

const METHODS: [&str; 4] = ["GetToken", "ForceRefresh", "WatchToken", "other"];

/// The names of gRPC's status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// For calls.
#[derive(Clone, Debug)]
pub struct Requests(Arc<[Calls; METHODS.len()]>);

#[derive(Debug)]
struct Calls {
    codes: [Count; CODES.len()],
    duration: Histogram,
}

impl Requests {
    pub(super) fn new(codes: &Family<Count>, durations: &Family<Histogram>) -> Self {
        Self(Arc::new(METHODS.map(|method| Calls {
            codes: CODES.map(|code| codes.of(&[method, code])),
            duration: durations.of(&[method]),
        })))
    }

    /// A call has ended with this status code.
    pub fn ended(&self, method: Method, code: usize, took: Duration) {
        let calls = &self.0[method as usize];
        if let Some(code) = calls.codes.get(code) {
            code.inc();
        }
        calls.duration.observe(took);
    }
}

/// What is asked over HTTP.
#[derive(Clone, Copy, Debug)]
pub enum Page {
    /// `/cgi-bin/token`.
    Token,
    /// `/cgi-bin/stable_token`.
    StableToken,
    /// `/get_access_token`.
    GetAccessToken,
    /// `/v1/apps/{app}/token`.
    Versioned,
}

impl Page {
    fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::StableToken => "stable_token",
            Self::GetAccessToken => "get_access_token",
            Self::Versioned => "v1",
        }
    }
}

/// For what is asked over HTTP.
#[derive(Clone, Debug)]
pub struct Asked(Family<Count>);

impl Asked {
    pub(super) fn new(answers: Family<Count>) -> Self {
        Self(answers)
    }

    /// A page was answered with this errcode, 0 for a token. There is only a handful of them.
    pub fn answered(&self, page: Page, errcode: i32) {
        self.0.of(&[page.word(), &errcode.to_string()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(remedy: Remedy, errcode: Option<i64>) -> Trouble {
        Trouble {
            remedy,
            errcode,
            definite: true,
            message: "no".into(),
            hint: None,
        }
    }

    #[test]
    fn only_errcodes_with_a_meaning_get_a_series_of_their_own() {
        let table = [
            (Remedy::IpList, Some(40164), "40164"),
            (Remedy::BackOff, Some(-1), "-1"),
            (Remedy::Slowly, Some(99999), "other"),
            (Remedy::Slowly, None, "none"),
            (Remedy::BackOff, None, "none"),
        ];
        for (remedy, number, label) in table {
            assert_eq!(errcode(&trouble(remedy, number)), label, "{number:?}");
        }
    }
}
