//! `read_state`: state files as they are found on a disk.

#![no_main]

#[path = "../properties/state.rs"]
mod state;

libfuzzer_sys::fuzz_target!(|input: &[u8]| state::holds(input));
