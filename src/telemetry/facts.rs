//! What is true at the moment of a scrape. Nobody keeps these figures up to date, so none can be
//! wrong: whoever answers the scrape reads them from what readers of tokens see.

use std::{
    fmt::Error,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue},
    metrics::MetricType,
};

use super::metrics::{self, Metric};
use crate::domain::AppName;

/// The state of the server.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The time of day, by this server's clock.
    pub now: SystemTime,
    /// What the probe `live` says.
    pub live: bool,
    /// What readiness says.
    pub ready: bool,
    /// Whether the server is about to end.
    pub draining: bool,
    /// The state of each app.
    pub apps: Vec<AppFacts>,
}

/// The state of one app.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a figure of its own")]
pub struct AppFacts {
    /// Which one.
    pub app: AppName,
    /// When its token expires by the clock of [`Facts::now`]; `None` if there is no token.
    pub expire_time: Option<SystemTime>,
    /// The generation of its token, 0 if there is none.
    pub generation: u64,
    /// Whether its token can be handed out.
    pub usable: bool,
    /// Whether an outcome is open.
    pub suspect: bool,
    /// How often its token may still be replaced today, if that is done here.
    pub budget: Option<u32>,
    /// Whether the last attempt to get a token failed.
    pub failing: bool,
    /// Whether what is known of it cannot be saved.
    pub store_failing: bool,
    /// Whether this server is the one that refreshes it.
    pub holder: bool,
}

impl Collector for Facts {
    fn encode(&self, mut page: DescriptorEncoder<'_>) -> Result<(), Error> {
        let page = &mut page;
        let generation = |app: &AppFacts| i64::try_from(app.generation).unwrap_or(i64::MAX);
        let expiry = |app: &AppFacts| app.expire_time.map(unix);
        self.each(page, &metrics::TOKEN_EXPIRE_TIMESTAMP, expiry)?;
        self.each(page, &metrics::TOKEN_GENERATION, |app| {
            Some(generation(app))
        })?;
        self.each(page, &metrics::TOKEN_USABLE, |app| Some(flag(app.usable)))?;
        self.each(page, &metrics::SUSPECT, |app| Some(flag(app.suspect)))?;
        self.each(page, &metrics::BUDGET, |app| app.budget)?;
        self.each(page, &metrics::FAILING, |app| Some(flag(app.failing)))?;
        let unsaved = |app: &AppFacts| Some(flag(app.store_failing));
        self.each(page, &metrics::STORE_FAILING, unsaved)?;
        self.each(page, &metrics::HOLDER, |app| Some(flag(app.holder)))?;
        one(page, &metrics::LIVE, &flag(self.live))?;
        one(page, &metrics::READY, &flag(self.ready))?;
        one(page, &metrics::DRAINING, &flag(self.draining))?;
        one(page, &metrics::CLOCK, &unix(self.now))
    }
}

impl Facts {
    /// One line for each app that has a value.
    fn each<V: EncodeGaugeValue>(
        &self,
        page: &mut DescriptorEncoder<'_>,
        metric: &Metric,
        value: impl Fn(&AppFacts) -> Option<V>,
    ) -> Result<(), Error> {
        let help = format!("{}.", metric.help);
        let mut lines = page.encode_descriptor(metric.name, &help, None, MetricType::Gauge)?;
        for app in &self.apps {
            if let Some(value) = value(app) {
                let label = [(metric.labels[0], app.app.as_str())];
                lines.encode_family(&label)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

fn one(
    page: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    value: &impl EncodeGaugeValue,
) -> Result<(), Error> {
    let help = format!("{}.", metric.help);
    let mut line = page.encode_descriptor(metric.name, &help, None, MetricType::Gauge)?;
    line.encode_gauge(value)
}

fn flag(fact: bool) -> u32 {
    u32::from(fact)
}

/// Seconds since 1970, in whole milliseconds: more digits would be noise.
fn unix(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).as_secs_f64()
}
