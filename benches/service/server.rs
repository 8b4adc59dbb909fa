//! The two servers under load, each a process of its own: ours as it is shipped, and tonic's.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tempfile::TempDir;

/// Clock ticks a second in `/proc`, a constant of Linux.
const TICKS: f64 = 100.0;

/// The program under test, with all that a user has on by default.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_wxtokend");

/// A process that serves gRPC.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub(crate) address: String,
}

impl Server {
    /// `wxtokend` with the state in `folder` and the WeChat at `wechat`.
    pub(crate) fn ours(folder: &Path, wechat: &str, refresh: &str) -> Self {
        Self::ours_with(folder, wechat, refresh, &[])
    }

    /// The same with some settings from the environment.
    pub(crate) fn ours_with(
        folder: &Path,
        wechat: &str,
        refresh: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let config = folder.join("wxtokend.toml");
        let data = folder.join("data").display().to_string();
        let text = format!(
            "[grpc]\nlisten = '127.0.0.1:0'\nmax_connections = 20000\n\
             [store]\npath = {data:?}\n[upstream]\nbase_urls = ['{wechat}']\n[refresh]\n{refresh}\n\
             [[app]]\nappid = 'wx-shop'\nname = 'shop'\nmode = 'classic'\nsecret_env = 'SHOP_SECRET'\n"
        );
        fs::write(&config, text).expect("a file");
        let mut command = Command::new(OURS);
        command.args(["serve", "--config"]).arg(config);
        command
            .env("SHOP_SECRET", SECRET)
            .env("WXTOKEND_LOG", "warn")
            .envs(variables.iter().copied());
        Self::start(command)
    }

    /// tonic's own server, with `reply` for an answer.
    pub(crate) fn stock(reply: &[u8]) -> Self {
        let hexadecimal = reply.iter().fold(String::new(), |mut all, byte| {
            let _ = write!(all, "{byte:02x}");
            all
        });
        let mut command = Command::new(env::current_exe().expect("this program"));
        command
            .arg("--stock")
            .env("WXTOKEND_BENCH_REPLY", hexadecimal);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.spawn().expect("a process");
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("grpc http://");
        Self {
            address: address.expect("the server says where it is").to_owned(),
            child,
            stdin,
            stdout,
        }
    }

    /// Makes tonic's server push to all streams.
    pub(crate) fn push(&mut self) {
        writeln!(self.stdin).expect("it reads");
        let _ = &self.stdout;
    }

    /// Memory that belongs to the process, in bytes.
    pub(crate) fn memory(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect("a size").parse::<f64>().expect("a number") * 1024.0
    }

    /// Processor time that it has used, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        let (_, fields) = stat.rsplit_once(") ").expect("the name ends");
        let ticks = fields.split(' ').skip(11).take(2);
        ticks
            .map(|t| t.parse::<f64>().expect("a number"))
            .sum::<f64>()
            / TICKS
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("it lives")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of the simulated account. No real one looks like this.
pub(crate) const SECRET: &str = "bench-secret";

/// A folder that is gone afterwards.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}
