//! What the system knows of a process.

use std::{fs, time::Duration};

/// Clock ticks a second in `/proc`, a constant of Linux.
const TICKS: u64 = 100;

/// Of a process by its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vitals(pub(super) u32);

impl Vitals {
    /// Files and sockets that it holds.
    pub(super) fn descriptors(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0))
            .unwrap()
            .count()
    }

    /// The most memory that it has ever held, in MiB.
    pub(super) fn peak(self) -> u64 {
        let status = self.read("status");
        let mut lines = status.lines();
        let peak = lines.find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.unwrap().parse::<u64>().unwrap() / 1024
    }

    /// Processor time that it has used.
    pub(super) fn processor(self) -> Duration {
        let stat = self.read("stat");
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    fn read(self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap()
    }
}
