//! What must be unique, and who is meant by a name.
//!
//! A caller names an app by its name or its appid, so all of them together are one set of names.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    places::Place,
    section::{Section, nearest},
    tree::Value,
    values::{Outcome, text},
};
use crate::domain::AppName;

/// The `appid` of an app.
pub(super) fn appid(value: &Value) -> Outcome<AppName> {
    AppName::of_appid(&text(value)?).map_err(|e| e.to_string())
}

/// The `name` of an app.
pub(super) fn name(value: &Value) -> Outcome<AppName> {
    AppName::parse(&text(value)?).map_err(|e| e.to_string())
}

/// The `name` of a consumer.
pub(super) fn label(value: &Value) -> Outcome<String> {
    let label = text(value)?;
    if label.chars().count() > AppName::MAX_LEN {
        return Err(format!("must have at most {} characters", AppName::MAX_LEN));
    }
    Ok(label)
}

/// The names and appids of all apps.
#[derive(Default)]
pub(super) struct Names(BTreeMap<String, Owner>);

struct Owner {
    path: String,
    key: &'static str,
    /// `None` if there is something wrong with the app's name.
    app: Option<AppName>,
}

impl Names {
    /// Takes the name or appid of the app in `table`, which is known as `app`.
    pub(super) fn claim(&mut self, table: &Section<'_>, key: &'static str, app: Option<&AppName>) {
        let Some(written) = table.peek(key) else {
            return;
        };
        match self.0.get(written) {
            // An app may be called by its own appid.
            Some(owner) if owner.path == table.path() => {}
            Some(Owner {
                path, key: what, ..
            }) => {
                table.wrong(
                    key,
                    &format!("`{written}` is already the {what} of `{path}`"),
                );
            }
            None => {
                let path = table.path().to_owned();
                let app = app.cloned();
                self.0.insert(written.to_owned(), Owner { path, key, app });
            }
        }
    }

    /// The apps of a consumer; `None` means all.
    pub(super) fn resolve(
        &self,
        table: &Section<'_>,
        written: Vec<(Place, String)>,
    ) -> Option<BTreeSet<AppName>> {
        let all = written.iter().any(|(_, name)| name == "*");
        let mut apps = BTreeSet::new();
        for (place, name) in written {
            match self.0.get(&name) {
                Some(owner) => apps.extend(owner.app.clone()),
                None if name == "*" => {}
                None => table.missing_at(place, self.unknown(&name)),
            }
        }
        (!all).then_some(apps)
    }

    fn unknown(&self, name: &str) -> String {
        let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
        match nearest(name, &known) {
            Some(meant) => format!("no app is called `{name}`, did you mean `{meant}`?"),
            None => format!("no app is called `{name}`"),
        }
    }
}

/// The values that only one table of a list may have.
#[derive(Default)]
pub(super) struct Seen(BTreeMap<(&'static str, String), String>);

impl Seen {
    /// Tells if an earlier table has the same value for `key`.
    pub(super) fn once(&mut self, table: &Section<'_>, key: &'static str) {
        let Some(written) = table.peek(key) else {
            return;
        };
        let path = table.path().to_owned();
        let first = self.0.entry((key, written.to_owned())).or_insert(path);
        if first != table.path() {
            table.wrong(key, &format!("must be unique, and `{first}` has the same"));
        }
    }
}
