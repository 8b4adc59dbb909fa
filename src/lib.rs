//! The map of the house.
#![warn(missing_docs)]

pub mod clock;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod pb;
pub mod refresher;
pub mod sandbox;
pub mod store;
pub mod telemetry;
pub mod tokens;
pub mod upstream;
