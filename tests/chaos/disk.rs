//! A disk that is full, and one that turned read-only: at the start and in the middle, then cured.
//!
//! Each test has a real file system of its own, so it needs the right to mount, and mounts of its own
//! to leave none behind: `.ci/run chaos` gives it both.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, time::Duration};

use wxtokend::{
    pb,
    sandbox::{Knobs, Settings},
};

use crate::{
    mounts::mount,
    process::{Home, Process, Server, WeChat, token_that, until},
    seen::Seen,
};

const BOTH: [&str; 2] = ["classic", "stable"];
const REFRESH: &str = "overlap = '2s'\nfloor = '100ms'\nceiling = '1s'";
const UNSAVED: &str = "the token cannot be saved";
const CURED: &str = "the store works again";

/// How a disk fails.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Full,
    ReadOnly,
}

/// A small file system.
struct Disk(PathBuf);

impl Disk {
    /// At the place where a server of `home` keeps its state.
    fn of(home: &Home) -> Self {
        let disk = Self(home.path("data"));
        fs::create_dir(&disk.0).unwrap();
        mount(
            &["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"],
            &disk.0,
        );
        disk
    }

    fn fail(&self, failure: Failure) {
        match failure {
            // Over itself: nobody may turn a disk read-only whose files somebody writes, but a disk that
            // fails does so by itself.
            Failure::ReadOnly => {
                let place = self.0.display().to_string();
                mount(&["--bind", "-o", "ro", &place], &self.0);
            }
            Failure::Full => {
                // It ends with an error, when it is full.
                let rest = fs::write(self.0.join("filler"), vec![0; 1 << 20]);
                assert!(rest.is_err(), "a small disk");
            }
        }
    }

    fn cure(&self, failure: Failure) {
        match failure {
            Failure::ReadOnly => {
                let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
                assert!(status.unwrap().success());
            }
            Failure::Full => fs::remove_file(self.0.join("filler")).unwrap(),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Both, if a test ended in between.
        let _ = Command::new("umount")
            .args(["--lazy", "--recursive"])
            .arg(&self.0)
            .status();
    }
}

fn settings() -> Settings {
    Settings {
        life: Duration::from_secs(6),
        overlap: Duration::from_secs(2),
        ..Settings::default()
    }
}

/// What became of one app of each mode.
struct Story {
    wechat: WeChat,
    home: Home,
    disk: Disk,
    seen: Seen,
}

impl Story {
    async fn begin() -> Self {
        let wechat = WeChat::start(&BOTH, settings()).await;
        let home = Home::new(&wechat.url(), REFRESH, &BOTH);
        let disk = Disk::of(&home);
        Self {
            wechat,
            home,
            disk,
            seen: Seen::default(),
        }
    }

    /// A token of each app that is newer than `last`; it must live.
    async fn newer(
        &mut self,
        server: &Server,
        last: &BTreeMap<&str, u64>,
    ) -> BTreeMap<&'static str, u64> {
        let mut client = server.client().await;
        let mut generations = BTreeMap::new();
        for name in BOTH {
            let newer = |token: &pb::Token| token.generation > last.get(name).copied().unwrap_or(0);
            let token = token_that(&mut client, name, "is newer", newer).await;
            self.seen.sees(name, &token, "with a bad disk");
            let lives = self.wechat.accepts(name, &token.access_token);
            assert!(lives, "{name}: a dead token: {}", server.process.stderr());
            generations.insert(name, token.generation);
        }
        generations
    }

    /// The disk works again: everything is saved, and a killed server's successor asks for nothing.
    async fn cured(mut self, failure: Failure, server: Server, last: BTreeMap<&str, u64>) {
        self.wechat.turn(&Knobs {
            life: Some(Duration::from_hours(2)),
            ..Knobs::default()
        });
        let last = self.newer(&server, &last).await;
        warned_once(&server.process, failure);
        self.disk.cure(failure);
        let said = || server.process.stderr().matches(CURED).count();
        until(CURED, || said() == BOTH.len()).await;
        for name in BOTH {
            self.home.saved(name).await;
        }
        let mut client = server.client().await;
        let mut tokens = BTreeMap::new();
        for name in BOTH {
            let token = token_that(&mut client, name, "is there", |_| true).await;
            assert!(token.generation >= last[name]);
            tokens.insert(name, token.access_token);
        }
        warned_once(&server.process, failure);
        let mut process = server.process;
        process.kill().await;

        let mints = BOTH.map(|name| self.wechat.counts(name).mints());
        let server = self.home.serve().await;
        let mut client = server.client().await;
        for name in BOTH {
            let token = token_that(&mut client, name, "is there", |_| true).await;
            self.seen.sees(name, &token, "after the restart");
            assert_eq!(token.access_token, tokens[name], "{name}");
        }
        assert_eq!(BOTH.map(|name| self.wechat.counts(name).mints()), mints);
    }
}

/// One warning for each app, whatever is tried how often.
fn warned_once(process: &Process, failure: Failure) {
    let said = process.stderr();
    for name in BOTH {
        let about = |line: &&str| line.contains(UNSAVED) && line.contains(&format!("app={name}"));
        let warnings = said.lines().filter(about).count();
        assert_eq!(warnings, 1, "{failure:?}, {name}:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_the_start_costs_nobody_a_token() {
    let mut story = Story::begin().await;
    story.disk.fail(Failure::Full);
    let server = story.home.serve().await;
    let first = story.newer(&server, &BTreeMap::new()).await;
    let second = story.newer(&server, &first).await;
    story.cured(Failure::Full, server, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_costs_nobody_a_token() {
    fails_later(Failure::Full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_costs_nobody_a_token() {
    fails_later(Failure::ReadOnly).await;
}

async fn fails_later(failure: Failure) {
    let mut story = Story::begin().await;
    let server = story.home.serve().await;
    let first = story.newer(&server, &BTreeMap::new()).await;
    for name in BOTH {
        story.home.saved(name).await;
    }
    story.disk.fail(failure);
    let second = story.newer(&server, &first).await;
    let third = story.newer(&server, &second).await;
    story.cured(failure, server, third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_read_only_at_a_restart_gives_its_tokens_and_costs_nobody_one() {
    let mut story = Story::begin().await;
    let server = story.home.serve().await;
    let first = story.newer(&server, &BTreeMap::new()).await;
    for name in BOTH {
        story.home.saved(name).await;
    }
    let mut process = server.process;
    process.kill().await;
    story.disk.fail(Failure::ReadOnly);

    let server = story.home.serve().await;
    let restored = server.process.stderr().matches("token restored").count();
    assert_eq!(restored, BOTH.len(), "{}", server.process.stderr());
    let second = story.newer(&server, &first).await;
    // Nor does a read-only disk let a second server in.
    let other = story.home.spawn().end().await;
    assert_eq!(other.code(), 1, "{other:?}");
    assert!(other.stderr.contains("is in use by"), "{}", other.stderr);
    story.cured(Failure::ReadOnly, server, second).await;
}
