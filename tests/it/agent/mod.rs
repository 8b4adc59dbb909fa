//! The sidecar: `mirror` follows servers whose tokens are published by hand, `process` is the program
//! itself.

mod config;
mod mirror;
mod process;
