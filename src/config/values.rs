//! The kinds of values: each function takes what was written and gives what was meant, or the
//! rest of the sentence that begins with the key's path.
//!
//! A message quotes a value only where that value cannot be a secret in the wrong place.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, time::Duration};

use humantime::{format_duration, parse_duration};

use super::{
    places::Place,
    tree::{Node, Value},
};

/// What was meant, or what is wrong with it.
pub(super) type Outcome<T> = Result<T, String>;

/// A string with something in it.
pub(super) fn text(value: &Value) -> Outcome<String> {
    let text = match value {
        Value::Text(text) => text.clone(),
        Value::Given(given) => unquoted(given),
        other => return Err(format!("must be a string, not {}", other.noun())),
    };
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters".into());
    }
    Ok(text)
}

/// A variable may hold the bare text or, out of habit, a TOML string.
fn unquoted(given: &str) -> String {
    match Value::parse(given, &Place::File) {
        Some(Value::Text(text)) => text,
        _ => given.to_owned(),
    }
}

/// A path; a relative one starts at the working directory.
pub(super) fn file(value: &Value) -> Outcome<PathBuf> {
    text(value).map(PathBuf::from)
}

/// One of a few words.
pub(super) fn choice<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Value) -> Outcome<T> {
    move |value| {
        let written = text(value)?;
        let found = words.iter().find(|(word, _)| *word == written);
        found.map(|(_, meant)| *meant).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            format!("must be {}", or(&words))
        })
    }
}

fn or(words: &[String]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

/// A whole number within bounds.
pub(super) fn whole<N>(range: RangeInclusive<N>) -> impl Fn(&Value) -> Outcome<N>
where
    N: TryFrom<i128> + PartialOrd + Display,
{
    move |value| {
        let (least, most) = (range.start(), range.end());
        let given = settled(value);
        let Value::Whole(number) = given.as_ref().unwrap_or(value) else {
            let noun = value.noun();
            return Err(format!(
                "must be a whole number from {least} to {most}, not {noun}"
            ));
        };
        let fits = N::try_from(*number).ok().filter(|n| range.contains(n));
        fits.ok_or_else(|| format!("must be a whole number from {least} to {most}, not {number}"))
    }
}

/// A number within bounds.
pub(super) fn share(range: RangeInclusive<f64>) -> impl Fn(&Value) -> Outcome<f64> {
    move |value| {
        let must = format!("must be a number from {} to {}", range.start(), range.end());
        let given = settled(value);
        match given.as_ref().unwrap_or(value) {
            Value::Number(number) if range.contains(number) => Ok(*number),
            Value::Number(number) => Err(format!("{must}, not {number}")),
            Value::Whole(number) => Err(format!("{must}, not {number}")),
            other => Err(format!("{must}, not {}", other.noun())),
        }
    }
}

/// A duration within bounds.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Outcome<Duration> {
    move |value| {
        let written = written_duration(value)?;
        if range.contains(&written) {
            return Ok(written);
        }
        let (least, most) = (shown(*range.start()), shown(*range.end()));
        Err(format!(
            "must be from `{least}` to `{most}`, not `{}`",
            shown(written)
        ))
    }
}

/// A duration within bounds, or zero, which switches something off.
pub(super) fn duration_or_never(
    range: RangeInclusive<Duration>,
) -> impl Fn(&Value) -> Outcome<Duration> {
    move |value| {
        let written = written_duration(value)?;
        if written.is_zero() || range.contains(&written) {
            return Ok(written);
        }
        let (least, most) = (shown(*range.start()), shown(*range.end()));
        let written = shown(written);
        Err(format!(
            "must be `0s` (never) or from `{least}` to `{most}`, not `{written}`"
        ))
    }
}

fn written_duration(value: &Value) -> Outcome<Duration> {
    if let Value::Whole(number) = value {
        return Err(format!("needs a unit, like `{number}s`"));
    }
    let written = text(value).map_err(|_| {
        format!(
            "must be a duration like `90s`, `5m` or `1h30m`, not {}",
            value.noun()
        )
    })?;
    if written.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("needs a unit, like `{written}s`"));
    }
    parse_duration(&written).map_err(|_| "must be a duration like `90s`, `5m` or `1h30m`".into())
}

/// A duration as people write it: `1h30m`.
pub(super) fn shown(duration: Duration) -> String {
    format_duration(duration).to_string().replace(' ', "")
}

/// The items of a list, at least one.
pub(super) fn items<'v>(value: &'v Value, place: &Place) -> Outcome<Items<'v>> {
    let items = match value {
        Value::List(items) => Items::Written(items),
        Value::Given(given) => match Value::parse(given, place) {
            Some(Value::List(items)) => Items::Given(items),
            _ => return Err("must be a list like `[\"one\", \"two\"]`".into()),
        },
        other => return Err(format!("must be a list, not {}", other.noun())),
    };
    if items.iter().next().is_none() {
        return Err("must not be an empty list".into());
    }
    Ok(items)
}

/// The items of a list, wherever they live.
pub(super) enum Items<'v> {
    Written(&'v [Node]),
    Given(Vec<Node>),
}

impl Items<'_> {
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Node> {
        match self {
            Self::Written(items) => items.iter(),
            Self::Given(items) => items.iter(),
        }
    }
}

/// A value of the environment where a string is not expected.
fn settled(value: &Value) -> Option<Value> {
    let Value::Given(given) = value else {
        return None;
    };
    Value::parse(given, &Place::File)
}
