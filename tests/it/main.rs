//! One binary for every integration test: it links once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admin;
mod cli;
mod config;
mod damage;
mod figures;
mod grpc;
mod house;
mod leak;
mod paused;
mod process;
mod raw;
mod replicas;
mod restart;
mod seen;
mod served;
mod steps;
mod store;
mod wechat;
mod week;
mod whole;
mod world;
