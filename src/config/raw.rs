//! Every key that can be written, with its meaning, unit, range and default.
//!
//! Look up a setting here. Each function reads one table, each line one key; the key's bounds and its
//! default stand beside it. Durations are written like `90s`, `5m` or `1h30m`, paths are relative to
//! the working directory, and every key can be set from the environment: `WXTOKEND__GRPC__LISTEN`.

use std::time::Duration;

use super::{
    Admin, App, Config, Consumer, Grpc, Http, Listen, Log, Upstream,
    addresses::{base_url, listen, proxy},
    margins,
    names::{Names, Seen, appid, label, name},
    secrets::source,
    section::Section,
    store::store,
    values::{choice, duration, duration_or_never, file, share, shown, text, whole},
};
use crate::domain::{
    Mode, Policy,
    access::{Grant, Right},
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The whole file.
pub(super) fn config(root: &Section<'_>) -> Config {
    for sidecar in ["agent", "output"] {
        root.refuse(
            sidecar,
            "belongs in the file of a sidecar: `wxtokend agent`",
        );
    }
    let Listeners { grpc, http, admin } = listeners(root);
    let upstream = root.table("upstream", upstream);
    let store = root.table("store", |table| store(table, upstream.timeout));
    let standard = Policy {
        timeout: upstream.timeout,
        ..Policy::default()
    };
    let policy = root.table("refresh", |table| refresh(table, standard));
    let log = root.table("log", log);
    let (mut names, mut seen) = (Names::default(), Seen::default());
    let apps = root.tables("app", |table| app(table, policy, &mut names));
    let consumers = root.tables("consumer", |table| consumer(table, &names, &mut seen));
    if !root.has("app") {
        root.missing("no `[[app]]` is configured");
    }
    // What is left out here has been reported.
    Config {
        grpc,
        http,
        admin,
        store,
        upstream,
        log,
        apps: apps.into_iter().flatten().collect(),
        consumers: consumers.into_iter().flatten().collect(),
    }
}

/// The ways out, which a sidecar has as well.
pub(super) struct Listeners {
    pub(super) grpc: Grpc,
    pub(super) http: Option<Http>,
    pub(super) admin: Option<Admin>,
}

/// The tables of all listeners.
pub(super) fn listeners(root: &Section<'_>) -> Listeners {
    let grpc = root.table("grpc", grpc);
    // Without its table a listener is off.
    let http = root.has("http").then(|| root.table("http", http));
    let admin = root.has("admin").then(|| root.table("admin", admin));
    let (http_listen, admin_listen) = (
        http.as_ref().map(|http| &http.listen),
        admin.as_ref().map(|admin| &admin.listen),
    );
    if http_listen.is_some_and(|listen| meet(listen, &grpc.listen)) {
        root.wrong("http", "must listen elsewhere than `grpc` does");
    }
    if admin_listen.is_some_and(|listen| meet(listen, &grpc.listen)) {
        root.wrong("admin", "must listen elsewhere than `grpc` does");
    }
    if let (Some(http), Some(admin)) = (http_listen, admin_listen)
        && meet(http, admin)
    {
        root.wrong("admin", "must listen elsewhere than `http` does");
    }
    Listeners { grpc, http, admin }
}

/// `[grpc]`: the listener for `GetToken`, `ForceRefresh` and `WatchToken`.
fn grpc(table: &Section<'_>) -> Grpc {
    let default = Grpc::default();
    Grpc {
        // Where to listen: `host:port`, where port 0 takes any free one, or `unix:/path`.
        listen: table.get("listen", listen).unwrap_or(default.listen),
        // Connections at a time; further ones wait until one ends.
        max_connections: table
            .get("max_connections", whole(1..=1_000_000))
            .unwrap_or(default.max_connections),
        // Connections that have not said their first bytes yet; beyond this many the one that has been
        // silent for the longest is cut.
        max_handshakes: table
            .get("max_handshakes", whole(1..=100_000))
            .unwrap_or(default.max_handshakes),
        // Calls and streams at a time on one connection. A proxy puts all its callers onto one, so
        // less than 1000 would starve them.
        max_streams_per_connection: table
            .get("max_streams_per_connection", whole(1_000..=1_000_000))
            .unwrap_or(default.max_streams_per_connection),
        // The longest request. A stale token alone may have 8 KiB.
        max_request_bytes: table
            .get("max_request_bytes", whole(16 * 1024..=1024 * 1024))
            .unwrap_or(default.max_request_bytes),
        // After this long, more or less a fifth, a connection is asked to move on, so that callers
        // spread over new replicas.
        max_connection_age: table
            .get("max_connection_age", duration(SECOND..=365 * DAY))
            .unwrap_or(default.max_connection_age),
        // Pause between two HTTP/2 pings.
        keepalive_interval: table
            .get("keepalive_interval", duration(SECOND..=HOUR))
            .unwrap_or(default.keepalive_interval),
        // A ping that is not answered for this long ends the connection.
        keepalive_timeout: table
            .get(
                "keepalive_timeout",
                duration(100 * MILLISECOND..=10 * MINUTE),
            )
            .unwrap_or(default.keepalive_timeout),
        // A new connection that sends nothing for this long is cut.
        first_bytes_timeout: table
            .get(
                "first_bytes_timeout",
                duration(100 * MILLISECOND..=10 * MINUTE),
            )
            .unwrap_or(default.first_bytes_timeout),
    }
}

/// `[http]`: the listener for programs that speak WeChat's own protocol.
fn http(table: &Section<'_>) -> Http {
    let default = Http::default();
    Http {
        // Where to listen, as for `[grpc]`; another address than there.
        listen: table.get("listen", listen).unwrap_or(default.listen),
        // Connections at a time; beyond this many the one that has been there for the longest is closed,
        // and its program connects again.
        max_connections: table
            .get("max_connections", whole(1..=100_000))
            .unwrap_or(default.max_connections),
    }
}

/// `[admin]`: the listener for `/metrics`, `/livez` and `/readyz`. It asks nobody for a key: there is no
/// secret to read and nothing to change.
fn admin(table: &Section<'_>) -> Admin {
    let default = Admin::default();
    Admin {
        // Where to listen, as in `[grpc]`. Default `127.0.0.1:9090`.
        listen: table.get("listen", listen).unwrap_or(default.listen),
    }
}

/// Whether two listeners cannot both have what they ask for.
fn meet(one: &Listen, other: &Listen) -> bool {
    let any_port = |at: &Listen| matches!(at, Listen::Tcp(address) if address.ends_with(":0"));
    one == other && !any_port(one)
}

/// `[upstream]`: how WeChat is reached.
fn upstream(table: &Section<'_>) -> Upstream {
    let default = Upstream::default();
    // For a whole fetch, over all base URLs.
    let timeout = table
        .get("timeout", duration(100 * MILLISECOND..=MINUTE))
        .unwrap_or(default.timeout);
    // For TCP and TLS, each base URL; at most `timeout`. Default `3s`, or `timeout` if that is less.
    let connect_timeout = table.get("connect_timeout", duration(10 * MILLISECOND..=MINUTE));
    if connect_timeout.is_some_and(|connect| connect > timeout) {
        let timeout = shown(timeout);
        table.wrong(
            "connect_timeout",
            &format!("must be at most `timeout`, `{timeout}`"),
        );
    }
    Upstream {
        // Servers of WeChat, tried in order: the next one only if nothing was sent to the one before.
        base_urls: table
            .list("base_urls", base_url)
            .map_or(default.base_urls, |urls| {
                urls.into_iter().map(|(_, url)| url).collect()
            }),
        connect_timeout: connect_timeout.unwrap_or(default.connect_timeout.min(timeout)),
        timeout,
        // An HTTP proxy, `http://host:port`. Default: none; the environment's proxy is not used.
        proxy: table.get("proxy", proxy),
        // More certificates to trust, PEM. Default: the built-in ones alone.
        ca_file: table.get("ca_file", file),
    }
}

/// `[refresh]`: when to ask WeChat. Each of these keys can be set again in an `[[app]]`.
///
/// `inherited` has the defaults; for an app the values of `[refresh]`.
fn refresh(table: &Section<'_>, inherited: Policy) -> Policy {
    // The least pause between two attempts; back-off doubles from here. Default `1s`.
    let floor = table.get("floor", duration(100 * MILLISECOND..=10 * MINUTE));
    // The greatest pause after a failure that will pass; at least `floor`. Default `1m`.
    let ceiling = table.get("ceiling", duration(100 * MILLISECOND..=10 * MINUTE));
    if let (Some(floor), Some(ceiling)) = (floor, ceiling)
        && floor > ceiling
    {
        let ceiling = shown(ceiling);
        table.wrong("floor", &format!("must be at most `ceiling`, `{ceiling}`"));
    }
    Policy {
        // Classic: refresh after this share of a token's life. WeChat advises half.
        at: table.get("at", share(0.1..=0.9)).unwrap_or(inherited.at),
        // How long WeChat keeps a token that was replaced; in stable mode also how long before a
        // token's death WeChat offers the next one. Change it only for a WeChat that is faster.
        overlap: table
            .get("overlap", duration(100 * MILLISECOND..=HOUR))
            .unwrap_or(inherited.overlap),
        // An inherited value gives way to the one written here.
        floor: floor.unwrap_or(inherited.floor.min(ceiling.unwrap_or(Duration::MAX))),
        ceiling: ceiling.unwrap_or(inherited.ceiling.max(floor.unwrap_or_default())),
        // Pause between two looks at our own token, which find out that somebody else replaced it;
        // `0s` never looks.
        probe_every: table
            .get("probe_every", duration_or_never(500 * MILLISECOND..=DAY))
            .unwrap_or(inherited.probe_every),
        // Classic: mints a day for dead or suspect tokens; planned refreshes are not counted. Zero is
        // refused: the first foreign fetch would be an outage until the next planned refresh. WeChat
        // grants 2000 a day in all.
        daily_replacements: table
            .get("daily_replacements", whole(1..=2_000))
            .unwrap_or(inherited.daily_replacements),
        ..inherited
    }
}

/// `[log]`: what is written to stderr. `WXTOKEND_LOG` says how much.
pub(super) fn log(table: &Section<'_>) -> Log {
    // `text` (the default) for people, `json` for machines, one object a line.
    let words = [("text", Log::Text), ("json", Log::Json)];
    table.get("format", choice(&words)).unwrap_or(Log::Text)
}

/// `[[app]]`: one WeChat account; at least one. The keys of `[refresh]` can be set again here.
fn app(table: &Section<'_>, policy: Policy, names: &mut Names) -> Option<App> {
    let policy = refresh(table, policy);
    // `stable` (the default, and WeChat's recommendation): `POST /cgi-bin/stable_token`.
    // `classic`: `GET /cgi-bin/token`, where every fetch retires the token before the last.
    let modes = [("stable", Mode::Stable), ("classic", Mode::Classic)];
    let mode = table.get("mode", choice(&modes)).unwrap_or(policy.mode);
    // WeChat's id of the account; required, unique.
    let appid = table.get("appid", appid);
    // What it is called here: 1 to 64 of `a-z`, `0-9` and `-`; unique, also among the appids.
    // Default: the appid.
    let name = table.get("name", name);
    // Where the AppSecret is: in a file, or in an environment variable; one of them. It is read at
    // each attempt, so a new one is found without a restart.
    let secret = source(table, "secret", ["secret_file", "secret_env"]);
    if !table.has("appid") {
        table.missing("needs an `appid`");
    }
    let known_as = name.or_else(|| appid.clone());
    names.claim(table, "appid", known_as.as_ref());
    names.claim(table, "name", known_as.as_ref());
    Some(App {
        appid: appid?.as_str().to_owned(),
        name: known_as?,
        policy: Policy { mode, ..policy },
        secret: secret?,
    })
}

/// `[[consumer]]`: who may ask. If there is none, programs on the same machine may do everything and
/// others nothing.
fn consumer(table: &Section<'_>, names: &Names, seen: &mut Seen) -> Option<Consumer> {
    // For logs and errors; required, unique, at most 64 characters.
    let name = table.get("name", label);
    // Where its key is: in a file, or in an environment variable; one of them, and each consumer its own.
    let key = source(table, "key", ["key_file", "key_env"]);
    // The apps it may see, by name or appid; `"*"` for all; required.
    let apps = table.list("apps", text);
    let apps = apps.map(|written| names.resolve(table, written));
    // `read`: get and watch tokens; `refresh`: report stale ones; `admin`: report leaked ones.
    // Default: `read` and `refresh`.
    let words = [
        ("read", Right::Read),
        ("refresh", Right::Refresh),
        ("admin", Right::Admin),
    ];
    let rights = table.list("rights", choice(&words)).map_or_else(
        || [Right::Read, Right::Refresh].into(),
        |rights| rights.into_iter().map(|(_, right)| right).collect(),
    );
    for (key, hint) in [
        ("name", "a `name`"),
        ("apps", "`apps`, a list of names or `[\"*\"]`"),
    ] {
        if !table.has(key) {
            table.missing(&format!("needs {hint}"));
        }
    }
    let margin = margin(table);
    for key in ["name", "key_file", "key_env"] {
        seen.once(table, key);
    }
    Some(Consumer {
        key: key?,
        grant: Grant {
            holder: name?,
            apps: apps?,
            rights,
            margin,
        },
    })
}

pub(super) fn margin(table: &Section<'_>) -> Duration {
    // The SDK of the consumer, which stands for the `margin` of that SDK: `wechatpy`, `wxjava` …
    let sdk = table.get("sdk", margins::of_sdk);
    // How long before the end of a token's life the consumer drops it. Default `0s`.
    let margin = table.get("margin", duration(Duration::ZERO..=HOUR));
    if table.has("sdk") && table.has("margin") {
        table.wrong("margin", "is known from `sdk`: keep one of them");
    }
    sdk.or(margin).unwrap_or_default()
}
