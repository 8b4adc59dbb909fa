//! `Server::answer`: calls as they arrive, from their headers to their status.

#![no_main]

#[path = "../properties/request.rs"]
mod request;
#[path = "../properties/shop.rs"]
mod shop;

libfuzzer_sys::fuzz_target!(|input: &[u8]| request::holds(input));
