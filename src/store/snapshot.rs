//! The text of a state file: a record, its times translated (`times.rs`) so that they survive a restart
//! of the machine.
//!
//! *Damage.* A checksum over the content finds a flipped bit in a token, which would otherwise be
//! handed out. It is computed from the parsed content, so white space does not matter. A file of a
//! newer format counts as damaged too: after a rollback the server must start, and since the file is
//! set aside and not overwritten, the newer version can have it back.

use std::{mem, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::domain::{
    Generation, Mode, Note, Now, Record, Secret, Token, budget::Ledger as DomainLedger,
};

use super::times::{Age, Anchor, LONGEST, Millis, Times, millis, wall};

/// The format written here.
const FORMAT: u64 = 1;

/// Why a file is not believed. Holds nothing of the file's content: serde's own messages quote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A folder, a socket, a link to nowhere.
    #[error("it is not a file")]
    NoFile,
    /// Reading it would take more memory than it is worth.
    #[error("it is larger than any that this program writes")]
    Huge,
    /// It is no JSON, or JSON of something else.
    #[error("it is not what this program writes, from line {line}, column {column} on")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1; 0 if nothing of the line was understood.
        column: usize,
    },
    /// It is left for the newer version.
    #[error("it was written by a newer version, in format {0}")]
    Newer(u64),
    /// No version has written it.
    #[error("its format is unknown")]
    Unknown,
    /// Something has changed since it was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// Somebody has copied or renamed it.
    #[error("it belongs to another app")]
    OtherApp,
    /// No token has such a life or such a place in the order.
    #[error("its values are impossible")]
    Impossible,
}

/// The text to keep of `record`.
pub fn write(appid: &str, record: &Record, now: Now, boot_id: &str) -> Zeroizing<String> {
    let content = Content::new(appid, record, Anchor::new(now, boot_id));
    let file = Envelope {
        format: FORMAT,
        checksum: content.checksum(),
        content,
    };
    let text = serde_json::to_string_pretty(&file);
    Zeroizing::new(text.expect("plain structs have no keys or numbers that JSON lacks"))
}

/// The record of `appid` in `text`, which a server with the same disk has written.
pub fn read(appid: &str, text: &[u8], now: Now, boot_id: &str) -> Result<Record, Damage> {
    read_timed(appid, text, |saved| Times::new(saved, now, boot_id))
}

/// The record of `appid` in `text`, which a server on this machine or another one has written `age` ago:
/// its wall clock does not matter.
pub(super) fn read_aged(
    appid: &str,
    text: &[u8],
    now: Now,
    age: Age,
    boot_id: &str,
) -> Result<Record, Damage> {
    read_timed(appid, text, |saved| Times::aged(saved, now, age, boot_id))
}

fn read_timed(
    appid: &str,
    text: &[u8],
    times: impl FnOnce(&Anchor) -> Times,
) -> Result<Record, Damage> {
    let Format { format } = parse(text)?;
    match format {
        FORMAT => {}
        newer if newer > FORMAT => return Err(Damage::Newer(newer)),
        _ => return Err(Damage::Unknown),
    }
    let file: Envelope = parse(text)?;
    if file.checksum != file.content.checksum() {
        return Err(Damage::Checksum);
    }
    if file.content.appid != appid {
        return Err(Damage::OtherApp);
    }
    let times = times(&file.content.saved);
    file.content.record(&times).ok_or(Damage::Impossible)
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Damage> {
    serde_json::from_slice(text).map_err(|error| Damage::Syntax {
        line: error.line(),
        column: error.column(),
    })
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: u64,
    checksum: String,
    content: Content,
}

/// No `Debug`: it holds a token.
#[derive(Serialize, Deserialize)]
struct Content {
    appid: String,
    saved: Anchor,
    mode: Interface,
    generation: u64,
    token: Option<Life>,
    dead: bool,
    note: Option<Asking>,
    ledger: Ledger,
    blocked_until: Option<Millis>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Interface {
    Stable,
    Classic,
}

#[derive(Serialize, Deserialize)]
struct Life {
    value: String,
    generation: u64,
    asked_at: Millis,
    expires_at: Millis,
    issue_time: Millis,
    expire_time: Millis,
}

#[derive(Serialize, Deserialize)]
struct Asking {
    asked_at: Millis,
    reserved: u64,
}

#[derive(Serialize, Deserialize)]
struct Ledger {
    day: u64,
    replacements: u32,
    forced: u32,
    replaced_at: Option<Millis>,
    streak: u32,
    minted_at: Option<Millis>,
}

impl Content {
    fn new(appid: &str, record: &Record, saved: Anchor) -> Self {
        let Record { note, ledger, .. } = record;
        let token = record.token.as_deref().map(|token| Life {
            value: token.value.expose().to_owned(),
            generation: token.generation.0,
            asked_at: saved.wall_of(token.asked_at),
            expires_at: saved.wall_of(token.expires_at),
            issue_time: millis(token.issue_time),
            expire_time: millis(token.expire_time),
        });
        Self {
            appid: appid.to_owned(),
            mode: match record.mode {
                Mode::Stable => Interface::Stable,
                Mode::Classic => Interface::Classic,
            },
            generation: record.generation.0,
            token,
            dead: record.dead,
            note: note.map(|note| Asking {
                asked_at: saved.wall_of(note.asked_at),
                reserved: note.reserved.0,
            }),
            ledger: Ledger {
                day: ledger.day,
                replacements: ledger.replacements,
                forced: ledger.forced,
                replaced_at: ledger.replaced_at.map(|at| saved.wall_of(at)),
                streak: ledger.streak,
                minted_at: ledger.minted_at.map(|at| saved.wall_of(at)),
            },
            blocked_until: record.blocked_until.map(|until| saved.wall_of(until)),
            saved,
        }
    }

    /// FNV-1a: any single changed byte changes it.
    fn checksum(&self) -> String {
        let text = serde_json::to_string(self);
        let text = Zeroizing::new(text.expect("it was JSON or will be"));
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }

    fn record(self, times: &Times) -> Option<Record> {
        let generation = Generation(self.generation);
        let token = match self.token {
            None => None,
            Some(life) => Some(Arc::new(life.token(generation, times)?)),
        };
        Some(Record {
            mode: match self.mode {
                Interface::Stable => Mode::Stable,
                Interface::Classic => Mode::Classic,
            },
            token,
            dead: self.dead,
            generation,
            note: self.note.map(|note| Note {
                asked_at: times.past(note.asked_at),
                reserved: Generation(note.reserved),
            }),
            ledger: DomainLedger {
                day: self.ledger.day,
                replacements: self.ledger.replacements,
                forced: self.ledger.forced,
                replaced_at: self.ledger.replaced_at.map(|at| times.past(at)),
                streak: self.ledger.streak,
                minted_at: self.ledger.minted_at.map(|at| times.past(at)),
            },
            blocked_until: self.blocked_until.map(|until| times.soon(until)),
            trouble: None,
        })
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl Life {
    fn token(mut self, highest: Generation, times: &Times) -> Option<Token> {
        let life = self.expires_at.checked_sub(self.asked_at)?;
        let life = Duration::from_millis(u64::try_from(life).ok()?);
        let generation = Generation(self.generation);
        if life > LONGEST || generation > highest || self.value.is_empty() {
            return None;
        }
        let asked_at = times.past(self.asked_at);
        // A clock that was set back made the times of its day impossible too.
        let (issue_time, expire_time) = if times.moment(self.asked_at) > asked_at {
            (times.now.wall, times.now.wall + life)
        } else {
            (wall(self.issue_time)?, wall(self.expire_time)?)
        };
        Some(Token {
            value: Secret::new(mem::take(&mut self.value)),
            generation,
            asked_at,
            expires_at: asked_at + life,
            issue_time,
            expire_time,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use crate::domain::Moment;

    use super::*;

    const APPID: &str = "wx0123456789abcdef";
    const BOOT: &str = "4a3c0f9e";
    const HOUR: Duration = Duration::from_hours(1);

    fn at(boot: i64, wall: i64) -> Now {
        Now {
            boot: Moment::from_millis(boot),
            wall: super::super::times::wall(wall).unwrap(),
        }
    }

    /// An hour after the start of the machine.
    fn saving() -> Now {
        at(3_600_000, 1_795_359_600_000)
    }

    /// With a token that was asked for ten minutes ago and has 110 minutes left.
    fn living() -> Record {
        let now = saving();
        let (asked_at, life) = (now.boot - HOUR / 6, HOUR * 2);
        let token = Token {
            value: Secret::new("70_token"),
            generation: Generation(7),
            asked_at,
            expires_at: asked_at + life,
            issue_time: now.wall_at(asked_at),
            expire_time: now.wall_at(asked_at + life),
        };
        Record {
            token: Some(Arc::new(token)),
            generation: Generation(7),
            ..Record::new(Mode::Classic)
        }
    }

    /// `record` written at [`saving`] and read at `now`, in the same boot or in another one.
    fn reread(record: &Record, now: Now, boot_id: &str) -> Result<Record, Damage> {
        let text = write(APPID, record, saving(), BOOT);
        read(APPID, text.as_bytes(), now, boot_id)
    }

    fn token_of(record: Record) -> Arc<Token> {
        record.token.unwrap()
    }

    /// Everything but the secret, to be compared.
    fn shown(record: &Record) -> String {
        let secret = record.token.as_ref().map(|token| token.value.expose());
        format!("{record:?} {secret:?}")
    }

    prop_compose! {
        fn tokens()(
            value in "[!-~]{1,600}", generation in 1..u64::MAX, ago in 0..90_000_000_i64,
            life in 0..=86_400_000_i64, issued in -9_000_000_000_000..9_000_000_000_000_i64,
        ) -> Token {
            let asked_at = Moment::from_millis(saving().boot.as_millis() - ago);
            Token {
                value: Secret::new(value),
                generation: Generation(generation),
                asked_at,
                expires_at: asked_at + Duration::from_millis(life.unsigned_abs()),
                issue_time: wall(issued).unwrap(),
                expire_time: wall(issued + life).unwrap(),
            }
        }
    }

    prop_compose! {
        fn past()(ago in 0..90_000_000_i64) -> Moment {
            Moment::from_millis(saving().boot.as_millis() - ago)
        }
    }

    prop_compose! {
        fn ledgers()(
            day in any::<u64>(), replacements in any::<u32>(), forced in any::<u32>(),
            replaced_at in option::of(past()), streak in any::<u32>(),
            minted_at in option::of(past()),
        ) -> DomainLedger {
            DomainLedger { day, replacements, forced, replaced_at, streak, minted_at }
        }
    }

    prop_compose! {
        fn records()(
            classic in any::<bool>(), token in option::of(tokens()), more in 0..9_u64,
            note in option::of((past(), any::<u64>())), ledger in ledgers(),
            blocked in option::of(0..86_400_000_u64), dead: bool,
        ) -> Record {
            let generation = token.as_ref().map_or(0, |token| token.generation.0);
            Record {
                mode: if classic { Mode::Classic } else { Mode::Stable },
                token: token.map(Arc::new),
                dead,
                generation: Generation(generation.saturating_add(more)),
                note: note.map(|(asked_at, reserved)| Note {
                    asked_at,
                    reserved: Generation(reserved),
                }),
                ledger,
                blocked_until: blocked.map(|ms| saving().boot + Duration::from_millis(ms)),
                trouble: None,
            }
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(record in records(), same_boot: bool) {
            let boot_id = if same_boot { BOOT } else { "another" };
            let back = reread(&record, saving(), boot_id).unwrap();
            prop_assert_eq!(shown(&back), shown(&record));
        }

        #[test]
        fn a_changed_byte_never_changes_a_token(place in 0..2000_usize, flip in 1..=255_u8) {
            let mut text = write(APPID, &living(), saving(), BOOT).as_bytes().to_vec();
            let place = place % text.len();
            text[place] ^= flip;
            if let Ok(record) = read(APPID, &text, saving(), BOOT) {
                prop_assert_eq!(shown(&record), shown(&living()));
            }
        }

        #[test]
        fn nothing_makes_it_panic(
            text: Vec<u8>, boot: i64, wall: i64, asked_at: i64, expires_at: i64, now in 0..i64::MAX / 2_000_000,
        ) {
            let _ = read(APPID, &text, saving(), BOOT).is_ok();
            let mut content = Content::new(APPID, &living(), Anchor::new(saving(), BOOT));
            (content.saved.boot, content.saved.wall) = (boot, wall);
            content.blocked_until = Some(expires_at);
            if let Some(life) = &mut content.token {
                (life.asked_at, life.expires_at) = (asked_at, expires_at);
                (life.issue_time, life.expire_time) = (asked_at, expires_at);
            }
            let now = at(now, 1_795_359_600_000);
            for boot_id in [BOOT, "another"] {
                let times = Times::new(&content.saved, now, boot_id);
                let life = content.token.as_ref().map(|life| Life { value: "x".into(), ..*life });
                let token = life.and_then(|life| life.token(Generation(7), &times));
                if let Some(token) = token {
                    prop_assert!(token.expires_at.since(now.boot) <= LONGEST);
                    prop_assert!(token.asked_at <= now.boot);
                }
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_damaged() {
        let text = write(APPID, &living(), saving(), BOOT);
        for length in 0..text.len() {
            let read = read(APPID, &text.as_bytes()[..length], saving(), BOOT);
            assert!(matches!(read, Err(Damage::Syntax { .. })), "{length}");
        }
    }

    #[test]
    fn in_the_same_boot_a_clock_that_was_set_changes_nothing() {
        let before = token_of(living());
        for wall in [0, 1_795_359_600_000, 9_000_000_000_000] {
            let now = at(saving().boot.as_millis() + 60_000, wall);
            let token = token_of(reread(&living(), now, BOOT).unwrap());
            assert_eq!(token.expires_at, before.expires_at);
            assert_eq!(token.asked_at, before.asked_at);
        }
    }

    #[test]
    fn in_another_boot_the_wall_clock_counts() {
        // (seconds since saving, minutes of life left)
        for (later, left) in [(0, 110), (600, 100), (6600, 0), (999_999, 0)] {
            // Up for less and for more than the machine was at saving.
            for uptime in [5_000, 99_999_000] {
                let now = at(uptime, 1_795_359_600_000 + later * 1000);
                let token = token_of(reread(&living(), now, "another").unwrap());
                let minutes = token.expires_at.since(now.boot).as_secs() / 60;
                assert_eq!(minutes, left, "{later} s later, up for {uptime} ms");
            }
        }
    }

    #[test]
    fn an_unknown_boot_or_one_that_went_back_is_another_boot() {
        for (boot_id, uptime) in [("", 3_600_000), (BOOT, 5_000)] {
            let text = write(APPID, &living(), saving(), boot_id);
            let now = at(uptime, 1_795_359_600_000 + 6_600_000);
            let token = token_of(read(APPID, text.as_bytes(), now, boot_id).unwrap());
            assert_eq!(token.expires_at, now.boot, "boot `{boot_id}`");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_gives_no_token_more_than_its_whole_life() {
        let now = at(5_000, 0);
        let record = Record {
            note: Some(Note {
                asked_at: saving().boot,
                reserved: Generation(8),
            }),
            ledger: DomainLedger {
                replaced_at: Some(saving().boot),
                minted_at: Some(saving().boot),
                ..DomainLedger::default()
            },
            blocked_until: Some(saving().boot),
            ..living()
        };
        let back = reread(&record, now, "another").unwrap();
        assert_eq!(back.note.unwrap().asked_at, now.boot);
        assert_eq!(back.ledger.replaced_at, Some(now.boot));
        assert_eq!(back.ledger.minted_at, Some(now.boot));
        assert_eq!(back.blocked_until, Some(now.boot + LONGEST));
        let token = token_of(back);
        assert_eq!(token.asked_at, now.boot);
        assert_eq!(token.expires_at, now.boot + HOUR * 2);
        assert_eq!(token.issue_time, now.wall);
        assert_eq!(token.expire_time, now.wall + HOUR * 2);
    }

    #[test]
    fn what_cannot_be_believed_is_named() {
        let text = write(APPID, &living(), saving(), BOOT).to_string();
        let edited = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            read(APPID, text.replace(from, to).as_bytes(), saving(), BOOT).unwrap_err()
        };
        assert_eq!(edited("\"format\": 1", "\"format\": 2"), Damage::Newer(2));
        assert_eq!(edited("\"format\": 1", "\"format\": 0"), Damage::Unknown);
        assert_eq!(edited("70_token", "71_token"), Damage::Checksum);
        assert_eq!(edited("classic", "stable"), Damage::Checksum);
        let other = read("wx2", text.as_bytes(), saving(), BOOT);
        assert_eq!(other.unwrap_err(), Damage::OtherApp);
    }

    #[test]
    fn impossible_values_are_damage_even_with_a_good_checksum() {
        type Edit = fn(&mut Record, &mut Token);
        let edits: [Edit; 4] = [
            |_, token| token.expires_at = token.asked_at + HOUR * 25,
            |_, token| token.expires_at = token.asked_at - HOUR,
            |record, _| record.generation = Generation(6),
            |_, token| token.value = Secret::new(""),
        ];
        for (index, edit) in edits.into_iter().enumerate() {
            let mut record = living();
            let token = record.token.take();
            let mut token = Arc::into_inner(token.unwrap()).unwrap();
            edit(&mut record, &mut token);
            record.token = Some(Arc::new(token));
            let read = reread(&record, saving(), BOOT);
            assert_eq!(read.unwrap_err(), Damage::Impossible, "{index}");
        }
    }

    #[test]
    fn no_complaint_about_a_file_quotes_it() {
        let text = write(APPID, &living(), saving(), BOOT).to_string();
        // serde would say: invalid type: string "70_token", expected u64
        let text = text.replace("\"generation\": 7", "\"generation\": \"70_token\"");
        let damage = read(APPID, text.as_bytes(), saving(), BOOT).unwrap_err();
        assert!(matches!(damage, Damage::Syntax { .. }));
        assert!(!format!("{damage} {damage:?}").contains("70_token"));
    }
}
