//! Where a problem is and how problems are told.
//!
//! Someone who repairs a configuration wants the whole list, in the order of the file, in the form
//! that editors jump to. So reading never stops at a problem: it writes it down in a [`Report`],
//! goes on with a default, and the report decides at the end whether there is a configuration.

use std::{cell::RefCell, error::Error, fmt, sync::Arc};

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A line and a column of the file, both from 1; columns are characters.
    At {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// An environment variable.
    Variable(Arc<str>),
}

/// One thing to repair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What is wrong; names the key, never a secret's value.
    pub text: String,
}

/// Everything that is wrong with a configuration, at least one thing.
///
/// `Display` writes one problem a line, sorted by place: `wxtokend.toml:3:10: …` for the file,
/// `WXTOKEND__GRPC__LISTEN: …` for the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    /// A problem that leaves nothing to read.
    pub(super) fn one(file: &str, place: Place, text: String) -> Self {
        let file = file.to_owned();
        let list = vec![Problem { place, text }];
        Self { file, list }
    }

    /// The problems, sorted by place.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.list.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Problem { place, text }) in self.list.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            match place {
                Place::File => write!(f, "{newline}{}: {text}", self.file)?,
                Place::At { line, column } => {
                    write!(f, "{newline}{}:{line}:{column}: {text}", self.file)?;
                }
                Place::Variable(name) => write!(f, "{newline}{name}: {text}")?,
            }
        }
        Ok(())
    }
}

impl Error for Problems {}

/// Turns byte offsets of a text into places.
pub(super) struct Lines<'t>(&'t str);

impl<'t> Lines<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Self(text)
    }

    pub(super) fn place(&self, offset: usize) -> Place {
        let before = &self.0[..self.0.floor_char_boundary(offset)];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::At {
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }
}

/// Why a problem may have to be dropped again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The text is no TOML.
    Syntax,
    /// Something is not there; a syntax error before it may have swallowed it.
    Missing,
    /// What is there is wrong.
    Wrong,
}

/// Collects problems while reading goes on.
#[derive(Default)]
pub(super) struct Report(RefCell<Vec<(Kind, Problem)>>);

impl Report {
    pub(super) fn syntax(&self, place: Place, text: String) {
        self.add(Kind::Syntax, place, text);
    }

    pub(super) fn missing(&self, place: Place, text: String) {
        self.add(Kind::Missing, place, text);
    }

    pub(super) fn wrong(&self, place: Place, text: String) {
        self.add(Kind::Wrong, place, text);
    }

    fn add(&self, kind: Kind, place: Place, text: String) {
        self.0.borrow_mut().push((kind, Problem { place, text }));
    }

    /// `value`, if nothing was wrong. After a syntax error only what certainly is a problem of its
    /// own is told: nothing on the same line and nothing about absence.
    pub(super) fn conclude<T>(self, file: &str, value: T) -> Result<T, Problems> {
        let all = self.0.into_inner();
        if all.is_empty() {
            return Ok(value);
        }
        let broken: Vec<usize> = all
            .iter()
            .filter(|(kind, _)| *kind == Kind::Syntax)
            .filter_map(|(_, problem)| line(problem))
            .collect();
        let certain = |(kind, problem): &(Kind, Problem)| match kind {
            Kind::Syntax => true,
            Kind::Missing => broken.is_empty(),
            Kind::Wrong => line(problem).is_none_or(|line| !broken.contains(&line)),
        };
        let kept = all.into_iter().filter(certain);
        let mut list: Vec<Problem> = kept.map(|(_, problem)| problem).collect();
        list.sort();
        list.dedup();
        let file = file.to_owned();
        Err(Problems { file, list })
    }
}

fn line(problem: &Problem) -> Option<usize> {
    match problem.place {
        Place::At { line, .. } => Some(line),
        Place::File | Place::Variable(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_characters_from_one() {
        let lines = Lines::of("a\n密钥 = 1\n");
        // (offset, line, column)
        for (offset, line, column) in [(0, 1, 1), (2, 2, 1), (5, 2, 2), (9, 2, 4), (99, 3, 1)] {
            assert_eq!(lines.place(offset), Place::At { line, column }, "{offset}");
        }
    }

    #[test]
    fn problems_are_sorted_file_first_then_lines_then_variables() {
        let report = Report::default();
        report.wrong(Place::Variable("WXTOKEND__A".into()), "four".into());
        let (line, column) = (10, 1);
        report.wrong(Place::At { line, column }, "three".into());
        let (line, column) = (9, 5);
        report.wrong(Place::At { line, column }, "two".into());
        report.wrong(Place::File, "one".into());
        let told = report.conclude("f.toml", ()).unwrap_err().to_string();
        let expected = "f.toml: one\nf.toml:9:5: two\nf.toml:10:1: three\nWXTOKEND__A: four";
        assert_eq!(told, expected);
    }
}
