//! Why WeChat gave us no token.

/// Placeholder.
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct FetchError;
