//! What the probes say, and why: one line for each thing that was looked at, in the style of
//! Kubernetes. `[+]` is well, `[-]` is not, `[!]` works, but not for long if nobody does anything.
//!
//! Whether the server is live and ready is decided by [`Tokens`], as it is for gRPC health; here it is
//! put into words.

use std::fmt::Write as _;

use crate::{
    domain::{AppName, Moment, Trouble},
    tokens::{Tokens, View},
};

/// What came of a probe.
#[derive(Debug)]
pub(super) struct Probe {
    /// Whether it passed.
    pub(super) passed: bool,
    /// What was looked at, and the conclusion.
    pub(super) lines: String,
}

/// Whether the refresher's loop turns. WeChat being down never makes it fail.
pub(super) fn live(tokens: &Tokens) -> Probe {
    conclude("livez", tokens.alive(), refresher(tokens))
}

/// Whether callers can be served; `stopping` if the server was told to end.
pub(super) fn ready(tokens: &Tokens, stopping: bool) -> Probe {
    let mut lines = if stopping {
        "[-]shutdown failed: the server is shutting down\n".to_owned()
    } else {
        "[+]shutdown ok\n".to_owned()
    };
    lines += &refresher(tokens);
    let now = tokens.now().boot;
    for app in tokens.apps() {
        let view = tokens.view(app);
        lines += &one_line(&token(app, &view, now));
        lines += &one_line(&store(app, &view));
    }
    conclude("readyz", !stopping && tokens.ready(), lines)
}

fn refresher(tokens: &Tokens) -> String {
    if tokens.alive() {
        return "[+]refresher ok\n".into();
    }
    let silence = tokens.silence().as_secs();
    format!("[-]refresher failed: its loop has not turned for {silence} s\n")
}

fn token(app: &AppName, view: &View, now: Moment) -> String {
    let trouble = view.trouble.as_deref();
    let Some(current) = view.usable(now) else {
        let missing = view.missing(now);
        return format!("[-]app/{app} failed: {missing}{}", hint(trouble));
    };
    let mark = if trouble.is_some() || view.suspect {
        '!'
    } else {
        '+'
    };
    let (generation, left) = (
        current.token.generation.0,
        current.token.expires_at.since(now).as_secs(),
    );
    let mut line = format!("[{mark}]app/{app} ok: generation {generation}, {left} s left");
    if view.suspect {
        line += "; WeChat may have made another token, which ends this one early";
    }
    if let Some(trouble) = trouble {
        // Writing to a string does not fail.
        let _ = write!(
            line,
            "; no new token: {}{}",
            trouble.message,
            hint(Some(trouble))
        );
    }
    line
}

fn hint(trouble: Option<&Trouble>) -> String {
    let hint = trouble.and_then(|trouble| trouble.hint.as_ref());
    hint.map(|hint| format!("; hint: {hint}"))
        .unwrap_or_default()
}

fn store(app: &AppName, view: &View) -> String {
    match &view.unsaved {
        None => format!("[+]store/{app} ok"),
        Some(why) => format!("[!]store/{app} failing: {why}; it is served from memory"),
    }
}

/// Text from elsewhere must not look like a line of ours.
fn one_line(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.chain(['\n']).collect()
}

fn conclude(probe: &str, passed: bool, lines: String) -> Probe {
    let verdict = if passed { "passed" } else { "failed" };
    let lines = lines + probe + " check " + verdict + "\n";
    Probe { passed, lines }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        clock::Clock,
        domain::{Now, Remedy},
        tokens::channel,
    };

    #[tokio::test(start_paused = true)]
    async fn what_others_wrote_stays_on_its_line() {
        let clock = Clock::simulated(Now {
            boot: Moment::since_boot(Duration::from_secs(500)),
            wall: SystemTime::UNIX_EPOCH,
        });
        let app = AppName::parse("shop").unwrap();
        let (tokens, publisher) = channel([(app.clone(), "wx1".into())], clock);
        let trouble = Trouble {
            remedy: Remedy::Slowly,
            errcode: None,
            definite: true,
            message: "busy\r\n[+]app/shop ok".into(),
            hint: Some("wait\nreadyz check passed".into()),
        };
        let view = View {
            trouble: Some(trouble.into()),
            settled: true,
            ..View::default()
        };
        publisher.publish(&app, view);
        let probe = ready(&tokens, false);
        let lines: Vec<_> = probe.lines.lines().collect();
        let expected = [
            "[+]shutdown ok",
            "[+]refresher ok",
            "[-]app/shop failed: there is no valid token: busy  [+]app/shop ok; hint: wait readyz check passed",
            "[+]store/shop ok",
            "readyz check failed",
        ];
        assert_eq!(lines, expected);
    }
}
