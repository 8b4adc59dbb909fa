//! Where every program that asks over HTTP is dealt with: who it is, what it means, what it gets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    looks::{Look, Looks},
    refusal::Refusal,
};
use crate::{
    domain::{
        AppName, Secret,
        access::{Access, Grant, Peer, Right},
        lease::{Complaint, Leases, lease},
        report::{Stale, StaleReport},
        schedule::settle,
    },
    telemetry::{Asked, Page},
    tokens::{Issued, Outcome, Tokens},
};

/// SDKs wait for WeChat for 3 s at least, most of them for 5 s. To prove a token dead takes 2 s.
const PATIENCE: Duration = Duration::from_millis(2800);

/// A token, lent.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) issued: Issued,
    /// What an SDK is told, in seconds.
    pub(super) expires_in: u64,
}

#[derive(Debug)]
pub(super) struct Desk {
    tokens: Tokens,
    access: watch::Receiver<Arc<Access>>,
    overlaps: BTreeMap<AppName, Duration>,
    leases: Mutex<Leases>,
    looks: Looks,
    asked: Asked,
}

impl Desk {
    pub(super) fn new(
        tokens: Tokens,
        access: watch::Receiver<Arc<Access>>,
        overlaps: BTreeMap<AppName, Duration>,
        asked: Asked,
    ) -> Self {
        Self {
            tokens,
            access,
            overlaps,
            leases: Mutex::default(),
            looks: Looks::default(),
            asked,
        }
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Who asks.
    pub(super) fn identify(&self, peer: Peer, key: Option<&Secret>) -> Result<Arc<Grant>, Refusal> {
        let access = self.access.borrow();
        let grant = access.identify(peer, key.map(Secret::expose))?;
        Ok(Arc::clone(grant))
    }

    /// The app that is meant by a name or an appid, if the caller may read its tokens.
    pub(super) fn find(&self, grant: &Grant, name_or_appid: &str) -> Result<AppName, Refusal> {
        let app = self.tokens.resolve(name_or_appid)?;
        if !grant.sees(&app) {
            return Err(Refusal::no_such_app());
        }
        if !grant.has(Right::Read) {
            return Err(Refusal::not_allowed("read"));
        }
        Ok(app)
    }

    /// The only app that the caller sees.
    pub(super) fn only_app(&self, grant: &Grant) -> Result<AppName, Refusal> {
        let mut apps = self.tokens.apps().filter(|app| grant.sees(app));
        match (apps.next(), apps.next()) {
            (Some(app), None) => self.find(grant, app.as_str()),
            _ => Err(Refusal::no_appid()),
        }
    }

    /// A token of `app` to keep for a while. A program that comes back too soon, or is `forced` to, may
    /// have had the last one refused: then that is looked at first.
    pub(super) async fn lend(
        &self,
        grant: &Grant,
        app: &AppName,
        forced: bool,
    ) -> Result<Loan, Refusal> {
        let asked = Instant::now();
        let mut issued = self.tokens.current(app, PATIENCE).await?;
        if let Some(look) = self.look(grant, app, &issued, forced) {
            // Without a verdict in time what is in force stays in force.
            let _ = timeout(PATIENCE.saturating_sub(asked.elapsed()), look.over()).await;
            issued = self.tokens.current(app, Duration::ZERO).await?;
        }
        // An SDK counts in whole seconds, of which there is none left.
        if issued.time_to_live < Duration::from_secs(1) {
            return Err(Refusal::about_to_die());
        }
        let lent = lease(issued.keep_for, self.overlap(app), fastrand::f64());
        let (generation, now) = (issued.token.generation, self.tokens.now().boot);
        let mut leases = self.leases();
        leases.lend(&grant.holder, app, generation, now, lent);
        let expires_in = lent + grant.margin.as_secs();
        Ok(Loan { issued, expires_in })
    }

    /// The look that the caller should wait for, if there is one: another's, or because of it.
    fn look(&self, grant: &Grant, app: &AppName, issued: &Issued, forced: bool) -> Option<Look> {
        if !grant.has(Right::Refresh) {
            return None;
        }
        let (current, now) = (issued.token.generation, self.tokens.now().boot);
        let mut leases = self.leases();
        let complaint = leases.complaint(&grant.holder, app, current, forced, now);
        // A token that was made just now is looked at a little later, and who merely asks again need not
        // wait for that.
        let young = now < issued.token.asked_at + settle(self.overlap(app));
        if complaint == Complaint::No || (young && !forced) {
            return None;
        }
        let under_way = self.looks.under_way(app);
        under_way.or_else(|| {
            let begins = complaint == Complaint::Likely && leases.may_look(app, forced, now);
            begins.then(|| self.looks.begin(&self.tokens, app, current))
        })
    }

    /// Reports a token that WeChat refused, and what is in force then.
    pub(super) async fn report(
        &self,
        grant: &Grant,
        app: &AppName,
        stale: Secret,
    ) -> Result<(Issued, Outcome), Refusal> {
        if !grant.has(Right::Refresh) {
            return Err(Refusal::not_allowed("refresh"));
        }
        let report = StaleReport {
            stale: Stale::Value(stale),
            errcode: 0,
            leaked: false,
        };
        Ok(self.tokens.report(app, report).await?)
    }

    /// Counts an answer.
    pub(super) fn answered<T>(&self, page: Page, answer: &Result<T, Refusal>) {
        let errcode = answer.as_ref().map_or_else(Refusal::errcode, |_| 0);
        self.asked.answered(page, errcode);
    }

    fn overlap(&self, app: &AppName) -> Duration {
        self.overlaps.get(app).copied().unwrap_or(Duration::MAX)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
