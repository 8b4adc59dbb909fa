//! What a reply of WeChat says, as pure functions of its bytes.
//!
//! The body decides, not the status and not the content type: nearly every error of WeChat comes
//! with status 200, and gateways put pages of their own in its place. What is neither a refusal nor a
//! good token is an unknown outcome, never a token.

use std::{net::IpAddr, net::SocketAddr, time::Duration};

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::domain::{Fetched, Secret, Sight};

use super::{
    errcode,
    error::{FetchError, Refusal},
};

/// The longest token that is believed.
const TOKEN_LIMIT: usize = 8 * 1024;

/// The longest life that is believed, in seconds.
const LIFE_LIMIT: u64 = 24 * 3600;

/// Reads the answer of a token endpoint.
pub fn read_fetch(status: u16, body: &[u8]) -> Result<Fetched, FetchError> {
    let garbled = |flaw| FetchError::Garbled { status, flaw };
    let mut reply = parse(body).ok_or_else(|| garbled("is not a JSON object"))?;
    match errcode_of(&reply) {
        Errcode::Refusal(errcode) => return Err(FetchError::Refused(refusal(errcode, &reply))),
        Errcode::Unreadable => return Err(garbled("has an `errcode` that is no number")),
        Errcode::Missing | Errcode::Zero => {}
    }
    let value = token(reply.remove("access_token"))
        .ok_or_else(|| garbled("has no usable `access_token`"))?;
    let time_to_live =
        life(reply.get("expires_in")).ok_or_else(|| garbled("has no usable `expires_in`"))?;
    Ok(Fetched {
        value,
        time_to_live,
    })
}

/// Reads the answer to a look.
pub fn read_look(status: u16, body: &[u8]) -> Sight {
    let Some(reply) = parse(body) else {
        return Sight::Busy;
    };
    match errcode_of(&reply) {
        Errcode::Refusal(errcode) => errcode::at_look(errcode),
        // A gateway in trouble may have JSON of its own to say so.
        _ if status >= 500 => Sight::Busy,
        Errcode::Zero => Sight::Alive,
        Errcode::Missing if reply.get("ip_list").is_some_and(Value::is_array) => Sight::Alive,
        Errcode::Missing | Errcode::Unreadable => Sight::Busy,
    }
}

/// A JSON object. WeChat's strings may hold raw control characters and broken UTF-8, which JSON
/// forbids: SDKs have met both. A space in their place changes nothing that matters here.
fn parse(body: &[u8]) -> Option<Map<String, Value>> {
    let clean = |byte: &u8| if byte.is_ascii_control() { b' ' } else { *byte };
    let body: Zeroizing<Vec<u8>> = Zeroizing::new(body.iter().map(clean).collect());
    let text = String::from_utf8_lossy(&body);
    serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()
}

enum Errcode {
    Missing,
    Zero,
    /// Any other number.
    Refusal(i64),
    Unreadable,
}

fn errcode_of(reply: &Map<String, Value>) -> Errcode {
    let number = match reply.get("errcode") {
        None | Some(Value::Null) => return Errcode::Missing,
        Some(Value::String(digits)) => digits.trim().parse().ok(),
        Some(value) => value.as_i64(),
    };
    match number {
        None => Errcode::Unreadable,
        Some(0) => Errcode::Zero,
        Some(errcode) => Errcode::Refusal(errcode),
    }
}

fn token(value: Option<Value>) -> Option<Secret> {
    let Some(Value::String(token)) = value else {
        return None;
    };
    let fits = (1..=TOKEN_LIMIT).contains(&token.len());
    let token = Secret::new(token);
    let clean = token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    (fits && clean).then_some(token)
}

fn life(value: Option<&Value>) -> Option<Duration> {
    let seconds = match value? {
        Value::String(digits) => whole(digits.trim())?,
        value => value.as_u64()?,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.min(LIFE_LIMIT)))
}

/// Digits only: `parse` would also take a sign.
fn whole(digits: &str) -> Option<u64> {
    let clean = digits.bytes().all(|byte| byte.is_ascii_digit());
    clean.then(|| digits.parse().ok()).flatten()
}

fn refusal(errcode: i64, reply: &Map<String, Value>) -> Refusal {
    let text = reply.get("errmsg").and_then(Value::as_str).unwrap_or("");
    Refusal {
        errcode,
        ip: address_in(text),
        rid: rid_in(text),
    }
}

/// The address in a text: the forms are `invalid ip 1.2.3.4 ipv6 ::ffff:1.2.3.4, not in whitelist`,
/// `invalid ip 0.0.0.0 ipv6 2001:db8::9, …`, `requestIP: 1.2.3.4`, `from ip: 1.2.3.4`, and
/// tomorrow's.
fn address_in(text: &str) -> Option<IpAddr> {
    let hex = |c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.');
    let decimal = |c: char| !(c.is_ascii_digit() || c == '.');
    let mut words = text.split(hex).chain(text.split(decimal));
    words.find_map(address).map(|ip| ip.to_canonical())
}

fn address(word: &str) -> Option<IpAddr> {
    let bare = word.trim_end_matches('.');
    let trimmed = bare.trim_matches([':', '.']);
    let with_port = || bare.parse().ok().map(|place: SocketAddr| place.ip());
    let ip = bare.parse().or_else(|_| trimmed.parse()).ok();
    ip.or_else(with_port)
        .filter(|ip: &IpAddr| !ip.is_unspecified())
}

/// The `rid: 8hex-8hex-8hex` in a text. Exactly this form, so that nothing else gets through.
fn rid_in(text: &str) -> Option<String> {
    let (_, rest) = text.rsplit_once("rid:")?;
    let is_rid = |c: &char| c.is_ascii_hexdigit() || *c == '-';
    let rid: String = rest.trim_start().chars().take_while(is_rid).collect();
    let groups: Vec<usize> = rid.split('-').map(str::len).collect();
    (groups == [8, 8, 8]).then_some(rid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(body: &str) -> Option<(String, u64)> {
        let fetched = read_fetch(200, body.as_bytes()).ok()?;
        Some((
            fetched.value.expose().to_owned(),
            fetched.time_to_live.as_secs(),
        ))
    }

    #[test]
    fn a_token_needs_a_value_and_a_life() {
        let table = [
            (r#"{"access_token":"t","expires_in":7200}"#, Some(7200)),
            (r#"{"access_token":"t","expires_in":"7200"}"#, Some(7200)),
            (
                r#"{"access_token":"t","expires_in":1,"errcode":0}"#,
                Some(1),
            ),
            (
                r#"{"access_token":"t","expires_in":1,"errcode":"0"}"#,
                Some(1),
            ),
            (
                r#"{"access_token":"t","expires_in":1,"errcode":null}"#,
                Some(1),
            ),
            (
                r#"{"access_token":"t","expires_in":999999999}"#,
                Some(86_400),
            ),
            (
                "\u{feff}{\"access_token\":\"t\",\"x\":\"\u{1}\",\"expires_in\":5}\r\n",
                Some(5),
            ),
            (r#"{"access_token":"t","expires_in":0}"#, None),
            (r#"{"access_token":"t","expires_in":-7200}"#, None),
            (r#"{"access_token":"t","expires_in":7200.0}"#, None),
            (r#"{"access_token":"t","expires_in":"+7200"}"#, None),
            (r#"{"access_token":"t","expires_in":""}"#, None),
            (r#"{"access_token":"t","expires_in":null}"#, None),
            (r#"{"access_token":"t"}"#, None),
            (r#"{"access_token":"","expires_in":7200}"#, None),
            (r#"{"access_token":7,"expires_in":7200}"#, None),
            (r#"{"access_token":null,"expires_in":7200}"#, None),
            (r#"{"access_token":"a b","expires_in":7200}"#, None),
            (r#"{"access_token":"é","expires_in":7200}"#, None),
            ("{\"access_token\":\"a\u{1}\",\"expires_in\":7200}", None),
            (r#"{"expires_in":7200}"#, None),
            (
                r#"{"access_token":"t","expires_in":7200,"errcode":"x"}"#,
                None,
            ),
            (
                r#"{"access_token":"t","expires_in":7200,"errcode":1.5}"#,
                None,
            ),
            (r#"[{"access_token":"t","expires_in":7200}]"#, None),
            ("{}", None),
            ("", None),
            ("null", None),
        ];
        for (body, life) in table {
            assert_eq!(fetched(body).map(|(_, life)| life), life, "{body}");
            let definite = read_fetch(200, body.as_bytes()).map_or_else(|e| e.definite(), |_| true);
            assert_eq!(definite, life.is_some(), "{body}");
        }
    }

    #[test]
    fn a_token_of_eight_kibibytes_is_the_longest() {
        for (length, good) in [(512, true), (8 * 1024, true), (8 * 1024 + 1, false)] {
            let value = "x".repeat(length);
            let body = format!(r#"{{"access_token":"{value}","expires_in":7200}}"#);
            assert_eq!(fetched(&body).is_some(), good, "{length}");
        }
    }

    #[test]
    fn an_errcode_refuses_whatever_stands_beside_it() {
        let table = [
            (200, r#"{"errcode":40013,"errmsg":"invalid appid"}"#, 40013),
            (
                200,
                r#"{"errcode":"40013","errmsg":"invalid appid"}"#,
                40013,
            ),
            (500, r#"{"errcode":-1}"#, -1),
            (
                200,
                r#"{"errcode":"-1","access_token":"t","expires_in":7200}"#,
                -1,
            ),
            (404, r#"{"errcode":48001,"errmsg":7}"#, 48001),
        ];
        for (status, body, errcode) in table {
            let error = read_fetch(status, body.as_bytes()).unwrap_err();
            assert_eq!(error.errcode(), Some(errcode), "{body}");
            assert!(error.definite(), "{body}");
        }
    }

    #[test]
    fn broken_text_in_a_refusal_does_not_hide_its_number() {
        let body = b"{\"errcode\":40164,\"errmsg\":\"\xb2\xbb\xff ip 203.0.113.9\x07\n\"}";
        let error = read_fetch(200, body).unwrap_err();
        assert_eq!(error.errcode(), Some(40164));
        assert!(error.to_string().contains("203.0.113.9"), "{error}");
    }

    #[test]
    fn the_address_is_found_in_every_wording() {
        let (v4, v6) = (Some("203.0.113.9"), Some("2001:db8::9"));
        let table = [
            (
                "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: 6aac005a-01bfdbee-79769285",
                v4,
            ),
            (
                "invalid ip 203.0.113.9, not in whitelist hint: [KJZfAa0644e575]",
                v4,
            ),
            (
                "invalid ip 0.0.0.0 ipv6 2001:db8::9, not in whitelist rid: 6aac005a-01bfdbee-79769285",
                v6,
            ),
            (
                "access clientip is not registered requestIP: 203.0.113.9 rid: 6aac005a-01bfdbee-79769285",
                v4,
            ),
            (
                "not allow to access from your ip, hint: [16], from ip: 203.0.113.9, more info",
                v4,
            ),
            ("requestIP:203.0.113.9.", v4),
            ("ip=[2001:db8::9]:443", v6),
            ("clientip 203.0.113.9:51234", v4),
            ("ipv6 ::ffff:203.0.113.9", v4),
            ("接口203.0.113.9不在白名单", v4),
            ("face203.0.113.9", v4),
            ("invalid ip 0.0.0.0 ipv6 ::, not in whitelist", None),
            ("version 1.2.3, at 12:30:45", None),
            ("not in whitelist", None),
        ];
        for (text, ip) in table {
            let found = address_in(text).map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), ip, "{text}");
        }
    }

    #[test]
    fn a_rid_is_repeated_only_in_its_exact_form() {
        let rid = Some("6aac005a-01bfdbee-79769285");
        let table = [
            ("invalid appid rid: 6aac005a-01bfdbee-79769285", rid),
            ("invalid appid, rid:6aac005a-01bfdbee-79769285.", rid),
            ("rid: 0123456789abcdef0123456789abcdef", None),
            ("rid: 6aac005a-01bfdbee", None),
            ("hint: [abc]", None),
        ];
        for (text, expected) in table {
            assert_eq!(rid_in(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_look_believes_only_what_wechat_says_of_the_token() {
        let other = |errcode| Sight::NoVerdict { errcode };
        let table = [
            (200, r#"{"ip_list":["101.89.47.18"]}"#, Sight::Alive),
            (200, r#"{"ip_list":[],"errcode":0}"#, Sight::Alive),
            (200, r#"{"errcode":0,"errmsg":"ok"}"#, Sight::Alive),
            (503, r#"{"errcode":0}"#, Sight::Busy),
            (503, r#"{"ip_list":[]}"#, Sight::Busy),
            (
                200,
                r#"{"ip_list":[],"errcode":40014,"errmsg":"x"}"#,
                Sight::Refused,
            ),
            (500, r#"{"errcode":"42001"}"#, Sight::Refused),
            (200, r#"{"errcode":45009}"#, other(45009)),
            (200, r#"{"errcode":-1}"#, Sight::Busy),
            (200, r#"{"errcode":true}"#, Sight::Busy),
            (200, r#"{"ip_list":"x"}"#, Sight::Busy),
            (200, "{}", Sight::Busy),
            (200, "", Sight::Busy),
            (502, "<html>", Sight::Busy),
        ];
        for (status, body, sight) in table {
            assert_eq!(read_look(status, body.as_bytes()), sight, "{body}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_cut_reply_is_a_token(cut in 0..50_usize) {
            let body = br#"{"access_token":"70_SimToken","expires_in":7200}  "#;
            let whole = br#"{"access_token":"70_SimToken","expires_in":7200}"#.len();
            let read = read_fetch(200, &body[..cut]);
            proptest::prop_assert_eq!(read.is_ok(), cut >= whole);
        }

        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>, text: String) {
            let _ = (read_fetch(200, &body).is_ok(), read_look(200, &body));
            let _ = (address_in(&text), rid_in(&text));
        }
    }
}
