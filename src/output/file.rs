//! A file that holds a token. It is written beside and renamed, so that whoever reads it finds the old
//! token or the new one, and never none or half of one.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::{OutputError, text};
use crate::{
    config::{Output, TokenFile},
    tokens::Issued,
};

/// Writes the file of `output`, if it has one.
pub(super) async fn write(output: &Output, issued: &Issued) -> Result<(), OutputError> {
    let Some(file) = output.file.clone() else {
        return Ok(());
    };
    let text = Zeroizing::new(text::of(&file.format, &output.app, issued));
    let path = file.path.display().to_string();
    let written = spawn_blocking(move || replace(&file, &text)).await;
    let written = written.map_err(io::Error::other).flatten();
    written.map_err(|error| OutputError::File { path, error })
}

fn replace(file: &TokenFile, text: &str) -> io::Result<()> {
    let beside = beside(&file.path);
    let written = write_to(&beside, file, text).and_then(|()| fs::rename(&beside, &file.path));
    if written.is_err() {
        // It holds a token, and nobody will look for it there.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_to(path: &Path, file: &TokenFile, text: &str) -> io::Result<()> {
    // One that an earlier run left behind may have other permissions.
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    let mut open = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    open.write_all(text.as_bytes())?;
    if let Some((user, group)) = file.owner {
        chown(path, Some(user), group)?;
    }
    // Here, because the process' mask counts when a file is made.
    open.set_permissions(Permissions::from_mode(file.mode))?;
    open.sync_all()
}

/// In the same folder, because only there a rename is one step.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;
    use crate::config::Format;

    #[test]
    fn a_reader_finds_a_whole_token_at_any_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile {
            path: folder.path().join("token"),
            format: Format::Token,
            mode: 0o640,
            owner: None,
        };
        let token = |number: u32| format!("98_{number:04}").repeat(64);
        replace(&file, &token(0)).unwrap();
        let over = AtomicBool::new(false);
        let reads = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !over.load(Ordering::Relaxed) {
                    let found = fs::read_to_string(&file.path).unwrap();
                    assert_eq!(found, found[..7].repeat(64));
                    let mode = fs::metadata(&file.path).unwrap().permissions().mode();
                    assert_eq!(mode & 0o777, 0o640);
                    reads += 1;
                }
                reads
            });
            for number in 0..200 {
                replace(&file, &token(number)).unwrap();
            }
            over.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert!(reads > 200, "{reads}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no rest");
    }
}
