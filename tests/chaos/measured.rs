//! What a process has, as the system sees it.

use std::fs;

use crate::process::Process;

/// Memory that belongs to it, in bytes.
pub(crate) fn memory(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = kib.unwrap().trim_end_matches("kB").trim().parse().unwrap();
    kib * 1024
}

/// How many files and sockets it has open.
pub(crate) fn descriptors(process: &Process) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", process.pid()));
    open.unwrap().count()
}
