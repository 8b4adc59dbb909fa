//! Why a program gets no token, in WeChat's numbers and words of ours.
//!
//! An SDK knows what to do about WeChat's numbers, so ours mean the same. One is never used: 40001, a
//! wrong AppSecret at WeChat, is what most SDKs take for a dead token, and ask again for ever.

use std::time::Duration;

use axum::{
    http::{StatusCode, header},
    response::Response,
};
use serde_json::json;
use tracing::debug;

use super::reply;
use crate::{domain::access::Stranger, tokens::NoToken};

/// WeChat's numbers.
mod errcode {
    pub(super) const BUSY: i32 = -1;
    pub(super) const GRANT_TYPE: i32 = 40002;
    pub(super) const APPID: i32 = 40013;
    pub(super) const PAGE: i32 = 40066;
    pub(super) const ARGUMENT: i32 = 40097;
    pub(super) const KEY: i32 = 40125;
    pub(super) const NO_APPID: i32 = 41002;
    pub(super) const NO_KEY: i32 = 41004;
    pub(super) const METHOD: i32 = 43001;
    pub(super) const TOO_OFTEN: i32 = 45011;
    pub(super) const NOT_JSON: i32 = 47001;
    pub(super) const NOT_ALLOWED: i32 = 48001;
}

/// A no.
#[derive(Debug)]
pub(super) struct Refusal {
    errcode: i32,
    /// For those who are not told in WeChat's way, which is 200 always.
    status: StatusCode,
    reason: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(errcode: i32, status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            errcode,
            status,
            reason: reason.into(),
            retry_after: None,
        }
    }

    pub(super) fn no_such_page() -> Self {
        let reason = "there is no such page: /cgi-bin/token, /cgi-bin/stable_token, /get_access_token and /v1/apps/{app}/token are served here";
        Self::new(errcode::PAGE, StatusCode::NOT_FOUND, reason)
    }

    pub(super) fn method(allowed: &str) -> Self {
        let reason = format!("{allowed} is required");
        Self::new(errcode::METHOD, StatusCode::METHOD_NOT_ALLOWED, reason)
    }

    pub(super) fn not_json() -> Self {
        let reason = "the body is neither a JSON object nor a form";
        Self::new(errcode::NOT_JSON, StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn never_arrived() -> Self {
        let reason = "the body is too long, or did not arrive in time";
        Self::new(errcode::NOT_JSON, StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn grant_type() -> Self {
        let reason = "invalid grant_type: `client_credential` is expected";
        Self::new(errcode::GRANT_TYPE, StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn no_appid() -> Self {
        let reason = "appid missing";
        Self::new(errcode::NO_APPID, StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn no_such_app() -> Self {
        let reason = "invalid appid: no such app is configured here";
        Self::new(errcode::APPID, StatusCode::NOT_FOUND, reason)
    }

    pub(super) fn not_allowed(right: &str) -> Self {
        let reason = format!("api unauthorized: the key lacks the right `{right}`");
        Self::new(errcode::NOT_ALLOWED, StatusCode::FORBIDDEN, reason)
    }

    pub(super) fn argument(reason: impl Into<String>) -> Self {
        Self::new(errcode::ARGUMENT, StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn about_to_die() -> Self {
        let reason = "the token is about to die and no other is here yet";
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(errcode::BUSY, StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    }

    /// WeChat's number.
    pub(super) fn errcode(&self) -> i32 {
        self.errcode
    }

    /// In WeChat's way, as SDKs read it: whatever is wrong, the status is 200.
    pub(super) fn like_wechat(self) -> Response {
        Self {
            status: StatusCode::OK,
            ..self
        }
        .shown()
    }

    /// For whoever looks at the status.
    pub(super) fn shown(self) -> Response {
        // SDKs print `errmsg`, and with it the way to our line.
        let rid = format!("{:08x}", fastrand::u32(..));
        debug!(rid, errcode = self.errcode, reason = self.reason, "refused");
        let errmsg = format!("{} rid: {rid}", self.reason);
        let told = json!({ "errcode": self.errcode, "errmsg": errmsg });
        let mut response = reply::json(self.status, &told);
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<Stranger> for Refusal {
    fn from(stranger: Stranger) -> Self {
        match stranger {
            Stranger::NoKey => Self::new(
                errcode::NO_KEY,
                StatusCode::UNAUTHORIZED,
                "appsecret missing: send the consumer's key as `secret`, or as `authorization: Bearer …`",
            ),
            Stranger::WrongKey => Self::new(
                errcode::KEY,
                StatusCode::UNAUTHORIZED,
                "invalid appsecret: the key belongs to no consumer",
            ),
            Stranger::Remote => Self::new(
                errcode::NOT_ALLOWED,
                StatusCode::FORBIDDEN,
                stranger.to_string(),
            ),
        }
    }
}

impl From<NoToken> for Refusal {
    fn from(error: NoToken) -> Self {
        let (errcode, status, retry_after) = match &error {
            NoToken::UnknownApp(_) => return Self::no_such_app(),
            NoToken::NotATokenError(_) => return Self::argument(error.to_string()),
            NoToken::NotAllowed(_) => (errcode::NOT_ALLOWED, StatusCode::FORBIDDEN, None),
            NoToken::TooOften { retry_after, .. } => (
                errcode::TOO_OFTEN,
                StatusCode::TOO_MANY_REQUESTS,
                Some(*retry_after),
            ),
            NoToken::Missing { retry_after, .. } | NoToken::Inconclusive { retry_after, .. } => (
                errcode::BUSY,
                StatusCode::SERVICE_UNAVAILABLE,
                Some(*retry_after),
            ),
            NoToken::Draining => (errcode::BUSY, StatusCode::SERVICE_UNAVAILABLE, None),
        };
        Self {
            errcode,
            status,
            reason: error.to_string(),
            retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::to_bytes;
    use serde_json::Value;

    use super::*;
    use crate::{
        domain::{Remedy, Trouble, trouble::Refused},
        tokens::Gone,
    };

    fn missing(trouble: Option<Trouble>) -> NoToken {
        NoToken::Missing {
            gone: Gone::Never,
            trouble: trouble.map(Arc::new),
            retry_after: Duration::from_millis(1200),
        }
    }

    async fn told(response: Response) -> (u16, Option<String>, Value) {
        let after = response.headers().get(header::RETRY_AFTER);
        let after = after.map(|after| after.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        (status, after, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn every_no_has_a_number_of_wechats_which_is_never_40001() {
        let trouble = Trouble {
            remedy: Remedy::Refused(Refused::Credential),
            errcode: Some(40001),
            definite: true,
            message: "WeChat refuses the AppSecret (40001)".into(),
            hint: None,
        };
        let again = Duration::from_secs(3);
        // (no, errcode, status, when to ask again)
        let table: [(Refusal, i64, u16, Option<&str>); 15] = [
            (Refusal::no_such_page(), 40066, 404, None),
            (Refusal::method("GET"), 43001, 405, None),
            (Refusal::not_json(), 47001, 400, None),
            (Refusal::grant_type(), 40002, 400, None),
            (Refusal::no_appid(), 41002, 400, None),
            (Stranger::NoKey.into(), 41004, 401, None),
            (Stranger::WrongKey.into(), 40125, 401, None),
            (Stranger::Remote.into(), 48001, 403, None),
            (NoToken::UnknownApp("x".into()).into(), 40013, 404, None),
            (Refusal::not_allowed("read"), 48001, 403, None),
            (missing(Some(trouble)).into(), -1, 503, Some("2")),
            (
                NoToken::TooOften {
                    retry_after: again,
                    errcode: None,
                }
                .into(),
                45011,
                429,
                Some("3"),
            ),
            (
                NoToken::Inconclusive {
                    retry_after: again,
                    errcode: None,
                }
                .into(),
                -1,
                503,
                Some("3"),
            ),
            (NoToken::NotATokenError(45009).into(), 40097, 400, None),
            (NoToken::NotAllowed("no".into()).into(), 48001, 403, None),
        ];
        for (refusal, errcode, status, after) in table {
            let shown = format!("{refusal:?}");
            let told = told(refusal.shown()).await;
            assert_eq!((told.0, told.1.as_deref()), (status, after), "{shown}");
            assert_eq!(told.2["errcode"], errcode, "{shown}");
            let errmsg = told.2["errmsg"].as_str().unwrap();
            assert!(errmsg.contains(" rid: "), "{errmsg}");
        }
    }

    #[tokio::test]
    async fn sdks_are_told_with_status_200() {
        let (status, _, body) = told(Refusal::from(missing(None)).like_wechat()).await;
        assert_eq!((status, &body["errcode"]), (200, &(-1).into()));
    }
}
