//! The rules of the house, executed: which module may use which, whose types stay at home, and how
//! large a file may get.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A module and everything it may use. What is missing here is forbidden.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("failpoint", &[]),
    ("pb", &[]),
    ("sandbox", &[]),
    ("clock", &["domain"]),
    ("tokens", &["clock", "domain"]),
    ("listener", &["config", "domain"]),
    ("telemetry", &["config", "domain"]),
    ("config", &["domain"]),
    (
        "upstream",
        &["clock", "config", "domain", "telemetry", "tokens"],
    ),
    (
        "store",
        &["clock", "config", "domain", "failpoint", "telemetry"],
    ),
    (
        "refresher",
        &[
            "clock",
            "domain",
            "failpoint",
            "store",
            "telemetry",
            "tokens",
            "upstream",
        ],
    ),
    (
        "grpc",
        &["config", "domain", "listener", "pb", "telemetry", "tokens"],
    ),
    (
        "mirror",
        &["clock", "config", "domain", "pb", "telemetry", "tokens"],
    ),
    ("output", &["config", "domain", "telemetry", "tokens"]),
    ("web", &["domain", "listener"]),
    (
        "http",
        &["config", "domain", "listener", "telemetry", "tokens", "web"],
    ),
    (
        "admin",
        &["config", "domain", "listener", "telemetry", "tokens", "web"],
    ),
    (
        "app",
        &[
            "admin",
            "clock",
            "config",
            "domain",
            "grpc",
            "http",
            "listener",
            "mirror",
            "output",
            "pb",
            "refresher",
            "sandbox",
            "store",
            "telemetry",
            "tokens",
            "upstream",
        ],
    ),
    (
        "cli",
        &["app", "config", "domain", "pb", "sandbox", "telemetry"],
    ),
];

/// A crate and the modules that may name it.
const AT_HOME: &[(&str, &[&str])] = &[
    ("reqwest", &["upstream"]),
    ("tonic", &["grpc", "mirror", "pb", "cli"]),
    ("prost", &["grpc", "mirror", "pb", "cli"]),
    ("hyper", &["grpc", "sandbox", "web"]),
    ("axum", &["admin", "http", "web"]),
    ("prometheus_client", &["telemetry"]),
    ("etcd_client", &["store"]),
    ("redis", &["store"]),
    ("clap", &["cli", "main"]),
    ("anyhow", &["app", "cli"]),
    ("toml", &["config"]),
    ("rustix", &["clock", "failpoint", "listener", "output"]),
    ("fail", &["failpoint"]),
    (
        "tokio",
        &[
            "admin",
            "app",
            "cli",
            "clock",
            "grpc",
            "http",
            "listener",
            "mirror",
            "output",
            "refresher",
            "sandbox",
            "store",
            "tokens",
            "upstream",
            "web",
        ],
    ),
];

/// Production code of one file.
const LONGEST_FILE: usize = 400;

#[test]
fn every_module_uses_only_what_it_may() {
    for (module, allowed) in MAY_USE {
        let used: BTreeSet<String> = sources(module)
            .iter()
            .flat_map(|(_, text)| uses(text))
            .collect();
        let fine = |name: &&String| name == module || allowed.contains(&name.as_str());
        let forbidden: Vec<_> = used.iter().filter(|name| !fine(name)).collect();
        assert!(
            forbidden.is_empty(),
            "`{module}` must not use {forbidden:?}"
        );
    }
}

#[test]
fn every_module_is_in_the_table() {
    let listed: BTreeSet<_> = MAY_USE
        .iter()
        .map(|(module, _)| (*module).to_owned())
        .collect();
    let there: BTreeSet<_> = fs::read_dir(src())
        .expect("there is a source folder")
        .map(|entry| entry.expect("it can be read").path())
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| !["lib", "main"].contains(&name.as_str()))
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn foreign_types_stay_at_home() {
    for (module, _) in MAY_USE {
        for (file, text) in sources(module) {
            for (package, homes) in AT_HOME {
                let named = [format!("{package}::"), format!("use {package}")];
                let named = named.iter().any(|name| names(&text, name));
                assert!(
                    !named || homes.contains(module),
                    "{} must not name `{package}`",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn the_core_knows_only_std_thiserror_and_zeroize() {
    for (file, text) in sources("domain") {
        for line in text.lines().map(str::trim) {
            let Some(path) = line.strip_prefix("use ").or(line.strip_prefix("pub use ")) else {
                continue;
            };
            let first = head(path);
            let fine = ["std", "super", "crate", "thiserror", "zeroize"].contains(&first.as_str())
                || text.contains(&format!("mod {first};"));
            assert!(fine, "{}: {line}", file.display());
        }
        for word in [" async ", ".await", "tokio", "tracing"] {
            assert!(!text.contains(word), "{} has `{word}`", file.display());
        }
    }
}

#[test]
fn no_file_is_longer_than_one_can_read() {
    for (module, _) in MAY_USE {
        for (file, text) in sources(module) {
            let lines = text.lines().count();
            assert!(lines <= LONGEST_FILE, "{}: {lines} lines", file.display());
            assert!(
                text.starts_with("//!"),
                "{} does not say what it is",
                file.display()
            );
        }
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file of a module, without its unit tests.
fn sources(module: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let folder = src().join(module);
    if folder.is_dir() {
        collect(&folder, &mut files);
    } else {
        files.push(folder.with_extension("rs"));
    }
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let product = product.to_owned();
        (file, product)
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder can be read") {
        let path = entry.expect("it can be read").path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Whether code (not a comment) has `name`, not as the end of a longer word.
fn names(text: &str, name: &str) -> bool {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut code = code.map(|line| line.split(" //").next().unwrap_or_default());
    code.any(|line| {
        line.match_indices(name).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + name.len()..].chars().next();
            let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !word(before) && (name.ends_with("::") || !word(after))
        })
    })
}

/// The first name after every `crate::`, also inside `crate::{a, b::{c, d}}`.
fn uses(text: &str) -> Vec<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let text: String = code.flat_map(str::split_whitespace).collect();
    let after = text.split("crate::").skip(1);
    after
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(group) => group_heads(group),
            None => vec![head(rest)],
        })
        .collect()
}

fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut items) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().expect("there is one").push(c),
            _ => {}
        }
    }
    let heads = items.iter().map(|item| head(item));
    heads.filter(|name| !name.is_empty()).collect()
}

fn head(path: &str) -> String {
    let name = |c: &char| c.is_alphanumeric() || *c == '_';
    path.chars().take_while(name).collect()
}
