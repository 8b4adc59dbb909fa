//! What replicas tell each other through the store. Holds no token.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::domain::{Remedy, Trouble, trouble::Refused};

/// What one replica asks of the one that refreshes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Request {
    /// A caller says that WeChat refused the token of this generation.
    Stale {
        /// Which token.
        generation: u64,
        /// An operator wants it dead.
        leaked: bool,
    },
    /// A fetch of mine had no claim, or outlived it, and its token is nobody's.
    Stray {
        /// How long ago WeChat answered it.
        #[serde(default)]
        ago_ms: u64,
    },
    /// My readers have seen this generation, which I could not save.
    Ahead {
        /// The highest one.
        generation: u64,
    },
}

/// What the replica that refreshes answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reply {
    /// The token of this generation had taken its place already.
    AlreadyNewer {
        /// The one in force.
        generation: u64,
    },
    /// The token of this generation has taken its place.
    Refreshed {
        /// The one in force.
        generation: u64,
    },
    /// WeChat accepts it.
    StillValid,
    /// It cannot be told whether it is dead.
    Inconclusive {
        /// When to report again.
        retry_ms: u64,
        /// WeChat's number, if it gave one.
        errcode: Option<i64>,
    },
    /// It was replaced too often.
    TooOften {
        /// When the next replacement is allowed.
        retry_ms: u64,
        /// WeChat's number, if that is why.
        errcode: Option<i64>,
    },
    /// There is none.
    NoToken,
    /// It is taken into account.
    Noted,
    /// It is about to stop; the next one will know.
    Stopping,
}

/// A question and, once there is one, its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The name of the replica that asks.
    pub from: String,
    /// What it asks.
    pub request: Request,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

/// What stands beside a record.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct About {
    /// The name of the replica that saved it.
    #[serde(default)]
    pub(super) holder: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<Told>,
}

impl About {
    pub(super) fn new(holder: &str, trouble: Option<&Trouble>) -> Self {
        Self {
            holder: holder.to_owned(),
            trouble: trouble.map(Told::new),
        }
    }

    pub(super) fn trouble(&self) -> Option<Arc<Trouble>> {
        let told = self.trouble.as_ref()?;
        Some(Arc::new(Trouble {
            remedy: told.remedy.remedy(),
            errcode: told.errcode,
            definite: told.definite,
            message: told.message.as_str().into(),
            hint: told.hint.as_deref().map(Into::into),
        }))
    }
}

/// A trouble, as it is told.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    remedy: Course,
    #[serde(default)]
    errcode: Option<i64>,
    definite: bool,
    message: String,
    #[serde(default)]
    hint: Option<String>,
}

/// A [`Remedy`], as it is told. What a newer version says and this one does not know passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Course {
    NextMinute,
    Slowly,
    Credential,
    Account,
    Request,
    IpList,
    RiskPending,
    RiskRejected { millis: u64 },
    DayQuota,
    BackOff,
}

impl Told {
    fn new(trouble: &Trouble) -> Self {
        Self {
            remedy: Course::of(trouble.remedy),
            errcode: trouble.errcode,
            definite: trouble.definite,
            message: trouble.message.as_ref().to_owned(),
            hint: trouble.hint.as_deref().map(ToOwned::to_owned),
        }
    }
}

impl Course {
    fn of(remedy: Remedy) -> Self {
        match remedy {
            Remedy::BackOff => Self::BackOff,
            Remedy::NextMinute => Self::NextMinute,
            Remedy::Slowly => Self::Slowly,
            Remedy::Refused(Refused::Credential) => Self::Credential,
            Remedy::Refused(Refused::Account) => Self::Account,
            Remedy::Refused(Refused::Request) => Self::Request,
            Remedy::IpList => Self::IpList,
            Remedy::RiskPending => Self::RiskPending,
            Remedy::RiskRejected(span) => Self::RiskRejected {
                millis: millis(span),
            },
            Remedy::DayQuota => Self::DayQuota,
        }
    }

    fn remedy(self) -> Remedy {
        match self {
            Self::BackOff => Remedy::BackOff,
            Self::NextMinute => Remedy::NextMinute,
            Self::Slowly => Remedy::Slowly,
            Self::Credential => Remedy::Refused(Refused::Credential),
            Self::Account => Remedy::Refused(Refused::Account),
            Self::Request => Remedy::Refused(Refused::Request),
            Self::IpList => Remedy::IpList,
            Self::RiskPending => Remedy::RiskPending,
            Self::RiskRejected { millis } => Remedy::RiskRejected(Duration::from_millis(millis)),
            Self::DayQuota => Remedy::DayQuota,
        }
    }
}

/// Whole milliseconds of a span.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_as_it_was_heard() {
        let remedies = [
            Remedy::BackOff,
            Remedy::NextMinute,
            Remedy::Slowly,
            Remedy::Refused(Refused::Credential),
            Remedy::Refused(Refused::Account),
            Remedy::Refused(Refused::Request),
            Remedy::IpList,
            Remedy::RiskPending,
            Remedy::RiskRejected(Duration::from_secs(7)),
            Remedy::DayQuota,
        ];
        for remedy in remedies {
            let trouble = Trouble {
                remedy,
                errcode: Some(40164),
                definite: true,
                message: "the address is not on the list".into(),
                hint: Some("add it".into()),
            };
            let text = serde_json::to_vec(&About::new("one", Some(&trouble))).unwrap();
            let back: About = serde_json::from_slice(&text).unwrap();
            assert_eq!(back.trouble().as_deref(), Some(&trouble));
            assert_eq!(back.holder, "one");
        }
    }

    #[test]
    fn a_letter_is_read_as_it_was_written() {
        let letter = Letter {
            from: "one".into(),
            request: Request::Stale {
                generation: 7,
                leaked: false,
            },
            reply: Some(Reply::TooOften {
                retry_ms: 30_000,
                errcode: Some(45009),
            }),
        };
        let text = serde_json::to_string(&letter).unwrap();
        assert_eq!(serde_json::from_str::<Letter>(&text).unwrap(), letter);
        let unanswered = r#"{"from":"two","request":{"kind":"stray"}}"#;
        let letter: Letter = serde_json::from_str(unanswered).unwrap();
        assert_eq!(letter.reply, None);
    }
}
