//! The life of one app's token.

/// Placeholder.
#[derive(Debug)]
pub struct Slot;
