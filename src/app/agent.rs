//! A sidecar: configuration → channel → mirror → listeners and outputs → wait → stop.

use std::{
    collections::BTreeMap, future::pending, panic::resume_unwind, sync::Arc, time::Duration,
};

use anyhow::{Context, bail};
use futures_util::future::join_all;
use tokio::{
    select,
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Admin, Http, announce, serve_both, signals::Signals, told_to_stop, wait};
pub use crate::output::Program;
use crate::{
    clock::Clock,
    config,
    domain::{AppName, access::Access},
    grpc,
    mirror::Mirror,
    output::{self, OutputError},
    telemetry::Metrics,
    tokens::{self, Tokens},
};

/// For all outputs of `--once` to be done, before an init container is better started anew.
const ONCE: Duration = Duration::from_mins(1);

/// Runs a sidecar until it is told to stop, or until `program` ends, whose exit code it returns.
///
/// # Errors
///
/// If it cannot start, or if its owner ends before it was told to.
pub async fn accompany(mut config: config::Agent, program: Option<Program>) -> anyhow::Result<u8> {
    let wanted = config.grpc.max_connections;
    config.grpc.max_connections = Http::leaves(config.http.as_ref(), wanted);
    let mut signals = Signals::new()?;
    let (mirror, tokens) = mirror(&config);
    let metrics = Metrics::new();
    // Whoever shares this machine with a sidecar may ask it.
    let access = Arc::new(Access::of_this_machine(config.margin));
    let (_access, is_access) = watch::channel(access);
    let (http, overlaps) = (config.http.as_ref(), overlaps(&config));
    let http = Http::bind(http, overlaps, tokens.clone(), is_access.clone(), &metrics).await?;
    let server = grpc::Server::bind(&config.grpc, tokens.clone(), is_access, &metrics).await;
    let server = server.context("cannot serve gRPC")?;
    let stop = CancellationToken::new();
    let admin = config.admin.as_ref();
    let admin = Admin::start(admin, tokens.clone(), metrics, stop.clone()).await?;
    // With a program stdout is the program's.
    if program.is_none() {
        admin.announce()?;
        http.announce()?;
        announce("grpc", server.local_url())?;
    }

    let outputs = config.outputs.into_iter();
    let outputs = outputs.map(|output| output::serve(output, tokens.clone()));
    let mut outputs: JoinSet<()> = outputs.collect();
    let nudge = Arc::new(Notify::new());
    let owner = tokio::spawn(mirror.run(stop.clone(), Arc::clone(&nudge)));
    let server = serve_both(http, server, &stop);
    let program = tokio::spawn(ended(program, tokens, stop.clone()));
    let mut program = AbortOnDropHandle::new(program);
    let mut code = None;
    let over = async {
        select! {
            ended = &mut program => code = Some(ended),
            () = crashed(&mut outputs) => {}
        }
    };
    let reload = || nudge.notify_waiters();
    let stopped = wait(&mut signals, reload, over, owner, server, stop).await;
    if code.is_none() {
        code = select! {
            biased;
            code = program => Some(code),
            // It is killed when nobody waits for it any more.
            _ = told_to_stop(&mut signals) => None,
        };
    }
    admin.end().await;
    // What they have started is ended before the process is.
    outputs.shutdown().await;
    stopped?;
    let code = code.map(|code| code.context("the program is lost"));
    Ok(code.transpose()?.transpose()?.unwrap_or(0))
}

/// Goes down with an output that panicked: the process must not go on without it.
async fn crashed(outputs: &mut JoinSet<()>) {
    while let Some(ended) = outputs.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            resume_unwind(error.into_panic());
        }
    }
    // Without outputs nothing happens here.
    pending::<()>().await;
}

/// The exit code of `program`. Without one, for ever until `stop`.
async fn ended(
    program: Option<Program>,
    tokens: Tokens,
    stop: CancellationToken,
) -> Result<u8, OutputError> {
    let Some(program) = program else {
        stop.cancelled().await;
        return Ok(0);
    };
    program.run(tokens, stop).await
}

fn overlaps(config: &config::Agent) -> BTreeMap<AppName, Duration> {
    let apps = config.apps.iter();
    apps.map(|app| (app.clone(), config.overlap)).collect()
}

/// Does each output once.
///
/// # Errors
///
/// If there is nothing to do, or if that takes more than a minute, because there is no token or because an
/// output fails.
pub async fn accompany_once(config: config::Agent) -> anyhow::Result<()> {
    if config.outputs.is_empty() {
        bail!("there is nothing to do once: no `[[output]]` is configured");
    }
    let (mirror, tokens) = mirror(&config);
    let owner = tokio::spawn(mirror.run(CancellationToken::new(), Arc::default()));
    let _owner = AbortOnDropHandle::new(owner);
    let mut signals = Signals::new()?;
    let all = join_all(config.outputs.iter().map(|o| output::once(o, &tokens)));
    select! {
        biased;
        signal = told_to_stop(&mut signals) => bail!("ended by {signal} before every output was done"),
        done = timeout(ONCE, all) => done.context("not every output could be done in a minute")?,
    };
    Ok(())
}

fn mirror(config: &config::Agent) -> (Mirror, Tokens) {
    let clock = Clock::SYSTEM;
    let names = config.apps.iter().map(|app| (app.clone(), app.to_string()));
    let (tokens, publisher) = tokens::channel(names, clock);
    (Mirror::new(publisher, config, clock), tokens)
}
