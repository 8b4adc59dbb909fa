//! A sidecar: configuration → channel → mirror → listeners and outputs → wait → stop.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Admin, Http, STOP, announce, signals::Signals, wait};
pub use crate::output::Program;
use crate::{
    clock::Clock,
    config::{self, Output},
    domain::{AppName, Policy, access::Access},
    grpc,
    mirror::Mirror,
    output,
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
    let (_access, is_access) = watch::channel(Arc::new(Access::new(Vec::new())));
    let http = Http::bind(
        config.http.as_ref(),
        overlaps(&config),
        tokens.clone(),
        is_access.clone(),
        &metrics,
    );
    let http = http.await?;
    let server = grpc::Server::bind(&config.grpc, tokens.clone(), is_access, &metrics).await;
    let server = server.context("cannot serve gRPC")?;
    let stop = CancellationToken::new();
    let admin = config.admin.as_ref();
    let admin = Admin::start(admin, tokens.clone(), metrics, stop.clone()).await?;
    // With a program stdout is the program's.
    if program.is_none() {
        http.announce()?;
        announce("grpc", server.local_url())?;
    }

    let mut outputs = JoinSet::new();
    for output in config.outputs {
        outputs.spawn(output::serve(output, tokens.clone()));
    }
    let owner = tokio::spawn(mirror.run(stop.clone()));
    let (stop_http, stop_grpc) = (stop.clone(), stop.clone());
    let server = tokio::spawn(async move {
        tokio::join!(http.serve(stop_http), server.serve(stop_grpc, STOP));
    });
    let over = CancellationToken::new();
    let program = program.map(|program| {
        let (running, over) = (program.run(tokens, stop.clone()), over.clone().drop_guard());
        tokio::spawn(async move {
            let _over = over;
            running.await
        })
    });
    let ended = wait(&mut signals, || {}, over.cancelled(), owner, server, stop).await;
    let code = match program {
        Some(program) => program.await.context("the program is lost")??,
        None => 0,
    };
    admin.end().await;
    ended.map(|()| code)
}

fn overlaps(config: &config::Agent) -> BTreeMap<AppName, Duration> {
    let overlap = Policy::default().overlap;
    let apps = config.apps.iter();
    apps.map(|app| (app.clone(), overlap)).collect()
}

/// Does each output once.
///
/// # Errors
///
/// If there is no token for one of them, or if it fails.
pub async fn accompany_once(config: config::Agent) -> anyhow::Result<()> {
    let (mirror, tokens) = mirror(&config);
    let stop = CancellationToken::new();
    let _owner = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(mirror.run(stop)));
    let all = async {
        for output in config.outputs {
            done(&Arc::new(output), &tokens).await;
        }
    };
    let done = tokio::time::timeout(ONCE, all).await;
    done.context("not every output could be done in a minute")
}

/// Until it has been done. What goes wrong is logged.
async fn done(output: &Arc<Output>, tokens: &Tokens) {
    while let Err(error) = output::once(output, tokens).await {
        tracing::warn!(app = %output.app, %error, "an output failed, trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn mirror(config: &config::Agent) -> (Mirror, Tokens) {
    let clock = Clock::SYSTEM;
    let names = config.apps.iter().map(|app| (app.clone(), app.to_string()));
    let (tokens, publisher) = tokens::channel(names, clock);
    (Mirror::new(publisher, config, clock), tokens)
}
