//! How many connections there is room for.
//!
//! Each takes a descriptor; but so do the files of the store, the way to WeChat and the probes, and a
//! server that cannot refresh because too many listen to it has its purpose upside down. So some
//! descriptors are kept for them, whatever the settings say.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Kept for everything but connections: 100 probes, and plenty for files and WeChat.
const KEPT: u64 = 160;

/// Kept even from probes: what the program has open anyway, and what a refresh takes.
const OWN: u64 = 24;

/// The fewest probes at a time, however low the limit.
const PROBES: u64 = 4;

/// How many of the `wanted` connections there is room for. Raises the soft limit of open files as far
/// as it may: it is low only for the sake of programs that use `select`.
pub fn room(wanted: usize) -> usize {
    room_beside(0, wanted)
}

/// How many of the `wanted` connections of HTTP there is room for: they come and go, so a quarter of what
/// there is will do.
pub fn room_for_http(wanted: usize) -> usize {
    quarter_within(open_files(), wanted)
}

/// How many of the `wanted` connections there is room for when so many others may be there.
pub fn room_beside(others: usize, wanted: usize) -> usize {
    let open_files = open_files();
    let room = left_within(open_files, others, wanted);
    if room < wanted {
        warn!(
            room,
            wanted, open_files, "the limit of open files leaves room for fewer connections"
        );
    }
    room
}

/// The same for probes, of what is kept from connections.
pub fn room_for_probes(wanted: usize) -> usize {
    probes_within(open_files(), wanted)
}

/// The limit of open files; `None` is no limit.
fn open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // It may be forbidden, or beyond what the kernel allows. Then it stays as it is.
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

fn within(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else {
        return wanted;
    };
    let room = limit - kept(limit);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

fn quarter_within(limit: Option<u64>, wanted: usize) -> usize {
    let quarter = |limit: u64| usize::try_from(limit / 4).unwrap_or(usize::MAX);
    limit.map_or(wanted, |limit| wanted.min(quarter(limit)).max(1))
}

fn left_within(limit: Option<u64>, others: usize, wanted: usize) -> usize {
    let all = within(limit, usize::MAX);
    wanted.min(all.saturating_sub(others))
}

fn probes_within(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else {
        return wanted;
    };
    let room = kept(limit).saturating_sub(OWN).max(PROBES);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

fn kept(limit: u64) -> u64 {
    KEPT.min(limit / 2)
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

    #[test]
    fn two_listeners_share_what_there_is() {
        // (limit of open files, room for HTTP, room for gRPC)
        let table = [
            (None, 1000, 20_000),
            (Some(20_000), 1000, 18_840),
            (Some(1024), 256, 608),
            (Some(64), 16, 16),
        ];
        for (limit, http, grpc) in table {
            assert_eq!(quarter_within(limit, 1000), http, "{limit:?}");
            assert_eq!(left_within(limit, http, 20_000), grpc, "{limit:?}");
        }
    }

    #[test]
    fn probes_leave_what_a_refresh_takes() {
        // (limit of open files, room for probes)
        let table = [
            (None, 100),
            (Some(1024), 100),
            (Some(200), 76),
            (Some(64), 8),
            (Some(40), 4),
        ];
        for (limit, room) in table {
            assert_eq!(probes_within(limit, 100), room, "{limit:?}");
            let Some(limit) = limit.filter(|limit| *limit > 40) else {
                continue;
            };
            let connections = within(Some(limit), usize::MAX) as u64;
            assert!(connections + room as u64 + OWN <= limit, "{limit}");
        }
    }
}
