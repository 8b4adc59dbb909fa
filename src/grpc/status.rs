//! Error → code: nowhere else. The reasons are the contract; the messages are for people.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{
    domain::{
        Trouble,
        access::{Right, Stranger},
    },
    tokens::{Gone, NoToken},
};

/// The domain of every reason.
const DOMAIN: &str = "wxtokend";

/// The longest message or hint, in bytes. The header that carries a message in Chinese is three times
/// as long and holds it twice; peers accept 8 to 16 KiB of headers.
const MAX_TEXT: usize = 1024;

impl From<NoToken> for Status {
    fn from(error: NoToken) -> Self {
        let message = error.to_string();
        let (code, details) = match error {
            NoToken::UnknownApp(_) => (Code::NotFound, because("UNKNOWN_APP")),
            NoToken::Missing {
                gone,
                trouble,
                retry_after,
            } => missing(gone, trouble.as_deref(), retry_after),
            NoToken::Inconclusive {
                retry_after,
                errcode,
            } => {
                let details = ErrorDetails::with_error_info(
                    "PROBE_INCONCLUSIVE",
                    DOMAIN,
                    errcode_of(errcode),
                );
                (Code::Unavailable, retry(details, retry_after))
            }
            NoToken::TooOften {
                retry_after,
                errcode,
            } => {
                let metadata = errcode_of(errcode);
                let details = ErrorDetails::with_error_info("REFRESH_BUDGET", DOMAIN, metadata);
                (Code::ResourceExhausted, retry(details, retry_after))
            }
            NoToken::NotATokenError(_) => (Code::FailedPrecondition, because("NOT_A_TOKEN_ERROR")),
            NoToken::NotAllowed(_) => (Code::PermissionDenied, because("NOT_ALLOWED")),
            NoToken::Draining => (Code::Unavailable, because("DRAINING")),
        };
        new(code, &message, details)
    }
}

impl From<Stranger> for Status {
    fn from(error: Stranger) -> Self {
        let details = because("UNAUTHENTICATED");
        new(Code::Unauthenticated, &error.to_string(), details)
    }
}

/// The caller sees the app but has not got this right.
pub(super) fn not_allowed(right: Right) -> Status {
    let right = match right {
        Right::Read => "read",
        Right::Refresh => "refresh",
        Right::Admin => "admin",
    };
    let message = format!("the caller lacks the right `{right}`");
    new(Code::PermissionDenied, &message, because("NOT_ALLOWED"))
}

/// The request is malformed.
pub(super) fn bad_request(violations: Vec<FieldViolation>) -> Status {
    let one = |v: &FieldViolation| format!("`{}`: {}", v.field, v.description);
    let message = violations.iter().map(one).collect::<Vec<_>>().join("; ");
    let mut details = because("BAD_REQUEST");
    details.set_bad_request(violations);
    new(Code::InvalidArgument, &message, details)
}

/// The caller's own deadline has passed.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the caller's deadline has passed";
    let details = because("DEADLINE_EXCEEDED");
    new(Code::DeadlineExceeded, message, details)
}

/// The request was begun and did not come.
pub(super) fn never_arrived() -> Status {
    let details = because("DEADLINE_EXCEEDED");
    new(
        Code::DeadlineExceeded,
        "the request did not arrive in time",
        details,
    )
}

fn missing(gone: Gone, trouble: Option<&Trouble>, retry_after: Duration) -> (Code, ErrorDetails) {
    let mut metadata = errcode_of(trouble.and_then(|t| t.errcode));
    // For sidecars: they would go on with it.
    if let Gone::Refused(generation) = gone {
        metadata.insert("refused_generation".into(), generation.0.to_string());
    }
    match trouble {
        Some(trouble) if trouble.remedy.needs_operator() => {
            let hint = trouble.hint.as_deref();
            metadata.extend(hint.map(|hint| ("hint".to_owned(), cut(hint).to_owned())));
            let details = ErrorDetails::with_error_info("NEEDS_OPERATOR", DOMAIN, metadata);
            (Code::FailedPrecondition, details)
        }
        _ => {
            let details = ErrorDetails::with_error_info("NO_VALID_TOKEN", DOMAIN, metadata);
            (Code::Unavailable, retry(details, retry_after))
        }
    }
}

fn because(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

fn retry(mut details: ErrorDetails, after: Duration) -> ErrorDetails {
    details.set_retry_info(Some(after));
    details
}

fn errcode_of(errcode: Option<i64>) -> HashMap<String, String> {
    let entry = |errcode: i64| ("errcode".to_owned(), errcode.to_string());
    errcode.map(entry).into_iter().collect()
}

fn new(code: Code, message: &str, details: ErrorDetails) -> Status {
    Status::with_error_details(code, cut(message), details)
}

/// At most [`MAX_TEXT`] bytes of `text`, whole characters.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderMap;

    use super::*;
    use crate::domain::{Remedy, trouble::Refused};
    use crate::tokens::Gone;

    fn missing(remedy: Remedy, message: &str) -> Status {
        let trouble = Trouble {
            remedy,
            errcode: Some(40164),
            definite: true,
            message: message.into(),
            hint: Some(message.into()),
        };
        let retry_after = Duration::from_secs(3);
        let trouble = Some(Arc::new(trouble));
        NoToken::Missing {
            gone: Gone::Expired,
            trouble,
            retry_after,
        }
        .into()
    }

    #[test]
    fn who_must_act_decides_between_waiting_and_an_operator() {
        let waiting = [Remedy::BackOff, Remedy::NextMinute, Remedy::Slowly];
        let acting = [
            Remedy::Refused(Refused::Credential),
            Remedy::Refused(Refused::Account),
            Remedy::Refused(Refused::Request),
            Remedy::IpList,
            Remedy::RiskPending,
            Remedy::RiskRejected(Duration::from_hours(1)),
            Remedy::DayQuota,
        ];
        for remedy in waiting {
            let status = missing(remedy, "why");
            let info = status.get_details_error_info().unwrap();
            assert_eq!(status.code(), Code::Unavailable, "{remedy:?}");
            assert_eq!(info.reason, "NO_VALID_TOKEN");
            assert_eq!(info.metadata["errcode"], "40164");
            assert!(!info.metadata.contains_key("hint"));
            let retry = status.get_details_retry_info().unwrap().retry_delay;
            assert_eq!(retry, Some(Duration::from_secs(3)));
        }
        for remedy in acting {
            let status = missing(remedy, "why");
            let info = status.get_details_error_info().unwrap();
            assert_eq!(status.code(), Code::FailedPrecondition, "{remedy:?}");
            assert_eq!(info.reason, "NEEDS_OPERATOR");
            assert_eq!(info.metadata["errcode"], "40164");
            assert_eq!(info.metadata["hint"], "why");
            assert!(status.get_details_retry_info().is_none());
        }
    }

    #[test]
    fn a_long_message_in_chinese_is_cut_between_characters_and_fits_into_headers() {
        let long = "请将服务器地址加入白名单".repeat(500);
        let status = missing(Remedy::IpList, &long);
        assert!(status.message().len() <= MAX_TEXT);
        assert!(status.message().ends_with(|c: char| long.contains(c)));

        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            name.as_str().len() + value.len() + 32
        };
        let size: usize = headers.iter().map(size).sum();
        assert!(size < 8 * 1024, "{size} bytes of headers");
    }

    #[test]
    fn an_errcode_that_wechat_never_gave_is_absent() {
        let retry_after = Duration::from_secs(1);
        let silent = [
            NoToken::Missing {
                gone: Gone::Never,
                trouble: None,
                retry_after,
            },
            NoToken::Inconclusive {
                retry_after,
                errcode: None,
            },
        ];
        for error in silent {
            let info = Status::from(error).get_details_error_info().unwrap();
            assert!(info.metadata.is_empty(), "{info:?}");
        }
    }
}
