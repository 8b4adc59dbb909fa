//! What a person reads when a command fails: the error, its causes, one thing to do.

use std::{fmt, process::ExitCode};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::app;

/// The exit code for a bad configuration (`EX_USAGE` of `sysexits.h`).
const BAD_CONFIGURATION: u8 = 64;

/// The exit code for a server that is not there (`EX_UNAVAILABLE`).
const NOT_REACHABLE: u8 = 69;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    lines: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// The answer was printed already; only the exit code is left to say.
    pub(super) fn silent() -> Self {
        Self::with_code(1)
    }

    /// Somebody else has said what went wrong.
    pub(super) fn with_code(code: u8) -> Self {
        Self {
            code,
            lines: Vec::new(),
            hint: None,
        }
    }

    /// All problems of a configuration, a line each.
    pub(super) fn configuration(problems: &impl fmt::Display) -> Self {
        Self {
            code: BAD_CONFIGURATION,
            lines: problems.to_string().lines().map(str::to_owned).collect(),
            hint: Some(
                "each setting is explained in the README and in deploy/wxtokend.example.toml"
                    .into(),
            ),
        }
    }

    /// Nobody answers at `endpoint`.
    pub(super) fn not_reachable(endpoint: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut failure = Self::chain(error);
        failure.code = NOT_REACHABLE;
        failure
            .lines
            .insert(0, format!("no server can be reached at `{endpoint}`"));
        failure.hint = Some("start one with `wxtokend serve`, or say where it is with `--endpoint` or `WXTOKEND_ENDPOINT`".into());
        failure
    }

    /// The consumer's key cannot be read or sent.
    pub(super) fn unusable_key(error: &anyhow::Error) -> Self {
        let hint = "`--key-file` or `WXTOKEND_KEY_FILE` must name a file that holds the consumer's key and nothing else";
        let failure = Self::chain(error.as_ref());
        Self {
            hint: Some(hint.into()),
            ..failure
        }
    }

    /// The server said no.
    pub(super) fn refused(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map_or_else(
            || format!("{:?}", status.code()),
            |info| info.reason.clone(),
        );
        let mut lines = vec![format!("{} ({reason})", status.message())];
        for violation in details
            .bad_request()
            .into_iter()
            .flat_map(|b| &b.field_violations)
        {
            lines.push(format!("`{}` {}", violation.field, violation.description));
        }
        let hint = info.and_then(|info| info.metadata.get("hint").cloned());
        let wait = details.retry_info().and_then(|retry| retry.retry_delay);
        let again = || wait.map(|wait| format!("try again in {} s", wait.as_secs().max(1)));
        let hint = hint.or_else(again).or_else(|| general_hint(status.code()));
        Self {
            code: 1,
            lines,
            hint,
        }
    }

    fn chain(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut lines = Vec::new();
        let mut cause = Some(error);
        while let Some(error) = cause {
            let line = error.to_string();
            // Some crates repeat their cause in their own words.
            if lines.last() != Some(&line) {
                lines.push(line);
            }
            cause = error.source();
        }
        Self {
            code: 1,
            lines,
            hint: None,
        }
    }
}

fn general_hint(code: Code) -> Option<String> {
    let hint = match code {
        Code::NotFound => "use a name or an appid from the server's configuration",
        Code::Unauthenticated => "say with `--key-file` or `WXTOKEND_KEY_FILE` where the key is",
        _ => return None,
    };
    Some(hint.into())
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let hint = app::hint(&error).map(str::to_owned);
        let failure = Self::chain(error.as_ref());
        Self { hint, ..failure }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, line) in self.lines.iter().enumerate() {
            let lead = match place {
                0 => "error: ",
                _ if self.code == BAD_CONFIGURATION => "error: ",
                _ => "  caused by: ",
            };
            writeln!(f, "{lead}{line}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}
