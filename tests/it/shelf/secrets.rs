//! What is not to be read anywhere, and what is not to be read by everybody.

use std::{error::Error, fmt::Write as _, sync::Arc, time::Duration};

use http::HeaderMap;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use wxtokend::{
    config::{self, SecretSource},
    domain::{
        Ask, Mode, Secret,
        access::{Consumer, Grant, Right},
    },
    pb,
    sandbox::Settings,
    tokens::{Gone, NoToken, View},
    upstream::{self, FetchError, Upstream, read_fetch},
};

use super::shop::policy;
use crate::{
    process::{Home, WeChat, get, secret_of, stale, token_that, watch_request},
    raw::{Answer, Server, refusing},
    served::{app, serve, serve_with, settings},
};

const SECRET: &str = "CANARY-secret-of-shop";
const TOKEN: &str = "70_CANARY-token";

/// seanmonstar/reqwest#2971: the debug log printed whole URLs, and in WeChat's protocol they hold the
/// AppSecret and the token. Guard: libraries get no line below `info`, `quiet_libraries` in
/// `telemetry/log.rs`.
/// Without the guard alone nothing leaks: reqwest speaks through `log`, which nobody collects here either.
/// With a line of our own that prints the query of a request: the secret.
#[tokio::test(flavor = "multi_thread")]
async fn reqwest_2971_no_filter_brings_a_url_into_the_log() {
    let names = ["classic", "stable"];
    let wechat = WeChat::start(&names, Settings::default()).await;
    let home = Home::new(&wechat.url(), "overlap = '1s'", &names);
    let everything = "trace,reqwest=trace,hyper=trace,hyper_util=trace,h2=trace,log=trace";
    let home = home.variable("WXTOKEND_LOG", everything);
    let server = home.serve().await;
    let mut client = server.client().await;
    for name in names {
        let token = token_that(&mut client, name, "is there", |_| true).await;
        let report = client.force_refresh(stale(name, &token.access_token));
        report.await.unwrap();
    }
    server.process.signal("TERM").await;
    let log = server.process.end().await.stderr;
    assert!(log.contains("DEBUG"), "the filter is in force: {log}");
    for name in names {
        let mut secrets = wechat.tokens(name);
        secrets.push(secret_of(name));
        for secret in secrets {
            assert!(!log.contains(&secret), "{log}");
        }
    }
}

/// Everything that anybody could print of an error.
fn shown(error: &FetchError) -> String {
    let mut shown = format!("{error} {error:?} {:?}", error.trouble());
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(shown, " {error} {error:?}").unwrap();
        cause = error.source();
    }
    shown
}

fn wechat(mode: Mode, base_url: String) -> Arc<dyn Upstream> {
    let settings = config::Upstream {
        base_urls: vec![base_url],
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        proxy: None,
        ca_file: None,
    };
    let shop = config::App {
        appid: "wx1".into(),
        name: app("shop"),
        policy: policy(mode),
        secret: SecretSource::Fixed(Secret::new(SECRET)),
    };
    upstream::open(&settings, shop).unwrap()
}

/// binarywang/WxJava#556 and #3245: the secret in exceptions and logs; adolfousier/opencrabs#1322: a
/// reqwest error prints its URL. Guard: `without_url` in `upstream/client.rs`; no body is quoted.
/// Without the guard: the secret, in the `Debug` of a connection that was refused.
#[tokio::test]
async fn wxjava_556_no_error_holds_a_secret_or_a_token() {
    let cut =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{{\"access_token\":\"{TOKEN}\"");
    let answers = [
        Answer::Reset,
        Answer::Close,
        Answer::Bytes(cut.clone().into_bytes()),
        Answer::Hang(cut.into_bytes()),
        Answer::Bytes(TOKEN.into()),
        Answer::json(&format!(r#"{{"access_token":"{TOKEN}","expires_in":0}}"#)),
        Answer::json(&format!(
            r#"{{"errcode":40001,"errmsg":"{SECRET} {TOKEN}"}}"#
        )),
        Answer::http(502, "text/html", TOKEN),
    ];
    for mode in [Mode::Classic, Mode::Stable] {
        let mut urls = vec![refusing().await];
        for answer in &answers {
            urls.push(Server::answering(vec![answer.clone()]).await.url());
        }
        for (case, url) in urls.into_iter().enumerate() {
            let error = wechat(mode, url).fetch(Ask::Normal).await.unwrap_err();
            let shown = shown(&error);
            for word in ["CANARY", "/cgi-bin"] {
                assert!(!shown.contains(word), "case {case}: {shown}");
            }
        }
    }
}

/// tokio-rs/prost#369: there are no secret fields, so the derived `Debug` of a message prints them. Guard:
/// our own `Debug` for these messages, `pb.rs`.
/// Without the guard (every field is printed): the token.
#[test]
fn prost_369_no_message_prints_its_token() {
    let token = pb::Token {
        access_token: TOKEN.into(),
        ..Default::default()
    };
    let report = stale("shop", TOKEN);
    let shown = format!(
        "{:?} {:?} {:?} {:?} {:?}",
        pb::GetTokenResponse {
            token: Some(token.clone())
        },
        pb::ForceRefreshResponse {
            token: Some(token.clone()),
            ..Default::default()
        },
        pb::WatchTokenResponse {
            token: Some(token.clone()),
            ..Default::default()
        },
        token,
        report,
    );
    assert!(!shown.contains("CANARY"), "{shown}");
}

/// grpc/grpc-rust#2216: a status longer than the header list ended as an error of HTTP/2 that said nothing.
/// Guards: `cut` in `grpc/status.rs`, and no text of WeChat's is passed on, `upstream/error.rs`.
/// Without the guard (no `cut`): 314,768 bytes of headers.
#[tokio::test]
async fn grpc_rust_2216_a_long_reason_is_cut_and_arrives() {
    let text = "请将服务器地址加入白名单 ".repeat(1500);
    let body = format!(r#"{{"errcode":40164,"errmsg":"invalid ip 203.0.113.9, {text}"}}"#);
    let trouble = read_fetch(200, body.as_bytes()).unwrap_err().trouble();
    assert!(trouble.message.len() < 200, "{}", trouble.message);

    // Whoever writes a long message some day.
    let mut long = trouble;
    long.message = text.as_str().into();
    long.hint = Some(text.as_str().into());
    let missing = NoToken::Missing {
        gone: Gone::Never,
        trouble: Some(Arc::new(long.clone())),
        retry_after: Duration::from_secs(1),
    };
    let mut headers = HeaderMap::new();
    Status::from(missing).add_header(&mut headers).unwrap();
    let size: usize = headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len())
        .sum();
    assert!(size < 8 * 1024, "{size} bytes of headers");

    let server = serve().await;
    let view = View {
        trouble: Some(Arc::new(long)),
        settled: true,
        ..View::default()
    };
    server.publisher.publish(&app("shop"), view);
    let mut client = server.client().await;
    let status = client.get_token(get("shop")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().len() <= 1024);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "NEEDS_OPERATOR");
}

/// binarywang/WxJava#2871: developers need to read the token of production, and must not replace it.
/// Guard: rights, `Door::admit` in `grpc/caller.rs`.
/// Without the guard (every right is granted): the report goes through.
#[tokio::test]
async fn wxjava_2871_who_may_only_read_cannot_refresh() {
    let reader = Consumer {
        key: Secret::new("a-key"),
        grant: Arc::new(Grant {
            holder: "developers".into(),
            apps: Some([app("shop")].into()),
            rights: [Right::Read].into(),
            margin: Duration::ZERO,
        }),
    };
    let mut server = serve_with(settings(), vec![reader], Duration::from_secs(1)).await;
    server.publish(1);
    let mut client = server.client().await;
    client.get_token(with_key(get("shop"))).await.unwrap();
    let watch = with_key(watch_request("shop"));
    server.history.watch(&mut client, watch).await.unwrap();
    let report = client.force_refresh(with_key(stale("shop", "token-1")));
    let refused = tokio::select! {
        answer = report => answer.unwrap_err(),
        _ = server.publisher.reports.recv() => panic!("it went through"),
    };
    assert_eq!(refused.code(), Code::PermissionDenied);
}

fn with_key<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let key = "Bearer a-key".parse().unwrap();
    request.metadata_mut().insert("authorization", key);
    request
}
