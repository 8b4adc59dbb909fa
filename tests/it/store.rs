//! What every store must do, and what the files of the file store look like.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use wxtokend::{
    clock::Clock,
    config,
    domain::{Mode, Moment, Now, Record},
    store::{self, Store, StoreError},
};

use crate::contract;

const APPID: &str = "wx0123456789abcdef";
const HOUR: Duration = Duration::from_hours(1);

fn open(folder: &Path) -> Result<Arc<dyn Store>, StoreError> {
    open_with(folder, Clock::SYSTEM)
}

fn open_with(folder: &Path, clock: Clock) -> Result<Arc<dyn Store>, StoreError> {
    let path = folder.to_owned();
    store::open(&config::Store::File { path }, Vec::new(), clock).map(|opened| opened.store())
}

/// A record with something in every field.
fn full(generation: u64, now: Now) -> Record {
    // Whole milliseconds: a file keeps no more.
    let now = Now {
        boot: Moment::from_millis(now.boot.as_millis()),
        wall: SystemTime::UNIX_EPOCH + HOUR * 400_000,
    };
    Record {
        // Not for a server that has the store to itself.
        trouble: None,
        ..contract::full(generation, now)
    }
}

fn now() -> Now {
    Clock::SYSTEM.now()
}

/// Everything, the secret too, to be compared.
fn shown(record: &Record) -> String {
    let secret = record.token.as_ref().map(|token| token.value.expose());
    format!("{record:?} {secret:?}")
}

async fn loaded(store: &dyn Store, appid: &str) -> Option<String> {
    let record = store.load(appid).await.unwrap();
    record.as_ref().map(shown)
}

fn files(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn file_of(folder: &TempDir, appid: &str) -> PathBuf {
    folder.path().join(format!("{appid}.json"))
}

// ---- every store ----

#[tokio::test]
async fn a_store_gives_back_what_was_saved_last_for_each_app() {
    let folder = TempDir::new().unwrap();
    let memory = store::open(&config::Store::Memory, Vec::new(), Clock::SYSTEM)
        .unwrap()
        .store();
    for store in [memory, open(folder.path()).unwrap()] {
        contract::keeps_what_is_saved(&*store, Clock::SYSTEM).await;
        let (first, second, other) = (full(1, now()), full(2, now()), Record::new(Mode::Stable));
        store.save(APPID, &first).await.unwrap();
        assert_eq!(loaded(&*store, APPID).await, Some(shown(&first)));
        store.save(APPID, &second).await.unwrap();
        store.save("wx-other_APP", &other).await.unwrap();
        assert_eq!(loaded(&*store, APPID).await, Some(shown(&second)));
        assert_eq!(loaded(&*store, "wx-other_APP").await, Some(shown(&other)));
        assert_eq!(loaded(&*store, "wx-third").await, None);
    }
}

#[tokio::test]
async fn the_later_of_two_saves_at_a_time_wins() {
    let folder = TempDir::new().unwrap();
    let memory = store::open(&config::Store::Memory, Vec::new(), Clock::SYSTEM)
        .unwrap()
        .store();
    for store in [memory, open(folder.path()).unwrap()] {
        for round in 0..20 {
            let (first, second) = (full(2 * round, now()), full(2 * round + 1, now()));
            let both = tokio::join!(store.save(APPID, &first), store.save(APPID, &second));
            both.0.and(both.1).unwrap();
            assert_eq!(loaded(&*store, APPID).await, Some(shown(&second)));
        }
    }
}

// ---- files ----

#[tokio::test]
async fn a_restart_finds_the_record_again() {
    let folder = TempDir::new().unwrap();
    let record = full(7, now());
    open(folder.path())
        .unwrap()
        .save(APPID, &record)
        .await
        .unwrap();
    let store = open(folder.path()).unwrap();
    assert_eq!(loaded(&*store, APPID).await, Some(shown(&record)));
}

#[tokio::test]
async fn a_restart_in_the_same_boot_ignores_a_clock_that_was_set() {
    let folder = TempDir::new().unwrap();
    let record = full(7, now());
    open(folder.path())
        .unwrap()
        .save(APPID, &record)
        .await
        .unwrap();
    let set = Now {
        boot: now().boot,
        wall: SystemTime::UNIX_EPOCH,
    };
    let store = open_with(folder.path(), Clock::simulated(set)).unwrap();
    assert_eq!(loaded(&*store, APPID).await, Some(shown(&record)));
}

#[tokio::test]
async fn files_and_a_folder_of_ours_are_for_their_owner_only() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("deep/data");
    let store = open(&folder).unwrap();
    store.save(APPID, &full(1, now())).await.unwrap();
    store.save(APPID, &full(2, now())).await.unwrap();
    assert_eq!(mode_of(&folder), 0o700);
    assert_eq!(mode_of(&folder.join(format!("{APPID}.json"))), 0o600);
    assert_eq!(mode_of(&folder.join("lock")), 0o600);
}

#[tokio::test]
async fn nothing_but_the_record_and_the_lock_is_left_lying_about() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("wx1.json.99-1.tmp"), "half").unwrap();
    fs::write(folder.path().join("notes.tmp"), "not ours").unwrap();
    let store = open(folder.path()).unwrap();
    store.save(APPID, &full(1, now())).await.unwrap();
    let file = format!("{APPID}.json");
    assert_eq!(files(&folder), ["lock", "notes.tmp", &file]);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_others_are_not_touched() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    let record = full(7, now());
    store.save(APPID, &record).await.unwrap();
    let good = fs::read_to_string(file_of(&folder, APPID)).unwrap();
    let damaged = [
        ("wx-empty", String::new()),
        ("wx-cut", good[..good.len() / 2].to_owned()),
        ("wx-flipped", good.replace("70_token-7", "70_token-8")),
        ("wx-newer", good.replace("\"format\": 1", "\"format\": 2")),
        ("wx-moved", good),
    ];
    for (appid, text) in damaged {
        let path = file_of(&folder, appid);
        fs::write(&path, &text).unwrap();
        let moved = store.read(appid).await;
        assert!(moved.is_err() && path.exists(), "{appid}: {moved:?}");
        assert_eq!(loaded(&*store, appid).await, None, "{appid}");
        assert!(!path.exists(), "{appid}");
        let names = files(&folder);
        let is_aside = |name: &&String| name.starts_with(&format!("{appid}.json.damaged-"));
        let aside = names.iter().find(is_aside).expect(appid);
        let kept = fs::read_to_string(folder.path().join(aside)).unwrap();
        assert_eq!(kept, text, "{appid}");
        store.save(appid, &record).await.unwrap();
        assert_eq!(loaded(&*store, appid).await, Some(shown(&record)));
    }
    assert_eq!(loaded(&*store, APPID).await, Some(shown(&record)));
}

#[tokio::test]
async fn a_save_that_fails_names_the_place_keeps_the_old_record_and_may_be_repeated() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    // What cannot be replaced by a file.
    let path = file_of(&folder, APPID);
    fs::create_dir(&path).unwrap();
    let error = store.save(APPID, &full(1, now())).await.unwrap_err();
    let expected = format!("`{}` cannot be replaced", path.display());
    assert_eq!(error.to_string(), expected);
    assert!(!format!("{error:?}").contains("70_token"));
    assert_eq!(files(&folder), ["lock", &format!("{APPID}.json")]);
    fs::remove_dir(&path).unwrap();
    let record = full(2, now());
    store.save(APPID, &record).await.unwrap();
    assert_eq!(loaded(&*store, APPID).await, Some(shown(&record)));
}

#[tokio::test]
async fn a_folder_that_went_away_is_an_error_and_not_a_panic() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    fs::remove_dir_all(folder.path()).unwrap();
    let error = store.save(APPID, &full(1, now())).await.unwrap_err();
    assert!(
        error.to_string().ends_with(".tmp` cannot be written"),
        "{error}"
    );
}

#[test]
fn a_place_that_can_be_no_folder_is_refused_at_once() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    // Modes do not stop root, /proc does.
    for place in [
        file.as_path(),
        &file.join("below"),
        Path::new("/proc/wxtokend"),
    ] {
        let error = open(place).unwrap_err();
        let expected = format!("`{}` cannot be created", place.display());
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn an_appid_cannot_lead_out_of_the_folder() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder.path().join("data")).unwrap();
    assert!(store.save("../wx1", &full(1, now())).await.is_err());
    assert!(store.load("../wx1").await.is_err());
    assert_eq!(files(&folder), ["data"]);
}

// ---- one server for each folder ----

#[test]
fn a_second_server_is_told_who_holds_the_folder() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path()).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    let (pid, host) = (
        std::process::id(),
        fs::read_to_string("/proc/sys/kernel/hostname"),
    );
    let host = host.unwrap();
    let place = folder.path().display();
    let expected = format!(
        "`{place}` is in use by process {pid} on host {}",
        host.trim()
    );
    assert_eq!(error, expected);
    drop(first);
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn a_killed_server_gives_the_folder_free() {
    let folder = TempDir::new().unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::child_that_holds_a_folder",
            "--ignored",
            "--nocapture",
        ])
        .env("TEST_FOLDER", folder.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines
        .next_line()
        .await
        .unwrap()
        .unwrap()
        .ends_with("holding")
    {}

    let held = open(folder.path()).unwrap_err().to_string();
    let pid = child.id().unwrap();
    assert!(held.contains(&format!("process {pid} on host ")), "{held}");
    child.kill().await.unwrap();
    open(folder.path()).unwrap();
}

#[test]
#[ignore = "a part of `a_killed_server_gives_the_folder_free`"]
fn child_that_holds_a_folder() {
    let folder = std::env::var("TEST_FOLDER").unwrap();
    let _store = open(Path::new(&folder)).unwrap();
    println!("holding");
    std::thread::sleep(Duration::from_mins(1));
}
