//! Why a reader gets no token.

use std::{sync::Arc, time::Duration};

use crate::domain::{Generation, Trouble};

/// Why a reader got no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoToken {
    /// The app is not configured here.
    #[error("no app named `{0}` is configured here")]
    UnknownApp(String),
    /// There is no usable token.
    #[error("there is no valid token: {}", .trouble.as_ref().map_or(gone.words(), |t| &t.message))]
    Missing {
        /// What became of the last one.
        gone: Gone,
        /// Why the last attempt failed, if one did.
        trouble: Option<Arc<Trouble>>,
        /// When the next attempt is planned.
        retry_after: Duration,
    },
    /// It cannot be told whether the reported token is dead.
    #[error("it cannot be told whether the token is dead, so it stays in force: {}", blur(*.errcode))]
    Inconclusive {
        /// When to report again, if WeChat still refuses the token.
        retry_after: Duration,
        /// WeChat's number, if it gave one.
        errcode: Option<i64>,
    },
    /// The app's tokens were replaced too often.
    #[error("the token may be replaced in {} s, not before: {}", .retry_after.as_secs(), .errcode.map_or("there were too many replacements".into(), |code| blur(Some(code))))]
    TooOften {
        /// When the next replacement is allowed.
        retry_after: Duration,
        /// WeChat's answer to the look, if that is why the token cannot be judged.
        errcode: Option<i64>,
    },
    /// The reported errcode is not about the token.
    #[error("errcode {0} is not cured by another token")]
    NotATokenError(i64),
    /// In a sidecar: the server does not let it do this. What the server says.
    #[error("the sidecar may not do this: {0}")]
    NotAllowed(String),
    /// The owner is gone or about to go.
    #[error("the server is shutting down")]
    Draining,
}

/// What became of the last token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// There was none yet.
    Never,
    /// It reached the end of its life.
    Expired,
    /// WeChat refuses it.
    Refused(Generation),
    /// Another replica may have replaced it, and the store does not say.
    Uncertain,
}

impl Gone {
    fn words(self) -> &'static str {
        match self {
            Self::Never => "none has been fetched yet",
            Self::Expired => "the last one has expired and no other is here yet",
            Self::Uncertain => {
                "this replica has lost touch with the others, who may have replaced the last one"
            }
            Self::Refused(_) => "WeChat refuses the last one and no other is here yet",
        }
    }
}

fn blur(errcode: Option<i64>) -> String {
    errcode.map_or("WeChat could not be asked".into(), |code| {
        format!("WeChat answers the look with errcode {code}, which says nothing about the token")
    })
}
