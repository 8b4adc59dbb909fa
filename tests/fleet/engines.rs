//! Real engines on free ports. One that is missing is a failure.

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use crate::{peers::Network, process::PATIENCE};

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
    /// Between the members.
    pub(crate) network: Network,
    _folder: TempDir,
}

impl Etcd {
    pub(crate) async fn start(count: usize) -> Self {
        let this = Self::spawn(count, "http", &[]);
        this.until_it_answers().await;
        this
    }

    /// One member that talks TLS only, and only to those whose certificate is signed as its own.
    pub(crate) async fn start_with_tls(papers: &Papers) -> Self {
        let (ca, cert, key) = papers.paths();
        let this = Self::spawn(
            1,
            "https",
            &[
                "--client-cert-auth",
                "--trusted-ca-file",
                &ca,
                "--cert-file",
                &cert,
                "--key-file",
                &key,
            ],
        );
        let port = this.addresses[0].rsplit(':').next().unwrap();
        answers(port.parse().unwrap()).await;
        this
    }

    fn spawn(count: usize, scheme: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let homes: Vec<_> = (0..count)
            .map(|n| folder.path().join(format!("m{n}")))
            .collect();
        let network = Network::between(homes.clone());
        let way = |(n, &(_, peers)): (usize, &(u16, u16))| network.way_to(n, peers);
        let ways: Vec<String> = ports.iter().enumerate().map(way).collect();
        let named = |(n, way)| format!("m{n}={way}");
        let all: Vec<String> = ways.iter().enumerate().map(named).collect();
        let member = |(n, (clients, peers)): (usize, &(u16, u16))| {
            let home = &homes[n];
            std::fs::create_dir(home).unwrap();
            let (clients, peers) = (
                format!("{scheme}://localhost:{clients}"),
                format!("http://127.0.0.1:{peers}"),
            );
            let data = home.join("data").display().to_string();
            let listen = clients.replace("localhost", "127.0.0.1");
            let command = [
                "etcd",
                "--name",
                &format!("m{n}"),
                "--data-dir",
                &data,
                "--listen-client-urls",
                &listen,
                "--advertise-client-urls",
                &clients,
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &ways[n],
                "--initial-cluster",
                &all.join(","),
                "--heartbeat-interval",
                "50",
                "--election-timeout",
                "500",
                "--log-level",
                "warn",
            ];
            let mut command = command.map(str::to_owned).to_vec();
            command.extend(more.iter().map(|&word| word.to_owned()));
            Engine::start(command, home)
        };
        let members = ports.iter().enumerate().map(member).collect();
        let addresses = ports
            .iter()
            .map(|(clients, _)| format!("127.0.0.1:{clients}"))
            .collect();
        Self {
            members,
            addresses,
            network,
            _folder: folder,
        }
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

    /// How many names and passwords the first member has refused, by its own count.
    pub(crate) async fn refused(&self) -> u64 {
        let mut metrics = TcpStream::connect(&self.addresses[0]).await.unwrap();
        let ask = b"GET /metrics HTTP/1.0\r\n\r\n";
        metrics.write_all(ask).await.unwrap();
        let mut text = String::new();
        metrics.read_to_string(&mut text).await.unwrap();
        let refusal = |line: &&str| {
            let handled = line.starts_with("grpc_server_handled_total{");
            handled && line.contains("\"Authenticate\"") && !line.contains("grpc_code=\"OK\"")
        };
        let counts = text.lines().filter(refusal);
        let count = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
        counts.filter_map(count).sum()
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
    /// What its processes need to talk TLS only, if they do: each setting with its value.
    tls: Vec<(&'static str, String)>,
    url: String,
    folder: TempDir,
}

impl Redis {
    /// One server.
    pub(crate) async fn start() -> Self {
        let mut this = Self::empty(None);
        this.server(&[]).await;
        this.url = format!("redis://127.0.0.1:{}", this.ports[0]);
        this
    }

    /// One server that talks TLS only, to those who know the password of its user `tokens`.
    pub(crate) async fn start_with_tls(papers: &Papers, password: &str) -> Self {
        let mut this = Self::empty(Some(papers));
        let users = format!("user tokens on >{password} ~* &* +@all\nuser default off\n");
        let users = papers.file("users.acl", &users).display().to_string();
        this.server(&["--aclfile", &users]).await;
        this.url = format!("rediss://localhost:{}", this.ports[0]);
        this
    }

    /// A master, its replica, and three sentinels. With a password, the sentinels have it as well or none. With
    /// papers, all of them talk TLS only.
    pub(crate) async fn start_with_sentinels(
        password: Option<&str>,
        theirs: bool,
        papers: Option<&Papers>,
    ) -> Self {
        let mut this = Self::empty(papers);
        let known = password.map(|password| ["--requirepass", password, "--masterauth", password]);
        let known: Vec<&str> = known.into_iter().flatten().collect();
        this.server(&known).await;
        let master = this.ports[0].to_string();
        let follows = ["--replicaof", "127.0.0.1", &master];
        this.server(&[&known[..], &follows].concat()).await;
        let theirs = match password {
            Some(password) if theirs => {
                format!("sentinel auth-pass tokens {password}\nrequirepass {password}\n")
            }
            Some(password) => format!("sentinel auth-pass tokens {password}\n"),
            None => String::new(),
        };
        let mut ports = Vec::new();
        for n in 0..3 {
            let (port, home) = (free_port(), this.folder.path().join(format!("s{n}")));
            std::fs::create_dir(&home).unwrap();
            let config = home.join("sentinel.conf");
            let ports_and_tls = this
                .settings(port)
                .map(|(name, value)| format!("{name} {value}\n"));
            let text = ports_and_tls.collect::<String>();
            let text = format!(
                "{text}bind 127.0.0.1\nsentinel monitor tokens 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds tokens 1000\n\
                 sentinel failover-timeout tokens 3000\n{theirs}"
            );
            std::fs::write(&config, text).unwrap();
            let command = ["redis-sentinel".to_owned(), config.display().to_string()];
            this.sentinels.push(Engine::start(command.to_vec(), &home));
            ports.push(format!("127.0.0.1:{port}"));
            answers(port).await;
        }
        this.url = format!("{}-sentinel://{}/tokens", this.scheme(), ports.join(","));
        this
    }

    /// Three masters that share the slots. With papers, all of them talk TLS only.
    pub(crate) async fn start_cluster(papers: Option<&Papers>) -> Self {
        let mut this = Self::empty(papers);
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
        let mut client = Command::new("redis-cli");
        if let Some(papers) = papers {
            let (ca, cert, key) = papers.paths();
            client.args(["--tls", "--cacert", &ca, "--cert", &cert, "--key", &key]);
        }
        let joined = client
            .args(["--cluster", "create"])
            .args(&nodes)
            .arg("--cluster-yes")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&joined.stdout).into_owned();
        assert!(told.contains("[OK] All 16384 slots covered"), "{told}");
        this.url = format!("{}-cluster://{}", this.scheme(), nodes.join(","));
        this
    }

    fn empty(papers: Option<&Papers>) -> Self {
        let tls = papers.map(|papers| {
            let ((ca, cert, key), yes) = (papers.paths(), "yes".to_owned());
            vec![
                ("tls-ca-cert-file", ca),
                ("tls-cert-file", cert),
                ("tls-key-file", key),
                ("tls-replication", yes.clone()),
                ("tls-cluster", yes),
            ]
        });
        Self {
            servers: Vec::new(),
            ports: Vec::new(),
            sentinels: Vec::new(),
            tls: tls.unwrap_or_default(),
            url: String::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_empty() {
            "redis"
        } else {
            "rediss"
        }
    }

    /// What a process needs to listen on `port`, in the clear or not.
    fn settings(&self, port: u16) -> impl Iterator<Item = (&'static str, String)> {
        let zero = "0".to_owned();
        let ports = if self.tls.is_empty() {
            vec![("port", port.to_string())]
        } else {
            vec![("port", zero), ("tls-port", port.to_string())]
        };
        ports.into_iter().chain(self.tls.iter().cloned())
    }

    async fn server(&mut self, more: &[&str]) {
        let port = free_port();
        let home = self.folder.path().join(format!("r{port}"));
        std::fs::create_dir(&home).unwrap();
        let folder = home.display().to_string();
        let mut command = vec!["redis-server".to_owned()];
        for (name, value) in self.settings(port) {
            command.extend([format!("--{name}"), value]);
        }
        let usual = [
            "--bind",
            "127.0.0.1",
            "--dir",
            &folder,
            "--appendonly",
            "yes",
            "--save",
            "",
        ];
        command.extend(usual.iter().chain(more).map(|&word| word.to_owned()));
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
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "nobody listens on {port}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Certificates of a day: one authority, and one for everybody on this machine.
#[derive(Debug)]
pub(crate) struct Papers(TempDir);

impl Papers {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        // Another name than that of what it signs, or OpenSSL takes that for signed by itself.
        let name = &mut authority.distinguished_name;
        name.push(rcgen::DnType::CommonName, "authority");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(authority.clone(), &key);
        let own = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let signed = rcgen::CertificateParams::new(names).unwrap();
        let signed = signed.signed_by(&own, &issuer).unwrap();
        let files = [
            ("ca.pem", authority.self_signed(&key).unwrap().pem()),
            ("cert.pem", signed.pem()),
            ("key.pem", own.serialize_pem()),
        ];
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    /// Of the authority, the certificate and its key.
    pub(crate) fn paths(&self) -> (String, String, String) {
        let path = |name| self.0.path().join(name).display().to_string();
        (path("ca.pem"), path("cert.pem"), path("key.pem"))
    }

    /// A file with `text`.
    pub(crate) fn file(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}
