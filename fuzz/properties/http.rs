//! What a program gets that asks over HTTP, whatever it sends.
//!
//! An input is legible but for the body: `PEER METHOD TARGET`, headers, an empty line, the body.
//!
//! The requests are answered by a server whose socket nobody uses, in front of a [`Shop`].

use std::{cell::RefCell, collections::BTreeMap, fmt::Debug, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use wxtokend::{
    config::{self, Listen},
    domain::access::Peer,
    http::Server,
    telemetry::Metrics,
};

use super::shop::{self, ADMIN_KEY, GENERATION, KEY, MARGIN, Shop, TOKEN};

/// Of each app.
const OVERLAP: Duration = Duration::from_mins(5);

/// In seconds: four fifths of it.
const LONGEST_LEASE: u64 = 240;

thread_local! {
    static SERVED: RefCell<Served> = RefCell::new(Served::new());
}

pub(crate) fn holds(input: &[u8]) {
    let Some(call) = Call::read(input) else {
        return;
    };
    let heard = SERVED.with_borrow_mut(|served| served.call(&call));
    heard.keeps_secrets();
    heard.is_well_formed(&call);
    if call.method == Method::HEAD {
        assert_eq!(heard.body, "");
        return;
    }
    let (expected, said) = (call.expected(), heard.answer(&call));
    assert!(
        expected.contains(&said),
        "{said:?} and not {expected:?}: {}",
        heard.body
    );
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Token,
    NotModified,
    No(i64),
}

use Answer::{No, NotModified, Token as Yes};

/// What a program sends.
struct Call {
    peer: Peer,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

type Parameters = BTreeMap<String, String>;

impl Call {
    /// `None` if HTTP would not let it through.
    fn read(input: &[u8]) -> Option<Self> {
        let end = input.windows(2).position(|pair| pair == b"\n\n")?;
        let head = str::from_utf8(&input[..end]).ok()?;
        let (first, rest) = head.split_once('\n').unwrap_or((head, ""));
        let mut words = first.splitn(3, ' ');
        let peer = match words.next()? {
            "unix" => Peer::Unix,
            "loopback" => Peer::Loopback,
            _ => Peer::Remote,
        };
        let method = Method::from_bytes(words.next()?.as_bytes()).ok()?;
        let target = words.next()?;
        let mut headers = HeaderMap::new();
        for line in rest.lines() {
            let (name, value) = line.split_once(": ")?;
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        let call = Self {
            peer,
            method,
            target: target.to_owned(),
            headers,
            body: input[end + 2..].to_vec(),
        };
        (target.starts_with('/') && call.request().is_some()).then_some(call)
    }

    fn request(&self) -> Option<Request<Full<Bytes>>> {
        let request = Request::builder()
            .method(self.method.clone())
            .uri(&self.target);
        let mut request = request.body(Full::from(self.body.clone())).ok()?;
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }

    fn path(&self) -> &str {
        let target = self.target.split('#').next().unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }

    fn query(&self) -> &str {
        let target = self.target.split('#').next().unwrap_or_default();
        target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Whether it is one of WeChat's own calls, which are answered in WeChat's way.
    fn is_wechats(&self) -> bool {
        ["/cgi-bin/token", "/cgi-bin/stable_token"].contains(&self.path())
    }

    /// What may be answered. It is more than one thing only where a span is written in an odd way.
    fn expected(&self) -> Vec<Answer> {
        match self.path() {
            _ if self.is_wechats() => vec![self.of_wechat().unwrap_or_else(No)],
            "/get_access_token" => vec![self.bare().unwrap_or_else(No)],
            path => match path
                .strip_prefix("/v1/apps/")
                .and_then(|rest| rest.strip_suffix("/token"))
            {
                Some(app) if !app.contains('/') => self.versioned(app),
                _ => vec![No(40066)],
            },
        }
    }

    fn of_wechat(&self) -> Result<Answer, i64> {
        if !["GET", "HEAD", "POST"].contains(&self.method.as_str()) {
            return Err(43001);
        }
        let said = self.parameters()?;
        let who = self.caller(said.get("secret"))?;
        let said = |name| said.get(name).map_or("", String::as_str);
        match (said("grant_type"), said("appid")) {
            ("client_credential", "") => Err(41002),
            ("client_credential", app) => who.gets(app),
            _ => Err(40002),
        }
    }

    fn bare(&self) -> Result<Answer, i64> {
        let said = self.parameters()?;
        let who = self.caller(said.get("secret"))?;
        match (said.get("appid").map_or("", String::as_str), &who) {
            ("", Who::Orders) => Ok(Yes),
            ("", Who::Ops) => Err(41002),
            (app, who) => who.gets(app),
        }
    }

    fn versioned(&self, app: &str) -> Vec<Answer> {
        let Some(app) = decoded(app, false) else {
            return vec![No(40097)];
        };
        if !["GET", "HEAD"].contains(&self.method.as_str()) {
            return vec![No(43001)];
        }
        let said = form(self.query().as_bytes());
        let stale = self.headers.get("x-stale-token");
        if stale.is_some_and(|stale| stale.to_str().is_err()) {
            return vec![No(40097)];
        }
        let reports = stale.is_some() || said.contains_key("stale");
        let fine = || self.caller(said.get("secret"))?.gets(&app);
        let mut may = vec![fine().unwrap_or_else(No)];
        if may == [Yes] && !reports {
            may = self.knows();
        }
        if !said.get("wait").is_none_or(|wait| is_seconds(wait)) {
            may.push(No(40097));
        }
        may
    }

    /// Whether `If-None-Match` names the generation, if it is written well.
    fn knows(&self) -> Vec<Answer> {
        let known = self.headers.get("if-none-match");
        let known = known.and_then(|known| known.to_str().ok()).unwrap_or("");
        let tags: Vec<&str> = known.split(',').map(str::trim).collect();
        let plain = |tag: &&str| tag.chars().all(|c| c.is_ascii_digit());
        let quoted = |tag: &&str| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            tag.is_some_and(|tag| plain(&tag))
        };
        let is_it = |tag: &&str| tag.trim_start_matches("W/").trim_matches('"') == "7";
        match tags.iter().all(|tag| plain(tag) || quoted(tag)) {
            true if tags.iter().any(is_it) => vec![NotModified],
            true => vec![Yes],
            false => vec![Yes, NotModified],
        }
    }

    /// The last word about each parameter: the body's, or else the query's.
    fn parameters(&self) -> Result<Parameters, i64> {
        let mut said = form(self.query().as_bytes());
        let body = self.body.trim_ascii();
        if !body.starts_with(b"{") && !body.starts_with(b"[") {
            said.append(&mut form(body));
            return Ok(said);
        }
        let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
            return Err(47001);
        };
        for (name, value) in object {
            let value = match value {
                Value::Null => continue,
                Value::String(text) => text,
                other => other.to_string(),
            };
            put(&mut said, name, value);
        }
        Ok(said)
    }

    fn caller(&self, secret: Option<&String>) -> Result<Who, i64> {
        let header = self.headers.get("authorization");
        let header = header.and_then(|value| value.to_str().ok());
        let key = header.and_then(|header| {
            let (scheme, key) = header.split_once(' ')?;
            (scheme.to_lowercase() == "bearer").then(|| key.trim_start())
        });
        match key.or(secret.map(String::as_str)) {
            Some(KEY) => Ok(Who::Orders),
            Some(ADMIN_KEY) => Ok(Who::Ops),
            Some(_) => Err(40125),
            None if self.peer == Peer::Unix => Ok(Who::Ops),
            None => Err(41004),
        }
    }
}

enum Who {
    Orders,
    Ops,
}

impl Who {
    fn gets(&self, app: &str) -> Result<Answer, i64> {
        match (app, self) {
            ("shop" | "wx1", _) => Ok(Yes),
            ("other" | "wx2", Self::Ops) => Err(-1),
            _ => Err(40013),
        }
    }
}

/// What a query or a form says.
fn form(text: &[u8]) -> Parameters {
    let mut said = Parameters::new();
    for pair in text.split(|byte| *byte == b'&') {
        let at = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = pair.split_at(at.unwrap_or(pair.len()));
        let value = value.strip_prefix(b"=").unwrap_or(value);
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(&unescaped(bytes, true)).into_owned();
        put(&mut said, lossy(name), lossy(value));
    }
    said
}

/// A parameter without a value takes back what was said, but a key and a token are said or not.
fn put(said: &mut Parameters, name: String, value: String) {
    if !value.is_empty() || !["secret", "stale"].contains(&name.as_str()) {
        said.insert(name, value);
    }
}

fn decoded(text: &str, plus: bool) -> Option<String> {
    String::from_utf8(unescaped(text.as_bytes(), plus)).ok()
}

fn unescaped(bytes: &[u8], plus: bool) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
        if let Some(escaped) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            plain.push(escaped);
            at += 3;
        } else {
            plain.push(if plus && *byte == b'+' { b' ' } else { *byte });
            at += 1;
        }
    }
    plain
}

fn is_seconds(wait: &str) -> bool {
    let digits = wait.strip_suffix('s').unwrap_or(wait);
    let plain = digits.chars().all(|c| c.is_ascii_digit());
    plain && digits.parse().is_ok_and(|seconds: u64| seconds <= 60)
}

/// What a program hears.
struct Heard {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Heard {
    async fn from<B: Body<Error: Debug>>(response: Response<B>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("it is all there").to_bytes();
        Self {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8(body.into()).expect("text"),
        }
    }

    /// Whoever is refused hears of no key and of no token, not even its own.
    fn keeps_secrets(&self) {
        let mut told = format!("{:?}", self.headers);
        if self.status != StatusCode::OK || self.body.contains("errcode") {
            told += &self.body;
        }
        for secret in [KEY, ADMIN_KEY, TOKEN] {
            assert!(!told.contains(secret), "a secret is in {told}");
        }
    }

    fn is_well_formed(&self, call: &Call) {
        let allowed: &[u16] = if call.is_wechats() {
            &[200]
        } else {
            &[200, 304, 400, 401, 403, 404, 405, 503]
        };
        assert!(allowed.contains(&self.status.as_u16()), "{}", self.status);
        if self.status != StatusCode::NOT_MODIFIED {
            assert_eq!(
                self.headers["cache-control"], "no-store",
                "it might be kept"
            );
        }
    }

    fn answer(&self, call: &Call) -> Answer {
        if self.status == StatusCode::NOT_MODIFIED {
            assert_eq!(self.headers["etag"], format!("\"{GENERATION}\""));
            return NotModified;
        }
        if call.path() == "/get_access_token" && self.status == StatusCode::OK {
            assert_eq!(self.body, TOKEN);
            return Yes;
        }
        let told: Value = serde_json::from_str(&self.body).expect("JSON");
        if let Some(errcode) = told.get("errcode") {
            assert!(told["errmsg"].as_str().is_some_and(|why| !why.is_empty()));
            return No(errcode.as_i64().expect("a number"));
        }
        assert_eq!(told["access_token"], TOKEN);
        if call.is_wechats() {
            let lease = told["expires_in"].as_u64().expect("seconds");
            let longest = LONGEST_LEASE + MARGIN;
            assert!((1..=longest).contains(&lease), "a lease of {lease} s");
        } else {
            assert_eq!(told["generation"], GENERATION);
            assert_eq!(self.headers["etag"], format!("\"{GENERATION}\""));
        }
        Yes
    }
}

struct Served {
    shop: Shop,
    server: Server,
}

impl Served {
    fn new() -> Self {
        let settings = config::Http {
            listen: Listen::Tcp("127.0.0.1:0".into()),
            max_connections: 1,
        };
        let overlaps = ["shop", "other"].map(|name| (shop::app(name), OVERLAP));
        let (shop, server) = Shop::new(async |tokens, access| {
            let (metrics, grace) = (Metrics::new(), Duration::ZERO);
            let bound = Server::bind(&settings, tokens, access, overlaps.into(), &metrics, grace);
            bound.await.expect("there is a free port")
        });
        Self { shop, server }
    }

    fn call(&mut self, call: &Call) -> Heard {
        let request = call.request().expect("it was one before");
        let answer = self.server.answer(request, call.peer);
        self.shop.hear(async { Heard::from(answer.await).await })
    }
}
