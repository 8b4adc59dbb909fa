//! Where tokens come from.

mod errcode;
mod error;
mod wechat;

use std::sync::Arc;

use async_trait::async_trait;

pub use error::FetchError;

use crate::{
    config,
    domain::{Ask, Fetched, Secret, Sight},
};

/// A source of tokens for one app. It reads that app's secret at each attempt.
#[async_trait]
pub trait Upstream: std::fmt::Debug + Send + Sync + 'static {
    /// Obtains a token. Sends at most one request that reaches a server, and never repeats it.
    /// Bounded by the configured time-out.
    async fn fetch(&self, ask: Ask) -> Result<Fetched, FetchError>;

    /// Looks once whether `token` works, on a fresh connection.
    async fn look(&self, token: &Secret) -> Sight;

    /// A number that changes when the app's secret does; `None` if it cannot be read.
    async fn secret_version(&self) -> Option<u64>;
}
