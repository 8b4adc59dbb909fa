//! `wxtokend store copy`: from one store to another, for whoever begins to run replicas.

use anyhow::{Context, bail};

use crate::{
    clock::Clock,
    config::{Config, Store},
    domain::AppName,
    store::{self, Copied, Opened},
};

/// Copies what the store of `from` knows of its apps into the store of `to`, and tells `told` what became
/// of each. WeChat is not asked.
///
/// # Errors
///
/// If a server uses one of the stores, if one cannot be used, or if `to` does not have the same apps.
/// What was copied before stays copied; to copy again does no harm.
pub async fn copy_store(
    from: Config,
    to: Config,
    mut told: impl FnMut(&AppName, Copied),
) -> anyhow::Result<()> {
    for app in &from.apps {
        if !to.apps.iter().any(|other| other.appid == app.appid) {
            bail!(
                "the app `{}` is not in the configuration to copy to",
                app.name
            );
        }
    }
    let (source, target) = (open(from.store, &from.apps)?, open(to.store, &to.apps)?);
    for app in &from.apps {
        let copied = store::copy(&source, &target, &app.appid, Clock::SYSTEM).await;
        let copied = copied.with_context(|| format!("cannot copy the app `{}`", app.name))?;
        told(&app.name, copied);
    }
    for opened in [&source, &target] {
        if let Opened::Shared(shared) = opened {
            // A claim that is left over ends with its lease.
            let _ = shared.leave().await;
        }
    }
    Ok(())
}

fn open(mut config: Store, apps: &[crate::config::App]) -> anyhow::Result<Opened> {
    if let Store::Etcd(_, sharing) | Store::Redis(_, sharing) = &mut config {
        sharing.cache = None;
    }
    let appids = apps.iter().map(|app| app.appid.clone()).collect();
    store::open(&config, appids, Clock::SYSTEM).context("cannot use the store")
}
