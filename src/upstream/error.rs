//! Why WeChat gave us no token.

/// Placeholder.
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct FetchError;
impl FetchError {
    /// x
    pub fn trouble(&self) -> crate::domain::Trouble {
        unimplemented!()
    }
}
