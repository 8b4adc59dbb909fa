//! What may be believed of a state file, whatever is in it.
//!
//! An input is a line with three numbers, then the file: 1 if the machine was not started again since
//! it was written (else 0), the uptime and the wall clock at which it is read, in milliseconds.
//!
//! Nearly every change of a file makes its checksum wrong. So each file is read twice: as it is, and
//! with the checksum that its content should have.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use wxtokend::{
    domain::{Moment, Now, Record},
    store::{Damage, read_state, write_state},
};

/// Whose file it is.
pub(crate) const APPID: &str = "wx0123456789abcdef";

/// The boot in which the files of the corpus were written.
pub(crate) const BOOT: &str = "boot-1";

const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// How much later a file is read a second time.
const LATER: Duration = Duration::from_mins(10);

pub(crate) fn holds(input: &[u8]) {
    let (boot_id, now, file) = split(input);
    read(file, now, boot_id);
    if let Some(sealed) = str::from_utf8(file).ok().and_then(sealed) {
        read(sealed.as_bytes(), now, boot_id);
    }
}

fn split(input: &[u8]) -> (&'static str, Now, &[u8]) {
    let read = || {
        let end = input.iter().take(64).position(|&byte| byte == b'\n')?;
        let line = str::from_utf8(&input[..end]).ok()?;
        let mut numbers = line.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let boot_id = if next()? == 1 { BOOT } else { "another" };
        Some((boot_id, at(next()?, next()?), &input[end + 1..]))
    };
    read().unwrap_or((BOOT, at(0, 0), input))
}

/// A time that a machine may well have: up for less than a century, in the first ten of ours.
pub(crate) fn at(uptime: u64, wall: u64) -> Now {
    const YEAR: u64 = 365 * 24 * 3600 * 1000;
    Now {
        boot: Moment::since_boot(Duration::from_millis(uptime % (100 * YEAR))),
        wall: SystemTime::UNIX_EPOCH + Duration::from_millis(wall % (1000 * YEAR)),
    }
}

fn read(file: &[u8], now: Now, boot_id: &str) {
    let record = match read_state(APPID, file, now, boot_id) {
        Ok(record) => record,
        Err(damage) => return told(damage),
    };
    plausible(&record, now);
    lives_no_longer_than_stored(&record, file);
    comes_back(&record, now, boot_id);
    let later = Now {
        boot: now.boot + LATER,
        wall: now.wall + LATER,
    };
    // In a file that claims to be from the future of this boot, the two times count by different clocks.
    let clock = |now: Now| anchor(file).map(|anchor| anchor <= now.boot.as_millis());
    if clock(now).is_some() && clock(now) == clock(later) {
        let again = read_state(APPID, file, later, boot_id);
        let again = again.expect("what could be read can be read later");
        let left = |record: &Record, now: Now| {
            let token = record.token.as_ref();
            token.map(|token| token.expires_at.since(now.boot))
        };
        assert!(
            left(&again, later) <= left(&record, now),
            "a life grew by waiting"
        );
    }
}

/// `None`: a key that nobody knows is passed over, also where it or its value is no text.
fn parsed(file: &[u8]) -> Option<Value> {
    serde_json::from_slice(file).ok()
}

fn anchor(file: &[u8]) -> Option<i64> {
    let boot = parsed(file)?["content"]["saved"]["boot"].as_i64();
    Some(boot.expect("it was read"))
}

/// A complaint has no room for what is in the file.
fn told(damage: Damage) {
    let shown = format!("{damage} {damage:?}");
    assert!(shown.len() < 200, "{shown}");
}

/// Nothing in `record` is as it never can be.
pub(crate) fn plausible(record: &Record, now: Now) {
    let past = |moment: Option<Moment>| moment.is_none_or(|moment| moment <= now.boot);
    if let Some(token) = &record.token {
        assert!(!token.value.expose().is_empty(), "a token without a value");
        assert!(token.generation <= record.generation, "a later token");
        assert!(token.asked_at <= now.boot, "asked for in the future");
        assert!(
            token.asked_at <= token.expires_at,
            "dead before it was asked"
        );
        assert!(token.life() <= LONGEST_LIFE, "{:?}", token.life());
        assert!(token.expires_at.since(now.boot) <= LONGEST_LIFE);
    }
    assert!(past(record.note.map(|note| note.asked_at)));
    assert!(past(record.ledger.replaced_at));
    assert!(past(record.ledger.minted_at));
    let end = now.boot + LONGEST_LIFE;
    assert!(record.blocked_until.is_none_or(|until| until <= end));
}

fn lives_no_longer_than_stored(record: &Record, file: &[u8]) {
    let (Some(token), Some(file)) = (&record.token, parsed(file)) else {
        return;
    };
    let stored = &file["content"]["token"];
    let time = |key: &str| stored[key].as_i64().expect("it was read");
    let stored = time("expires_at").abs_diff(time("asked_at"));
    assert!(token.life() <= Duration::from_millis(stored));
}

/// What is written is read again as it was.
pub(crate) fn comes_back(record: &Record, now: Now, boot_id: &str) {
    let text = write_state(APPID, record, now, boot_id);
    let back = read_state(APPID, text.as_bytes(), now, boot_id);
    let back = back.unwrap_or_else(|damage| panic!("{damage}: {record:?}"));
    assert_eq!(shown(&back), shown(record));
}

/// Everything in `record`, its times as exactly as a file keeps them.
pub(crate) fn shown(record: &Record) -> String {
    let ledger = &record.ledger;
    let token = record.token.as_deref().map(|token| {
        let (asked_at, expires_at) = (token.asked_at.as_millis(), token.expires_at.as_millis());
        let shown = (token.issue_time, token.expire_time);
        let value = token.value.expose();
        format!(
            "{value} {asked_at} {expires_at} {shown:?} {}",
            token.generation.0
        )
    });
    let times = [
        record.note.map(|note| note.asked_at),
        ledger.replaced_at,
        ledger.minted_at,
        record.blocked_until,
    ];
    let times = times.map(|time| time.map(Moment::as_millis));
    let counts = (
        ledger.day,
        ledger.replacements,
        ledger.forced,
        ledger.streak,
    );
    let reserved = record.note.map(|note| note.reserved);
    let (mode, dead, generation) = (record.mode, record.dead, record.generation);
    format!("{mode:?} {token:?} {dead} {generation:?} {reserved:?} {times:?} {counts:?}")
}

/// `file` with the checksum of its content, if it is laid out as the program lays it out.
pub(crate) fn sealed(file: &str) -> Option<String> {
    let (_, content) = file.split_once("\"content\":")?;
    let content = compact(content.trim_end().strip_suffix('}')?);
    let hash = content
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    Some(format!(
        r#"{{"format":1,"checksum":"{hash:016x}","content":{content}}}"#
    ))
}

/// JSON without the white space between its words.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let kept = json.chars().filter(|&c| {
        let inside = quoted;
        quoted ^= c == '"' && !escaped;
        escaped = inside && c == '\\' && !escaped;
        inside || !c.is_ascii_whitespace()
    });
    kept.collect()
}
