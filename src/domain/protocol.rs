//! Note, ask, publish, save: the order in which one fetch is carried out.
//!
//! Asking WeChat is the dangerous act, so it is written down before it is done, and a crash between
//! any two steps leaves behind what the next start must know:
//!
//! - A fetch that retires the current token is noted first. Its result is published before it is
//!   saved, because WeChat has already retired the old token; the note on disk holds its generation.
//! - A stable token in normal mode retires nothing and is not noted. Its result is saved before it is
//!   published, so that no generation is seen that a restart does not know.
//! - A store that fails twice does not stop a fetch: a living token without a record is better than a
//!   record without a living token. But where other replicas hand out the token, it is not retired before
//!   they can read that it is: whoever reaches the store will refresh it, in time.
//!
//! `refresher/obtain.rs` and the loop carry the steps out; nothing is decided there.

use super::{Ask, Note, Record};

/// One fetch that a slot wants.
#[derive(Debug)]
pub struct Errand {
    /// What to ask for.
    pub ask: Ask,
    /// What was known before.
    pub before: Box<Record>,
    /// The record to write first: it says that WeChat is being asked.
    pub note: Option<Record>,
    /// Whether other replicas hand out the token that this retires, and must be able to read the note.
    pub shared: bool,
}

impl Errand {
    /// A fetch that begins with writing `note` into `record`, if there is one.
    pub fn new(ask: Ask, record: Record, note: Option<Note>) -> Self {
        let note = note.map(|note| Record {
            note: Some(note),
            ..record.clone()
        });
        Self {
            ask,
            before: Box::new(record),
            note,
            shared: false,
        }
    }

    /// Its first step.
    pub fn protocol(&self) -> Protocol {
        Protocol {
            noted: self.note.is_some(),
            shared: self.shared,
            failures: 0,
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Write the note durably.
    Note,
    /// Send the one request.
    Ask,
    /// Let the readers have the result.
    Publish,
    /// Write what is known durably, without the note if the outcome is known.
    Save,
    /// Nothing more.
    Done,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The fetch begins.
    Begun,
    /// The note is on disk.
    Noted,
    /// The note could not be written.
    NoteFailed,
    /// WeChat gave a new token.
    Rotated,
    /// WeChat repeated the token, or refused and made none.
    Nothing,
    /// WeChat may have made a token that did not arrive.
    Open,
    /// There is no new token, but something else that a restart must know: WeChat refuses for hours, or
    /// does so no more.
    Learned,
    /// The readers have it.
    Published,
    /// It is on disk.
    Saved,
    /// It is not on disk, and will be saved later.
    SaveFailed,
}

/// Where one fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol {
    noted: bool,
    shared: bool,
    failures: u8,
}

impl Protocol {
    /// Whether readers may see the result only after it was saved, or could not be.
    pub fn publishes_last(&self) -> bool {
        !self.noted
    }

    /// The step after `heard`.
    pub fn next(&mut self, heard: Heard) -> Step {
        match heard {
            Heard::Begun if self.noted => Step::Note,
            Heard::NoteFailed if self.failures == 0 => {
                self.failures += 1;
                Step::Note
            }
            Heard::NoteFailed if self.shared => Step::Done,
            Heard::Begun | Heard::Noted | Heard::NoteFailed => Step::Ask,
            Heard::Rotated if self.noted => Step::Publish,
            Heard::Rotated | Heard::Learned => Step::Save,
            // With nothing to show, the note is withdrawn, or kept with all that is known of the open
            // outcome.
            Heard::Published | Heard::Nothing | Heard::Open if self.noted => Step::Save,
            Heard::Saved | Heard::SaveFailed if self.publishes_last() => Step::Publish,
            _ => Step::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(noted: bool, heard: &[Heard]) -> Vec<Step> {
        let mut protocol = Protocol {
            noted,
            shared: false,
            failures: 0,
        };
        heard.iter().map(|h| protocol.next(*h)).collect()
    }

    #[test]
    fn a_dangerous_fetch_is_noted_first_and_published_before_it_is_saved() {
        use Heard::*;
        let path = steps(true, &[Begun, Noted, Rotated, Published, Saved]);
        let expected = [Step::Note, Step::Ask, Step::Publish, Step::Save, Step::Done];
        assert_eq!(path, expected);
    }

    #[test]
    fn a_harmless_fetch_is_saved_before_it_is_published() {
        use Heard::*;
        let path = steps(false, &[Begun, Rotated, Saved, Published]);
        let expected = [Step::Ask, Step::Save, Step::Publish, Step::Done];
        assert_eq!(path, expected);
        assert_eq!(steps(false, &[Rotated, SaveFailed])[1], Step::Publish);
        assert_eq!(steps(false, &[Begun, Nothing]), [Step::Ask, Step::Done]);
    }

    #[test]
    fn a_note_that_cannot_be_written_is_tried_twice_and_then_done_without() {
        use Heard::*;
        let path = steps(true, &[Begun, NoteFailed, NoteFailed]);
        assert_eq!(path, [Step::Note, Step::Note, Step::Ask]);
    }

    #[test]
    fn wechat_is_not_asked_before_other_replicas_can_read_the_note() {
        use Heard::*;
        let mut protocol = Protocol {
            noted: true,
            shared: true,
            failures: 0,
        };
        let path = [Begun, NoteFailed, NoteFailed].map(|heard| protocol.next(heard));
        assert_eq!(path, [Step::Note, Step::Note, Step::Done]);
    }

    #[test]
    fn the_note_is_withdrawn_when_nothing_was_made() {
        use Heard::*;
        assert_eq!(steps(true, &[Nothing, Saved]), [Step::Save, Step::Done]);
        assert_eq!(steps(true, &[Open, SaveFailed]), [Step::Save, Step::Done]);
    }
}
