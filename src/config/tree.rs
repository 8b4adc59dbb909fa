//! What was written, as a tree in which every node knows its place.
//!
//! The file and the environment meet here, so the rest of the reading does not care which of them
//! a value came from. There is no serde on this way: it stops at the first error, and its messages
//! quote the value, which may be a secret in the wrong line.

use std::collections::BTreeMap;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::places::{Lines, Place, Report};

/// The keys of a table.
pub(super) type Table = BTreeMap<String, Node>;

/// A value with its places.
pub(super) struct Node {
    /// Where its key is.
    pub(super) key: Place,
    /// Where it is itself.
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value.
pub(super) enum Value {
    Table(Table),
    List(Vec<Node>),
    Text(String),
    /// Saturated where it does not fit.
    Whole(i128),
    Number(f64),
    Flag,
    Date,
    /// From the environment: it is of the type that is expected of it.
    Given(String),
}

impl Value {
    /// What it is, for messages.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::List(_) => "a list",
            Self::Text(_) | Self::Given(_) => "a string",
            Self::Whole(_) => "a whole number",
            Self::Number(_) => "a number",
            Self::Flag => "true or false",
            Self::Date => "a date",
        }
    }

    /// `text` as a TOML value that was found at `place`.
    pub(super) fn parse(text: &str, place: &Place) -> Option<Self> {
        let value = DeValue::parse(text.trim()).ok()?;
        Some(convert(value.into_inner(), &|_| place.clone()))
    }
}

/// Reads a file; what is no TOML is reported, and the rest is read as well as it can be.
pub(super) fn read(text: &str, report: &Report) -> Table {
    // Some editors put a byte order mark in front, which would count as a column.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = error
            .span()
            .map_or(Place::File, |span| lines.place(span.start));
        let message = match error.message() {
            "recursion limit" => "something in it is nested too deeply",
            other => other,
        };
        report.syntax(place, message.to_owned());
    }
    entries(table.into_inner(), &|offset| lines.place(offset))
}

fn entries(table: DeTable<'_>, place: &dyn Fn(usize) -> Place) -> Table {
    let mut entries = Table::new();
    for (key, value) in table {
        let node = node(place(key.span().start), value, place);
        entries.insert(key.into_inner().into_owned(), node);
    }
    entries
}

fn node(key: Place, value: Spanned<DeValue<'_>>, place: &dyn Fn(usize) -> Place) -> Node {
    Node {
        key,
        place: place(value.span().start),
        value: convert(value.into_inner(), place),
    }
}

fn convert(value: DeValue<'_>, place: &dyn Fn(usize) -> Place) -> Value {
    match value {
        DeValue::Table(table) => Value::Table(entries(table, place)),
        DeValue::Array(items) => {
            let item = |item: Spanned<DeValue<'_>>| node(place(item.span().start), item, place);
            Value::List(items.into_iter().map(item).collect())
        }
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(digits) => {
            let whole = i128::from_str_radix(digits.as_str(), digits.radix());
            Value::Whole(whole.unwrap_or(i128::MAX))
        }
        // The parser has checked the digits.
        DeValue::Float(digits) => Value::Number(digits.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(_) => Value::Flag,
        DeValue::Datetime(_) => Value::Date,
    }
}
