//! `read_fetch` and `read_look`: replies of WeChat, and of whatever answers in its place.

#![no_main]

#[path = "../properties/reply.rs"]
mod reply;

libfuzzer_sys::fuzz_target!(|input: &[u8]| reply::holds(input));
