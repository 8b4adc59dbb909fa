//! Several replicas on one store, checked exhaustively: claim, note, ask, publish, save.
//!
//! The order of the steps is decided by `domain::protocol` itself; around it stands the smallest model
//! of everything that can go wrong: replicas crash at any point, stand still for longer than their
//! claim lasts, requests and answers are lost, late or overtake each other, WeChat refuses, the disk
//! fails. WeChat makes a token at every request in classic mode, and repeats the one in force in stable
//! mode until a new one is due. The checker walks through every order in which this can happen.
//!
//! The rules of the replicas, which the shared stores keep (`src/store/shared/`); `steps.rs` has a flaw for
//! each, and the checker finds them all:
//!
//! - A claim is checked before asking, and every write is refused to whoever has lost it. A replica takes
//!   no claim while a fetch of its former one is under way.
//! - A replica that starts and finds a note shows nothing before it holds the claim or the note is gone:
//!   its readers may have seen the token that the note is about.
//! - Whoever takes a claim and finds a note gives the old token the generation above the reserved one, and
//!   the next fetch one more: the reserved one may be in use.
//! - What could not be saved is saved later, by whoever holds the claim. A token that arrived and was not
//!   saved gets another number then: whoever had the claim in between has used the one above its own.
//! - A write names the version that it replaces: one that arrives after its sender has given it up, and after
//!   a later one, changes nothing.
//!
//! Of one thing there is no model: what a fetch that outlived its claim tells the store about its token.
//! That only makes the holder notice sooner; here it notices by a look.

mod promises;
mod steps;
mod stories;
mod world;
