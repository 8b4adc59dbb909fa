//! The messages, client and server generated from `proto/`.

#![expect(missing_docs, reason = "the proto file is the manual")]
#![allow(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]

use std::fmt;

tonic::include_proto!("wxtokend.v1");

/// The descriptors of the contract, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wxtokend_descriptor.bin"));

/// Prints everything but the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("app_id", &self.app_id)
            .field("generation", &self.generation)
            .field("expire_time", &self.expire_time)
            .finish_non_exhaustive()
    }
}

/// Prints everything but the token.
impl fmt::Debug for ForceRefreshRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForceRefreshRequest")
            .field("app_id", &self.app_id)
            .field("stale_generation", &self.stale_generation)
            .field("errcode", &self.errcode)
            .field("leaked", &self.leaked)
            .finish_non_exhaustive()
    }
}
