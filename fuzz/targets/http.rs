//! `http::Server::answer`: requests as they arrive, from their target to the last byte of the answer.

#![no_main]

#[path = "../properties/http.rs"]
mod http;
#[path = "../properties/shop.rs"]
mod shop;

libfuzzer_sys::fuzz_target!(|input: &[u8]| self::http::holds(input));
