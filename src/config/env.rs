//! Values from the environment: `WXTOKEND__GRPC__LISTEN` sets `grpc.listen`, and
//! `WXTOKEND__APP__0__APPID` sets the `appid` of the first `[[app]]`, or begins it if the file has none.
//!
//! They are laid over the tree of the file before anything is checked, so an unknown variable is an
//! unknown key, told by the variable's name.

use std::{env, sync::Arc};

use super::{
    places::{Place, Report},
    tree::{Node, Table, Value},
};

const PREFIX: &str = "WXTOKEND__";

/// The variables of this process that set something.
///
/// A value that is not UTF-8 comes with replacement characters, which are refused later.
pub fn environment() -> Vec<(String, String)> {
    // `vars` would panic at any variable that is not UTF-8, also at one that is none of ours.
    let ours = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let ours = name.starts_with(PREFIX);
        ours.then(|| (name, value.to_string_lossy().into_owned()))
    });
    ours.collect()
}

/// Puts the variables that start with `WXTOKEND__` over what the file says.
pub(super) fn lay_over(
    tree: &mut Table,
    variables: impl IntoIterator<Item = (String, String)>,
    report: &Report,
) {
    let mut ours: Vec<Variable> = variables
        .into_iter()
        .filter_map(|(name, value)| Variable::parse(&name, value))
        .collect();
    // In the order of their numbers: `APP__0` must begin before `APP__1`, and `APP__2` before `APP__10`.
    ours.sort_by(|a, b| a.path.cmp(&b.path));
    for variable in ours {
        let place = variable.place.clone();
        if variable.value.contains(char::REPLACEMENT_CHARACTER) {
            report.wrong(place, "is not valid UTF-8".into());
        } else if let Err(text) = variable.lay_over(tree) {
            report.missing(place, text);
        }
    }
}

/// A step of a path; numbers before keys, in their own order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Index(usize),
    Key(String),
}

struct Variable {
    place: Place,
    path: Vec<Step>,
    value: String,
}

impl Variable {
    fn parse(name: &str, value: String) -> Option<Self> {
        let path = name.strip_prefix(PREFIX)?.split("__");
        let step = |step: &str| match step.parse() {
            Ok(index) => Step::Index(index),
            Err(_) => Step::Key(step.to_lowercase()),
        };
        Some(Self {
            place: Place::Variable(Arc::from(name)),
            path: path.map(step).collect(),
            value,
        })
    }

    fn lay_over(self, tree: &mut Table) -> Result<(), String> {
        let (place, given) = (self.place, Value::Given(self.value));
        let Some((Step::Key(first), rest)) = self.path.split_first() else {
            return Err(NO_SETTING.into());
        };
        if self.path.contains(&Step::Key(String::new())) {
            return Err(NO_SETTING.into());
        }
        let mut leaf = enter(tree, first, rest.first(), &place);
        for (n, step) in rest.iter().enumerate() {
            leaf = descend(leaf, step, rest.get(n + 1), &place)?;
        }
        *leaf = node(&place, given);
        Ok(())
    }
}

const NO_SETTING: &str = "names no setting";

/// The child of `node` that `step` names, made if it is missing; `next` tells what it will hold.
fn descend<'n>(
    node: &'n mut Node,
    step: &Step,
    next: Option<&Step>,
    place: &Place,
) -> Result<&'n mut Node, String> {
    match (&mut node.value, step) {
        (Value::Table(table), Step::Key(key)) => Ok(enter(table, key, next, place)),
        (Value::List(items), Step::Index(index)) => {
            let count = items.len();
            if *index == count {
                items.push(empty(next, place));
            }
            let gap = || format!("number {index} follows after {count}, and none may be left out");
            items.get_mut(*index).ok_or_else(gap)
        }
        _ => Err(NO_SETTING.into()),
    }
}

fn enter<'n>(table: &'n mut Table, key: &str, next: Option<&Step>, place: &Place) -> &'n mut Node {
    let entry = table.entry(key.to_owned());
    entry.or_insert_with(|| empty(next, place))
}

/// A node to be filled.
fn empty(next: Option<&Step>, place: &Place) -> Node {
    let value = match next {
        Some(Step::Index(_)) => Value::List(Vec::new()),
        Some(Step::Key(_)) => Value::Table(Table::new()),
        None => Value::Given(String::new()),
    };
    node(place, value)
}

fn node(place: &Place, value: Value) -> Node {
    let key = place.clone();
    let place = place.clone();
    Node { key, place, value }
}
