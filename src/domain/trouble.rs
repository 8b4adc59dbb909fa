//! Why there is no newer token, and what to do about it.

use std::{sync::Arc, time::Duration};

/// What went wrong with the last attempt, in the words the operator reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// How to go on.
    pub remedy: Remedy,
    /// WeChat's number, if it gave one.
    pub errcode: Option<i64>,
    /// False if WeChat may have made a token that never arrived here.
    pub definite: bool,
    /// One sentence without a full stop. Holds no URL, no body, no secret.
    pub message: Arc<str>,
    /// One thing the operator can do.
    pub hint: Option<Arc<str>>,
}

/// How to go on after a failure; one variant per reaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It will pass: try again with a growing pause.
    BackOff,
    /// The minute's quota is used up: try in the next one.
    NextMinute,
    /// A reply without a known meaning: try again slowly, and tell people.
    Slowly,
    /// WeChat refuses the credential, the account or the request itself. A person must act; a new
    /// secret ends the wait.
    Refused(Refused),
    /// This server's address is not on the account's list. A person must act, and WeChat needs up to
    /// ten minutes to notice.
    IpList,
    /// The account's administrator has been asked to confirm this server.
    RiskPending,
    /// The administrator said no; WeChat answers nothing else for this long.
    RiskRejected(Duration),
    /// The day's quota is used up.
    DayQuota,
}

/// What WeChat refuses for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The appid or the AppSecret.
    Credential,
    /// The account as such.
    Account,
    /// The request: our own mistake.
    Request,
}

impl Trouble {
    /// Whether another machine may have no such trouble: WeChat did not answer here, or it refuses this
    /// machine's address.
    pub fn may_be_local(&self) -> bool {
        match self.remedy {
            Remedy::BackOff => self.errcode.is_none(),
            Remedy::IpList => true,
            _ => false,
        }
    }
}

impl Remedy {
    /// Whether waiting alone does not help.
    pub fn needs_operator(self) -> bool {
        !matches!(self, Self::BackOff | Self::NextMinute | Self::Slowly)
    }
}
