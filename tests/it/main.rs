//! One binary for every integration test: it links once.

mod grpc;
mod house;
mod store;
mod support;
mod wechat;
mod week;
mod world;
