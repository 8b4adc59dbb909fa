//! Where tokens come from.
//!
//! One trait, because there will be other vendors; one match in [`open`], because the configuration
//! chooses.

mod client;
mod errcode;
mod error;
mod reply;
mod tls;
mod wechat;

use std::sync::Arc;

use async_trait::async_trait;

pub use error::{FetchError, Refusal};
pub use reply::{read_fetch, read_look};

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

    /// Looks once whether `token` works, on a fresh connection. Bounded by 5 s and the time-out.
    async fn look(&self, token: &Secret) -> Sight;

    /// A number that changes when the app's secret does; `None` if it cannot be read. It means
    /// nothing outside of this process.
    async fn secret_version(&self) -> Option<u64>;
}

/// Opens the source of `app`. Reaches nobody yet and does not read the secret.
pub fn open(config: &config::Upstream, app: config::App) -> Result<Arc<dyn Upstream>, OpenError> {
    let client = client::Client::new(config)?;
    Ok(Arc::new(wechat::WeChat::new(client, app, config.timeout)))
}

/// Why a source could not be opened. The place is in `[upstream]` of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// One of `base_urls`.
    #[error("`upstream.base_urls[{index}]` is not an http or https URL")]
    BaseUrl {
        /// Counted from 0.
        index: usize,
    },
    /// `proxy`. Its URL may hold a password, so it is not repeated.
    #[error("`upstream.proxy` is not the URL of a proxy")]
    Proxy,
    /// `ca_file`.
    #[error("`upstream.ca_file` `{place}` cannot be used")]
    CaFile {
        /// The file.
        place: String,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// The rest.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}
