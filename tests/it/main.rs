//! One binary for every integration test: it links once.

mod house;
mod week;
mod world;
