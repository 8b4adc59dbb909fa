//! `wxtokend`, a WeChat access-token central control server. This page is the map of the house.
//!
//! # The idea
//!
//! One task owns every token: the [`refresher`] in a server, the [`mirror`] in a sidecar. It writes
//! through the one [`tokens::Publisher`]; everybody else reads through [`tokens::Tokens`], from
//! memory. Every decision is made in [`domain`], in functions that are told the time and the dice; the
//! rest carries decisions out.
//!
//! ```text
//!    WeChat ── upstream/ ──┐                                 ┌── grpc/ ── programs, sidecars
//!    (or sandbox/)         │                                 │
//!                      refresher/ ── Publisher ══ Tokens ────┼── http/ ── SDKs of WeChat
//!      file, etcd ─ store/ ┘  ▲        (tokens/)             │
//!      Redis, memory          │                              └── admin/ ── Prometheus, probes, people
//!                     domain/slot/
//! ```
//!
//! # The map
//!
//! | I look for | It is in |
//! |---|---|
//! | when a refresh happens | `domain/schedule.rs` |
//! | what happens to a token, event by event | `domain/slot/`: `mod.rs` what to start, `outcome.rs` a fetch came back, `looked.rs` a look did, `reported.rs` a caller complains, `leak.rs` an operator wants it dead, `restore.rs` a restart, `suspect.rs` an answer never came |
//! | one replica of several: following, taking over | `domain/slot/replica.rs`; what it may do by itself: `domain/slot/reach.rs`; how long it trusts its token, and when readers wait for WeChat's word: `domain/slot/doubt.rs`, `tokens/doubts.rs`; when another one had better try: `domain/slot/ability.rs` |
//! | how many looks prove a death | `domain/slot/looks.rs` |
//! | what may be spent a day, and how far apart | `domain/budget.rs` |
//! | note, ask, publish, save: in which order | `domain/protocol.rs` |
//! | what survives a restart | `domain/record.rs`, written by `store/` |
//! | who may ask | `domain/access.rs` |
//! | what keeps a secret out of the log | `domain/secret.rs`, `upstream/error.rs`, `telemetry/log.rs` |
//! | the loop | `refresher/mod.rs`; one app in its care: `refresher/app/mod.rs`; who waits for it: `app/reports.rs`; what is to be saved: `app/saving.rs`; what it warns of: `app/warnings.rs` |
//! | who refreshes an app, when there are replicas | `refresher/app/replica.rs`; when it is taken and given up: `app/claim.rs`; fetches without a claim: `app/stray.rs`; reports that go to that one: `app/relay.rs` |
//! | how replicas share a store | `store/shared/`; as keys of etcd: `store/etcd/`; as scripts of Redis: `store/redis/` |
//! | how old a record is, whatever the clocks show | `store/times.rs` |
//! | from one store to another | `store/transfer.rs` |
//! | what an errcode means | `upstream/errcode.rs` |
//! | what a reply of WeChat says | `upstream/reply.rs` |
//! | why a caller gets `UNAVAILABLE` | `grpc/status.rs` |
//! | the stream | `grpc/watch.rs`; without a transport: `grpc/streams.rs` |
//! | how long an SDK may keep a token, and when it complains | `domain/lease.rs` |
//! | WeChat's token calls, as we answer them | `http/wechat.rs`; who asks and what it gets: `http/desk.rs` |
//! | an errcode that we answer with | `http/refusal.rs` |
//! | what a sidecar makes of what a server says | `mirror/news.rs`; which server: `mirror/servers.rs`; the streams: `mirror/follow.rs` |
//! | files and commands of a sidecar | `output/`, one at a time in `output/mod.rs` |
//! | sockets, accepting, who waits in front | `listener/`; HTTP/1.1 on them: `web.rs` |
//! | HTTP/2, limits, age of connections | `grpc/greeting.rs`, `grpc/connection.rs` |
//! | readers that do not read | `grpc/pace.rs` a stream, `grpc/outflow.rs` a socket |
//! | counting calls | `grpc/measure.rs` |
//! | a metric's name | `telemetry/metrics.rs`; states read at a scrape: `telemetry/facts.rs`; what to count with: `telemetry/handles.rs` |
//! | what a probe says | `admin/probes.rs`, the same truth as `grpc/health.rs`, from `tokens/mod.rs` |
//! | what a setting means | `config/raw.rs`; of `[store]`: `config/store.rs`; in a sidecar: `config/agent.rs` |
//! | the order of start and stop | `app/mod.rs`, of a sidecar `app/agent.rs` |
//! | a WeChat to test with | `sandbox/` |
//! | where a test may kill the program | `failpoint.rs` |
//! | what must hold whatever arrives | `fuzz/properties/` |
//!
//! Who may use whom is a table in `tests/it/house.rs`, and a test. In words: the ways out never see
//! the ways in nor the owner; adapters never see each other; the core sees nobody; the sandbox sees
//! nothing of us, so it cannot share our mistakes.
//!
//! # The words
//!
//! - *app*: one WeChat account (an appid and its AppSecret) in one mode.
//! - *token*: its `access_token`. *generation*: a number that orders the tokens of one app.
//! - *mint*: WeChat makes a new token. *rotation*: a new token replaces the current one here.
//! - *overlap*: the five minutes in which WeChat accepts both.
//! - *look*: a harmless call of WeChat that shows whether a token works.
//! - *stale report*: a caller says that WeChat refused a token.
//! - *open outcome*: WeChat was asked and did not answer, so it may have minted. *suspect*: the token
//!   that such a mint would have retired. *note*: the word on disk that an outcome is open.
//! - *replica*: one of several servers that share a store. *claim*: the right to refresh an app, held by one
//!   of them for as long as its lease lives. *board*: what the store knows of an app. *letter*: a question
//!   of one replica to the one that refreshes. *cut off*: the store was not heard of for too long.
//! - *trouble*: why there is no newer token. *remedy*: how to go on.
//! - *reader*: whoever gets tokens from us. *owner*: the task that has them.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
mod failpoint;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod mirror;
pub mod output;
pub mod pb;
pub mod refresher;
pub mod sandbox;
pub mod store;
pub mod telemetry;
pub mod tokens;
pub mod upstream;
pub mod web;
