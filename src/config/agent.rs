//! The file of a sidecar: `wxtokend agent`.

use std::{
    collections::BTreeSet,
    fs,
    path::{self, Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Admin, Grpc, Http, Log, Problems, SecretSource,
    addresses::server,
    load,
    names::appid,
    parse,
    places::Report,
    raw::{self, Listeners},
    secrets::source,
    section::Section,
    tree::{self, Value},
    values::{Outcome, choice, duration, file, text},
};
use crate::domain::{AppName, Policy};

const SECOND: Duration = Duration::from_secs(1);

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Only its owner may read a file with a token.
const MODE: u32 = 0o600;

/// What a template may say.
const WORDS: [&str; 5] = [
    "access_token",
    "app_id",
    "generation",
    "expire_time",
    "time_to_live",
];

/// Everything an operator of a sidecar can set.
#[derive(Debug)]
pub struct Agent {
    /// Which servers to follow, any of them: `http://host:port` or `unix:///path`.
    pub servers: Vec<String>,
    /// Where the consumer's key is, if the servers want one.
    pub key: Option<Arc<SecretSource>>,
    /// The apps, by the names or appids that the servers know; at least one.
    pub apps: Vec<AppName>,
    /// How long before the end of the life that they are told programs drop a token.
    pub margin: Duration,
    /// For how long a replaced token lives on.
    pub overlap: Duration,
    /// The gRPC listener.
    pub grpc: Grpc,
    /// The listener for programs that speak WeChat's own protocol, if there is one.
    pub http: Option<Http>,
    /// The listener for metrics and probes, if there is one.
    pub admin: Option<Admin>,
    /// How the program talks.
    pub log: Log,
    /// What else is done with each token.
    pub outputs: Vec<Output>,
}

/// `[[output]]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// Of which app.
    pub app: AppName,
    /// The file that holds its token, if there is one.
    pub file: Option<TokenFile>,
    /// Who is told of each change, if anybody is.
    pub notice: Option<Notice>,
    /// How long a command may take.
    pub timeout: Duration,
}

/// A file that holds a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    /// Where it is. It is replaced as a whole.
    pub path: PathBuf,
    /// What is in it.
    pub format: Format,
    /// Its permissions.
    pub mode: u32,
    /// Its owner and group, if they are not the program's own.
    pub owner: Option<(u32, Option<u32>)>,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// The token and nothing else.
    Token,
    /// All that is known about it.
    Json,
    /// A text in which `{{access_token}}` and the like stand for their values.
    Template(String),
}

/// How somebody is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// A program is run, with the token in its environment.
    Command(Vec<String>),
    /// A process gets a signal.
    Signal {
        /// Its number.
        signal: i32,
        /// The file that holds the process' number.
        pid_file: PathBuf,
    },
}

impl Agent {
    /// Whether the file at `path` is meant for a sidecar: it has a table `[agent]`.
    pub fn is_meant(path: &Path) -> bool {
        let text = fs::read_to_string(path).unwrap_or_default();
        tree::read(&text, &Report::default()).contains_key("agent")
    }

    /// Reads a file and lays the environment's `WXTOKEND__…` over it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        load(path, agent)
    }

    /// Reads `text`, which messages call `file_name`, with `variables` laid over it.
    pub fn parse(
        text: &str,
        file_name: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        parse(text, file_name, variables, agent)
    }
}

fn agent(root: &Section<'_>) -> Agent {
    for servers in ["store", "upstream", "refresh", "app", "consumer"] {
        root.refuse(servers, "belongs in the file of a server: `wxtokend serve`");
    }
    let Listeners { grpc, http, admin } = raw::listeners(root);
    let followed = root.table("agent", of_agent);
    let secret = followed.key.as_ref().and_then(|key| match key {
        SecretSource::File(path) => Some(plain(path)),
        _ => None,
    });
    let mut paths = BTreeSet::new();
    let outputs = root.tables("output", |table| {
        let output = output(table, &followed.apps);
        let file = output.as_ref().and_then(|output| output.file.as_ref());
        if let Some(path) = file.map(|file| plain(&file.path)) {
            if secret.as_ref() == Some(&path) {
                table.wrong("path", "is the file with the key");
            }
            if !paths.insert(path) {
                table.wrong("path", "is written by another output already");
            }
        }
        output
    });
    let Followed {
        servers,
        key,
        apps,
        margin,
        overlap,
    } = followed;
    Agent {
        servers,
        key: key.map(Arc::new),
        apps,
        margin,
        overlap,
        grpc,
        http,
        admin,
        log: root.table("log", raw::log),
        outputs: outputs.into_iter().flatten().collect(),
    }
}

/// The one way to write a path of many.
fn plain(path: &Path) -> PathBuf {
    let path = path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// What `[agent]` says.
struct Followed {
    servers: Vec<String>,
    key: Option<SecretSource>,
    apps: Vec<AppName>,
    margin: Duration,
    overlap: Duration,
}

/// `[agent]`: whom to follow.
fn of_agent(table: &Section<'_>) -> Followed {
    // The servers, any of which will do: `http://host:port` or `unix:///path`; required. A name with
    // several addresses counts as so many servers.
    let servers = table.list("servers", server);
    // Where the consumer's key is: in a file, or in an environment variable. Default: none is sent.
    let has_key = table.has("key_file") || table.has("key_env");
    let key = has_key
        .then(|| source(table, "key", ["key_file", "key_env"]))
        .flatten();
    // The apps, by the names or appids that the servers know, as programs here call them: SDKs send
    // appids; required.
    let apps = table.list("apps", appid);
    // For how long WeChat keeps a replaced token, as the servers have it. Default: theirs, `5m`.
    let overlap = table.get(
        "overlap",
        duration(Duration::from_millis(100)..=3600 * SECOND),
    );
    for (key, hint) in [
        (
            "servers",
            "`servers`, a list like `[\"http://wxtokend:50051\"]`",
        ),
        ("apps", "`apps`, a list of names"),
    ] {
        if !table.has(key) {
            table.missing(&format!("needs {hint}"));
        }
    }
    let mut seen = BTreeSet::new();
    let values = |list: Vec<(super::Place, AppName)>| list.into_iter().map(|(_, app)| app);
    let apps = apps.into_iter().flat_map(values);
    let apps = apps.filter(|app| seen.insert(app.clone())).collect();
    let servers = servers.unwrap_or_default().into_iter();
    Followed {
        servers: servers.map(|(_, url)| url).collect(),
        key,
        apps,
        // The SDK of the programs here, or the margin of theirs, as for a `[[consumer]]`.
        margin: raw::margin(table),
        overlap: overlap.unwrap_or(Policy::default().overlap),
    }
}

/// `[[output]]`: what else is done with each token of an app.
fn output(table: &Section<'_>, apps: &[AppName]) -> Option<Output> {
    // Of which app: one of `agent.apps`; required.
    let app = table.get("app", |value| {
        let app = appid(value)?;
        let known = apps.contains(&app);
        known
            .then_some(app)
            .ok_or_else(|| "is none of `agent.apps`".into())
    });
    // `file`: a file that holds the token, and perhaps a notice; `command`: a notice alone. Required.
    let kinds = [("file", true), ("command", false)];
    let is_file = table.get("kind", choice(&kinds));
    for (key, hint) in [
        ("app", "an `app`"),
        ("kind", "a `kind`: `file` or `command`"),
    ] {
        if !table.has(key) {
            table.missing(&format!("needs {hint}"));
        }
    }
    let (file, notice) = (token_file(table), notice(table));
    if is_file == Some(false) {
        for key in ["path", "format", "mode", "owner"] {
            if table.has(key) {
                table.wrong(key, "belongs to `kind = \"file\"`");
            }
        }
    }
    match is_file {
        Some(true) if !table.has("path") => table.missing("needs a `path`"),
        Some(false) if !table.has("command") && !table.has("signal") => {
            table.missing("needs a `command`, or a `signal` and a `pid_file`");
        }
        _ => {}
    }
    // How long the command may take.
    let timeout = table.get("timeout", duration(SECOND..=600 * SECOND));
    Some(Output {
        app: app?,
        file,
        notice,
        timeout: timeout.unwrap_or(PATIENCE),
    })
}

fn token_file(table: &Section<'_>) -> Option<TokenFile> {
    // Where the file is; it is replaced as a whole, so its folder must be writable.
    let path = table.get("path", named);
    // `token`, `json`, or a text with `{{access_token}}`, `{{app_id}}`, `{{generation}}`,
    // `{{expire_time}}`, `{{time_to_live}}`. Default: `token`.
    let format = table.get("format", format);
    // Its permissions, in octal digits. Default: `0600`.
    let mode = table.get("mode", mode);
    // Its owner, as numbers: `uid` or `uid:gid`. Default: whoever runs the sidecar.
    let owner = table.get("owner", owner);
    Some(TokenFile {
        path: path?,
        format: format.unwrap_or(Format::Token),
        mode: mode.unwrap_or(MODE),
        owner,
    })
}

fn notice(table: &Section<'_>) -> Option<Notice> {
    // A program and its arguments, run after each change until it succeeds. Its environment has
    // `WXTOKEND_APP`, `WXTOKEND_ACCESS_TOKEN`, `WXTOKEND_GENERATION` and `WXTOKEND_EXPIRE_TIME`.
    let command = table.list("command", text);
    // A signal for the process whose number is in `pid_file`: `HUP`, `INT`, `TERM`, `USR1`, `USR2`.
    let signals = [
        ("HUP", 1),
        ("INT", 2),
        ("USR1", 10),
        ("USR2", 12),
        ("TERM", 15),
    ];
    let signal = table.get("signal", choice(&signals));
    let pid_file = table.get("pid_file", file);
    if table.has("command") && table.has("signal") {
        table.wrong(
            "signal",
            "cannot be sent besides a `command`: write two outputs",
        );
    }
    if table.has("signal") != table.has("pid_file") {
        table.missing("needs `signal` and `pid_file`, or neither");
    }
    let words = command.map(|words| words.into_iter().map(|(_, word)| word).collect());
    let signal = signal.zip(pid_file);
    let signal = signal.map(|(signal, pid_file)| Notice::Signal { signal, pid_file });
    words.map(Notice::Command).or(signal)
}

fn format(value: &Value) -> Outcome<Format> {
    let written = match value {
        // A template may have lines.
        Value::Text(text) if text.contains("{{") => text.clone(),
        other => text(other)?,
    };
    match &*written {
        "token" => return Ok(Format::Token),
        "json" => return Ok(Format::Json),
        _ => {}
    }
    let mut holes = written.split("{{").skip(1).peekable();
    if holes.peek().is_none() {
        return Err("must be `token`, `json`, or a text with `{{access_token}}`".into());
    }
    for hole in holes {
        let word = hole.split_once("}}").map(|(word, _)| word.trim());
        if !word.is_some_and(|word| WORDS.contains(&word)) {
            let words = WORDS.map(|word| format!("`{{{{{word}}}}}`")).join(", ");
            return Err(format!("may only hold {words}"));
        }
    }
    Ok(Format::Template(written))
}

fn named(value: &Value) -> Outcome<PathBuf> {
    let path = file(value)?;
    let ends = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let name = path.file_name().filter(|_| !ends);
    name.ok_or("must name a file, and not a folder")?;
    Ok(path)
}

fn mode(value: &Value) -> Outcome<u32> {
    let must = "must be permissions in octal digits, like `\"0640\"`";
    let written = text(value).map_err(|_| must)?;
    let mode = u32::from_str_radix(&written, 8).map_err(|_| must)?;
    if mode & 0o400 == 0 {
        return Err("must let the owner read the file".into());
    }
    (mode <= 0o777).then_some(mode).ok_or_else(|| must.into())
}

fn owner(value: &Value) -> Outcome<(u32, Option<u32>)> {
    let must = || "must be numbers, like `\"1000\"` or `\"1000:1000\"`".to_owned();
    let written = text(value).map_err(|_| must())?;
    let (user, group) = match written.split_once(':') {
        Some((user, group)) => (user, Some(group.parse().map_err(|_| must())?)),
        None => (&*written, None),
    };
    Ok((user.parse().map_err(|_| must())?, group))
}
