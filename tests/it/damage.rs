//! State files that the disk or somebody has changed: any bit, any length, anything but a file. What is
//! handed out must be what was saved, or nothing; the other apps must not notice.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;
use tokio::time::timeout;
use wxtokend::{
    clock::Clock,
    config,
    domain::{Generation, Mode, Moment, Note, Now, Record, Secret, Token, budget::Ledger},
    sandbox::Settings,
    store::{self, Store},
};

use crate::{
    process::{Home, PATIENCE, WeChat, appid, token_that},
    served::SOON,
};

const APPID: &str = "wx0123456789abcdef";

/// A folder with one good file.
struct Saved {
    folder: TempDir,
    store: Arc<dyn Store>,
    good: Vec<u8>,
    record: String,
}

impl Saved {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().to_owned();
        let store = store::open(&config::Store::File { path }, Vec::new(), Clock::SYSTEM)
            .unwrap()
            .store();
        let record = record();
        store.save(APPID, &record).await.unwrap();
        let good = fs::read(file(folder.path())).unwrap();
        let record = shown(&record);
        Self {
            folder,
            store,
            good,
            record,
        }
    }

    /// What is believed of a file with this content: `None` is nothing at all.
    async fn believed(&self, content: &[u8]) -> Option<String> {
        let path = file(self.folder.path());
        fs::write(&path, content).unwrap();
        self.loaded().await
    }

    async fn loaded(&self) -> Option<String> {
        let loaded = timeout(SOON, self.store.load(APPID)).await;
        let loaded = loaded.expect("a bad file holds nobody up").unwrap();
        loaded.as_ref().map(shown)
    }

    /// Files that were set aside. They are removed.
    fn aside(&self) -> usize {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let aside = paths.filter(|path| path.to_string_lossy().contains(".json.damaged-"));
        aside.map(|path| remove(&path)).count()
    }
}

fn remove(path: &Path) {
    let removed = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    removed.unwrap();
}

fn file(folder: &Path) -> PathBuf {
    folder.join(format!("{APPID}.json"))
}

/// With something in every field. Whole milliseconds: a file keeps no more.
fn record() -> Record {
    let now = Clock::SYSTEM.now();
    let now = Now {
        boot: Moment::from_millis(now.boot.as_millis()),
        wall: SystemTime::UNIX_EPOCH + Duration::from_hours(400_000),
    };
    let hour = Duration::from_hours(1);
    let (asked_at, expires_at) = (now.boot - hour, now.boot + hour);
    Record {
        mode: Mode::Classic,
        token: Some(Arc::new(Token {
            value: Secret::new("70_\"token\"\\of-all_kinds".to_owned()),
            generation: Generation(7),
            asked_at,
            expires_at,
            issue_time: now.wall_at(asked_at),
            expire_time: now.wall_at(expires_at),
        })),
        dead: false,
        generation: Generation(7),
        note: Some(Note {
            asked_at: now.boot - hour / 60,
            reserved: Generation(8),
        }),
        ledger: Ledger {
            day: 20_000,
            replacements: 3,
            forced: 4,
            replaced_at: Some(asked_at),
            streak: 2,
            minted_at: Some(asked_at),
        },
        blocked_until: Some(now.boot + hour),
        trouble: None,
    }
}

/// Everything, the secret too, to be compared.
fn shown(record: &Record) -> String {
    let secret = record.token.as_ref().map(|token| token.value.expose());
    format!("{record:?} {secret:?}")
}

#[tokio::test]
async fn no_flipped_bit_and_no_wrong_byte_changes_what_is_believed() {
    let saved = Saved::new().await;
    assert_eq!(
        saved.believed(&saved.good).await.as_ref(),
        Some(&saved.record)
    );
    let (mut noticed, mut harmless) = (0, 0);
    for place in 0..saved.good.len() {
        let good = saved.good[place];
        let bits = (0..8).map(|bit| good ^ (1 << bit));
        for byte in bits
            .chain([0, b' ', b'0', b'"', 0xff])
            .filter(|byte| *byte != good)
        {
            let mut content = saved.good.clone();
            content[place] = byte;
            match saved.believed(&content).await {
                None => noticed += 1,
                Some(record) => {
                    assert_eq!(record, saved.record, "byte {place} as {byte}");
                    harmless += 1;
                }
            }
        }
    }
    println!(
        "{noticed} noticed, {harmless} harmless, in {} bytes",
        saved.good.len()
    );
    // White space between the values is free, and so are both cases of an escape's letters.
    assert!(
        noticed > 10 * harmless,
        "{noticed} noticed, {harmless} harmless"
    );
    assert_ne!(saved.aside(), 0, "they are set aside");
}

#[tokio::test]
async fn a_file_that_is_cut_or_goes_on_with_something_else_is_not_believed() {
    let saved = Saved::new().await;
    for length in 0..saved.good.len() {
        let believed = saved.believed(&saved.good[..length]).await;
        assert_eq!(believed, None, "{length} bytes");
    }
    for more in [&b"}"[..], b"x", b"\0", &[0; 4096], &saved.good] {
        let content = [&saved.good, more].concat();
        assert_eq!(saved.believed(&content).await, None, "{more:?} behind it");
    }
    // What the end of a lost file is full of.
    let zeros = vec![0; saved.good.len()];
    assert_eq!(saved.believed(&zeros).await, None);
    for page in [64, 512] {
        for chunk in (0..saved.good.len()).step_by(page) {
            let mut content = saved.good.clone();
            let end = content.len().min(chunk + page);
            content[chunk..end].fill(0);
            assert_eq!(
                saved.believed(&content).await,
                None,
                "zeros from {chunk} on"
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_file_of_ours_is_set_aside_without_being_opened() {
    let saved = Saved::new().await;
    let path = file(saved.folder.path());
    for odd in Odd::ALL {
        remove(&path);
        odd.make(&path);
        assert_eq!(saved.loaded().await, None, "{odd:?}");
        assert_eq!(saved.aside(), 1, "{odd:?}");
        let record = record();
        saved.store.save(APPID, &record).await.unwrap();
        assert_eq!(saved.loaded().await, Some(shown(&record)), "after {odd:?}");
    }
    // It leads nowhere: the same as no file at all.
    remove(&path);
    symlink("nowhere", &path).unwrap();
    assert_eq!(saved.loaded().await, None);
    saved.store.save(APPID, &record()).await.unwrap();
    assert!(saved.loaded().await.is_some());
}

/// What else may have the name of a state file.
#[derive(Clone, Copy, Debug)]
enum Odd {
    Folder,
    Pipe,
    Endless,
    Huge,
}

impl Odd {
    const ALL: [Self; 4] = [Self::Folder, Self::Pipe, Self::Endless, Self::Huge];

    fn make(self, path: &Path) {
        match self {
            Self::Folder => fs::create_dir(path).unwrap(),
            Self::Pipe => {
                let made = Command::new("mkfifo").arg(path).status();
                assert!(made.unwrap().success());
            }
            Self::Endless => symlink("/dev/zero", path).unwrap(),
            // It takes no room on the disk, but would take all memory.
            Self::Huge => File::create(path).unwrap().set_len(1 << 40).unwrap(),
        }
    }
}

/// A file's owner, damage, and whether a warning is due.
type Damage = (&'static str, fn(&Path), bool);

/// Some of the same, for the real program.
const DAMAGES: [Damage; 10] = [
    (
        "c-token",
        |path| edit(path, |text| flip(text, "\"value\": \"")),
        true,
    ),
    (
        "c-checksum",
        |path| edit(path, |text| flip(text, "\"checksum\": \"")),
        true,
    ),
    ("c-cut", |path| edit(path, |text| text.truncate(100)), true),
    ("c-empty", |path| edit(path, Vec::clear), true),
    (
        "c-longer",
        |path| edit(path, |text| text.extend(b"garbage")),
        true,
    ),
    ("c-folder", |path| replace(path, Odd::Folder), true),
    ("c-pipe", |path| replace(path, Odd::Pipe), true),
    ("c-endless", |path| replace(path, Odd::Endless), true),
    ("c-huge", |path| replace(path, Odd::Huge), true),
    (
        "c-lost",
        |path| {
            remove(path);
            symlink("nowhere", path).unwrap();
        },
        false,
    ),
];

fn edit(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut text = fs::read(path).unwrap();
    change(&mut text);
    fs::write(path, text).unwrap();
}

/// One bit of the first byte after `begin`: another letter, and still JSON.
fn flip(text: &mut [u8], begin: &str) {
    let found = text
        .windows(begin.len())
        .position(|part| part == begin.as_bytes());
    text[found.unwrap() + begin.len()] ^= 1;
}

fn replace(path: &Path, odd: Odd) {
    remove(path);
    odd.make(path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_damaged_files_hands_out_living_tokens_only_and_spares_the_other_apps() {
    let good = ["c-good", "s-good"];
    let damaged = DAMAGES.map(|(name, ..)| name);
    let all: Vec<&str> = damaged.into_iter().chain(good).collect();
    let wechat = WeChat::start(&all, Settings::default()).await;
    let home = Home::new(&wechat.url(), "", &all);
    let mut server = home.serve().await;
    let mut old = Vec::new();
    for name in &all {
        let mut client = server.client().await;
        old.push(token_that(&mut client, name, "is there", |_| true).await);
        home.saved(name).await;
    }
    server.process.kill().await;
    for (name, damage, _) in DAMAGES {
        damage(&home.state_of(name));
    }
    // Readable for all: not nice, and no reason to lose a token.
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(home.state_of(good[0]), open).unwrap();

    let server = home.serve().await;
    let mut client = server.client().await;
    for (name, old) in all.iter().zip(&old) {
        let token = token_that(&mut client, name, "is there", |_| true).await;
        assert!(wechat.accepts(name, &token.access_token), "{name}");
        let same = token.access_token == old.access_token;
        assert_eq!(same, good.contains(name), "{name}");
        assert!(same || token.generation > old.generation, "{name}");
        home.saved(name).await;
        let mints = wechat.counts(name).mints();
        assert_eq!(mints, if same { 1 } else { 2 }, "{name}");
    }
    let said = server.process.stderr();
    for (name, _, warned) in DAMAGES {
        let file = format!("{}.json", appid(name));
        let about = |line: &&str| line.contains(&file) && line.contains("was set aside");
        let warnings = said.lines().filter(about).count();
        assert_eq!(warnings, usize::from(warned), "{name}:\n{said}");
    }
    for token in &old {
        assert!(!said.contains(&token.access_token), "a token in the log");
    }
    assert!(
        timeout(PATIENCE, async {
            server.process.signal("TERM").await;
            server.process.end().await
        })
        .await
        .unwrap()
        .code()
            == 0
    );
}
