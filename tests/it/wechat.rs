//! WeChat's protocol over real sockets: every recorded reply, and every way a network can fail.

use std::{
    error::Error,
    fmt::Write as _,
    io::{Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use wxtokend::{
    config::{self, SecretSource},
    domain::{AppName, Ask, Mode, Policy, Remedy, Secret, Sight, trouble::Refused},
    upstream::{self, FetchError, Upstream},
};

use crate::raw::{Answer, Asked, Server, refusing};

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "0123456789abcdefSECRETcanary0123";
const TOKEN: &str = "70_TOKENcanary0123456789";

fn config(base_urls: &[String]) -> config::Upstream {
    config::Upstream {
        base_urls: base_urls.to_vec(),
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        proxy: None,
        ca_file: None,
    }
}

fn app(mode: Mode, appid: &str, secret: SecretSource) -> config::App {
    config::App {
        appid: appid.to_owned(),
        name: AppName::parse("shop").unwrap(),
        policy: Policy {
            mode,
            ..Policy::default()
        },
        secret,
    }
}

fn wechat(mode: Mode, config: &config::Upstream) -> Arc<dyn Upstream> {
    let secret = SecretSource::Fixed(Secret::new(SECRET));
    upstream::open(config, app(mode, APPID, secret)).unwrap()
}

fn classic(base_urls: &[String]) -> Arc<dyn Upstream> {
    wechat(Mode::Classic, &config(base_urls))
}

fn success() -> Answer {
    Answer::json(&json!({ "access_token": TOKEN, "expires_in": 7200 }).to_string())
}

/// Everything that anybody could print of an error.
fn shown(error: &FetchError) -> String {
    let mut shown = format!("{error} {error:?} {error:#?} {:?}", error.trouble());
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(shown, " {error} {error:?}").unwrap();
        cause = error.source();
    }
    shown
}

/// The error of a fetch, after a look whether it keeps its secrets.
async fn failure(upstream: &dyn Upstream) -> FetchError {
    let error = upstream.fetch(Ask::Normal).await.unwrap_err();
    let shown = shown(&error);
    for secret in [SECRET, TOKEN, "SECRETcanary", "TOKENcanary", "/cgi-bin"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    error
}

// ---- the recorded replies ----

fn vectors(prefixes: &[&str]) -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(include_str!("../wechat-vectors.json")).unwrap();
    let wanted = |v: &Value| {
        let name = v["name"].as_str().unwrap();
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    all.into_iter().filter(wanted).collect()
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap()
}

fn answer(vector: &Value) -> Answer {
    let body = match &vector["response_body"] {
        Value::String(raw) => raw.clone(),
        json => json.to_string(),
    };
    let status = u16::try_from(vector["http_status"].as_u64().unwrap()).unwrap();
    Answer::http(status, text(vector, "content_type"), &body)
}

/// What each vector must lead to. A name that is in no line is an error of the test.
fn expected_remedy(name: &str) -> Option<Remedy> {
    let risk = |hours| Remedy::RiskRejected(Duration::from_hours(hours));
    let lines: [(Remedy, &str); 10] = [
        (
            Remedy::Refused(Refused::Credential),
            "classic_bad_secret classic_bad_secret_legacy_text classic_secret_frozen \
             classic_errcode_as_string stable_bad_appid stable_bad_secret",
        ),
        (
            Remedy::Refused(Refused::Request),
            "classic_bad_grant_type classic_missing_appid classic_missing_secret \
             classic_component_appid stable_bad_grant stable_missing_appid stable_missing_secret \
             stable_empty_body stable_bad_json",
        ),
        (
            Remedy::Refused(Refused::Account),
            "classic_punished classic_api_forbidden",
        ),
        (
            Remedy::IpList,
            "classic_ip_not_whitelisted_comma_rid classic_ip_not_whitelisted_2017 \
             classic_ip_not_whitelisted_native_v6 classic_ip_not_registered_61004",
        ),
        (
            Remedy::DayQuota,
            "classic_quota_day stable_quota_day stable_force_quota",
        ),
        (
            Remedy::NextMinute,
            "classic_quota_minute stable_quota_minute",
        ),
        (Remedy::RiskPending, "stable_risk_pending"),
        (risk(24), "classic_risk_rejected_24h"),
        (Remedy::Slowly, "classic_unknown_code"),
        (
            Remedy::BackOff,
            "stable_busy classic_token_missing classic_gateway_502 classic_empty_200 \
             classic_truncated",
        ),
    ];
    let line = lines
        .iter()
        .find(|(_, names)| names.split_whitespace().any(|n| n == name));
    line.map(|(remedy, _)| *remedy)
}

/// Checks that the request that led to `vector` is the one that arrived, as far as we ever send it.
fn check_request(vector: &Value, asked: &Asked) {
    let (name, wanted) = (text(vector, "name"), &vector["request"]);
    assert_eq!(asked.method, text(wanted, "method"), "{name}");
    assert_eq!(asked.path(), text(wanted, "path"), "{name}");
    assert_eq!(asked.version, "HTTP/1.1", "{name}");
    if asked.method == "POST" {
        assert_eq!(asked.headers["content-type"], "application/json", "{name}");
        assert!(asked.query().is_empty(), "{name}");
    }
    let mut wanted = match &wanted["body"] {
        Value::Null => wanted["query"].clone(),
        Value::Object(body) => Value::Object(body.clone()),
        _ => return,
    };
    let as_we_ask = wanted["grant_type"] == "client_credential"
        && wanted["appid"].is_string()
        && wanted["secret"].is_string();
    if !as_we_ask {
        return;
    }
    if asked.method == "POST" {
        let forced = wanted["force_refresh"].as_bool().unwrap_or(false);
        wanted["force_refresh"] = forced.into();
        let sent: Value = serde_json::from_str(&asked.body).unwrap();
        assert_eq!(sent, wanted, "{name}");
    } else {
        assert_eq!(json!(asked.query()), wanted, "{name}");
        assert_eq!(asked.body, "", "{name}");
    }
}

#[tokio::test]
async fn every_recorded_reply_of_the_token_endpoints_is_understood() {
    let vectors = vectors(&["classic_", "stable_"]);
    assert!(vectors.len() > 40, "{}", vectors.len());
    for vector in vectors {
        let (name, request) = (text(&vector, "name"), &vector["request"]);
        let is_post = request["method"] == "POST";
        let params = if is_post {
            &request["body"]
        } else {
            &request["query"]
        };
        let mode = if is_post { Mode::Stable } else { Mode::Classic };
        let forced = params["force_refresh"] == true;
        let server = Server::answering(vec![answer(&vector)]).await;
        let secret = params["secret"].as_str().unwrap_or(SECRET);
        let appid = params["appid"].as_str().unwrap_or(APPID);
        let app = app(mode, appid, SecretSource::Fixed(Secret::new(secret)));
        let wechat = upstream::open(&config(&[server.url()]), app).unwrap();

        let ask = if forced { Ask::Forced } else { Ask::Normal };
        let outcome = wechat.fetch(ask).await;

        check_request(&vector, &server.asked()[0]);
        let reply = &vector["response_body"];
        match outcome {
            Ok(fetched) => {
                assert_eq!(expected_remedy(name), None, "{name}");
                assert_eq!(reply["access_token"], *fetched.value.expose(), "{name}");
                assert_eq!(
                    reply["expires_in"],
                    fetched.time_to_live.as_secs(),
                    "{name}"
                );
            }
            Err(error) => check_refusal(&vector, &error),
        }
    }
}

fn check_refusal(vector: &Value, error: &FetchError) {
    let (name, reply) = (text(vector, "name"), &vector["response_body"]);
    let digits = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let errcode = reply["errcode"]
        .as_i64()
        .or_else(|| digits(&reply["errcode"]));
    let trouble = error.trouble();
    assert_eq!(Some(trouble.remedy), expected_remedy(name), "{name}");
    assert_eq!(trouble.errcode, errcode, "{name}");
    assert_eq!(trouble.definite, errcode.is_some(), "{name}");
    if trouble.remedy == Remedy::IpList {
        let ip = if name.ends_with("v6") {
            "`2001:db8::9`"
        } else {
            "`203.0.113.9`"
        };
        assert!(trouble.message.contains(ip), "{name}: {trouble:?}");
        assert!(trouble.hint.unwrap().contains(ip), "{name}");
    }
}

#[tokio::test]
async fn every_recorded_reply_to_a_business_call_is_a_sight() {
    let vectors = vectors(&["probe_", "biz_"]);
    assert!(vectors.len() > 10, "{}", vectors.len());
    for vector in vectors {
        let name = text(&vector, "name");
        let server = Server::answering(vec![answer(&vector)]).await;
        let token = vector["request"]["query"]["access_token"].as_str();

        let wechat = classic(&[server.url()]);
        let sight = wechat.look(&Secret::new(token.unwrap_or(TOKEN))).await;

        let expected = match vector["response_body"]["errcode"].as_i64() {
            None => Sight::Alive,
            Some(40001 | 40014 | 42001) => Sight::Refused,
            Some(-1) => Sight::Busy,
            Some(errcode) => Sight::NoVerdict { errcode },
        };
        assert_eq!(sight, expected, "{name}");
        let asked = &server.asked()[0];
        assert_eq!(asked.path(), "/cgi-bin/get_api_domain_ip", "{name}");
        assert_eq!(asked.query()["access_token"], token.unwrap_or(TOKEN));
        if asked.path() == vector["request"]["path"] {
            check_request(&vector, asked);
        }
    }
}

// ---- which base URL, and what is known afterwards ----

#[tokio::test]
async fn the_next_base_url_is_asked_while_nothing_was_sent() {
    let good = Server::answering(vec![success()]).await;
    let closing = Server::answering(vec![Answer::Close]).await;
    let plain = Server::answering(vec![Answer::Bytes(b"HTTP/1.1 400 No\r\n\r\n".into())]).await;
    let mute = Server::answering(vec![Answer::Ignore]).await;
    let https = |server: &Server| format!("https://127.0.0.1:{}", server.port);
    let bad = [
        ("connection refused", refusing().await),
        ("no such name", "http://nobody.invalid".to_owned()),
        ("closed in the TLS handshake", https(&closing)),
        ("no TLS", https(&plain)),
        ("silent in the TLS handshake", https(&mute)),
    ];
    for (case, url) in bad {
        let fetched = classic(&[url, good.url()]).fetch(Ask::Normal).await;
        assert_eq!(fetched.unwrap().value.expose(), TOKEN, "{case}");
    }
    assert_eq!(good.asked().len(), 5);
    assert_eq!(plain.asked().len(), 0);
}

#[tokio::test]
async fn the_next_base_url_is_not_asked_once_something_may_have_been_sent() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"access_token\":\"70_TOKENcanary";
    let long = json!({ "access_token": TOKEN, "expires_in": 7200, "x": "x".repeat(70 * 1024) });
    let elsewhere = Server::answering(vec![success()]).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}/cgi-bin/token\r\nContent-Length: 0\r\n\r\n",
        elsewhere.url()
    );
    let bad = [
        ("closed unread", Answer::Close),
        ("closed without an answer", Answer::Bytes(Vec::new())),
        ("reset", Answer::Reset),
        ("no HTTP", Answer::Bytes(b"220 smtp ready\r\n".into())),
        (
            "half a head",
            Answer::Bytes(b"HTTP/1.1 200 OK\r\nConten".into()),
        ),
        ("half a body", Answer::Bytes(head.to_vec())),
        ("too long a body", Answer::json(&long.to_string())),
        ("a redirect", Answer::Bytes(redirect.into_bytes())),
        ("a gateway's page", Answer::http(503, "text/html", "<html>")),
        ("an empty body", Answer::http(200, "application/json", "")),
    ];
    for (case, answer) in bad {
        let server = Server::answering(vec![answer]).await;
        let wechat = classic(&[server.url(), elsewhere.url()]);
        let error = failure(&*wechat).await;
        assert!(!error.definite(), "{case}: {error:?}");
        assert_eq!(error.remedy(), Remedy::BackOff, "{case}");
        assert_eq!(error.errcode(), None, "{case}");
        assert_eq!(server.connections(), 1, "{case}: repeated");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_body_of_64_kib_is_still_read() {
    let body = json!({ "access_token": TOKEN, "expires_in": 7200, "x": "" }).to_string();
    let room = 64 * 1024 - body.len();
    let body = body.replace(r#""x":"""#, &format!(r#""x":"{}""#, "x".repeat(room)));
    assert_eq!(body.len(), 64 * 1024);
    let server = Server::answering(vec![Answer::json(&body)]).await;
    assert!(classic(&[server.url()]).fetch(Ask::Normal).await.is_ok());
}

#[tokio::test]
async fn a_time_out_is_definite_only_while_connecting() {
    let mute = Server::answering(vec![Answer::Ignore]).await;
    let elsewhere = Server::answering(vec![success()]).await;
    // (base URL, definite): a TLS handshake that never ends, an answer that never comes
    let table = [
        (format!("https://127.0.0.1:{}", mute.port), true),
        (mute.url(), false),
    ];
    for (url, definite) in table {
        let config = config::Upstream {
            timeout: Duration::from_millis(300),
            ..config(&[url.clone(), elsewhere.url()])
        };
        let wechat = wechat(Mode::Classic, &config);
        let error = failure(&*wechat).await;
        assert_eq!(error.definite(), definite, "{url}: {error:?}");
        let message = error.trouble().message;
        assert!(message.ends_with("no answer within 300ms"), "{message}");
    }
    assert_eq!(elsewhere.connections(), 0, "there was no time left");
}

#[tokio::test]
async fn when_nobody_can_be_reached_the_message_says_why() {
    let wechat = classic(&[refusing().await, refusing().await]);
    let trouble = failure(&*wechat).await.trouble();
    assert!(trouble.definite);
    assert!(
        trouble.message.starts_with("WeChat could not be reached: ")
            && trouble.message.to_lowercase().contains("refused"),
        "{trouble:?}"
    );
    assert_eq!(wechat.look(&Secret::new(TOKEN)).await, Sight::Unreachable);
}

#[tokio::test]
async fn a_look_that_got_the_beginning_of_a_reply_has_reached_wechat() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{".to_vec();
    let table = [
        (Answer::Hang(head.clone()), Sight::Busy),
        (Answer::Bytes(head), Sight::Busy),
        (Answer::http(502, "text/html", "<html>"), Sight::Busy),
        (Answer::Hang(Vec::new()), Sight::Unreachable),
        (Answer::Reset, Sight::Unreachable),
        (Answer::Close, Sight::Unreachable),
    ];
    for (answer, sight) in table {
        let case = format!("{answer:?}");
        let server = Server::answering(vec![answer]).await;
        let config = config::Upstream {
            timeout: Duration::from_millis(300),
            ..config(&[refusing().await, server.url()])
        };
        let wechat = wechat(Mode::Stable, &config);
        assert_eq!(wechat.look(&Secret::new(TOKEN)).await, sight, "{case}");
    }
}

#[tokio::test]
async fn no_connection_is_used_twice() {
    let body = r#"{"ip_list":[]}"#;
    let kept = format!(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let server = Server::answering(vec![Answer::Hang(kept.into_bytes())]).await;
    let wechat = classic(&[server.url()]);
    for looks in 1..=3 {
        assert_eq!(wechat.look(&Secret::new(TOKEN)).await, Sight::Alive);
        assert_eq!(server.connections(), looks);
    }
}

#[tokio::test]
async fn a_base_url_may_have_a_path() {
    let server = Server::answering(vec![success()]).await;
    let wechat = classic(&[format!("{}/gateway/", server.url())]);
    wechat.fetch(Ask::Normal).await.unwrap();
    assert_eq!(server.asked()[0].path(), "/gateway/cgi-bin/token");
}

// ---- secrets ----

#[tokio::test]
async fn reqwest_alone_would_print_the_secret() {
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy();
    let url = format!("{}/cgi-bin/token?secret={SECRET}", refusing().await);
    let error = client.build().unwrap().get(url).send().await.unwrap_err();
    assert!(format!("{error}").contains(SECRET));
    assert!(format!("{error:?}").contains(SECRET));
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_asks_nobody_and_names_its_place() {
    let server = Server::answering(vec![success()]).await;
    let path = PathBuf::from("/nowhere/shop.secret");
    let app = app(Mode::Stable, APPID, SecretSource::File(path));
    let wechat = upstream::open(&config(&[server.url()]), app).unwrap();
    let trouble = failure(&*wechat).await.trouble();
    assert!(trouble.definite);
    assert_eq!(trouble.remedy, Remedy::Refused(Refused::Credential));
    assert!(trouble.hint.unwrap().contains("`/nowhere/shop.secret`"));
    assert_eq!(wechat.secret_version().await, None);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_new_secret_is_used_at_the_next_attempt() {
    let server = Server::answering(vec![success()]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let app = app(Mode::Classic, APPID, SecretSource::File(path.clone()));
    let wechat = upstream::open(&config(&[server.url()]), app).unwrap();

    let mut versions = Vec::new();
    for secret in ["first", "first\n", "second & last"] {
        std::fs::write(&path, secret).unwrap();
        wechat.fetch(Ask::Normal).await.unwrap();
        versions.push(wechat.secret_version().await.unwrap());
    }
    let sent = server.asked().into_iter();
    let sent: Vec<String> = sent.map(|asked| asked.query()["secret"].clone()).collect();
    assert_eq!(sent, ["first", "first", "second & last"]);
    assert!(versions[0] == versions[1] && versions[1] != versions[2]);
}

// ---- proxies ----

#[tokio::test]
async fn a_configured_proxy_is_used() {
    let proxy = Server::answering(vec![success()]).await;
    let config = config::Upstream {
        proxy: Some(proxy.url()),
        ..config(&["http://api.weixin.qq.com".to_owned()])
    };
    let wechat = wechat(Mode::Classic, &config);
    wechat.fetch(Ask::Normal).await.unwrap();
    let target = &proxy.asked()[0].target;
    assert!(target.starts_with("http://api.weixin.qq.com/cgi-bin/token?"));
}

#[tokio::test]
async fn a_proxy_that_refuses_the_tunnel_has_not_seen_the_secret() {
    let proxy = Server::answering(vec![Answer::http(403, "text/html", "no")]).await;
    let config = config::Upstream {
        proxy: Some(proxy.url()),
        ..config(&[
            "https://a.example".to_owned(),
            "https://b.example".to_owned(),
        ])
    };
    let wechat = wechat(Mode::Classic, &config);
    assert!(failure(&*wechat).await.definite());
    let targets: Vec<String> = proxy.asked().into_iter().map(|a| a.target).collect();
    assert_eq!(targets, ["a.example:443", "b.example:443"]);
}

/// The environment belongs to the whole process, so this one is a process of its own.
#[tokio::test]
async fn a_proxy_in_the_environment_is_ignored() {
    let server = Server::answering(vec![success()]).await;
    let nobody = refusing().await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, &nobody);
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy");
    child.env("TEST_URL", server.url());
    child.args(["--exact", "wechat::child_with_a_proxy_in_its_environment"]);
    let output = child.args(["--ignored"]).output().await.unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("1 passed"), "{shown}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
#[ignore = "a part of `a_proxy_in_the_environment_is_ignored`"]
async fn child_with_a_proxy_in_its_environment() {
    let url = std::env::var("TEST_URL").unwrap();
    let client = reqwest::Client::builder().tls_certs_only([]).build();
    let obedient = client.unwrap().get(&url).send().await;
    assert!(
        obedient.unwrap_err().is_connect(),
        "the variables have no effect"
    );
    classic(&[url]).fetch(Ask::Normal).await.unwrap();
}

// ---- TLS ----

/// An authority that nobody else trusts, and a certificate of its for `localhost`.
struct Authority {
    folder: TempDir,
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Authority {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let folder = TempDir::new().unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate().unwrap();
        let pem = root.self_signed(&root_key).unwrap().pem();
        std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let issuer = Issuer::new(root, root_key);
        Self {
            folder,
            certificate: leaf.signed_by(&key, &issuer).unwrap(),
            key,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// A TLS server with the certificate of `authority`. Answers one request.
fn tls_server(authority: &Authority) -> u16 {
    use rustls::pki_types::PrivateKeyDer;
    let certificate = authority.certificate.der().clone();
    let key = PrivateKeyDer::try_from(authority.key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        // A client that distrusts the certificate hangs up here.
        let Ok(1..) = stream.read(&mut [0; 4096]) else {
            return;
        };
        let Answer::Bytes(answer) = success() else {
            unreachable!()
        };
        stream.write_all(&answer).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    port
}

fn tls_config(authority: &Authority, trusted: bool, more: &[String]) -> config::Upstream {
    let mut base_urls = vec![format!("https://localhost:{}", tls_server(authority))];
    base_urls.extend_from_slice(more);
    config::Upstream {
        ca_file: trusted.then(|| authority.file()),
        ..config(&base_urls)
    }
}

#[tokio::test]
async fn tls_trusts_a_configured_certificate() {
    let authority = Authority::new();
    let wechat = wechat(Mode::Classic, &tls_config(&authority, true, &[]));
    let fetched = wechat.fetch(Ask::Normal).await.unwrap();
    assert_eq!(fetched.value.expose(), TOKEN);
}

#[tokio::test]
async fn an_unknown_certificate_gets_no_secret_and_the_hint_names_the_setting() {
    let authority = Authority::new();
    let wechat = wechat(Mode::Classic, &tls_config(&authority, false, &[]));
    let trouble = failure(&*wechat).await.trouble();
    assert!(trouble.definite);
    assert!(
        trouble
            .hint
            .as_ref()
            .unwrap()
            .contains("`upstream.ca_file`"),
        "{trouble:?}"
    );

    let good = Server::answering(vec![success()]).await;
    let wechat = self::wechat(Mode::Classic, &tls_config(&authority, false, &[good.url()]));
    assert!(wechat.fetch(Ask::Normal).await.is_ok());
}

#[test]
fn what_cannot_be_used_is_named_before_anything_starts() {
    let good = || config(&["https://api.weixin.qq.com".to_owned()]);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("empty.pem"), "no certificate").unwrap();
    let with_ca = |name: &str| config::Upstream {
        ca_file: Some(folder.path().join(name)),
        ..good()
    };
    let table = [
        (
            config(&["https://a".into(), "ftp://b".into()]),
            "base_urls[1]",
        ),
        (config(&["api.weixin.qq.com".into()]), "base_urls[0]"),
        (
            config::Upstream {
                proxy: Some("http://user:hunter2@".into()),
                ..good()
            },
            "proxy",
        ),
        (with_ca("missing.pem"), "ca_file"),
        (with_ca("empty.pem"), "ca_file"),
    ];
    for (config, named) in table {
        let secret = SecretSource::Env("UNUSED".into());
        let error = upstream::open(&config, app(Mode::Stable, APPID, secret)).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(error.to_string().contains(named), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
