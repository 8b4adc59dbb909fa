//! The real program as a process of its own, and the simulated WeChat that it talks to.
//!
//! WeChat lives in the test's process, so that a test can ask it what it was asked and what is true.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::Write as _,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use wxtokend::{
    pb::{self, token_service_client::TokenServiceClient},
    sandbox::{Counts, Credentials, Knobs, Mint, Model, Pool, Settings, Shell},
};

use crate::{history::History, served::Client};

/// What a wait for a process may take at most: on a machine that builds something else as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test. A suite that means the one that is shipped says where that is.
fn program() -> String {
    let elsewhere = env::var("WXTOKEND_PROGRAM");
    elsewhere.unwrap_or_else(|_| env!("CARGO_BIN_EXE_wxtokend").into())
}

/// A simulated WeChat behind a real socket.
pub(crate) struct WeChat {
    shell: Shell,
}

impl WeChat {
    /// One that has the accounts `wx-NAME`, each with the secret [`secret_of`] its name.
    pub(crate) async fn start(names: &[&str], settings: Settings) -> Self {
        let account = |name: &&str| Credentials {
            appid: appid(name),
            secret: secret_of(name),
        };
        let accounts = names.iter().map(account).collect();
        let model = Model::new(
            Settings {
                accounts,
                ..settings
            },
            fastrand::u64(..),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shell = Shell::start(listener, model, Arc::new(since_epoch)).unwrap();
        Self { shell }
    }

    pub(crate) fn url(&self) -> String {
        self.shell.url()
    }

    pub(crate) fn turn(&self, knobs: &Knobs) {
        self.shell.model().turn(since_epoch(), knobs).unwrap();
    }

    pub(crate) fn counts(&self, name: &str) -> Counts {
        self.shell.model().account(&appid(name)).unwrap().counts()
    }

    /// Whether a token lives in truth. Counts nothing.
    pub(crate) fn accepts(&self, name: &str, token: &str) -> bool {
        let judged = self.shell.model().judge(since_epoch(), &appid(name), token);
        judged.is_ok()
    }

    /// Kills the current token.
    pub(crate) fn revoke(&self, name: &str, pool: Pool) {
        let revoked = self.shell.model().revoke(since_epoch(), &appid(name), pool);
        assert!(revoked, "there was nothing to revoke");
    }

    pub(crate) fn foreign_fetch(&self, name: &str, pool: Pool) {
        let mut model = self.shell.model();
        model
            .foreign_fetch(since_epoch(), &appid(name), pool)
            .unwrap();
    }

    /// All tokens that were made, whether they arrived or not.
    pub(crate) fn tokens(&self, name: &str) -> Vec<String> {
        let mints = self.mints(name).into_iter();
        mints.map(|mint| mint.value).collect()
    }

    /// Their fates.
    pub(crate) fn mints(&self, name: &str) -> Vec<Mint> {
        let model = self.shell.model();
        let account = model.account(&appid(name)).unwrap();
        let pools = [Pool::Classic, Pool::Stable];
        let mints = pools.iter().flat_map(|pool| account.mints(*pool));
        mints.cloned().collect()
    }

    /// A business call over the wire. Returns WeChat's errcode, 0 for a success.
    pub(crate) async fn use_token(&self, token: &str) -> i64 {
        let target = format!("/cgi-bin/get_api_domain_ip?access_token={token}");
        let (_, body) = http(&self.url(), "GET", &target, "").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        body["errcode"].as_i64().unwrap_or(0)
    }
}

pub(crate) fn appid(name: &str) -> String {
    format!("wx-{name}")
}

pub(crate) fn secret_of(name: &str) -> String {
    format!("CANARY-secret-of-{name}")
}

pub(crate) fn since_epoch() -> Duration {
    let since = wxtokend::app::wall_time().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap()
}

/// One exchange of HTTP, by hand. Returns the status and the body.
pub(crate) async fn http(url: &str, method: &str, target: &str, body: &str) -> (u16, String) {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: wechat\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or_default();
    (status.parse().unwrap_or_default(), body.to_owned())
}

/// A folder with a configuration, its secrets and its state.
pub(crate) struct Home {
    folder: TempDir,
    text: String,
    variables: Vec<(String, String)>,
    /// What the streams of every server said that ran here.
    pub(crate) history: History,
}

impl Home {
    /// For an app of each name at `wechat`; one whose name begins with `c` is classic. `refresh` is
    /// the body of that table.
    pub(crate) fn new(wechat: &str, refresh: &str, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let mut text = format!(
            "[grpc]\nlisten = '127.0.0.1:0'\n[store]\npath = '{path}/data'\n\
             [upstream]\nbase_urls = ['{wechat}']\ntimeout = '2s'\n[refresh]\n{refresh}\n"
        );
        for name in names {
            let mode = if name.starts_with('c') {
                "classic"
            } else {
                "stable"
            };
            let appid = appid(name);
            write!(
                text,
                "[[app]]\nappid = '{appid}'\nname = '{name}'\nmode = '{mode}'\n\
                 secret_file = '{path}/{name}'\n"
            )
            .unwrap();
            fs::write(folder.path().join(name), secret_of(name)).unwrap();
        }
        Self {
            folder,
            text,
            variables: Vec::new(),
            history: History::over_sockets(),
        }
    }

    /// Listens on a unix socket, whose name stays the same over restarts.
    pub(crate) fn on_unix(self) -> Self {
        let socket = self.path("grpc.sock").display().to_string();
        self.replace(
            "listen = '127.0.0.1:0'",
            &format!("listen = 'unix://{socket}'"),
        )
    }

    /// Appends tables.
    pub(crate) fn and(mut self, tables: &str) -> Self {
        self.text += tables;
        self
    }

    pub(crate) fn replace(mut self, from: &str, to: &str) -> Self {
        self.change(from, to);
        self
    }

    pub(crate) fn change(&mut self, from: &str, to: &str) {
        assert!(self.text.contains(from), "{}", self.text);
        self.text = self.text.replace(from, to);
    }

    /// For the environment of the program.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn config(&self) -> String {
        self.write("wxtokend.toml", &self.text);
        self.path("wxtokend.toml").display().to_string()
    }

    /// Starts the server without waiting for anything.
    pub(crate) fn spawn(&self) -> Process {
        self.spawn_with(&[])
    }

    /// The same with more in its environment.
    pub(crate) fn spawn_with(&self, more: &[(&str, &str)]) -> Process {
        let config = self.config();
        let more = more
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        let variables: Vec<_> = self.variables.iter().cloned().chain(more).collect();
        Process::start(&["serve", "--config", &config], &variables)
    }

    /// An app's state file.
    pub(crate) fn state_of(&self, name: &str) -> PathBuf {
        self.path("data").join(format!("{}.json", appid(name)))
    }

    /// What an app's state file says, if it says anything.
    pub(crate) fn record_of(&self, name: &str) -> Value {
        let text = fs::read_to_string(self.state_of(name)).unwrap_or_default();
        let file: Value = serde_json::from_str(&text).unwrap_or_default();
        file["content"].clone()
    }

    /// Until an app's file has its token and no note of an open fetch.
    pub(crate) async fn saved(&self, name: &str) {
        let done = || {
            let record = self.record_of(name);
            record["token"].is_object() && record["note"].is_null()
        };
        until(&format!("the token of `{name}` is saved"), done).await;
    }

    /// Starts the server with a stderr that is full and that nobody reads. It stays so as long as the
    /// other end, which is returned, is held.
    pub(crate) fn spawn_unheard(&self) -> (Process, UnixStream) {
        let (reader, mut log) = UnixStream::pair().unwrap();
        log.set_nonblocking(true).unwrap();
        while log.write(&[b'.'; 4096]).is_ok() {}
        log.set_nonblocking(false).unwrap();
        let mut command = Command::new(program());
        command
            .args(["serve", "--config", &self.config()])
            .stderr(OwnedFd::from(log));
        (Process::spawn(command, &self.variables), reader)
    }

    /// Starts the server with a limit of open files of its own: soft and hard, or just one.
    pub(crate) fn spawn_with_files(&self, limit: &str) -> Process {
        let mut shell = Command::new("/bin/sh");
        let within = format!(
            "ulimit {limit} && exec {} serve --config {}",
            program(),
            self.config()
        );
        shell.args(["-c", &within]);
        Process::of(shell, &self.variables)
    }

    /// Starts the server and waits until it listens.
    pub(crate) async fn serve(&self) -> Server {
        self.serve_with(&[]).await
    }

    /// The same with more variables.
    pub(crate) async fn serve_with(&self, more: &[(&str, &str)]) -> Server {
        self.history.next_server();
        let history = self.history.clone();
        Server {
            history,
            ..Server::of(self.spawn_with(more)).await
        }
    }
}

/// A server that listens.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) url: String,
    /// What its streams say, and those of the servers before it.
    pub(crate) history: History,
}

impl Server {
    pub(crate) async fn of(process: Process) -> Self {
        let line = process.stdout_line("grpc ").await;
        let url = line.strip_prefix("grpc ").unwrap().to_owned();
        let history = History::over_sockets();
        Self {
            process,
            url,
            history,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        TokenServiceClient::new(self.channel().await)
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.url.clone()).unwrap();
        endpoint.connect().await.unwrap()
    }
}

/// A run of the program; it is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    stdout: watch::Receiver<String>,
    stderr: watch::Receiver<String>,
}

impl Process {
    pub(crate) fn start(arguments: &[&str], variables: &[(String, String)]) -> Self {
        let mut command = Command::new(program());
        command.args(arguments);
        Self::of(command, variables)
    }

    pub(crate) fn of(mut command: Command, variables: &[(String, String)]) -> Self {
        command.stderr(Stdio::piped());
        Self::spawn(command, variables)
    }

    /// With the stderr that `command` has.
    fn spawn(mut command: Command, variables: &[(String, String)]) -> Self {
        let mut child = command
            .env_clear()
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = collect(child.stdout.take().unwrap());
        let nothing = || watch::channel(String::new()).1;
        let stderr = child.stderr.take().map_or_else(nothing, collect);
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Runs the program to its end.
    pub(crate) async fn run(arguments: &[&str]) -> Ended {
        Self::start(arguments, &[]).end().await
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.borrow().clone()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.borrow().clone()
    }

    /// Waits for a line on stdout that begins so.
    pub(crate) async fn stdout_line(&self, begin: &str) -> String {
        self.line(&self.stdout, begin).await
    }

    /// Waits until `done` is true of everything on stdout.
    pub(crate) async fn until_stdout(&self, what: &str, done: impl FnMut(&String) -> bool) {
        self.until(&self.stdout, what, done).await;
    }

    /// Waits for words on stderr.
    pub(crate) async fn until_stderr(&self, words: &str) {
        self.until(&self.stderr, words, |text| text.contains(words))
            .await;
    }

    async fn line(&self, from: &watch::Receiver<String>, begin: &str) -> String {
        let find = |text: &str| {
            let mut lines = text.lines();
            lines
                .find(|line| line.starts_with(begin))
                .map(str::to_owned)
        };
        self.until(from, begin, |text| find(text).is_some()).await;
        let found = find(&from.borrow());
        found.unwrap()
    }

    async fn until(
        &self,
        from: &watch::Receiver<String>,
        what: &str,
        done: impl FnMut(&String) -> bool,
    ) {
        let mut from = from.clone();
        let seen = timeout(PATIENCE, from.wait_for(done)).await;
        let seen = seen.is_ok_and(|seen| seen.is_ok());
        assert!(
            seen,
            "this did not come: {what}\n--- stdout\n{}--- stderr\n{}",
            self.stdout(),
            self.stderr()
        );
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Sends a signal by its name.
    pub(crate) async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status().await;
        assert!(sent.unwrap().success(), "{kill}");
    }

    /// `kill -9`, and nothing is left of it.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let Ok(status) = ended else {
            panic!("it does not end; stderr:\n{}", self.stderr());
        };
        status.unwrap()
    }

    /// Waits for its end, and for its last word.
    pub(crate) async fn end(mut self) -> Ended {
        let status = self.ended().await;
        // The pipes are closed by now, and read to their ends soon.
        while self.stdout.changed().await.is_ok() {}
        while self.stderr.changed().await.is_ok() {}
        Ended {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

/// What is left of a run.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

fn collect(pipe: impl AsyncRead + Send + Unpin + 'static) -> watch::Receiver<String> {
    let (writer, reader) = watch::channel(String::new());
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).await.unwrap_or(0) > 0 {
            writer.send_modify(|text| text.push_str(&String::from_utf8_lossy(&line)));
            line.clear();
        }
    });
    reader
}

pub(crate) fn get(name: &str) -> pb::GetTokenRequest {
    let app_id = name.into();
    pb::GetTokenRequest { app_id }
}

pub(crate) fn watch_request(name: &str) -> pb::WatchTokenRequest {
    pb::WatchTokenRequest {
        app_id: name.into(),
        known_generation: 0,
    }
}

pub(crate) fn stale(name: &str, token: &str) -> pb::ForceRefreshRequest {
    pb::ForceRefreshRequest {
        app_id: name.into(),
        stale_token: token.into(),
        errcode: 40001,
        ..Default::default()
    }
}

/// The current token, or why there is none.
pub(crate) async fn token(client: &mut Client, name: &str) -> Result<pb::Token, Status> {
    let answer = client.get_token(get(name)).await?;
    Ok(answer.into_inner().token.unwrap())
}

/// Waits for a token that `fits`.
pub(crate) async fn token_that(
    client: &mut Client,
    name: &str,
    what: &str,
    fits: impl Fn(&pb::Token) -> bool,
) -> pb::Token {
    let asking = async {
        loop {
            if let Ok(token) = token(client, name).await
                && fits(&token)
            {
                return token;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let token = timeout(PATIENCE, asking).await;
    token.unwrap_or_else(|_| panic!("`{name}` got no token that {what}"))
}

/// Looks again and again until something is so.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let looking = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = timeout(PATIENCE, looking).await;
    assert!(seen.is_ok(), "this did not come: {what}");
}

/// A time since 1970.
pub(crate) fn time(at: Option<prost_types::Timestamp>) -> Duration {
    let at = at.unwrap();
    Duration::new(at.seconds.unsigned_abs(), at.nanos.unsigned_abs())
}

/// A status as the contract's table has it: code, reason, `errcode`.
pub(crate) fn row(status: &Status) -> (Code, String, Option<String>) {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    assert_eq!(info.domain, "wxtokend");
    let errcode = info.metadata.get("errcode").cloned();
    (status.code(), info.reason, errcode)
}
