//! What was asked of the simulated WeChat, and what it minted.

use std::ops::AddAssign;

use serde::Serialize;

use super::pool::{Asker, Pool};

/// What was asked and what was minted, since the start or the last reset.
///
/// Calls are counted when they arrive, whatever becomes of them; a refused connection counts only where
/// the model is called directly, because over a socket it never gets that far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Calls of the classic endpoint.
    pub classic_fetches: u64,
    /// Calls of the stable endpoint in normal mode.
    pub stable_fetches: u64,
    /// Calls of the stable endpoint with `force_refresh`.
    pub forced_fetches: u64,
    /// Business calls.
    pub looks: u64,
    /// Classic tokens minted, by whomever.
    pub classic_mints: u64,
    /// Stable tokens minted, by whomever.
    pub stable_mints: u64,
    /// Tokens minted for somebody else.
    pub foreign_mints: u64,
}

impl Counts {
    /// All tokens.
    pub fn mints(&self) -> u64 {
        self.classic_mints + self.stable_mints
    }

    /// All calls of the token endpoints.
    pub fn fetches(&self) -> u64 {
        self.classic_fetches + self.stable_fetches + self.forced_fetches
    }

    pub(super) fn minted(&mut self, pool: Pool, asker: Asker) {
        match pool {
            Pool::Classic => self.classic_mints += 1,
            Pool::Stable => self.stable_mints += 1,
        }
        self.foreign_mints += u64::from(asker == Asker::Foreign);
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.classic_fetches += other.classic_fetches;
        self.stable_fetches += other.stable_fetches;
        self.forced_fetches += other.forced_fetches;
        self.looks += other.looks;
        self.classic_mints += other.classic_mints;
        self.stable_mints += other.stable_mints;
        self.foreign_mints += other.foreign_mints;
    }
}
