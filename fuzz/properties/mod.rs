//! What must hold for any input: one file for each fuzz target, and
//! the shop that those on requests share.
//!
//! Each file reads its input, which is meant to be legible wherever it can be, and panics if a promise
//! is broken. The fuzz targets run them on what libFuzzer invents, and `tests/it/corpora.rs` on what
//! is in `fuzz/corpus`, so that whatever was found stays found without a fuzzer.
//!
//! The oracles share no code with what they judge: they say in another way what the contract says.

pub(crate) mod config;
pub(crate) mod http;
pub(crate) mod record;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod shop;
pub(crate) mod state;
