//! Every metric: its name, its labels, what it says, and the handles to count with.
//!
//! States (a token's expiry, whether the store fails) are read when somebody asks, in `facts.rs`;
//! events are counted where they arise, through handles that are made once. Label values are bounded:
//! apps are those of the configuration, methods the three calls and `other`, codes gRPC's names, and
//! errcodes those that have a meaning here; all others are `other`.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeMetric, text},
    metrics::TypedMetric,
    registry::Registry,
};

use super::{
    facts::Facts,
    handles::{Asked, Refreshing, Requests, Watching},
    instruments::{Count, Family, Gauge, Histogram},
};
use crate::domain::AppName;

/// Before every name.
const PREFIX: &str = "wxtokend";

/// One metric.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! metrics {
    ($($metric:ident: $name:literal $labels:tt $help:literal)+) => {
        $(pub(super) const $metric: Metric = Metric { name: $name, labels: &$labels, help: $help };)+
    };
}

// States.
metrics! {
    TOKEN_EXPIRE_TIMESTAMP: "token_expire_timestamp_seconds" ["app"]
        "When the current token dies if nothing replaces it, by the clock of clock_seconds; no value without a token"
    TOKEN_GENERATION: "token_generation" ["app"]
        "Generation of the current token, 0 without one"
    TOKEN_USABLE: "token_usable" ["app"]
        "Whether there is a token that can be handed out"
    SUSPECT: "suspect" ["app"]
        "Whether WeChat may have made a token that never arrived, which ends the current one early"
    BUDGET: "replacement_budget_remaining" ["app"]
        "How often a dead token may still be replaced before midnight in Beijing"
    FAILING: "refresh_failing" ["app"]
        "Whether the last attempt to get a token failed"
    STORE_FAILING: "store_failing" ["app"]
        "Whether what is known cannot be saved; it is served from memory"
    HOLDER: "holder" ["app"]
        "Whether this server is the one that refreshes the app"
    LIVE: "live" []
        "What the liveness probe says: the refresher's loop turns"
    READY: "ready" []
        "What the readiness probe says: callers can be served"
    DRAINING: "draining" []
        "Whether the server has been told to stop"
    CLOCK: "clock_seconds" []
        "The time of day by this server's clock, to compare expiries with"
}

// Events.
metrics! {
    REFRESHES: "refreshes_total" ["app", "result", "errcode"]
        "Attempts to get a token, by result (rotated, unchanged, failed, unknown) and WeChat's errcode"
    REFRESH_DURATION: "refresh_duration_seconds" ["app"]
        "From asking WeChat for a token to its answer"
    FORCED: "forced_total" ["app", "outcome"]
        "Answered reports of stale tokens, by outcome"
    FOREIGN: "foreign_rotations_total" ["app"]
        "Tokens that somebody else's fetch ended"
    STREAMS: "watch_streams" ["app"]
        "Open WatchToken streams"
    BEHIND: "watch_streams_behind" ["app"]
        "Open streams whose reader has not taken the newest token yet"
    DELIVERY: "rotation_delivery_seconds" ["app"]
        "From the publication of a token until a stream wrote it"
    REQUESTS: "requests_total" ["method", "code"]
        "Ended calls, by gRPC status code; a call that was cut counts as CANCELLED"
    REQUEST_DURATION: "request_duration_seconds" ["method"]
        "How long calls took; a stream lasts until its end"
    ASKED: "http_requests_total" ["page", "errcode"]
        "Answers over HTTP, by the errcode that the program was told; 0 is a token"
    CONNECTIONS: "connections" []
        "Open gRPC connections"
    BUILD: "build_info" ["version"]
        "1, and the version of the program"
}

/// Upper bounds for WeChat's answers.
const ANSWERS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds for deliveries to streams, which are reset after 30 s.
const DELIVERIES: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Upper bounds for calls, from an answer out of memory to a stream as old as its connection.
const CALLS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 10.0, 60.0, 600.0,
    3600.0,
];

/// Everything that is counted. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    refreshes: Family<Count>,
    refresh_duration: Family<Histogram>,
    forced: Family<Count>,
    foreign: Family<Count>,
    streams: Family<Gauge>,
    behind: Family<Gauge>,
    delivery: Family<Histogram>,
    requests: Requests,
    asked: Family<Count>,
    connections: Gauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let list = &mut registry;
        let calls = add(list, &REQUESTS, Count::default);
        let durations = add(list, &REQUEST_DURATION, || Histogram::new(CALLS));
        let build: Family<Gauge> = add(list, &BUILD, Gauge::default);
        build.of(&[env!("CARGO_PKG_VERSION")]).set(1);
        let connections = Gauge::default();
        list.register(CONNECTIONS.name, CONNECTIONS.help, connections.clone());
        Self {
            refreshes: add(list, &REFRESHES, Count::default),
            refresh_duration: add(list, &REFRESH_DURATION, || Histogram::new(ANSWERS)),
            forced: add(list, &FORCED, Count::default),
            foreign: add(list, &FOREIGN, Count::default),
            streams: add(list, &STREAMS, Gauge::default),
            behind: add(list, &BEHIND, Gauge::default),
            delivery: add(list, &DELIVERY, || Histogram::new(DELIVERIES)),
            requests: Requests::new(&calls, &durations),
            asked: add(list, &ASKED, Count::default),
            connections,
            registry: Arc::new(registry),
        }
    }

    /// For whoever refreshes `app`.
    pub fn refreshing(&self, app: &AppName) -> Refreshing {
        let duration = self.refresh_duration.of(&[app.as_str()]);
        let foreign = self.foreign.of(&[app.as_str()]);
        Refreshing::new(app, &self.refreshes, duration, &self.forced, foreign)
    }

    /// For the streams of `app`.
    pub fn watching(&self, app: &AppName) -> Watching {
        let app = [app.as_str()];
        Watching {
            streams: self.streams.of(&app),
            behind: self.behind.of(&app),
            delivery: self.delivery.of(&app),
        }
    }

    /// For calls.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// For what is asked over HTTP.
    pub fn asked(&self) -> Asked {
        Asked::new(self.asked.clone())
    }

    /// How many gRPC connections are open.
    pub fn connections(&self) -> Gauge {
        self.connections.clone()
    }

    /// What a scrape gets, in Prometheus' text format 0.0.4.
    pub fn page(&self, facts: Facts) -> String {
        let mut states = Registry::with_prefix(PREFIX);
        states.register_collector(Box::new(facts));
        let mut page = String::new();
        for registry in [&states, &*self.registry] {
            // Nothing fails that writes to a string and knows its numbers to be in range.
            let _ = text::encode_registry(&mut page, registry);
        }
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn add<M>(registry: &mut Registry, metric: &Metric, make: fn() -> M) -> Family<M>
where
    M: EncodeMetric + TypedMetric + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let family = Family::new(metric.labels, make);
    registry.register(metric.name, metric.help, family.clone());
    family
}
