//! Looks at tokens that programs may have had refused: one at a time for each app, for all who complain.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        AppName, Generation,
        report::{Stale, StaleReport},
    },
    tokens::Tokens,
};

/// Those that are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks(Arc<Mutex<BTreeMap<AppName, Look>>>);

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Look(CancellationToken);

impl Look {
    /// Until there is a verdict, or none to be had.
    pub(super) async fn over(&self) {
        self.0.cancelled().await;
    }
}

impl Looks {
    /// The one at the token of `app`, if there is one.
    pub(super) fn under_way(&self, app: &AppName) -> Option<Look> {
        self.with(|looks| looks.get(app).cloned())
    }

    /// Has the token of `generation` looked at, and replaced if it is dead. That goes on whoever waits
    /// for it: the next one to complain wants to know as well.
    pub(super) fn begin(&self, tokens: &Tokens, app: &AppName, generation: Generation) -> Look {
        let look = Look(CancellationToken::new());
        self.with(|looks| looks.insert(app.clone(), look.clone()));
        let (looks, tokens, app) = (self.clone(), tokens.clone(), app.clone());
        let over = look.0.clone();
        tokio::spawn(async move {
            let report = StaleReport {
                stale: Stale::Generation(generation),
                errcode: 0,
                leaked: false,
            };
            // What came of it is in force by now.
            let _ = tokens.report(&app, report).await;
            looks.with(|looks| looks.remove(&app));
            over.cancel();
        });
        look
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<AppName, Look>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
