//! What may be believed of WeChat's replies, and what may be repeated of them.
//!
//! An input is an HTTP status in a line of its own, then the body; without such a line the status is
//! 200.

use serde_json::{Map, Value};
use wxtokend::{
    domain::Sight,
    upstream::{FetchError, read_fetch, read_look},
};

/// In the place of everything that must not be repeated. Its letters are in no `rid` and no address.
const CANARY: &str = "quokka";

/// The longest token that may be believed, in bytes.
const LONGEST_TOKEN: usize = 8 * 1024;

/// The longest life that may be believed, in seconds.
const LONGEST_LIFE: u64 = 24 * 3600;

pub(crate) fn holds(input: &[u8]) {
    let (status, body) = split(input);
    let reply = tree(body);
    fetch(status, body, reply.as_ref());
    look(status, body, reply.as_ref());
    match reply {
        Some(reply) => repeats_nothing(status, planted(Value::Object(reply)).to_string()),
        None => repeats_nothing(status, format!("{CANARY}{}", String::from_utf8_lossy(body))),
    }
}

fn split(input: &[u8]) -> (u16, &[u8]) {
    let line = input.iter().take(4).position(|&byte| byte == b'\n');
    let status = line.and_then(|end| str::from_utf8(&input[..end]).ok()?.parse().ok());
    match (status, line) {
        (Some(status), Some(end)) => (status, &input[end + 1..]),
        _ => (200, input),
    }
}

/// The object that a reply is, as far as it is one. Control characters and broken UTF-8 are forgiven,
/// because WeChat's replies have had both.
fn tree(body: &[u8]) -> Option<Map<String, Value>> {
    let text = String::from_utf8_lossy(body);
    let text = text.replace(|c: char| c.is_ascii_control(), " ");
    match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(reply)) => Some(reply),
        _ => None,
    }
}

fn fetch(status: u16, body: &[u8], reply: Option<&Map<String, Value>>) {
    let errcode = reply.map_or(Errcode::Strange, errcode);
    let good = reply
        .filter(|_| matches!(errcode, Errcode::None | Errcode::Is(0)))
        .and_then(token);
    match read_fetch(status, body) {
        Ok(fetched) => {
            let (value, life) = good.expect("no reply but a good one gives a token");
            assert!(fetched.value.expose() == value, "the token is another one");
            assert_eq!(fetched.time_to_live.as_secs(), life);
            assert_eq!(fetched.time_to_live.subsec_nanos(), 0);
        }
        Err(error) => {
            assert!(good.is_none(), "a good reply was not believed: {error}");
            let refused = match errcode {
                Errcode::Is(code) if code != 0 => Some(code),
                _ => None,
            };
            assert_eq!(error.definite(), refused.is_some(), "{error}");
            assert_eq!(error.errcode(), refused, "{error}");
            let known = matches!(error, FetchError::Garbled { .. } | FetchError::Refused(_));
            assert!(known, "whoever has a reply knows more than {error}");
        }
    }
}

fn look(status: u16, body: &[u8], reply: Option<&Map<String, Value>>) {
    let listed = reply.is_some_and(|reply| matches!(reply.get("ip_list"), Some(Value::Array(_))));
    let expected = match reply.map_or(Errcode::Strange, errcode) {
        Errcode::Is(40001 | 40014 | 42001) => Sight::Refused,
        Errcode::Is(-1) | Errcode::Strange => Sight::Busy,
        Errcode::Is(0) | Errcode::None if status >= 500 => Sight::Busy,
        Errcode::Is(0) => Sight::Alive,
        Errcode::None if listed => Sight::Alive,
        Errcode::None => Sight::Busy,
        Errcode::Is(errcode) => Sight::NoVerdict { errcode },
    };
    assert_eq!(read_look(status, body), expected);
}

enum Errcode {
    None,
    Is(i64),
    /// There is one, but it is no number.
    Strange,
}

fn errcode(reply: &Map<String, Value>) -> Errcode {
    let number = match reply.get("errcode") {
        None | Some(Value::Null) => return Errcode::None,
        Some(Value::Number(number)) => number.to_string().parse(),
        Some(Value::String(digits)) => digits.trim().parse(),
        Some(_) => return Errcode::Strange,
    };
    number.map_or(Errcode::Strange, Errcode::Is)
}

/// The token and its life in seconds, if both are good.
fn token(reply: &Map<String, Value>) -> Option<(&str, u64)> {
    let token = reply.get("access_token")?.as_str()?;
    let clean = token.chars().all(|c| ('!'..='~').contains(&c));
    let digits = match reply.get("expires_in")? {
        Value::Number(number) => number.to_string(),
        Value::String(digits) => digits.trim().to_owned(),
        _ => return None,
    };
    let digits = Some(digits).filter(|digits| !digits.starts_with('+'));
    let life: u64 = digits?.parse().ok()?;
    let fits = !token.is_empty() && token.len() <= LONGEST_TOKEN && life > 0;
    (clean && fits).then_some((token, life.min(LONGEST_LIFE)))
}

/// `value` with the canary at both ends of every text in it, except where a number is expected.
fn planted(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(format!("{CANARY}{text}{CANARY}")),
        Value::Array(items) => items.into_iter().map(planted).collect(),
        Value::Object(entries) => {
            let entry = |(key, value): (String, Value)| match key.as_str() {
                "errcode" | "expires_in" => (key, value),
                _ => (key, planted(value)),
            };
            Value::Object(entries.into_iter().map(entry).collect())
        }
        other => other,
    }
}

/// Neither what is told about a reply nor what is kept of it shows the canary.
fn repeats_nothing(status: u16, body: impl AsRef<[u8]>) {
    let shown = match read_fetch(status, body.as_ref()) {
        Ok(fetched) => format!("{fetched:?} {fetched:#?}"),
        Err(error) => format!("{error} {error:?} {error:#?} {:?}", error.trouble()),
    };
    assert!(!shown.contains(CANARY), "{shown}");
    assert!(shown.len() < 4096, "{} bytes are told", shown.len());
    let seen = format!("{:?}", read_look(status, body.as_ref()));
    assert!(!seen.contains(CANARY), "{seen}");
}
