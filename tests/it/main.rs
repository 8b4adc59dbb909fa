//! One binary for every integration test: it links once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod grpc;
mod house;
mod raw;
mod store;
mod support;
mod wechat;
mod week;
mod world;
