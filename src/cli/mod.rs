//! The command line: what can be asked for, and one short function for each command.
//!
//! stdout is data, stderr is talk. Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration,
//! 69 server not reachable.

mod client;
mod failure;
mod print;
mod simulate;

use std::{fmt, future::Future, path::PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
pub use failure::Failure;
use simulate::Simulate;

use crate::{
    app::{self, Program},
    config::{self, Config, environment},
    telemetry,
};

/// A WeChat access-token central control server (中控服务器): one place fetches, everybody else asks.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Serve),
    /// Run a sidecar: follow a server, serve its tokens on this machine, write them where programs look
    Agent(Agent),
    /// Print the current token of an app
    Get(Get),
    /// Print each token of an app as it comes
    Watch(Watch),
    /// Report a token that WeChat refused, and print what came of it
    Refresh(Refresh),
    /// Ask a server how it is; exit code 0 means SERVING
    Health(Health),
    /// Read a configuration and report all its problems
    Check(Check),
    /// Run the simulated WeChat alone
    Sandbox(Simulate),
    /// Look after what is saved
    #[command(subcommand)]
    Store(Keeping),
}

#[derive(Debug, Subcommand)]
enum Keeping {
    /// Copy the tokens of all apps from one store to another, without a fetch; stop the servers before
    Copy(Copy),
}

#[derive(Debug, Args)]
struct Copy {
    /// The configuration whose `[store]` has the tokens
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The configuration whose `[store]` is to have them
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

#[derive(Debug, Args)]
struct Serve {
    /// The configuration
    #[arg(long, value_name = "FILE", required_unless_present = "sandbox")]
    config: Option<PathBuf>,
    /// Bring a simulated WeChat and use that; needs no configuration, keeps nothing
    #[arg(long)]
    sandbox: bool,
}

#[derive(Debug, Args)]
struct Agent {
    /// The configuration of the sidecar
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Do each output once and end, for an init container
    #[arg(long, conflicts_with = "program")]
    once: bool,
    /// Start the program anew with each rotation
    #[arg(long, requires = "program")]
    restart: bool,
    /// A program to run with the tokens in its environment; the sidecar ends with it
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

/// Where the server is, and who asks.
#[derive(Debug, Args)]
struct Endpoint {
    /// Where the server is: `http://host:port` or `unix:///path`
    #[arg(
        long,
        value_name = "URL",
        env = "WXTOKEND_ENDPOINT",
        default_value = "http://127.0.0.1:50051"
    )]
    endpoint: String,
    /// The file with the consumer's key, if the server wants one
    #[arg(long, value_name = "FILE", env = "WXTOKEND_KEY_FILE")]
    key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Get {
    /// The app's name or appid
    app: String,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Args)]
struct Watch {
    /// The app's name or appid
    app: String,
    /// Print each message as a line of JSON
    #[arg(long)]
    json: bool,
    /// Print the token too
    #[arg(long)]
    show_token: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Args)]
struct Refresh {
    /// The app's name or appid
    app: String,
    #[command(flatten)]
    stale: StaleArguments,
    /// The errcode that WeChat answered
    #[arg(
        long,
        value_name = "C",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    errcode: i32,
    /// The token has leaked: kill it although it lives
    #[arg(long)]
    leaked: bool,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct StaleArguments {
    /// The refused token's generation
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// The refused token itself
    #[arg(long, value_name = "T")]
    token: Option<Hidden>,
}

#[derive(Debug, Args)]
struct Health {
    /// Which service: empty for readiness, `live`, or `app/NAME`
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Args)]
struct Check {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// An argument that must not be printed.
#[derive(Clone)]
struct Hidden(String);

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(***)")
    }
}

impl Arguments {
    /// Runs the command to its end.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Agent(agent) => agent.run(),
            Command::Get(get) => block_on(get.run()),
            Command::Watch(watch) => block_on(watch.run()),
            Command::Refresh(refresh) => block_on(refresh.run()),
            Command::Health(health) => block_on(health.run()),
            Command::Check(check) => check.run(),
            Command::Sandbox(simulate) => block_on(simulate.run()),
            Command::Store(Keeping::Copy(copy)) => copy.run(),
        }
    }
}

impl Serve {
    fn run(self) -> Result<(), Failure> {
        let config = match self.config {
            Some(path) => load(&path)?,
            // clap lets nothing else through than `--sandbox`.
            None => app::built_in(environment()).map_err(|wrong| Failure::configuration(&wrong))?,
        };
        let _unwritten = telemetry::init(config.log);
        let served = if self.sandbox {
            block_on_app(app::serve_sandbox(config))
        } else {
            block_on_app(app::serve(config))
        };
        served.map_err(Failure::from)
    }
}

impl Agent {
    fn run(self) -> Result<(), Failure> {
        let config = config::Agent::load(&self.config);
        let config = config.map_err(|wrong| Failure::configuration(&wrong))?;
        let _unwritten = telemetry::init(config.log);
        if self.once {
            return Ok(block_on_app(app::accompany_once(config))?);
        }
        let program = (!self.program.is_empty()).then(|| Program {
            words: self.program,
            apps: config.apps.clone(),
            restart: self.restart,
        });
        match block_on_app(app::accompany(config, program))? {
            0 => Ok(()),
            code => Err(Failure::with_code(code)),
        }
    }
}

impl Get {
    async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.endpoint).await?;
        let token = client.get(self.app).await?;
        print::token(&token, self.json)
    }
}

impl Watch {
    async fn run(self) -> Result<(), Failure> {
        let client = client::connect(&self.endpoint).await?;
        client
            .watch(self.app, |message| {
                print::message(message, self.json, self.show_token)
            })
            .await
    }
}

impl Refresh {
    async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.endpoint).await?;
        let request = crate::pb::ForceRefreshRequest {
            app_id: self.app,
            stale_generation: self.stale.generation.unwrap_or_default(),
            stale_token: self.stale.token.map_or_else(String::new, |token| token.0),
            errcode: self.errcode,
            leaked: self.leaked,
        };
        let answer = client.refresh(request).await?;
        print::refreshed(&answer, self.json)
    }
}

impl Health {
    async fn run(self) -> Result<(), Failure> {
        let serving = client::health(&self.endpoint, self.service).await?;
        print::line(if serving { "SERVING" } else { "NOT_SERVING" })?;
        if serving {
            Ok(())
        } else {
            Err(Failure::silent())
        }
    }
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        if config::Agent::is_meant(&self.config) {
            let config = config::Agent::load(&self.config);
            let config = config.map_err(|wrong| Failure::configuration(&wrong))?;
            let (apps, outputs) = (config.apps.len(), config.outputs.len());
            let file = self.config.display();
            return print::line(&format!("{file}: fine, {apps} app(s), {outputs} output(s)"));
        }
        let config = load(&self.config)?;
        for warning in config.warnings() {
            eprintln!("warning: {warning}");
        }
        let apps = config.apps.len();
        print::line(&format!("{}: fine, {apps} app(s)", self.config.display()))
    }
}

impl Copy {
    fn run(self) -> Result<(), Failure> {
        let (from, to) = (load(&self.from)?, load(&self.to)?);
        let _unwritten = telemetry::init(to.log);
        let mut printed = Ok(());
        block_on_app(app::copy_store(from, to, |name, copied| {
            printed = print::copied(name, copied);
        }))?;
        printed
    }
}

fn load(path: &std::path::Path) -> Result<Config, Failure> {
    Config::load(path).map_err(|problems| Failure::configuration(&problems))
}

fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on_app(async { Ok(future.await) })?
}

fn block_on_app<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(future);
    // A name look-up or a disk that hangs must not hold up the end.
    runtime.shutdown_background();
    done
}
