//! What the program tells about itself: log lines and figures, and never a secret.

mod log;

pub use self::log::{init, subscriber};
