//! Why WeChat gave us no token: a variant for each reaction.
//!
//! The question that matters after a failure is whether WeChat may have made a token that never
//! arrived, because in classic mode that token has retired the current one. [`FetchError::definite`]
//! answers it, and when in doubt the answer is "maybe".
//!
//! No message holds a URL, a body or a secret: WeChat wants the secret in the URL and puts the token
//! into the body. Of WeChat's own text only the address and the `rid` are repeated, because they are
//! what the IP list and WeChat's support ask for.

use std::{error::Error, fmt, net::IpAddr, sync::Arc};

use crate::{
    config::SecretError,
    domain::{Remedy, Trouble, trouble::Refused},
};

use super::errcode;

/// What the network or the system says.
pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The AppSecret cannot be read. WeChat was not asked.
    #[error("the AppSecret cannot be read")]
    Secret {
        /// Where it should be.
        place: String,
        /// What is wrong there.
        #[source]
        source: SecretError,
    },
    /// No base URL could be reached. WeChat was not asked.
    #[error("WeChat could not be reached")]
    NotSent(#[source] Cause),
    /// WeChat was asked, but no whole answer came back: a time-out, a torn connection, an endless
    /// body. It may have made a token.
    #[error("WeChat was asked, but its answer did not arrive")]
    Lost(#[source] Cause),
    /// Something answered, but neither with a token nor with a refusal: a gateway's page, an empty
    /// or cut body, a token without a life. WeChat may have made a token.
    #[error("the answer (HTTP status {status}) {flaw}")]
    Garbled {
        /// The HTTP status.
        status: u16,
        /// What is wrong with the answer, as the end of a sentence.
        flaw: &'static str,
    },
    /// WeChat refused. It made no token.
    #[error(transparent)]
    Refused(Refusal),
}

impl FetchError {
    /// Whether it is certain that WeChat made no token.
    pub fn definite(&self) -> bool {
        match self {
            Self::Secret { .. } | Self::NotSent(_) | Self::Refused(_) => true,
            Self::Lost(_) | Self::Garbled { .. } => false,
        }
    }

    /// WeChat's number, if it gave one.
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused(refusal) => Some(refusal.errcode),
            _ => None,
        }
    }

    /// How to go on.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Secret { .. } => Remedy::Refused(Refused::Credential),
            Self::NotSent(_) | Self::Lost(_) | Self::Garbled { .. } => Remedy::BackOff,
            Self::Refused(refusal) => refusal.remedy(),
        }
    }

    /// One thing the operator can do.
    pub fn hint(&self) -> String {
        match self {
            Self::Secret { place, .. } => format!(
                "put the app's AppSecret into {place}, readable for the user that runs wxtokend"
            ),
            Self::NotSent(cause) if distrusts_certificate(cause.as_ref()) => "if a proxy in between opens TLS connections, name its certificate as `upstream.ca_file`; otherwise somebody else answers in WeChat's place".into(),
            Self::NotSent(_) => "check this server's network, DNS and firewall, and `upstream.proxy` if it needs one".into(),
            Self::Lost(_) => "nothing to do unless it lasts for minutes: then check the network between here and WeChat".into(),
            Self::Garbled { .. } => "nothing to do unless it lasts for minutes: then check `upstream.base_urls` and any proxy, which may answer in WeChat's place".into(),
            Self::Refused(refusal) => refusal.hint(),
        }
    }

    /// The same in the words of the domain.
    pub fn trouble(&self) -> Trouble {
        Trouble {
            remedy: self.remedy(),
            errcode: self.errcode(),
            definite: self.definite(),
            message: self.message().into(),
            hint: Some(Arc::from(self.hint())),
        }
    }

    /// This error and what is at the bottom of it, in one sentence. The layers between say only that
    /// they pass it on.
    fn message(&self) -> String {
        match root(self) {
            Some(root) => format!("{self}: {root}"),
            None => self.to_string(),
        }
    }
}

/// WeChat's refusal, as far as it is repeated to anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Its number, not 0.
    pub errcode: i64,
    /// The address that it saw, if it says so.
    pub ip: Option<IpAddr>,
    /// What its support can find the call by.
    pub rid: Option<String>,
}

impl Refusal {
    /// How to go on.
    pub fn remedy(&self) -> Remedy {
        errcode::at_token_endpoint(self.errcode).remedy
    }

    /// One thing the operator can do.
    pub fn hint(&self) -> String {
        match (self.remedy(), self.ip) {
            (Remedy::IpList, Some(ip)) => format!(
                "add `{ip}` to the app's API IP list (IP白名单) in WeChat's console; a change takes up to 10 minutes"
            ),
            _ => errcode::at_token_endpoint(self.errcode).hint.to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = errcode::at_token_endpoint(self.errcode);
        write!(f, "WeChat refused with errcode {}: ", self.errcode)?;
        match (meaning.remedy, self.ip) {
            (Remedy::IpList, Some(ip)) => {
                write!(
                    f,
                    "this server's address `{ip}` is not on the app's IP list"
                )?;
            }
            _ => f.write_str(meaning.text)?,
        }
        self.rid
            .as_ref()
            .map_or(Ok(()), |rid| write!(f, " (rid {rid})"))
    }
}

/// The last cause in the chain.
fn root<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |error| inner(*error)).last()
}

/// Whether a TLS connection was given up because of the other side's certificate.
fn distrusts_certificate(cause: &(dyn Error + Send + Sync + 'static)) -> bool {
    let cause: &(dyn Error + 'static) = cause;
    std::iter::successors(Some(cause), |error| inner(*error)).any(|error| {
        matches!(
            error.downcast_ref::<rustls::Error>(),
            Some(rustls::Error::InvalidCertificate(_))
        )
    })
}

/// The next cause. An `io::Error` hides what it wraps: its `source` is its content's source.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn refused(errcode: i64) -> FetchError {
        FetchError::Refused(Refusal {
            errcode,
            ip: Some([203, 0, 113, 9].into()),
            rid: Some("6aac005a-01bfdbee-79769285".into()),
        })
    }

    fn lost() -> FetchError {
        FetchError::Lost("connection reset by peer".into())
    }

    #[test]
    fn a_refusal_says_what_and_what_to_do() {
        let trouble = refused(40125).trouble();
        assert_eq!(
            &*trouble.message,
            "WeChat refused with errcode 40125: the AppSecret is wrong (rid 6aac005a-01bfdbee-79769285)"
        );
        assert_eq!(trouble.errcode, Some(40125));
        assert!(trouble.definite && trouble.remedy.needs_operator());
        assert!(trouble.hint.unwrap().contains("`secret_file`"));
    }

    #[test]
    fn an_address_that_is_not_listed_is_in_the_message_and_in_the_hint() {
        for errcode in [40164, 61004, 45035, 60020] {
            let trouble = refused(errcode).trouble();
            assert!(trouble.message.contains("`203.0.113.9`"), "{trouble:?}");
            assert!(trouble.hint.unwrap().contains("`203.0.113.9`"));
        }
    }

    #[test]
    fn only_what_may_have_made_a_token_is_not_definite() {
        let secret = FetchError::Secret {
            place: "the file `x`".into(),
            source: SecretError::NotSet { name: "X".into() },
        };
        let html = FetchError::Garbled {
            status: 502,
            flaw: "is not JSON",
        };
        let table = [
            (secret, true),
            (FetchError::NotSent("connection refused".into()), true),
            (refused(-1), true),
            (lost(), false),
            (html, false),
        ];
        for (error, definite) in table {
            assert_eq!(error.definite(), definite, "{error}");
            assert_eq!(error.trouble().definite, definite, "{error}");
        }
    }

    #[test]
    fn the_message_names_the_root_of_the_trouble() {
        assert_eq!(
            &*lost().trouble().message,
            "WeChat was asked, but its answer did not arrive: connection reset by peer"
        );
    }

    #[test]
    fn every_error_reads_like_the_others() {
        for errcode in [-1, 40001, 40164, 41004, 45009, 48001, 61024, 89503, 99999] {
            let trouble = refused(errcode).trouble();
            for text in [&trouble.message, trouble.hint.as_ref().unwrap()] {
                assert!(!text.ends_with('.') && !text.contains("  "), "{text}");
            }
        }
    }
}
