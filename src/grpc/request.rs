//! What a well-formed request is, and which right it takes.

use tonic_types::FieldViolation;

use crate::{
    domain::{AppName, Generation, Secret, access::Right, report::Stale, report::StaleReport},
    pb,
};

/// The longest token that can be reported, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

/// A request about one app.
pub(super) trait Ask {
    /// The app, as the caller calls it.
    fn app_id(&self) -> &str;

    /// What the caller must be allowed to do.
    fn right(&self) -> Right {
        Right::Read
    }

    /// All that is malformed.
    fn violations(&self) -> Vec<FieldViolation> {
        bad_app_id(self.app_id()).into_iter().collect()
    }
}

impl Ask for pb::GetTokenRequest {
    fn app_id(&self) -> &str {
        &self.app_id
    }
}

impl Ask for pb::WatchTokenRequest {
    fn app_id(&self) -> &str {
        &self.app_id
    }
}

impl Ask for pb::ForceRefreshRequest {
    fn app_id(&self) -> &str {
        &self.app_id
    }

    fn right(&self) -> Right {
        if self.leaked {
            Right::Admin
        } else {
            Right::Refresh
        }
    }

    fn violations(&self) -> Vec<FieldViolation> {
        let stale = bad_stale(self.stale_generation, &self.stale_token);
        bad_app_id(&self.app_id).into_iter().chain(stale).collect()
    }
}

impl From<&pb::ForceRefreshRequest> for StaleReport {
    fn from(request: &pb::ForceRefreshRequest) -> Self {
        let stale = if request.stale_token.is_empty() {
            Stale::Generation(Generation(request.stale_generation))
        } else {
            Stale::Value(Secret::new(request.stale_token.as_str()))
        };
        Self {
            stale,
            errcode: request.errcode.into(),
            leaked: request.leaked,
        }
    }
}

fn bad_app_id(app_id: &str) -> Option<FieldViolation> {
    let problem = match app_id.chars().count() {
        0 => "required: an app's name or its appid",
        1..=AppName::MAX_LEN => return None,
        _ => "too long: no name or appid has more than 64 characters",
    };
    Some(FieldViolation::new("app_id", problem))
}

fn bad_stale(generation: u64, token: &str) -> Option<FieldViolation> {
    let (field, problem) = match (generation, token.len()) {
        (0, 0) => ("stale_generation", "this or `stale_token` is required"),
        (_, 0..=MAX_TOKEN) => return None,
        _ => ("stale_token", "too long: no token has more than 8 KiB"),
    };
    Some(FieldViolation::new(field, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(generation: u64, token: impl Into<String>) -> pb::ForceRefreshRequest {
        pb::ForceRefreshRequest {
            app_id: "shop".into(),
            stale_generation: generation,
            stale_token: token.into(),
            ..Default::default()
        }
    }

    fn fields(ask: &impl Ask) -> Vec<String> {
        ask.violations().into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn malformed_fields_are_named_all_at_once() {
        let app = |app_id: &str| pb::GetTokenRequest {
            app_id: app_id.into(),
        };
        assert_eq!(fields(&app("")), ["app_id"]);
        assert_eq!(fields(&app(&"店".repeat(65))), ["app_id"]);
        assert!(fields(&app(&"店".repeat(64))).is_empty());

        assert!(fields(&report(1, "")).is_empty());
        assert!(fields(&report(0, "t")).is_empty());
        assert!(fields(&report(0, "t".repeat(8192))).is_empty());
        assert_eq!(fields(&report(1, "t".repeat(8193))), ["stale_token"]);
        let nothing = pb::ForceRefreshRequest::default();
        assert_eq!(fields(&nothing), ["app_id", "stale_generation"]);
    }

    #[test]
    fn if_generation_and_token_are_given_the_token_decides() {
        let stale = |request| StaleReport::from(&request).stale;
        assert!(matches!(stale(report(7, "")), Stale::Generation(g) if g.0 == 7));
        assert!(matches!(stale(report(7, "t")), Stale::Value(v) if v.expose() == "t"));
    }

    #[test]
    fn to_report_a_leak_takes_an_operator() {
        let mut request = report(1, "");
        assert_eq!(request.right(), Right::Refresh);
        request.leaked = true;
        assert_eq!(request.right(), Right::Admin);
    }
}
