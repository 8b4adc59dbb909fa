//! What the program tells about itself: log lines and figures, and never a secret.

mod facts;
mod handles;
mod instruments;
mod log;
mod metrics;
mod pen;

pub use self::{
    facts::{AppFacts, Facts},
    handles::{Asked, Method, Page, Refreshing, Requests, Watching},
    instruments::{Gauge, Histogram},
    log::{init, subscriber},
    metrics::Metrics,
    pen::Unwritten,
};
