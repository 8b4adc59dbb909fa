//! What may be believed of a configuration, and what is told about one that is not.
//!
//! An input is a file, of a server or of a sidecar; after a line `# environment` come variables, one `NAME=value` a line.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use toml::{Table, Value};
use wxtokend::{
    config::{Agent, Config, Consumer, Grpc, Http, Notice, Place, Problem, Problems, Upstream},
    domain::{AppName, Policy},
};

/// In the place of every secret.
const CANARY: &str = "quokka";

const FILE: &str = "f.toml";

/// What has no place: what is missing. Of what is nested too deeply the parser does not say where it is.
const NOWHERE: [&str; 4] = [
    "no `[[app]]` is configured",
    "`agent` needs `servers`, a list like `[\"http://wxtokend:50051\"]`",
    "`agent` needs `apps`, a list of names",
    "something in it is nested too deeply",
];

type Variables = Vec<(String, String)>;

pub(crate) fn holds(input: &[u8]) {
    // Bytes that are not UTF-8 are refused before.
    let Ok(input) = str::from_utf8(input) else {
        return;
    };
    let (text, variables) = split(input);
    match Config::parse(text, FILE, variables.clone()) {
        Ok(config) => is_within_bounds(&config),
        Err(problems) => are_told(&problems, text, &variables),
    }
    match Agent::parse(text, FILE, variables.clone()) {
        Ok(agent) => sidecar(&agent),
        Err(problems) => are_told(&problems, text, &variables),
    }
    if !input.contains(CANARY) {
        keeps_secrets(text, &variables);
    }
}

fn split(input: &str) -> (&str, Variables) {
    let (text, variables) = input.split_once("# environment\n").unwrap_or((input, ""));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    (text, variables.map(owned).collect())
}

/// Every problem has a place that an editor can jump to, or a variable.
fn are_told(problems: &Problems, text: &str, variables: &Variables) {
    assert!(problems.iter().len() > 0, "refused without a reason");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for Problem { place, text: told } in problems.iter() {
        assert!(!told.is_empty());
        match place {
            Place::File => assert!(NOWHERE.contains(&told.as_str()), "{told}"),
            Place::At { line, column } => {
                let written = text.split('\n').nth(line - 1);
                let written = written.unwrap_or_else(|| panic!("there is no line {line}: {told}"));
                let end = written.chars().count() + 1;
                assert!((1..=end).contains(column), "{line}:{column}: {told}");
            }
            Place::Variable(name) => {
                let given = variables.iter().any(|(given, _)| **given == **name);
                assert!(given, "nobody has set {name}: {told}");
            }
        }
    }
    let shown = problems.to_string();
    assert!(shown.lines().count() >= problems.iter().len());
}

/// What the manual says about each setting.
fn is_within_bounds(config: &Config) {
    grpc(&config.grpc);
    config.http.iter().for_each(http);
    upstream(&config.upstream);
    assert!(!config.apps.is_empty(), "a configuration without apps");
    let mut names = BTreeSet::new();
    for app in &config.apps {
        assert!(AppName::of_appid(&app.appid).is_ok(), "{app:?}");
        assert_eq!(app.policy.timeout, config.upstream.timeout);
        policy(&app.policy);
        let (name, appid) = (app.name.as_str(), app.appid.as_str());
        assert!(names.insert(appid), "{appid} means two apps");
        assert!(name == appid || names.insert(name), "{name} means two apps");
    }
    for consumer in &config.consumers {
        self::consumer(consumer, config);
    }
}

fn grpc(grpc: &Grpc) {
    assert!((1..=1_000_000).contains(&grpc.max_connections));
    assert!((1..=100_000).contains(&grpc.max_handshakes));
    assert!((1_000..=1_000_000).contains(&grpc.max_streams_per_connection));
    assert!((16_384..=1_048_576).contains(&grpc.max_request_bytes));
    let year = Duration::from_hours(365 * 24);
    within(grpc.max_connection_age, SECOND..=year);
    within(grpc.keepalive_interval, SECOND..=HOUR);
    within(grpc.keepalive_timeout, 100 * MS..=10 * MINUTE);
    within(grpc.first_bytes_timeout, 100 * MS..=10 * MINUTE);
}

fn http(http: &Http) {
    assert!((1..=100_000).contains(&http.max_connections));
}

fn upstream(upstream: &Upstream) {
    within(upstream.timeout, 100 * MS..=MINUTE);
    within(upstream.connect_timeout, 10 * MS..=upstream.timeout);
    assert!(!upstream.base_urls.is_empty());
    for url in upstream.base_urls.iter().chain(&upstream.proxy) {
        assert!(url.starts_with("http"), "{url}");
        assert!(!url.contains(['@', '#', '?']), "{url}");
    }
}

fn policy(policy: &Policy) {
    assert!((0.1..=0.9).contains(&policy.at), "{}", policy.at);
    within(policy.overlap, 100 * MS..=HOUR);
    within(policy.floor, 100 * MS..=policy.ceiling);
    within(policy.ceiling, 100 * MS..=10 * MINUTE);
    if !policy.probe_every.is_zero() {
        within(policy.probe_every, 500 * MS..=24 * HOUR);
    }
    assert!((1..=2_000).contains(&policy.daily_replacements));
}

fn consumer(consumer: &Consumer, config: &Config) {
    assert!((1..=64).contains(&consumer.grant.holder.chars().count()));
    within(consumer.grant.margin, Duration::ZERO..=HOUR);
    let names = config.consumers.iter().map(|other| &other.grant.holder);
    assert_eq!(
        names.filter(|name| **name == consumer.grant.holder).count(),
        1
    );
    let keys = config.consumers.iter().map(|other| &other.key);
    assert_eq!(keys.filter(|key| **key == consumer.key).count(), 1);
    assert!(!consumer.grant.rights.is_empty());
    for app in consumer.grant.apps.iter().flatten() {
        assert!(config.apps.iter().any(|known| known.name == *app), "{app}");
    }
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

fn sidecar(agent: &Agent) {
    grpc(&agent.grpc);
    agent.http.iter().for_each(http);
    assert!(!agent.servers.is_empty() && !agent.apps.is_empty());
    for url in &agent.servers {
        assert!(
            url.starts_with("http://") || url.starts_with("unix:"),
            "{url}"
        );
        assert!(!url.contains(['@', '#', '?']), "{url}");
    }
    let apps: BTreeSet<_> = agent.apps.iter().collect();
    assert_eq!(apps.len(), agent.apps.len(), "an app is there twice");
    let mut paths = BTreeSet::new();
    for output in &agent.outputs {
        assert!(apps.contains(&output.app), "{output:?}");
        assert!(
            output.file.is_some() || output.notice.is_some(),
            "it does nothing"
        );
        within(output.timeout, SECOND..=10 * MINUTE);
        if let Some(Notice::Command(words)) = &output.notice {
            assert!(!words.is_empty(), "nothing to run");
        }
        if let Some(file) = &output.file {
            assert!(file.mode <= 0o777, "{:o}", file.mode);
            assert!(paths.insert(&file.path), "{file:?} is written twice");
        }
    }
}

fn within(value: Duration, range: RangeInclusive<Duration>) {
    assert!(range.contains(&value), "{value:?} is not in {range:?}");
}

/// Secrets in the wrong place are refused without being repeated.
fn keeps_secrets(text: &str, variables: &Variables) {
    let url = format!("http://user:{CANARY}@host:1");
    let given = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut more = variables.clone();
    more.extend([
        given("WXTOKEND__APP__0__SECRET", CANARY),
        given("WXTOKEND__CONSUMER__0__KEY", CANARY),
        given("WXTOKEND__UPSTREAM__PROXY", &url),
        given("WXTOKEND__GRPC__MAX_CONNECTIONS", CANARY),
        given("WXTOKEND__REFRESH__FLOOR", CANARY),
    ]);
    repeats_nothing(text, more);
    let Ok(mut file) = text.parse::<Table>() else {
        return;
    };
    for (list, key) in [("app", "secret"), ("consumer", "key")] {
        let Some(Value::Array(tables)) = file.get_mut(list) else {
            continue;
        };
        for table in tables.iter_mut().filter_map(Value::as_table_mut) {
            table.insert(key.to_owned(), CANARY.into());
        }
    }
    if let Some(upstream) = file.get_mut("upstream").and_then(Value::as_table_mut) {
        upstream.insert("proxy".to_owned(), url.as_str().into());
        let urls = vec![url, format!("https://host/?secret={CANARY}")];
        upstream.insert("base_urls".to_owned(), urls.into());
    }
    let file = file.to_string();
    if file.contains(CANARY) {
        repeats_nothing(&file, variables.clone());
    }
}

fn repeats_nothing(text: &str, variables: Variables) {
    let problems = Config::parse(text, FILE, variables);
    let problems = problems.expect_err("a secret in the wrong place is refused");
    let shown = format!("{problems} {problems:?}");
    assert!(!shown.contains(CANARY), "{shown}");
}
