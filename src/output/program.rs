//! A program that is run with tokens in its environment.
//!
//! An environment cannot change, so a program that never asks again is started anew with each rotation,
//! if that is wished; otherwise it has what was true when it began.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use futures_util::future::select_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    select,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{OutputError, PATIENCE, text};
use crate::{
    domain::AppName,
    tokens::{Issued, Tokens},
};

/// Left to the program to end by itself.
const GRACE: Duration = Duration::from_secs(8);

/// What is run, and with which tokens.
#[derive(Debug)]
pub struct Program {
    /// Its name or path, and its arguments; not empty.
    pub words: Vec<String>,
    /// Whose tokens it gets. Those of the first have names without an app in them, too.
    pub apps: Vec<AppName>,
    /// Whether it is started anew with each rotation.
    pub restart: bool,
}

type Held = Vec<(AppName, Issued)>;

impl Program {
    /// Runs it from the first tokens until it ends, or until `stop`. Its exit code as a shell tells it; 0
    /// if it never ran.
    ///
    /// # Errors
    ///
    /// If it cannot be run.
    pub async fn run(self, tokens: Tokens, stop: CancellationToken) -> Result<u8, OutputError> {
        loop {
            let Some(held) = stop.run_until_cancelled(self.tokens(&tokens)).await else {
                return Ok(0);
            };
            let mut child = self.start(&held)?;
            select! {
                biased;
                ended = child.wait() => return ended.map(code).map_err(|error| self.failed(&error)),
                () = stop.cancelled() => {
                    let ended = terminate(&mut child).await;
                    return Ok(ended.map_or(0, code));
                }
                () = rotated(&tokens, &held), if self.restart => {
                    info!("starting the program anew with the new token");
                    terminate(&mut child).await;
                }
            }
        }
    }

    fn start(&self, held: &Held) -> Result<Child, OutputError> {
        let (program, arguments) = self.words.split_first().expect("there is a program");
        let mut command = Command::new(program);
        command.args(arguments).kill_on_drop(true);
        for (at, (app, issued)) in held.iter().enumerate() {
            let suffix = app.as_str().replace('-', "_").to_uppercase();
            for (name, value) in text::environment(app, issued) {
                if at == 0 {
                    command.env(name, &value);
                }
                command.env(format!("{name}_{suffix}"), value);
            }
        }
        command.spawn().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> OutputError {
        OutputError::Command {
            program: self.words.first().cloned().unwrap_or_default(),
            what: format!("cannot be run: {error}"),
        }
    }

    /// The tokens of all apps, once each has one.
    async fn tokens(&self, tokens: &Tokens) -> Held {
        let mut held = Vec::new();
        for app in &self.apps {
            loop {
                match tokens.current(app, PATIENCE).await {
                    Ok(issued) => break held.push((app.clone(), issued)),
                    Err(error) => warn!(%app, %error, "the program waits for a token"),
                }
                tokio::time::sleep(super::FIRST_PAUSE).await;
            }
        }
        held
    }
}

/// Until one of the tokens has a successor.
async fn rotated(tokens: &Tokens, held: &Held) {
    let news = held.iter().filter_map(|(app, issued)| {
        let before = issued.token.generation;
        let mut changes = tokens.watch(app).ok()?;
        Some(Box::pin(async move {
            let another = |view: &crate::tokens::View| {
                let current = view.current.as_ref();
                current.is_some_and(|current| current.token.generation != before)
            };
            // There are no tokens any more: the end comes another way.
            if changes.wait_for(another).await.is_err() {
                std::future::pending::<()>().await;
            }
        }))
    });
    select_all(news).await;
}

/// Asks it to end, and sees to it. What it ended with, if it did as it was asked to.
async fn terminate(child: &mut Child) -> Option<ExitStatus> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may have ended just now.
        let _ = kill_process(pid, Signal::TERM);
    }
    if let Ok(ended) = timeout(GRACE, child.wait()).await {
        return ended.ok().filter(|status| status.signal().is_none());
    }
    warn!("the program does not end, so it is killed");
    let _ = child.kill().await;
    None
}

/// As a shell tells it.
fn code(status: ExitStatus) -> u8 {
    let signal = || status.signal().map(|signal| 128 + signal);
    let code = status.code().or_else(signal).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
