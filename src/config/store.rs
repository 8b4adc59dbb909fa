//! `[store]`: where tokens survive a restart, and where replicas agree.

use std::{path::PathBuf, time::Duration};

use super::{
    Etcd, Redis, Sharing, Store, Tls,
    addresses::store_urls,
    section::Section,
    tree::Value,
    values::{Outcome, choice, duration, file, shown, text},
};

const SECOND: Duration = Duration::from_secs(1);

/// A fetch is sent only if the claim outlasts it: its time-out, a second of slack, and the time that a
/// renewal may take.
const BEYOND_A_FETCH: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Memory,
    Etcd,
    Redis,
}

/// The keys that only some kinds have, and those kinds.
const KEYS: [(&[&str], &[Kind]); 4] = [
    (&["path"], &[Kind::File, Kind::Memory]),
    (&["endpoints"], &[Kind::Etcd]),
    (&["url"], &[Kind::Redis]),
    (
        &[
            "prefix",
            "user",
            "password_file",
            "ca_file",
            "cert_file",
            "key_file",
            "lease",
            "cache",
        ],
        &[Kind::Etcd, Kind::Redis],
    ),
];

const WORDS: [(&str, Kind); 4] = [
    ("file", Kind::File),
    ("memory", Kind::Memory),
    ("etcd", Kind::Etcd),
    ("redis", Kind::Redis),
];

/// The table; `timeout` is that of a fetch.
pub(super) fn store(table: &Section<'_>, timeout: Duration) -> Store {
    // `file` (the default): a file for each app in a folder. `memory`: nothing survives. `etcd`, `redis`:
    // several replicas share what is there.
    let kind = table.get("kind", choice(&WORDS)).unwrap_or(Kind::File);
    for (keys, kinds) in KEYS.iter().filter(|(_, kinds)| !kinds.contains(&kind)) {
        let words = WORDS.iter().filter(|(_, of)| kinds.contains(of));
        let words: Vec<String> = words.map(|(word, _)| format!("`{word}`")).collect();
        let text = format!("belongs to a store of the kind {}", words.join(" or "));
        for key in *keys {
            table.refuse(key, &text);
        }
    }
    match kind {
        Kind::Memory => {
            table.has("path");
            Store::Memory
        }
        Kind::File => Store::File {
            // The folder, made if it is missing.
            path: table.get("path", file).unwrap_or_else(|| "data".into()),
        },
        Kind::Etcd => {
            if !cfg!(feature = "etcd") {
                table.wrong("kind", "is `etcd`, but this program was built without it: build it with `--features etcd`, or use the image");
            }
            Store::Etcd(etcd(table), sharing(table, timeout))
        }
        Kind::Redis => Store::Redis(redis(table), sharing(table, timeout)),
    }
}

fn sharing(table: &Section<'_>, timeout: Duration) -> Sharing {
    let enough = timeout + BEYOND_A_FETCH;
    // How long a claim outlives the last sign of its replica, in whole seconds: that long nobody refreshes
    // after one was lost. At least `upstream.timeout` and 3 s, so that no fetch outlives its claim.
    let lease = table.get("lease", duration(2 * SECOND..=300 * SECOND));
    if lease.is_some_and(|lease| lease.subsec_nanos() > 0) {
        table.wrong("lease", "must be whole seconds");
    }
    let lease = lease.unwrap_or(15 * SECOND);
    if lease < enough {
        let text = format!(
            "is `{}`, and must be at least `{}`: 3 s more than `upstream.timeout`, so that a fetch ends before its claim",
            shown(lease),
            shown(enough)
        );
        table.wrong("lease", &text);
    }
    Sharing {
        lease,
        // The folder of a local copy, made if it is missing: for a start while the store is down.
        cache: Some(table.get("cache", file).unwrap_or_else(|| "data".into())),
    }
}

fn etcd(table: &Section<'_>) -> Etcd {
    // The members' client URLs.
    let endpoints = table.list("endpoints", |value| store_urls(value, &["http", "https"]));
    if !table.has("endpoints") {
        table.missing("needs `endpoints`, like `[\"https://etcd-0:2379\"]`");
    }
    let endpoints: Vec<String> = endpoints
        .into_iter()
        .flatten()
        .map(|(_, url)| url)
        .collect();
    let safe = endpoints.iter().filter(|url| url.starts_with("https:"));
    if ![0, endpoints.len()].contains(&safe.count()) {
        table.wrong("endpoints", "must be all `https://` or all `http://`");
    }
    let user = table.get("user", text);
    let password = password(table);
    if user.is_some() != password.is_some() && table.has("user") != table.has("password_file") {
        table.wrong(
            if user.is_some() {
                "user"
            } else {
                "password_file"
            },
            "needs both `user` and `password_file`",
        );
    }
    let encrypted = endpoints.iter().any(|url| url.starts_with("https:"));
    Etcd {
        // What all keys begin with.
        prefix: table
            .get("prefix", prefix)
            .unwrap_or_else(|| "/wxtokend/".into()),
        user: user.zip(password),
        tls: tls(
            table,
            encrypted || endpoints.is_empty(),
            "`https://` endpoints",
        ),
        endpoints,
    }
}

fn redis(table: &Section<'_>) -> Redis {
    // `redis://host:port[/db]`; with TLS `rediss://…`. Several nodes: `redis-sentinel://host:port,…/master`,
    // `redis-cluster://host:port,…`, with TLS `rediss-…`.
    let url = table.get("url", |value| {
        store_urls(
            value,
            &[
                "redis",
                "rediss",
                "redis-sentinel",
                "rediss-sentinel",
                "redis-cluster",
                "rediss-cluster",
            ],
        )
    });
    if !table.has("url") {
        table.missing("needs `url`, like `redis://redis:6379`");
    }
    let url = url.unwrap_or_default();
    let encrypted = url.starts_with("rediss");
    Redis {
        // What all keys begin with.
        prefix: table
            .get("prefix", prefix)
            .unwrap_or_else(|| "wxtokend:".into()),
        // Of an access list; without it, the password is that of the default user.
        user: table.get("user", text),
        password_file: password(table),
        tls: tls(table, encrypted || url.is_empty(), "a `rediss` URL"),
        url,
    }
}

/// A file, read whenever a connection is made.
fn password(table: &Section<'_>) -> Option<PathBuf> {
    table.get("password_file", file)
}

fn tls(table: &Section<'_>, encrypted: bool, with: &str) -> Tls {
    for key in ["ca_file", "cert_file", "key_file"] {
        if !encrypted && table.has(key) {
            table.wrong(key, &format!("is only of use with {with}"));
        }
    }
    // Certificates to trust, PEM; the built-in ones if there is none.
    let ca_file = table.get("ca_file", file);
    // What this program shows of itself, PEM.
    let cert: Option<PathBuf> = table.get("cert_file", file);
    let key = table.get("key_file", file);
    if table.has("cert_file") != table.has("key_file") {
        let one = if table.has("cert_file") {
            "cert_file"
        } else {
            "key_file"
        };
        table.wrong(one, "needs both `cert_file` and `key_file`");
    }
    Tls {
        ca_file,
        identity: cert.zip(key),
    }
}

/// What keys begin with.
fn prefix(value: &Value) -> Outcome<String> {
    let written = text(value)?;
    let clean = |b: u8| b.is_ascii_alphanumeric() || b"/:._-".contains(&b);
    if !written.bytes().all(clean) {
        return Err("must be made of letters, digits and `/ : . _ -`".into());
    }
    if !written.ends_with(['/', ':', '.', '-', '_']) {
        return Err("must end with a separator, like `/` or `:`".into());
    }
    Ok(written)
}
