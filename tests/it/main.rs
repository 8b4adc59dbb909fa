//! One binary for every integration test: it links once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admin;
mod agent;
mod cli;
mod config;
mod contract;
mod corpora;
mod damage;
mod figures;
mod grpc;
mod history;
mod house;
mod http;
mod leak;
mod paused;
mod peer;
mod process;
mod raw;
mod reference;
mod replicas;
mod restart;
mod seeds;
mod seen;
mod served;
mod several;
mod shelf;
mod steps;
mod store;
mod torture;
mod unheard;
mod wechat;
mod week;
mod whole;
mod wire;
mod world;
