//! A word to whoever has to know that there is another token: a program that is run, or a signal.

use std::{fs, io::stderr, process::Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{OutputError, text};
use crate::{
    config::{Notice, Output},
    tokens::Issued,
};

/// Tells whoever `output` names, if it names anybody.
pub(super) async fn give(output: &Output, issued: &Issued) -> Result<(), OutputError> {
    match &output.notice {
        None => Ok(()),
        Some(Notice::Command(words)) => run(words, output, issued).await,
        Some(Notice::Signal { signal, pid_file }) => {
            send(*signal, pid_file).map_err(|what| OutputError::Signal {
                pid_file: pid_file.display().to_string(),
                what,
            })
        }
    }
}

async fn run(words: &[String], output: &Output, issued: &Issued) -> Result<(), OutputError> {
    let (program, arguments) = words.split_first().expect("a list is not empty");
    let failed = |what: String| OutputError::Command {
        program: program.clone(),
        what,
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(text::environment(&output.app, issued))
        .stdin(Stdio::null())
        // stdout is data, and what a command says is talk.
        .stdout(Stdio::from(stderr()))
        .process_group(0);
    let child = command.spawn();
    let mut child = Leashed(child.map_err(|error| failed(format!("cannot be run: {error}")))?);
    match timeout(output.timeout, child.0.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("failed: {status}"))),
        Ok(Err(error)) => Err(failed(format!("is lost: {error}"))),
        Err(_) => Err(failed(format!("took longer than {:?}", output.timeout))),
    }
}

/// A program with all that it has started: whatever is left of them when it has not ended in time is killed.
struct Leashed(Child);

impl Drop for Leashed {
    fn drop(&mut self) {
        // One that has ended has no number any more, and what it left running was meant to be.
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = pid.and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn send(signal: i32, pid_file: &std::path::Path) -> Result<(), String> {
    let written = fs::read_to_string(pid_file).map_err(|error| error.to_string())?;
    // A number below 1 stands for many processes.
    let number = written.trim().parse().ok().filter(|number| *number > 0);
    let pid = number.and_then(Pid::from_raw);
    let pid = pid.ok_or("there is no number of a process in it")?;
    let signal = Signal::from_named_raw(signal).ok_or("there is no such signal")?;
    kill_process(pid, signal).map_err(|error| error.to_string())
}
