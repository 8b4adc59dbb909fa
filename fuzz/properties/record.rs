//! Whatever a record holds, it can be written, read again and gone on with.
//!
//! An input is no text here: it is the record, in the order in which it is taken out below. So times and
//! generations come close to the ends of their types, where arithmetic breaks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arbitrary::{Result, Unstructured};
use wxtokend::{
    domain::{
        Generation, Mode, Moment, Note, Now, Policy, Record, Secret, Slot, Token, budget::Ledger,
    },
    store::{read_state, write_state},
};

use super::state::{APPID, BOOT, at, comes_back, plausible};

const DAY: Duration = Duration::from_hours(24);

pub(crate) fn holds(input: &[u8]) {
    // Where an input ends too early there is no record in it.
    if let Ok((record, written, now, boot_id)) = taken(&mut Unstructured::new(input)) {
        generations_grow(&record, now);
        let text = write_state(APPID, &record, written, BOOT);
        if let Ok(read) = read_state(APPID, text.as_bytes(), now, boot_id) {
            plausible(&read, now);
            comes_back(&read, now, boot_id);
            assert_eq!(read.generation, record.generation);
            assert_eq!(read.taken(), record.taken());
            goes_on(read, now);
        }
    }
}

fn taken(input: &mut Unstructured<'_>) -> Result<(Record, Now, Now, &'static str)> {
    let written = at(input.arbitrary()?, input.arbitrary()?);
    let now = at(input.arbitrary()?, input.arbitrary()?);
    let boot_id = if input.arbitrary()? { BOOT } else { "another" };
    Ok((record(input)?, written, now, boot_id))
}

fn record(input: &mut Unstructured<'_>) -> Result<Record> {
    let mode = if input.arbitrary()? {
        Mode::Classic
    } else {
        Mode::Stable
    };
    let token = if input.arbitrary()? {
        Some(Arc::new(token(input)?))
    } else {
        None
    };
    let note = if input.arbitrary()? {
        Some(Note {
            asked_at: moment(input)?,
            reserved: Generation(input.arbitrary()?),
        })
    } else {
        None
    };
    Ok(Record {
        mode,
        token,
        dead: input.arbitrary()?,
        generation: Generation(input.arbitrary()?),
        note,
        ledger: Ledger {
            day: input.arbitrary()?,
            replacements: input.arbitrary()?,
            forced: input.arbitrary()?,
            replaced_at: perhaps(input)?,
            streak: input.arbitrary()?,
            minted_at: perhaps(input)?,
        },
        blocked_until: perhaps(input)?,
        trouble: None,
    })
}

fn token(input: &mut Unstructured<'_>) -> Result<Token> {
    let asked_at = moment(input)?;
    // Most lives should be possible ones.
    let life = if input.arbitrary()? {
        u64::from(input.arbitrary::<u32>()?)
    } else {
        input.arbitrary()?
    };
    Ok(Token {
        value: Secret::new(input.arbitrary::<&str>()?),
        generation: Generation(input.arbitrary()?),
        asked_at,
        expires_at: asked_at + Duration::from_millis(life),
        issue_time: wall(input)?,
        expire_time: wall(input)?,
    })
}

fn moment(input: &mut Unstructured<'_>) -> Result<Moment> {
    Ok(Moment::from_millis(input.arbitrary()?))
}

fn perhaps(input: &mut Unstructured<'_>) -> Result<Option<Moment>> {
    let millis: Option<i64> = input.arbitrary()?;
    Ok(millis.map(Moment::from_millis))
}

fn wall(input: &mut Unstructured<'_>) -> Result<SystemTime> {
    let span = Duration::from_millis(input.arbitrary()?);
    let time = if input.arbitrary()? {
        SystemTime::UNIX_EPOCH.checked_add(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    };
    Ok(time.unwrap_or(SystemTime::UNIX_EPOCH))
}

/// The next generation is above every one that is taken, up to the end of all numbers.
fn generations_grow(record: &Record, now: Now) {
    let taken = record.taken();
    assert!(taken >= record.generation);
    assert!(record.note.is_none_or(|note| taken >= note.reserved));
    let next = taken.next(now.wall);
    assert!(next > taken || taken == Generation(u64::MAX), "{next:?}");
}

/// A server that finds `record` hands out no dead token, forgets no generation and asks again.
fn goes_on(record: Record, now: Now) {
    let (taken, dead) = (record.taken(), record.dead);
    let policy = Policy {
        mode: record.mode,
        ..Policy::default()
    };
    let mut slot = Slot::new(policy, now);
    slot.restored(record, now);
    if let Some(token) = slot.token() {
        assert!(token.expires_at > now.boot, "an expired token is in force");
        assert_eq!(slot.dead(), dead, "a death is forgotten, or invented");
    }
    assert!(slot.record().taken() >= taken, "a generation is forgotten");
    // A rejection lasts a day at most; the rest is planned within a token's life.
    let latest = now.boot + DAY + DAY;
    let due = slot.due(now).expect("there is always something to do");
    assert!(due <= latest, "next at {due:?}, and it is {:?}", now.boot);
    let mut then = now;
    for _ in 0..4 {
        let due = slot.due(then).unwrap_or(then.boot).max(then.boot);
        then = Now {
            boot: due,
            wall: then.wall + due.since(then.boot),
        };
        slot.woke(then);
        assert!(slot.record().taken() >= taken, "a generation is forgotten");
    }
}
