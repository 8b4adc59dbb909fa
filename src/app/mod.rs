//! The composition root: configuration → store → upstreams → channel → owner → listener → wait → stop.
//!
//! The order of a stop: the server counts as not ready; no new fetch starts, one that was sent is
//! awaited, published and saved; every stream says `DRAINING`; calls finish; what is left is cut. Ten
//! seconds in all, whatever peers do. Metrics and probes answer until the end.

mod admin;
mod agent;
mod copy;
mod http;
mod signals;
mod simulated;

use std::{
    future::pending,
    io::{self, Write},
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use crate::store::Copied;
use admin::Admin;
pub use agent::{Program, accompany, accompany_once};
use anyhow::{Context, bail};
pub use copy::copy_store;
use http::Http;
use signals::{Signals, Wish};
pub use simulated::{built_in, serve_sandbox, simulate};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    clock::Clock,
    config::{self, Config},
    domain::access::{Access, Consumer},
    grpc,
    listener::BindError,
    refresher::{Managed, Refresher},
    store::{self, StoreError},
    telemetry::Metrics,
    tokens, upstream,
};

/// From the signal to the cut of what has not ended by then. The end of the process follows within the
/// contract's ten seconds, also when ten thousand connections are to be closed on a busy machine.
const STOP: Duration = Duration::from_millis(9500);

/// Left to the server for the cut, and to say so, before the process ends without it.
const CUT: Duration = Duration::from_millis(300);

/// Runs a server until it is told to stop.
///
/// # Errors
///
/// If it cannot start, or if its owner ends before it was told to.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    serve_until_stopped(config, |_| Ok(())).await
}

/// One thing to do about an error of this module, if there is something particular.
pub fn hint(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(match error {
            StoreError::Held { .. } => {
                "stop the other server, or give this one a place of its own: two servers on one store would retire each other's tokens"
            }
            StoreError::Remote { .. } | StoreError::Lost => {
                "look whether the store is up and can be reached from here; `[store]` says where it is"
            }
            StoreError::Io { action: "read", .. } => {
                "the user running wxtokend must be allowed to read that file; `[store]` names it"
            }
            _ => {
                "`store.path` must name a folder that the user running wxtokend may create and write to"
            }
        });
    }
    match error.downcast_ref::<BindError>() {
        Some(_) if error.to_string() == admin::CANNOT => Some(
            "stop the program that listens there, or set another `admin.listen` (port 0 takes any free one)",
        ),
        Some(_) if error.to_string() == http::CANNOT => Some(
            "stop the program that listens there, or set another `http.listen` (port 0 takes any free one)",
        ),
        Some(_) => Some(
            "stop the program that listens there, or set another `grpc.listen` (port 0 takes any free one)",
        ),
        None => None,
    }
}

/// The time of day, for display.
pub fn wall_time() -> SystemTime {
    Clock::SYSTEM.now().wall
}

async fn serve_until_stopped(
    mut config: Config,
    when_ready: impl FnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let wanted = config.grpc.max_connections;
    config.grpc.max_connections = Http::leaves(config.http.as_ref(), wanted);
    let mut signals = Signals::new()?;
    let clock = Clock::SYSTEM;
    let appids = config.apps.iter().map(|app| app.appid.clone()).collect();
    let store = store::open(&config.store, appids, clock).context("cannot use the store")?;
    let names = config
        .apps
        .iter()
        .map(|app| (app.name.clone(), app.appid.clone()));
    let (tokens, publisher) = tokens::channel(names, clock);
    let metrics = Metrics::new();
    let (access, is_access) = watch::channel(Arc::new(read_access(&config.consumers)?));

    let overlap = |app: &config::App| (app.name.clone(), app.policy.overlap);
    let overlaps = config.apps.iter().map(overlap).collect();
    let http = config.http.as_ref();
    let http = Http::bind(http, overlaps, tokens.clone(), is_access.clone(), &metrics).await?;
    let server = grpc::Server::bind(&config.grpc, tokens.clone(), is_access, &metrics).await;
    let server = server.context("cannot serve gRPC")?;
    let apps = managed(config.apps, &config.upstream)?;
    let refresher = Refresher::new(publisher, apps, store, clock, &metrics).await;

    let (stop, nudge) = (CancellationToken::new(), Arc::new(Notify::new()));
    let admin = Admin::start(config.admin.as_ref(), tokens, metrics, stop.clone()).await?;
    admin.announce()?;
    http.announce()?;
    announce("grpc", server.local_url())?;
    when_ready(server.local_url())?;
    let owner = tokio::spawn(refresher.run(stop.clone(), Arc::clone(&nudge)));
    let server = serve_both(http, server, &stop);

    let reload = || {
        match read_access(&config.consumers) {
            Ok(new) => drop(access.send_replace(Arc::new(new))),
            Err(error) => error!(error = format!("{error:#}"), "the old keys stay in force"),
        }
        nudge.notify_one();
    };
    let ended = wait(&mut signals, reload, pending(), owner, server, stop).await;
    admin.end().await;
    ended
}

/// Serves over gRPC and HTTP until `stop`.
fn serve_both(http: Http, server: grpc::Server, stop: &CancellationToken) -> JoinHandle<()> {
    let (stop_http, stop_grpc) = (stop.clone(), stop.clone());
    tokio::spawn(async move {
        tokio::join!(http.serve(stop_http), server.serve(stop_grpc, STOP));
    })
}

/// Until a signal or `over` says stop, or the owner ends by itself, which it must not.
async fn wait(
    signals: &mut Signals,
    reload: impl Fn(),
    over: impl Future<Output = ()>,
    mut owner: JoinHandle<()>,
    server: JoinHandle<()>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut over = pin!(over);
    loop {
        tokio::select! {
            biased;
            () = &mut over => break,
            wish = signals.next() => match wish {
                Wish::Reload => reload(),
                Wish::Stop(name) => {
                    info!(signal = name, "stopping");
                    break;
                }
            },
            ended = &mut owner => {
                stop.cancel();
                ended.context("the owner of the tokens crashed")?;
                bail!("the owner of the tokens ended before it was told to");
            }
        }
    }
    stop.cancel();
    let all = async {
        owner.await.context("the owner of the tokens crashed")?;
        server.await.context("the server crashed")
    };
    tokio::select! {
        // A time-out is no failure: what was left is cut.
        ended = timeout(STOP + CUT, all) => ended.unwrap_or(Ok(()))?,
        // As its operator wishes, so it is no failure; the note on disk knows of a fetch under way.
        signal = told_to_stop(signals) => warn!(signal, "told to stop again: ending at once"),
    }
    info!("stopped");
    Ok(())
}

/// Until a signal says stop, and which one.
async fn told_to_stop(signals: &mut Signals) -> &'static str {
    loop {
        if let Wish::Stop(name) = signals.next().await {
            return name;
        }
    }
}

fn managed(apps: Vec<config::App>, settings: &config::Upstream) -> anyhow::Result<Vec<Managed>> {
    let manage = |app: config::App| {
        let (name, appid, policy) = (app.name.clone(), app.appid.clone(), app.policy);
        let upstream = upstream::open(settings, app).context("cannot set up the way to WeChat")?;
        Ok(Managed {
            name,
            appid,
            policy,
            upstream,
        })
    };
    apps.into_iter().map(manage).collect()
}

fn read_access(consumers: &[config::Consumer]) -> anyhow::Result<Access> {
    let read = |consumer: &config::Consumer| {
        let key = consumer.key.read();
        let key =
            key.with_context(|| format!("consumer `{}` has no key", consumer.grant.holder))?;
        let grant = Arc::new(consumer.grant.clone());
        Ok(Consumer { key, grant })
    };
    let consumers: anyhow::Result<_> = consumers.iter().map(read).collect();
    Ok(Access::new(consumers?))
}

/// One line on stdout for each listener that is ready, for scripts that picked port 0.
fn announce(name: &str, url: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{name} {url}").and_then(|()| out.flush());
    written.context("cannot write to stdout")
}
