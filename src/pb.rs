//! The messages, client and server generated from `proto/`.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_prints_a_token() {
        let canary = "canary".to_owned();
        let token = || {
            Some(Token {
                access_token: canary.clone(),
                generation: 7,
                ..Token::default()
            })
        };
        let messages: [&dyn fmt::Debug; 4] = [
            &GetTokenResponse { token: token() },
            &ForceRefreshResponse {
                token: token(),
                outcome: 0,
            },
            &WatchTokenResponse {
                token: token(),
                cause: 0,
            },
            &ForceRefreshRequest {
                stale_token: canary.clone(),
                stale_generation: 7,
                ..ForceRefreshRequest::default()
            },
        ];
        for message in messages {
            let shown = format!("{message:?} {message:#?}");
            assert!(!shown.contains(&canary), "{shown}");
            assert!(shown.contains("generation: 7"), "{shown}");
        }
    }
}
