//! A file for each app: `<folder>/<appid>.json`, for its owner's eyes only.
//!
//! A save writes beside the file, flushes to the disk, renames, and flushes the folder, so a crash
//! leaves either the old record or the new one. Only one server may use a folder (`lock.rs`). A file
//! that is not believed (`snapshot.rs` says why) is set aside, never deleted, and the app starts as
//! if new: the others must not suffer.
//!
//! All work blocks, so it runs on tokio's blocking threads. A caller that gives up leaves such a
//! thread behind; saves are therefore numbered, and one that comes late does not undo a later one.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::task::spawn_blocking;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    domain::{AppName, Now, Record},
    failpoint,
};

use super::{
    Store, StoreError,
    lock::Lock,
    snapshot::{self, Damage},
};

/// Many times the size of a record with the longest token.
const LARGEST: u64 = 1 << 20;

/// The files of one folder.
#[derive(Debug)]
pub(super) struct Files {
    folder: Arc<Folder>,
    turns: AtomicU64,
    clock: Clock,
    boot_id: String,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// The number of the newest save of each app.
    saved: Mutex<BTreeMap<String, u64>>,
    _lock: Lock,
}

impl Files {
    /// Takes possession of the folder at `path`, and makes it if it is missing.
    pub(super) fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        made.map_err(StoreError::io(path, "created"))?;
        let lock = Lock::take(path)?;
        remove_leftovers(path).map_err(StoreError::io(path, "listed"))?;
        // Missing on systems that are not Linux. Then every start counts as another boot.
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self {
            folder: Arc::new(Folder {
                path: path.to_owned(),
                saved: Mutex::default(),
                _lock: lock,
            }),
            turns: AtomicU64::new(0),
            clock,
            boot_id: boot_id.trim().to_owned(),
        })
    }
}

#[async_trait]
impl Store for Files {
    async fn load(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        self.look(appid, |path, now, damage| {
            let millis = now.wall.duration_since(std::time::UNIX_EPOCH);
            let millis = millis.map_or(0, |since| since.as_millis());
            set_aside(path, millis, damage);
            Ok(None)
        })
        .await
    }

    async fn read(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        self.look(appid, |path, _, damage| {
            let damage = io::Error::new(ErrorKind::InvalidData, damage);
            Err(StoreError::io(path, "believed")(damage))
        })
        .await
    }

    async fn save(&self, appid: &str, record: &Record) -> Result<(), StoreError> {
        let path = self.folder.file(appid)?;
        let turn = self.turns.fetch_add(1, Ordering::SeqCst) + 1;
        let text = snapshot::write(appid, record, self.clock.now(), &self.boot_id);
        let (folder, appid) = (Arc::clone(&self.folder), appid.to_owned());
        on_disk(move || {
            let mut saved = folder.saved.lock().unwrap_or_else(PoisonError::into_inner);
            if saved.get(&appid).is_none_or(|newest| *newest < turn) {
                replace(&path, turn, text.as_bytes())?;
                saved.insert(appid, turn);
            }
            Ok(())
        })
        .await
    }
}

impl Files {
    /// What is in an app's file, or what becomes of one that is `damaged`.
    async fn look(
        &self,
        appid: &str,
        damaged: fn(&Path, Now, Damage) -> Result<Option<Record>, StoreError>,
    ) -> Result<Option<Record>, StoreError> {
        let path = self.folder.file(appid)?;
        let (now, boot_id, appid) = (self.clock.now(), self.boot_id.clone(), appid.to_owned());
        on_disk(move || {
            let text = match read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(StoreError::io(&path, "read")(error)),
            };
            match text.and_then(|text| snapshot::read(&appid, &text, now, &boot_id)) {
                Ok(record) => Ok(Some(record)),
                Err(damage) => damaged(&path, now, damage),
            }
        })
        .await
    }
}

impl Folder {
    fn file(&self, appid: &str) -> Result<PathBuf, StoreError> {
        let path = self.path.join(format!("{appid}.json"));
        match AppName::of_appid(appid) {
            Ok(_) => Ok(path),
            Err(error) => {
                let error = io::Error::new(ErrorKind::InvalidInput, error);
                Err(StoreError::io(&self.path, "asked for this appid")(error))
            }
        }
    }
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(StoreError::Io {
            place: "the store".to_owned(),
            action: "used",
            source: io::Error::other(error),
        })
    })
}

/// What is in the file, if it can be one of ours. Others are not opened: a pipe would never end, and
/// a huge file would fill the memory.
fn read(path: &Path) -> io::Result<Result<Zeroizing<Vec<u8>>, Damage>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Ok(Err(Damage::NoFile));
    }
    if metadata.len() > LARGEST {
        return Ok(Err(Damage::Huge));
    }
    fs::read(path).map(|text| Ok(Zeroizing::new(text)))
}

/// Puts `content` in the place of the file, whole or not at all.
fn replace(path: &Path, turn: u64, content: &[u8]) -> Result<(), StoreError> {
    let beside = beside(path, &format!("{}-{turn}.tmp", process::id()));
    let written = write_new(&beside, content)
        .map_err(StoreError::io(&beside, "written"))
        .and_then(|()| fs::rename(&beside, path).map_err(StoreError::io(path, "replaced")));
    if written.is_err() {
        // Best effort: the next start removes it too.
        let _ = fs::remove_file(&beside);
    }
    written?;
    failpoint::pass("file renamed");
    let flushed = sync_folder_of(path).map_err(StoreError::io(path, "flushed to the disk"));
    failpoint::pass("folder flushed");
    flushed
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // In two parts, so that a test can end the program in between.
    let (first, second) = content.split_at(content.len() / 2);
    file.write_all(first)?;
    failpoint::pass("file half written");
    file.write_all(second)?;
    failpoint::pass("file written");
    file.sync_all()?;
    failpoint::pass("file flushed");
    Ok(())
}

/// Without this a power failure may bring the old name back.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn set_aside(path: &Path, millis: u128, damage: Damage) {
    let aside = beside(path, &format!("damaged-{millis}"));
    match fs::rename(path, &aside) {
        Ok(()) => warn!(
            file = %path.display(),
            set_aside_as = %aside.display(),
            reason = %damage,
            "a state file is not believed and was set aside; its app starts as if new"
        ),
        Err(error) => warn!(
            file = %path.display(),
            reason = %damage,
            %error,
            "a state file is not believed and cannot be set aside; its app starts as if new"
        ),
    }
}

/// `wx1.json` → `wx1.json.<suffix>`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Removes what a crash in the middle of a save left behind.
fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ours = |stem: &OsStr| stem.to_string_lossy().contains(".json.");
        if path.extension() == Some(OsStr::new("tmp")) && path.file_stem().is_some_and(ours) {
            // If it cannot be removed it is only in nobody's way.
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}
