//! What operators write and what they are told.

use std::{fs, time::Duration};

use wxtokend::config::Config;

const EXAMPLE: &str = include_str!("../../deploy/wxtokend.example.toml");

/// Faulty files and what is told about each.
const FAULTS: &str = include_str!("config_faults.txt");

const MINIMAL: &str = "[[app]]\nappid = 'wx1'\nsecret_file = 's'\n";

fn told(text: &str, variables: &[(&str, &str)]) -> String {
    let variables = variables.iter();
    let variables = variables.map(|(name, value)| ((*name).into(), (*value).into()));
    match Config::parse(text, "f.toml", variables) {
        Ok(config) => format!("no problem: {config:?}"),
        Err(problems) => problems.to_string(),
    }
}

fn good(text: &str) -> Config {
    let config = Config::parse(text, "f.toml", []);
    config.unwrap_or_else(|problems| panic!("{problems}\n--- in\n{text}"))
}

/// A file with an app and `keys` besides.
fn beside(keys: &str) -> String {
    format!("{keys}\n{MINIMAL}")
}

#[test]
fn each_fault_is_told_with_its_place() {
    let blocks: Vec<&str> = FAULTS.split("\n\n").skip(1).collect();
    for block in &blocks {
        let (expected, lines): (Vec<&str>, Vec<&str>) =
            block.lines().partition(|line| line.starts_with("=> "));
        let text = lines.join("\n");
        let expected: Vec<&str> = expected.iter().map(|line| &line[3..]).collect();
        assert_eq!(told(&text, &[]), expected.join("\n"), "in\n{text}");
    }
    assert!(blocks.len() > 60, "{}", blocks.len());
}

#[test]
fn a_file_without_apps_is_refused() {
    assert_eq!(told("", &[]), "f.toml: no `[[app]]` is configured");
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text = "\
[grpc]
listen = 7
[http]
[upstream]
base_urls = ['x', 'ftp://y']
[refresh]
at = 7
[[app]]
name = 'A'
[[app]]
appid = 'wx1'
secret_env = 'S'
floor = '1'
[[consumer]]
apps = ['nobody']
";
    let expected = "\
f.toml:2:10: `grpc.listen` must be a string, not a whole number
f.toml:5:14: `upstream.base_urls[0]` must be a URL that starts with `http://` or `https://`
f.toml:5:19: `upstream.base_urls[1]` must be a URL that starts with `http://` or `https://`
f.toml:7:6: `refresh.at` must be a number from 0.1 to 0.9, not 7
f.toml:8:1: `app[0]` needs `secret_file` or `secret_env`
f.toml:8:1: `app[0]` needs an `appid`
f.toml:9:8: `app[0].name` must be 1 to 64 characters out of `a-z`, `0-9` and `-`
f.toml:13:9: `app[1].floor` needs a unit, like `1s`
f.toml:14:1: `consumer[0]` needs `key_file` or `key_env`
f.toml:14:1: `consumer[0]` needs a `name`
f.toml:15:9: no app is called `nobody`
WXTOKEND__LOG__FORMAT: `log.format` must be `text` or `json`";
    assert_eq!(told(text, &[("WXTOKEND__LOG__FORMAT", "csv")]), expected);
}

#[test]
fn syntax_errors_are_told_together_with_what_is_certainly_wrong_besides() {
    let text = "[grpc]\nlisten = localhost\nmax_connections = 0\nfoo\n[[app]\nappid = 'wx1'\n";
    let expected = "\
f.toml:2:10: string values must be quoted, expected literal string
f.toml:3:19: `grpc.max_connections` must be a whole number from 1 to 1000000, not 0
f.toml:4:4: key with no value, expected `=`
f.toml:5:7: unclosed array table, expected `]`";
    assert_eq!(told(text, &[]), expected);
}

/// Name and value of a variable, and what is told about it.
const VARIABLES: &[(&str, &str, &str)] = &[
    (
        "WXTOKEND__GRPC__LISEN",
        "x",
        "WXTOKEND__GRPC__LISEN: `grpc.lisen` is unknown, did you mean `listen`?",
    ),
    (
        "WXTOKEND__GRPC",
        "x",
        "WXTOKEND__GRPC: `grpc` must be a table, not a string",
    ),
    ("WXTOKEND__", "x", "WXTOKEND__: names no setting"),
    (
        "WXTOKEND__GRPC__LISTEN__X",
        "x",
        "WXTOKEND__GRPC__LISTEN__X: `grpc.listen` must be a string, not a table",
    ),
    (
        "WXTOKEND__APP__0__APPID__X",
        "x",
        "WXTOKEND__APP__0__APPID__X: names no setting",
    ),
    (
        "WXTOKEND__APP__FIRST__APPID",
        "x",
        "WXTOKEND__APP__FIRST__APPID: names no setting",
    ),
    (
        "WXTOKEND__APP__2__APPID",
        "x",
        "WXTOKEND__APP__2__APPID: number 2 follows after 1, and none may be left out",
    ),
    (
        "WXTOKEND__APP__1__APPID",
        "wx2",
        "WXTOKEND__APP__1__APPID: `app[1]` needs `secret_file` or `secret_env`",
    ),
    (
        "WXTOKEND__GRPC__MAX_CONNECTIONS",
        "many",
        "WXTOKEND__GRPC__MAX_CONNECTIONS: `grpc.max_connections` must be a whole number from 1 to 1000000, not a string",
    ),
    (
        "WXTOKEND__UPSTREAM__BASE_URLS",
        "https://a",
        "WXTOKEND__UPSTREAM__BASE_URLS: `upstream.base_urls` must be a list like `[\"one\", \"two\"]`",
    ),
    (
        "WXTOKEND__UPSTREAM__BASE_URLS",
        "['a']",
        "WXTOKEND__UPSTREAM__BASE_URLS: `upstream.base_urls[0]` must be a URL that starts with `http://` or `https://`",
    ),
    (
        "WXTOKEND__UPSTREAM__TIMEOUT",
        "5",
        "WXTOKEND__UPSTREAM__TIMEOUT: `upstream.timeout` needs a unit, like `5s`",
    ),
    (
        "WXTOKEND__HTTP__LISTEN",
        "x",
        "WXTOKEND__HTTP__LISTEN: `http.listen` must be `host:port` or `unix:/path`",
    ),
    (
        "WXTOKEND__STORE__PATH",
        "a\u{fffd}b",
        "WXTOKEND__STORE__PATH: is not valid UTF-8",
    ),
];

#[test]
fn faults_of_the_environment_carry_the_variables_name() {
    for (name, value, expected) in VARIABLES {
        assert_eq!(
            told(MINIMAL, &[(*name, *value)]),
            *expected,
            "{name}={value}"
        );
    }
}

#[test]
fn everything_can_be_set_from_the_environment_alone() {
    let file = "[grpc]\nlisten = 'unix:/a'\nmax_connections = 7\n\
        [upstream]\ntimeout = '5s'\nbase_urls = ['http://a', 'http://b']\n[refresh]\nat = 0.25\n\
        [[app]]\nappid = 'wx1'\nsecret_env = 'S'\n[[app]]\nappid = 'wx2'\nsecret_env = 'T'\n";
    let variables = [
        ("WXTOKEND__APP__1__SECRET_ENV", "T"),
        ("WXTOKEND__APP__1__APPID", "wx2"),
        ("WXTOKEND__APP__0__APPID", "wx1"),
        ("WXTOKEND__APP__0__SECRET_ENV", "\"S\""),
        ("WXTOKEND__GRPC__LISTEN", "unix:/a"),
        ("WXTOKEND__GRPC__MAX_CONNECTIONS", "7"),
        ("WXTOKEND__UPSTREAM__TIMEOUT", "5s"),
        (
            "WXTOKEND__UPSTREAM__BASE_URLS",
            "[\"http://a\", 'http://b']",
        ),
        ("WXTOKEND__REFRESH__AT", "0.25"),
        ("WXTOKEND_LOG", "debug"),
        ("PATH", "/bin"),
    ];
    let from_file = format!("no problem: {:?}", good(file));
    assert_eq!(told("", &variables), from_file);
    let other = file.replace("unix:/a", "unix:/z").replace("'wx2'", "'wx3'");
    assert_eq!(told(&other, &variables), from_file);
}

#[test]
fn ten_apps_and_more_keep_the_order_of_their_numbers() {
    let one = |n: usize| {
        [
            (format!("WXTOKEND__APP__{n}__APPID"), format!("wx{n}")),
            (format!("WXTOKEND__APP__{n}__SECRET_ENV"), "S".into()),
        ]
    };
    let config = Config::parse("", "f.toml", (0..12).rev().flat_map(one)).unwrap();
    let appids: Vec<String> = config.apps.into_iter().map(|app| app.appid).collect();
    let expected: Vec<String> = (0..12).map(|n| format!("wx{n}")).collect();
    assert_eq!(appids, expected);
}

#[test]
fn an_app_inherits_from_refresh_what_it_does_not_set_itself() {
    let text = "[upstream]\ntimeout = '4s'\n[refresh]\nat = 0.3\noverlap = '3s'\n\
        [[app]]\nappid = 'wx1'\nsecret_env = 'S'\nmode = 'classic'\nat = 0.7\nceiling = '500ms'\n";
    let policy = good(text).apps[0].policy;
    assert!((policy.at - 0.7).abs() < f64::EPSILON);
    assert_eq!(policy.overlap, Duration::from_secs(3));
    assert_eq!(policy.timeout, Duration::from_secs(4));
    // The inherited floor of a second gives way to the ceiling that is written.
    assert_eq!(policy.ceiling, Duration::from_millis(500));
    assert_eq!(policy.floor, Duration::from_millis(500));
}

#[test]
fn the_edges_of_the_bounds_are_inside() {
    let least = "[grpc]\nmax_connections = 1\nmax_connection_age = '1s'\nkeepalive_timeout = '100ms'\n\
        [upstream]\ntimeout = '100ms'\nconnect_timeout = '100ms'\n\
        [refresh]\nat = 0.1\noverlap = '100ms'\nfloor = '100ms'\nceiling = '100ms'\n\
        probe_every = '0s'\ndaily_replacements = 1";
    let most = "[upstream]\ntimeout = '60s'\nconnect_timeout = '60s'\n\
        [refresh]\nat = 0.9\noverlap = '1h'\nfloor = '10m'\nceiling = '10m'\n\
        probe_every = '500ms'\ndaily_replacements = 2000";
    assert_eq!(
        good(&beside(least)).apps[0].policy.probe_every,
        Duration::ZERO
    );
    good(&beside(most));
}

#[test]
fn a_short_timeout_shortens_the_default_of_the_connect_timeout() {
    let config = good(&beside("[upstream]\ntimeout = '1s'"));
    assert_eq!(config.upstream.connect_timeout, Duration::from_secs(1));
}

#[test]
fn no_secret_in_the_wrong_place_is_ever_printed() {
    let hex = "0123456789abcdef0123456789CANARY".replace("CANARY", "c0ffee");
    let lines = [
        "[[app]]\nappid = 'wx1'\nsecret = 'CANARY'",
        "[[app]]\nappid = 'wx1'\nsecret_file = 'CANARY'",
        "[[app]]\nappid = 'wx1'\nsecret_env = 'CANARY'",
        "[[app]]\nappid = 'wx1'\nsecret_env = 'not-a-name-CANARY'",
        "[[app]]\nappid = 'wx1'\napp_secret = 'CANARY'",
        "[[app]]\nappid = 'wx1'\nsecret = CANARY",
        "[[app]]\nappid = 'wx1'\nsecret = \"CANARY",
        "[[consumer]]\nname = 'a'\nkey = 'CANARY'",
        "[store]\nkind = 'redis'\nurl = 'redis://u:CANARY@h'",
        "[store]\npassword = 'CANARY'",
        "[upstream]\nproxy = 'http://u:CANARY@h'",
        "[upstream]\nbase_urls = ['http://h?secret=CANARY', 'CANARY']",
        "[grpc]\nlisten = 'CANARY'",
    ];
    for line in lines {
        let text = line.replace("CANARY", &hex[..32]);
        let (shown, variables) = (told(&text, &[]), [("WXTOKEND__APP__0__SECRET", &hex[..32])]);
        assert!(shown.starts_with("f.toml"), "{shown}");
        for shown in [shown, told(&text, &variables)] {
            assert!(!shown.contains("0123456789abcdef0"), "{shown}");
        }
    }
}

#[test]
fn a_secret_in_the_file_is_refused_with_the_two_ways_out() {
    let expected = "f.toml:3:1: `app[0].secret` must not be here: put it into a file and name that with \
        `secret_file`, or into an environment variable and name that with `secret_env`";
    assert_eq!(told("[[app]]\nappid = 'wx1'\nsecret = 'x'", &[]), expected);
}

#[test]
fn an_unreadable_file_is_a_problem_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.toml");
    let told = Config::load(&path).unwrap_err().to_string();
    let expected = format!("{}: cannot be read: ", path.display());
    assert!(told.starts_with(&expected), "{told}");
    fs::write(&path, b"[grpc]\n# \xff\n").unwrap();
    let told = Config::load(&path).unwrap_err().to_string();
    assert_eq!(told, format!("{}:2:3: is not valid UTF-8", path.display()));
}

#[test]
fn the_example_shows_the_defaults_and_nothing_else() {
    let uncomment = |line: &str| line.strip_prefix("# ").unwrap_or(line).to_owned();
    let is_key = |line: &str| {
        let key = line
            .trim_start_matches("# ")
            .split(" = ")
            .next()
            .unwrap_or("");
        line.contains(" = ") && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    let lines = EXAMPLE.lines();
    let all: Vec<String> = lines
        .map(|line| {
            if is_key(line) {
                uncomment(line)
            } else {
                line.to_owned()
            }
        })
        .collect();
    let all = all.join("\n");
    assert_ne!(all, EXAMPLE);
    assert_eq!(format!("{:?}", good(&all)), format!("{:?}", good(EXAMPLE)));
    // Nothing but the required keys is set: without the tables it is the same.
    let bare = "[[app]]\nappid = 'wx0123456789abcdef'\nname = 'shop'\nsecret_file = '/run/secrets/shop'\n\
        [[consumer]]\nname = 'orders'\nkey_file = '/run/secrets/orders'\napps = ['shop']\n";
    assert_eq!(format!("{:?}", good(bare)), format!("{:?}", good(EXAMPLE)));
}

#[test]
fn the_example_has_every_key() {
    let reading = include_str!("../../src/config/raw.rs");
    let after = |call: &'static str| reading.split(call).skip(1);
    let keys = after(".get(\"").chain(after(".list(\""));
    let keys: Vec<&str> = keys.filter_map(|rest| rest.split('"').next()).collect();
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys
        .iter()
        .chain(&["secret_file", "secret_env", "key_file", "key_env"])
    {
        assert!(EXAMPLE.contains(&format!("{key} = ")), "`{key}`");
    }
}

#[test]
fn the_examples_that_are_no_defaults_are_good_one_by_one() {
    for line in EXAMPLE.lines().filter(|line| line.starts_with("## ")) {
        // `secret_env` takes the place of `secret_file`.
        let text = EXAMPLE.replace(line, &line[3..]);
        let text = if line.contains("secret_env") {
            text.replace("secret_file = \"/run/secrets/shop\"\n", "")
        } else {
            text
        };
        good(&text);
    }
}

#[test]
fn the_examples_of_shared_stores_are_good() {
    let kinds = [("redis", "endpoints"), ("etcd", "url")];
    for (kind, of_the_other) in kinds {
        if kind == "etcd" && !cfg!(feature = "etcd") {
            continue;
        }
        let uncomment = |line: &str| match line.strip_prefix("### ") {
            Some(key) if !key.starts_with(of_the_other) => key.to_owned(),
            _ => line.replace("# kind = \"file\"", &format!("kind = \"{kind}\"")),
        };
        let text: Vec<String> = EXAMPLE.lines().map(uncomment).collect();
        let shown = format!("{:?}", good(&text.join("\n")).store);
        assert!(shown.contains("lease: 20s"), "{shown}");
    }
}

#[test]
fn the_contracts_defaults_are_these() {
    let shown = format!("{:?}", good(MINIMAL));
    let expected = "Config { grpc: Grpc { listen: Tcp(\"127.0.0.1:50051\"), max_connections: 20000, \
        max_handshakes: 1000, max_streams_per_connection: 1000, max_request_bytes: 65536, max_connection_age: 1800s, keepalive_interval: 30s, \
        keepalive_timeout: 10s, first_bytes_timeout: 10s }, http: None, admin: None, store: File { path: \"data\" }, \
        upstream: Upstream { base_urls: [\"https://api.weixin.qq.com\", \"https://api2.weixin.qq.com\"], \
        connect_timeout: 3s, timeout: 10s, proxy: None, ca_file: None }, log: Text, \
        apps: [App { appid: \"wx1\", name: AppName(\"wx1\"), policy: Policy { mode: Stable, at: 0.5, \
        overlap: 300s, floor: 1s, ceiling: 60s, probe_every: 60s, daily_replacements: 200, \
        timeout: 10s }, secret: File(\"s\") }], consumers: [] }";
    assert_eq!(shown, expected);
}

#[test]
fn a_consumer_is_granted_what_it_says_by_name_or_appid() {
    let apps = "[[app]]\nappid = 'wx1'\nname = 'shop'\nsecret_env = 'S'\n\
        [[app]]\nappid = 'wx2'\nsecret_env = 'S'\n";
    let consumers = "[[consumer]]\nname = 'a'\nkey_env = 'A'\napps = ['wx1', 'wx2']\nsdk = 'WxJava'\n\
        [[consumer]]\nname = 'b'\nkey_env = 'B'\napps = ['*']\nrights = ['admin']\nmargin = '7s'\n";
    let config = good(&format!("{apps}{consumers}"));
    let shown: Vec<String> = config
        .consumers
        .iter()
        .map(|c| format!("{:?}", c.grant))
        .collect();
    let expected = [
        "Grant { holder: \"a\", apps: Some({AppName(\"shop\"), AppName(\"wx2\")}), rights: {Read, Refresh}, margin: 200s }",
        "Grant { holder: \"b\", apps: None, rights: {Admin}, margin: 7s }",
    ];
    assert_eq!(shown, expected);
}
