//! Places at which a test may end this program as abruptly as `kill -9` does, or hold it up.
//!
//! There is one before and after each step that a restart depends on. A build without the feature
//! `failpoints`, as every release is, has nothing here: the call is empty. With it, the variable
//! `FAILPOINTS` says what happens where, in the words of the crate `fail`: `asking=return` kills at the
//! first pass, `asking=1*off->return` at the second, `asking=1*sleep(2000)` holds up the first.

/// The step before or after which this stands is about to happen, or has.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn pass(_name: &str) {}

/// The step before or after which this stands is about to happen, or has.
#[cfg(feature = "failpoints")]
pub(crate) fn pass(name: &str) {
    use std::sync::Once;

    static ARMED: Once = Once::new();
    // Dropping the scenario would disarm it.
    ARMED.call_once(|| std::mem::forget(fail::FailScenario::setup()));
    fail::fail_point!(name, |_| die());
}

/// A signal that nobody can catch: nothing is flushed, dropped or finished, in any thread.
#[cfg(feature = "failpoints")]
fn die() {
    use rustix::process::{Signal, getpid, kill_process};

    kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
    loop {
        std::thread::park();
    }
}
