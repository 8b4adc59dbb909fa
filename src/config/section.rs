//! One table while it is read.
//!
//! What is asked for is what is known: [`Section::read`] tells every key that nobody asked for, so
//! there is no second list of keys that could fall behind.

use std::cell::RefCell;

use super::{
    places::{Place, Report},
    tree::{Node, Table, Value},
    values::{Outcome, items},
};

/// A table of the configuration.
pub(super) struct Section<'t> {
    path: String,
    place: Place,
    /// `None` if it was not written: then every key has its default.
    table: Option<&'t Table>,
    report: &'t Report,
    /// The keys asked for, and those that are refused with a message of their own.
    known: RefCell<Vec<&'static str>>,
    refused: RefCell<Vec<&'static str>>,
}

impl<'t> Section<'t> {
    /// The whole configuration.
    pub(super) fn root(table: &'t Table, report: &'t Report) -> Self {
        Self::at(String::new(), Place::File, Some(table), report)
    }

    fn at(path: String, place: Place, table: Option<&'t Table>, report: &'t Report) -> Self {
        Self {
            path,
            place,
            table,
            report,
            known: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    /// Lets `read` read the keys that it knows and tells the others.
    pub(super) fn read<T>(self, read: impl FnOnce(&Self) -> T) -> T {
        let result = read(&self);
        let (known, refused) = (self.known.borrow(), self.refused.borrow());
        for (key, node) in self.table.into_iter().flatten() {
            if known.contains(&key.as_str()) || refused.contains(&key.as_str()) {
                continue;
            }
            let path = self.path_of(key);
            let text = match nearest(key, &known) {
                Some(meant) => format!("`{path}` is unknown, did you mean `{meant}`?"),
                None => format!("`{path}` is unknown"),
            };
            self.report.wrong(node.key.clone(), text);
        }
        result
    }

    /// The value of `key`, if it is there and good; otherwise the caller's default does no harm.
    pub(super) fn get<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Outcome<T>,
    ) -> Option<T> {
        let node = self.node(key)?;
        self.tell(node, &self.path_of(key), parse(&node.value))
    }

    /// The values of a list with their places, without the bad ones; not empty.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&Value) -> Outcome<T>,
    ) -> Option<Vec<(Place, T)>> {
        let (node, path) = (self.node(key)?, self.path_of(key));
        let items = self.tell(node, &path, items(&node.value, &node.place))?;
        let good = items.iter().enumerate().filter_map(|(n, item)| {
            let value = self.tell(item, &format!("{path}[{n}]"), parse(&item.value))?;
            Some((item.place.clone(), value))
        });
        Some(good.collect())
    }

    /// Reads the table `[key]`; one that is missing is read as an empty one.
    pub(super) fn table<T>(&self, key: &'static str, read: impl FnOnce(&Section<'t>) -> T) -> T {
        let table = self.node(key).and_then(|node| {
            let table = self.tell(node, &self.path_of(key), a_table(&node.value))?;
            Some((node.place.clone(), table))
        });
        let (place, table) = match table {
            Some((place, table)) => (place, Some(table)),
            None => (self.place.clone(), None),
        };
        Section::at(self.path_of(key), place, table, self.report).read(read)
    }

    /// Reads each `[[key]]`.
    pub(super) fn tables<T>(
        &self,
        key: &'static str,
        mut read: impl FnMut(&Section<'t>) -> T,
    ) -> Vec<T> {
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            let text = format!("`{key}` must be written as `[[{key}]]`");
            self.report.wrong(node.place.clone(), text);
            return Vec::new();
        };
        if items.is_empty() {
            self.wrong(key, "must not be an empty list");
        }
        let section = |(n, item): (usize, &'t Node)| {
            let path = format!("{}[{n}]", self.path_of(key));
            let table = self.tell(item, &path, a_table(&item.value))?;
            let place = item.place.clone();
            Some(Section::at(path, place, Some(table), self.report).read(&mut read))
        };
        items.iter().enumerate().filter_map(section).collect()
    }

    /// Whether `key` was written; if so, `text` tells why it must not be.
    pub(super) fn refuse(&self, key: &'static str, text: &str) -> bool {
        self.refused.borrow_mut().push(key);
        let Some(node) = self.table.and_then(|table| table.get(key)) else {
            return false;
        };
        let text = format!("`{}` {text}", self.path_of(key));
        self.report.wrong(node.key.clone(), text);
        true
    }

    /// Whether `key` was written, well or badly.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.node(key).is_some()
    }

    /// A problem that shows only beside other values: `text` follows the key's path.
    pub(super) fn wrong(&self, key: &'static str, text: &str) {
        let place = self.node(key).map_or(&self.place, |node| &node.place);
        let text = format!("`{}` {text}", self.path_of(key));
        self.report.wrong(place.clone(), text);
    }

    /// Something that must be there and is not: `text` follows the table's path.
    pub(super) fn missing(&self, text: &str) {
        let text = if self.path.is_empty() {
            text.to_owned()
        } else {
            format!("`{}` {text}", self.path)
        };
        self.report.missing(self.place.clone(), text);
    }

    /// The string that was written for `key`, good or bad.
    pub(super) fn peek(&self, key: &str) -> Option<&'t str> {
        match &self.table?.get(key)?.value {
            Value::Text(text) | Value::Given(text) => Some(text),
            _ => None,
        }
    }

    /// Something named at `place` that is not there.
    pub(super) fn missing_at(&self, place: Place, text: String) {
        self.report.missing(place, text);
    }

    /// What messages call this table.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn node(&self, key: &'static str) -> Option<&'t Node> {
        self.known.borrow_mut().push(key);
        self.table?.get(key)
    }

    fn tell<T>(&self, node: &Node, path: &str, outcome: Outcome<T>) -> Option<T> {
        let tell = |text| {
            self.report
                .wrong(node.place.clone(), format!("`{path}` {text}"));
        };
        outcome.map_err(tell).ok()
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            return key.to_owned();
        }
        format!("{}.{key}", self.path)
    }
}

fn a_table(value: &Value) -> Outcome<&Table> {
    match value {
        Value::Table(table) => Ok(table),
        other => Err(format!("must be a table, not {}", other.noun())),
    }
}

/// The known key that was probably meant.
pub(super) fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|key| (distance(written, key), *key));
    let (distance, key) = near.min()?;
    (distance <= key.len() / 3).then_some(key)
}

/// How many letters to insert, delete, exchange or swap with their neighbor.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let same = one[i - 1] == other[j - 1];
            let exchanged = rows[i - 1][j - 1] + usize::from(!same);
            let mut least = exchanged.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            let swapped =
                i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
            if swapped {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognized_and_another_word_is_not() {
        let known = ["listen", "at", "overlap", "appid", "name", "secret_file"];
        // (written, meant)
        let table = [
            ("lisen", Some("listen")),
            ("listne", Some("listen")),
            ("nmae", Some("name")),
            ("app_id", Some("appid")),
            ("secretfile", Some("secret_file")),
            ("secret-file", Some("secret_file")),
            ("on", None),
            ("surprise", None),
        ];
        for (written, meant) in table {
            assert_eq!(nearest(written, &known), meant, "{written}");
        }
    }
}
