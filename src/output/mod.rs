//! How tokens leave a sidecar for programs that ask nobody: files, and a word to whoever reads them.
//!
//! Each output is a task of its own. It does for the newest token what it has to do, again and again
//! until that succeeds, and then waits for the next. What is old meanwhile is skipped.

mod file;
mod notice;
mod program;
mod text;

use std::{io, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

pub use self::program::Program;
use crate::{
    config::Output,
    domain::Generation,
    tokens::{NoToken, Tokens},
};

/// The first pause after a failure; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// As `GetToken` waits for the first outcome.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why an output could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// There is no token.
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// The file cannot be written.
    #[error("`{path}` cannot be written: {error}")]
    File {
        /// Where it should be.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The command cannot be run, or failed.
    #[error("`{program}` {what}")]
    Command {
        /// What should run.
        program: String,
        /// What went wrong.
        what: String,
    },
    /// The process cannot be told.
    #[error("the process of `{pid_file}` cannot be told: {what}")]
    Signal {
        /// Where its number should be.
        pid_file: String,
        /// What went wrong.
        what: String,
    },
}

/// Does what `output` says with each token, until there are no tokens any more.
pub async fn serve(output: Output, tokens: Tokens) {
    let Ok(mut changes) = tokens.watch(&output.app) else {
        return;
    };
    let mut done = Generation::default();
    loop {
        changes.mark_unchanged();
        // Without a token, what was done last stays: it may work longer than anybody knows.
        if let Ok(issued) = tokens.current(&output.app, Duration::ZERO).await
            && issued.token.generation != done
        {
            done = once(&output, &tokens).await;
        } else if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Does what `output` says with the token in force, again and again until that succeeds; with which
/// generation it did.
pub async fn once(output: &Output, tokens: &Tokens) -> Generation {
    let mut pause = FIRST_PAUSE;
    loop {
        match act(output, tokens).await {
            Ok(generation) => {
                info!(app = %output.app, generation = generation.0, "output done");
                return generation;
            }
            Err(error) => warn!(app = %output.app, %error, "an output failed, trying again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The file first, so that whoever is told finds it.
async fn act(output: &Output, tokens: &Tokens) -> Result<Generation, OutputError> {
    let issued = tokens.current(&output.app, PATIENCE).await?;
    file::write(output, &issued).await?;
    notice::give(output, &issued).await?;
    Ok(issued.token.generation)
}
