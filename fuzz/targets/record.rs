//! Records, written and read again: times and generations at the ends of their types.

#![no_main]

#[path = "../properties/record.rs"]
mod record;
#[allow(
    dead_code,
    reason = "it is a target too; here it only says what a record is"
)]
#[path = "../properties/state.rs"]
mod state;

libfuzzer_sys::fuzz_target!(|input: &[u8]| record::holds(input));
