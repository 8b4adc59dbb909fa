//! Parses the arguments, runs the command, and says what went wrong.

use std::process::ExitCode;

use clap::Parser;
use wxtokend::cli::Arguments;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            failure.exit_code()
        }
    }
}
