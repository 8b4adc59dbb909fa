//! A simulated WeChat, for whoever builds or tests something that fetches `access_token`.
//!
//! It knows nothing of the rest of this crate: it is an independent judge and must not share our
//! mistakes. What it does was taken from WeChat's documents and from observed replies.
//!
//! # Map
//!
//! | file | what lives there |
//! |---|---|
//! | `settings.rs` | how a simulated WeChat starts out |
//! | `exchange.rs` | [`Call`] and [`Reply`]: what goes in, what comes out and how it is delivered |
//! | `model.rs` | [`Model`]: pure, told the time, the same seed gives the same run |
//! | `answering.rs` | calls to replies: what happens first, and what ordered faults do |
//! | `account.rs`, `counts.rs` | one account: its quotas and two pools; what was asked and minted |
//! | `gate.rs`, `ip_list.rs` | who is let in |
//! | `pool.rs` | the two-slot ring of live tokens, and the back ends that disagree about it |
//! | `quota.rs` | counters that start again with the day or minute |
//! | `replies.rs` | WeChat's words |
//! | `faults.rs` | what goes wrong with a call |
//! | `knobs.rs` | what can be changed while it runs |
//! | `control.rs` | the control endpoint under `/sandbox` |
//! | `shell.rs` | HTTP around the model |
//!
//! # What it answers
//!
//! `GET /cgi-bin/token` (classic: every call mints), `POST /cgi-bin/stable_token`, and three business
//! calls that judge a token: `GET /cgi-bin/get_api_domain_ip`, `/cgi-bin/getcallbackip`,
//! `/cgi-bin/user/get`. Everything else is a 404 with an empty body. Errors come with status 200.
//!
//! # The control endpoint
//!
//! ```text
//! GET  /sandbox                                    this, in short
//! GET  /sandbox/state                              counts, settings, faults, tokens (JSON)
//! POST /sandbox/knobs                              a JSON object of knobs; all or nothing
//! POST /sandbox/foreign_fetch?appid=A&pool=P       somebody else fetches (stable: forced)
//! POST /sandbox/revoke?appid=A&pool=P              the current token dies at once
//! POST /sandbox/reset                              back to the start, with new tokens
//! ```
//!
//! `pool` is `classic` (default) or `stable`; `appid` may be left out if there is one account. The
//! knobs are the fields of [`Knobs`], the faults those of [`Fault`]; spans are numbers of seconds.
//!
//! # In a test without sockets
//!
//! ```
//! use std::time::Duration;
//! use wxtokend::sandbox::{Call, Credentials, Fault, Kind, Knobs, Model, Settings};
//!
//! let mut wechat = Model::new(Settings::default(), 7);
//! let at = Duration::from_secs(1_800_000_000);
//! let fetch = Call::classic(&Credentials::default());
//! assert!(wechat.handle(at, &fetch).body.contains("access_token"));
//!
//! let lost = Knobs { faults: vec![Fault::new(Kind::Lost).times(1)], ..Knobs::default() };
//! wechat.turn(at, &lost).unwrap();
//! assert!(wechat.handle(at, &fetch).body.is_empty());
//! assert_eq!(wechat.counts().classic_mints, 2);
//! ```

mod account;
mod answering;
mod control;
mod counts;
mod exchange;
mod faults;
mod gate;
#[cfg(test)]
mod given;
mod ip_list;
mod knobs;
mod model;
mod pool;
mod quota;
mod replies;
mod settings;
mod shell;

pub use account::Account;
pub use counts::Counts;
pub use exchange::{Call, Delivery, Reply};
pub use faults::{Endpoint, Fault, Kind, Outage};
pub use knobs::Knobs;
pub use model::Model;
pub use pool::{Asker, Mint, Pool};
pub use settings::{Credentials, Settings};
pub use shell::{Clock, Shared, Shell, serve};

/// WeChat's error number: `-1` is "busy", everything else is positive.
pub type Errcode = i64;
