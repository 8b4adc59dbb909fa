//! A server with a WeChat of its own, for a first look and for trying a configuration.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use tokio::net;

use super::{announce, serve_until_stopped, wall_time};
use crate::{
    config::{App, Config, Listen, Problems, SecretSource, Store},
    domain::Secret,
    sandbox::{Credentials, Model, Settings, Shell},
};

/// One app, lives short enough to watch a rotation, nothing on disk.
const BUILT_IN: &str = r#"
    [http]
    [store]
    kind = "memory"
    [refresh]
    overlap = "20s"
    probe_every = "10s"
    [[app]]
    appid = "wx5a9db0c5a9db0c01"
    name = "sandbox"
    secret_env = "UNUSED"
"#;

/// The life of a token at the built-in WeChat.
const LIFE: Duration = Duration::from_mins(2);

/// Where a server listens if nobody says otherwise, if nobody else does.
const STANDARD: [&str; 2] = ["127.0.0.1:50051", "127.0.0.1:8080"];

/// Runs a server whose WeChat is simulated, with the apps of `config` and their secrets. It keeps
/// nothing on disk.
///
/// # Errors
///
/// Those of [`super::serve`], and a secret that cannot be read.
pub async fn serve_sandbox(mut config: Config) -> anyhow::Result<()> {
    let settings = Settings {
        accounts: config.apps.iter().map(account).collect::<Result<_, _>>()?,
        life: LIFE,
        overlap: config
            .apps
            .first()
            .map_or(LIFE / 6, |app| app.policy.overlap),
        ..Settings::default()
    };
    let shell = start(net::TcpListener::bind("127.0.0.1:0").await?, settings)?;
    announce("sandbox", &shell.url())?;
    config.upstream.base_urls = vec![shell.url()];
    config.upstream.proxy = None;
    config.store = Store::Memory;
    let app = config.apps.first().map(|app| app.name.to_string());
    let app = app.context("an app is configured")?;
    serve_until_stopped(config, |url| {
        suggest(&app, url);
        Ok(())
    })
    .await
}

/// Runs the simulated WeChat alone until the process is killed.
///
/// # Errors
///
/// If it cannot listen there, or if a setting makes no sense.
pub async fn simulate(listen: &str, settings: Settings) -> anyhow::Result<()> {
    let listener = net::TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("cannot listen on `{listen}`"))?;
    let shell = start(listener, settings)?;
    announce("sandbox", &shell.url())?;
    let mut signals = super::Signals::new()?;
    while let super::Wish::Reload = signals.next().await {}
    shell.stop().await;
    Ok(())
}

fn start(listener: net::TcpListener, settings: Settings) -> anyhow::Result<Shell> {
    settings.check().map_err(anyhow::Error::msg)?;
    let clock = || {
        let since_epoch = wall_time().duration_since(SystemTime::UNIX_EPOCH);
        since_epoch.unwrap_or_default()
    };
    let model = Model::new(settings, fastrand::u64(..));
    Ok(Shell::start(listener, model, Arc::new(clock))?)
}

/// A configuration for [`serve_sandbox`] when there is none: one app called `sandbox`. Those of
/// `variables` whose name starts with `WXTOKEND__` are laid over it.
pub fn built_in(variables: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
    let mut config = Config::parse(BUILT_IN, "built-in", variables)?;
    let http = config.http.as_mut().map(|http| &mut http.listen);
    for listen in http.into_iter().chain([&mut config.grpc.listen]) {
        let taken = |standard: &&str| {
            *listen == Listen::Tcp((*standard).into()) && TcpListener::bind(standard).is_err()
        };
        if STANDARD.iter().any(taken) {
            *listen = Listen::Tcp("127.0.0.1:0".into());
        }
    }
    let secret = Secret::new(Credentials::default().secret);
    for app in &mut config.apps {
        app.secret = SecretSource::Fixed(Secret::new(secret.expose()));
    }
    Ok(config)
}

fn account(app: &App) -> anyhow::Result<Credentials> {
    let secret = app.secret.read();
    let secret = secret.with_context(|| format!("the secret of `{}` is needed", app.name))?;
    Ok(Credentials {
        appid: app.appid.clone(),
        secret: secret.expose().to_owned(),
    })
}

/// What a newcomer may want to do next.
fn suggest(app: &str, url: &str) {
    let exe = program();
    let endpoint = match url {
        "http://127.0.0.1:50051" => String::new(),
        other => format!(" --endpoint {other}"),
    };
    eprintln!("\nThis server has a simulated WeChat. In another terminal, try");
    eprintln!("  {exe} get {app} --json{endpoint}");
    eprintln!("  {exe} watch {app}{endpoint}");
    eprintln!("  {exe} refresh {app}{endpoint} --token \"$({exe} get {app}{endpoint})\"\n");
}

/// How this program was called, as short as possible.
fn program() -> String {
    let exe = env::current_exe().unwrap_or_else(|_| PathBuf::from("wxtokend"));
    let here = env::current_dir().unwrap_or_default();
    let shown = exe.strip_prefix(&here).unwrap_or(&exe);
    shown.display().to_string()
}
