//! One server for each folder.
//!
//! A lock of the operating system, not a file that exists: it dies with its holder, also by
//! `kill -9`, so nobody has to clean up. The file holds the holder's name only for the error message
//! of the second server.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process,
};

use super::StoreError;

/// Longer names of holders are not believed.
const HOLDER_LIMIT: u64 = 256;

/// Keeps others out for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _held: File,
}

impl Lock {
    /// Takes the lock of `folder`, at once or never.
    pub(super) fn take(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let opened = options.open(&path).or_else(|error| match error.kind() {
            // A disk that failed and turned read-only must not stop a restart. The lock of the server
            // that wrote there is still in place, and can be held as well.
            ErrorKind::ReadOnlyFilesystem => File::open(&path).map_err(|_| error),
            _ => Err(error),
        });
        let mut file = opened.map_err(StoreError::io(&path, "opened"))?;
        match file.try_lock() {
            Ok(()) => {
                // The lock counts, not the name: a full disk must not stop the server here.
                let _ = sign(&mut file);
                Ok(Self { _held: file })
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::Held {
                place: format!("`{}`", folder.display()),
                holder: holder(file),
            }),
            Err(TryLockError::Error(source)) => Err(StoreError::io(&path, "locked")(source)),
        }
    }
}

fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {} on host {}", process::id(), host())
}

fn holder(file: File) -> String {
    let mut name = String::new();
    let read = file.take(HOLDER_LIMIT).read_to_string(&mut name);
    match (read, name.trim()) {
        (Ok(_), name) if !name.is_empty() => name.to_owned(),
        _ => "another process".to_owned(),
    }
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
