//! Real engines on free ports. One that is missing is a failure.

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::sleep;

use crate::process::PATIENCE;

/// A process of an engine; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    command: Vec<String>,
    log: std::path::PathBuf,
    child: Child,
}

impl Engine {
    fn start(command: Vec<String>, folder: &Path) -> Self {
        let log = folder.join("log");
        let child = run(&command, &log);
        Self {
            command,
            log,
            child,
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(sent.unwrap().success(), "cannot send {name}");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again with what is on its disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = run(&self.command, &self.log);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(command: &[String], log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let spawned = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    spawned.unwrap_or_else(|error| panic!("`{}` is needed for these tests: {error}", command[0]))
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Members of one etcd cluster.
#[derive(Debug)]
pub(crate) struct Etcd {
    pub(crate) members: Vec<Engine>,
    /// Of the members' clients, `host:port`.
    pub(crate) addresses: Vec<String>,
    _folder: TempDir,
}

impl Etcd {
    pub(crate) async fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let all: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(n, (_, peers))| format!("m{n}=http://127.0.0.1:{peers}"))
            .collect();
        let member = |(n, (clients, peers)): (usize, &(u16, u16))| {
            let home = folder.path().join(format!("m{n}"));
            std::fs::create_dir(&home).unwrap();
            let (clients, peers) = (
                format!("http://127.0.0.1:{clients}"),
                format!("http://127.0.0.1:{peers}"),
            );
            let data = home.join("data").display().to_string();
            let command = [
                "etcd",
                "--name",
                &format!("m{n}"),
                "--data-dir",
                &data,
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
                "--initial-cluster",
                &all.join(","),
                "--heartbeat-interval",
                "50",
                "--election-timeout",
                "500",
                "--log-level",
                "warn",
            ];
            Engine::start(command.map(str::to_owned).to_vec(), &home)
        };
        let members = ports.iter().enumerate().map(member).collect();
        let addresses = ports
            .iter()
            .map(|(clients, _)| format!("127.0.0.1:{clients}"))
            .collect();
        let this = Self {
            members,
            addresses,
            _folder: folder,
        };
        this.until_it_answers().await;
        this
    }

    async fn until_it_answers(&self) {
        let began = tokio::time::Instant::now();
        while self.leader().await.is_none() {
            assert!(began.elapsed() < PATIENCE, "etcd does not begin");
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect(&self.addresses, None)
            .await
            .unwrap()
    }

    /// Which member leads, if one of those that answer does.
    pub(crate) async fn leader(&self) -> Option<usize> {
        for (n, address) in self.addresses.iter().enumerate() {
            let asking = async {
                let mut client = etcd_client::Client::connect([address], None).await.ok()?;
                let status = client.status().await.ok()?;
                let id = status.header()?.member_id();
                (status.leader() == id && id != 0).then_some(())
            };
            let answer = tokio::time::timeout(Duration::from_millis(500), asking).await;
            if matches!(answer, Ok(Some(()))) {
                return Some(n);
            }
        }
        None
    }
}
