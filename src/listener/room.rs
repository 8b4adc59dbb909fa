//! How many connections there is room for.
//!
//! Each takes a descriptor; but so do the files of the store, the way to WeChat and the probes, and a
//! server that cannot refresh because too many listen to it has its purpose upside down. So some
//! descriptors are kept for them, whatever the settings say.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Kept for everything but connections: 100 probes, and plenty for files and WeChat.
const KEPT: u64 = 160;

/// How many of the `wanted` connections there is room for. Raises the soft limit of open files as far
/// as it may: it is low only for the sake of programs that use `select`.
pub fn room(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        // It may be forbidden, or beyond what the kernel allows. Then it stays as it is.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let room = within(limit.current, wanted);
    if room < wanted {
        let open_files = limit.current;
        warn!(
            room,
            wanted, open_files, "the limit of open files leaves room for fewer connections"
        );
    }
    room
}

/// `limit` is that of open files; `None` is no limit.
fn within(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else {
        return wanted;
    };
    let room = limit - KEPT.min(limit / 2);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_whatever_is_wanted() {
        // (limit of open files, wanted, room)
        let table = [
            (None, 20_000, 20_000),
            (Some(1_048_576), 20_000, 20_000),
            (Some(1024), 20_000, 864),
            (Some(1024), 800, 800),
            (Some(64), 20_000, 32),
            (Some(0), 20_000, 0),
        ];
        for (limit, wanted, room) in table {
            assert_eq!(within(limit, wanted), room, "{limit:?} {wanted}");
        }
    }
}
