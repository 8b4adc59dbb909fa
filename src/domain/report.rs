//! A stale report: a caller says that WeChat refused a token.

use super::{Generation, Secret, Token};

/// What the caller says.
#[derive(Debug)]
pub struct StaleReport {
    /// Which token it means.
    pub stale: Stale,
    /// What WeChat answered; 0 if not said.
    pub errcode: i64,
    /// An operator says that the token has leaked: kill it although it lives.
    pub leaked: bool,
}

/// How a caller names a token.
#[derive(Debug)]
pub enum Stale {
    /// By its generation.
    Generation(Generation),
    /// By its value.
    Value(Secret),
}

impl Stale {
    /// Whether `token` is meant.
    pub fn means(&self, token: &Token) -> bool {
        match self {
            Self::Generation(generation) => *generation == token.generation,
            Self::Value(value) => *value == token.value,
        }
    }
}
