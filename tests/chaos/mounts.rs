//! Mounts of one's own, which nobody else on the machine sees.

use std::{fs, path::Path, process::Command};

/// `mount ARGUMENTS place`.
pub(crate) fn mount(arguments: &[&str], place: &Path) {
    let own = |process| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    assert_ne!(
        own("self"),
        own("1"),
        "`.ci/run chaos` gives this mounts of its own"
    );
    let status = Command::new("mount").args(arguments).arg(place).status();
    assert!(status.unwrap().success(), "this takes the right to mount");
}
