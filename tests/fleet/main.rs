//! Three replicas as three processes, on real engines: three members of etcd, and Redis.
//!
//! A target of its own, because it needs more than Rust: `etcd`, `redis-server`, `redis-sentinel`,
//! libfaketime. `.ci/run fleet` brings all that; run otherwise, it fails where something is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../it/contract.rs"]
mod contract;
#[path = "../chaos/deaths.rs"]
mod deaths;
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

mod checker;
mod engines;
mod faults;
mod kill;
mod links;
mod many;
mod masters;
mod mischief;
mod peers;
mod places;
mod replicas;
mod stories;
mod updates;
