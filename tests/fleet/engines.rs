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

/// Redis, in one of its forms.
#[derive(Debug)]
pub(crate) struct Redis {
    /// The first one is the master at the beginning, if there is one.
    pub(crate) servers: Vec<Engine>,
    pub(crate) ports: Vec<u16>,
    /// Kept so that they live.
    pub(crate) sentinels: Vec<Engine>,
    url: String,
    folder: TempDir,
}

impl Redis {
    /// One server.
    pub(crate) async fn start() -> Self {
        let mut this = Self::empty();
        this.server(&[]).await;
        this.url = format!("redis://127.0.0.1:{}", this.ports[0]);
        this
    }

    /// A master, its replica, and three sentinels.
    pub(crate) async fn start_with_sentinels() -> Self {
        let mut this = Self::empty();
        this.server(&[]).await;
        let master = this.ports[0].to_string();
        this.server(&["--replicaof", "127.0.0.1", &master]).await;
        let mut ports = Vec::new();
        for n in 0..3 {
            let (port, home) = (free_port(), this.folder.path().join(format!("s{n}")));
            std::fs::create_dir(&home).unwrap();
            let config = home.join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor tokens 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds tokens 1000\n\
                 sentinel failover-timeout tokens 3000\n"
            );
            std::fs::write(&config, text).unwrap();
            let command = ["redis-sentinel".to_owned(), config.display().to_string()];
            this.sentinels.push(Engine::start(command.to_vec(), &home));
            ports.push(format!("127.0.0.1:{port}"));
            answers(port).await;
        }
        this.url = format!("redis-sentinel://{}/tokens", ports.join(","));
        this
    }

    /// Three masters that share the slots.
    pub(crate) async fn start_cluster() -> Self {
        let mut this = Self::empty();
        for _ in 0..3 {
            // The port of the others is not to be found by adding 10000 where that is too much.
            let bus = free_port().to_string();
            let cluster = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "2000",
            ];
            this.server(&cluster).await;
        }
        let mut nodes: Vec<String> = Vec::new();
        for port in &this.ports {
            nodes.push(format!("127.0.0.1:{port}"));
        }
        let joined = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&nodes)
            .arg("--cluster-yes")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&joined.stdout).into_owned();
        assert!(told.contains("[OK] All 16384 slots covered"), "{told}");
        this.url = format!("redis-cluster://{}", nodes.join(","));
        this
    }

    fn empty() -> Self {
        Self {
            servers: Vec::new(),
            ports: Vec::new(),
            sentinels: Vec::new(),
            url: String::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    async fn server(&mut self, more: &[&str]) {
        let port = free_port();
        let home = self.folder.path().join(format!("r{port}"));
        std::fs::create_dir(&home).unwrap();
        let (folder, number) = (home.display().to_string(), port.to_string());
        let mut command: Vec<String> = [
            "redis-server",
            "--port",
            &number,
            "--bind",
            "127.0.0.1",
            "--dir",
            &folder,
            "--appendonly",
            "yes",
            "--save",
            "",
        ]
        .map(str::to_owned)
        .to_vec();
        command.extend(more.iter().map(|&word| word.to_owned()));
        self.servers.push(Engine::start(command, &home));
        self.ports.push(port);
        answers(port).await;
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }
}

/// Until somebody listens there.
async fn answers(port: u16) {
    let began = tokio::time::Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .is_err()
    {
        assert!(began.elapsed() < PATIENCE, "nobody listens on {port}");
        sleep(Duration::from_millis(20)).await;
    }
}
