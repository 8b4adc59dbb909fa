//! Real processes that are killed, held up, lied to about the time and robbed of their disk.
//!
//! A target of its own, because it needs more than Rust: a build with failpoints, root's right to
//! mount, libfaketime. `.ci/run chaos` brings all that; run otherwise, it fails where something is
//! missing. What takes a while (`churn`, `day`) is ignored there unless asked for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../it/history/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the other suite needs all of it")]
mod history;
#[path = "../it/process.rs"]
#[expect(dead_code, reason = "the other suite needs all of it")]
mod process;
#[path = "../it/seen.rs"]
mod seen;
#[path = "../it/served.rs"]
#[expect(dead_code, reason = "the other suite needs all of it")]
mod served;

mod churn;
mod clock;
mod day;
mod deaths;
mod disk;
mod held;
mod kill;
mod late;
mod measured;
mod mounts;
mod names;
mod sidecar;

/// For [`process::Home::replace`], so that no limit of open files is worth a warning.
const GRPC: &str = "[grpc]\n";
const FEW_CLIENTS: &str = "[grpc]\nmax_connections = 100\n";
