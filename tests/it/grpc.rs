//! The contract over real sockets, with the generated client and a hand that publishes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status, body::Body, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;
use tower::{Service, service_fn};
use wxtokend::{
    config::Listen,
    domain::{
        Remedy, Secret,
        access::{Access, Consumer, Grant, Right},
        report::Stale,
    },
    grpc::Server,
    listener::BindError,
    pb::{self, Cause, token_service_client::TokenServiceClient},
    tokens::{NoToken, Outcome, View},
};

use crate::{
    history::Watching,
    served::{Client, Running, app, eventually, failed, serve, serve_with, settings, within},
};

fn get(app_id: &str) -> pb::GetTokenRequest {
    let app_id = app_id.into();
    pb::GetTokenRequest { app_id }
}

fn watch(app_id: &str, known_generation: u64) -> pb::WatchTokenRequest {
    pb::WatchTokenRequest {
        app_id: app_id.into(),
        known_generation,
    }
}

fn stale(stale_generation: u64) -> pb::ForceRefreshRequest {
    pb::ForceRefreshRequest {
        app_id: "shop".into(),
        stale_generation,
        errcode: 40001,
        ..Default::default()
    }
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

async fn told(stream: &mut Watching) -> (Cause, u64) {
    let message = within(stream.message(), "a message").await;
    let message = message.unwrap().expect("a message");
    (message.cause(), message.token.unwrap().generation)
}

async fn end(stream: &mut Watching) -> Status {
    within(stream.message(), "the end").await.unwrap_err()
}

/// Checks one row of the contract's table. Returns the metadata.
fn is(status: &Status, code: Code, reason: &str, retries: bool) -> HashMap<String, String> {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    assert_eq!((status.code(), &*info.reason), (code, reason), "{status:?}");
    assert_eq!(info.domain, "wxtokend");
    let retry = status.get_details_retry_info();
    assert_eq!(retry.is_some(), retries, "RetryInfo of {reason}");
    assert!(retry.is_none_or(|retry| retry.retry_delay > Some(Duration::ZERO)));
    info.metadata
}

/// What the owner answers to one report, as the reporter sees it.
async fn refused(server: &mut Running, client: &mut Client, error: NoToken) -> Status {
    let owner = async {
        let reported = server.publisher.reports.recv().await.unwrap();
        reported.reply.send(Err(error)).unwrap();
    };
    let (answer, ()) = tokio::join!(client.force_refresh(stale(1)), owner);
    answer.unwrap_err()
}

#[tokio::test]
async fn a_token_is_described_completely() {
    let server = serve().await;
    server.publish(7);
    let mut client = server.client().await;
    let response = client.get_token(get("wx1")).await.unwrap().into_inner();
    let token = response.token.unwrap();
    assert_eq!(token.app_id, "wx1", "the name the caller asked with");
    assert_eq!((&*token.access_token, token.generation), ("token-7", 7));
    let (issued, expires) = (token.issue_time.unwrap(), token.expire_time.unwrap());
    assert_eq!(expires.seconds - issued.seconds, 7260);
    assert!((7190..=7200).contains(&token.time_to_live.unwrap().seconds));
    assert!((3590..=3600).contains(&token.keep_for.unwrap().seconds));
    let previous = token.previous_expire_time.unwrap();
    assert!((359..=361).contains(&(previous.seconds - issued.seconds)));
}

#[tokio::test]
async fn an_app_that_is_not_configured_is_unknown() {
    let server = serve().await;
    let mut client = server.client().await;
    let status = client.get_token(get("nope")).await.unwrap_err();
    is(&status, Code::NotFound, "UNKNOWN_APP", false);
    assert_eq!(status.message(), "no app named `nope` is configured here");
    let stream = server.history.watch(&mut client, watch("nope", 0)).await;
    let status = stream.unwrap_err();
    is(&status, Code::NotFound, "UNKNOWN_APP", false);
}

/// The fields that are said to be malformed.
fn fields(status: &Status) -> Vec<String> {
    is(status, Code::InvalidArgument, "BAD_REQUEST", false);
    let bad = status.get_details_bad_request().unwrap().field_violations;
    bad.into_iter().map(|v| v.field).collect()
}

#[tokio::test]
async fn how_long_a_request_may_be_is_a_setting() {
    for (most, readable) in [(16 * 1024, false), (128 * 1024, true)] {
        let mut settings = settings();
        settings.max_request_bytes = most;
        let server = serve_with(settings, Vec::new(), Duration::from_secs(1)).await;
        let mut long = stale(1);
        long.stale_token = "t".repeat(100_000);
        let status = server.client().await.force_refresh(long).await;
        let field = if readable { "stale_token" } else { "request" };
        assert_eq!(fields(&status.unwrap_err()), [field], "{most}");
    }
}

#[tokio::test]
async fn a_malformed_request_names_its_fields() {
    let server = serve().await;
    let mut client = server.client().await;
    let status = client.get_token(get("")).await.unwrap_err();
    assert_eq!(fields(&status), ["app_id"]);
    let request = watch(&"x".repeat(65), 0);
    let stream = server.history.watch(&mut client, request).await;
    assert_eq!(fields(&stream.unwrap_err()), ["app_id"]);
    let status = client.force_refresh(stale(0)).await.unwrap_err();
    assert_eq!(fields(&status), ["stale_generation"]);
    let mut long = stale(1);
    long.stale_token = "t".repeat(8193);
    let status = client.force_refresh(long).await.unwrap_err();
    assert_eq!(fields(&status), ["stale_token"]);

    // What cannot be read at all is no better and no worse.
    let mut huge = stale(1);
    huge.stale_token = "t".repeat(70_000);
    let status = client.force_refresh(huge).await.unwrap_err();
    assert_eq!(fields(&status), ["request"]);
}

#[tokio::test]
async fn no_token_is_unavailable_or_a_case_for_the_operator() {
    let server = serve().await;
    let mut client = server.client().await;
    let retry_at = server.tokens.now().boot + Duration::from_secs(9);
    let publish = |view| server.publisher.publish(&app("shop"), view);

    publish(failed(Remedy::BackOff, retry_at));
    let status = client.get_token(get("shop")).await.unwrap_err();
    let metadata = is(&status, Code::Unavailable, "NO_VALID_TOKEN", true);
    assert_eq!(metadata["errcode"], "40164");
    let delay = status.get_details_retry_info().unwrap().retry_delay;
    assert!(delay.is_some_and(|delay| (8..=9).contains(&delay.as_secs())));

    publish(failed(Remedy::IpList, retry_at));
    let status = client.get_token(get("shop")).await.unwrap_err();
    let metadata = is(&status, Code::FailedPrecondition, "NEEDS_OPERATOR", false);
    assert_eq!(metadata["errcode"], "40164");
    assert_eq!(metadata["hint"], "do this");
    assert_eq!(status.message(), "there is no valid token: WeChat refused");
}

#[tokio::test]
async fn refused_reports_say_why() {
    let mut server = serve().await;
    server.publish(1);
    let mut client = server.client().await;
    let retry_after = Duration::from_secs(3);

    let inconclusive = |errcode| NoToken::Inconclusive {
        retry_after,
        errcode,
    };
    let status = refused(&mut server, &mut client, inconclusive(Some(45009))).await;
    let metadata = is(&status, Code::Unavailable, "PROBE_INCONCLUSIVE", true);
    assert_eq!(metadata["errcode"], "45009");
    let status = refused(&mut server, &mut client, inconclusive(None)).await;
    let metadata = is(&status, Code::Unavailable, "PROBE_INCONCLUSIVE", true);
    assert!(metadata.is_empty(), "{metadata:?}");

    let too_often = NoToken::TooOften {
        retry_after,
        errcode: None,
    };
    let status = refused(&mut server, &mut client, too_often).await;
    is(&status, Code::ResourceExhausted, "REFRESH_BUDGET", true);

    let other = NoToken::NotATokenError(48001);
    let status = refused(&mut server, &mut client, other).await;
    is(
        &status,
        Code::FailedPrecondition,
        "NOT_A_TOKEN_ERROR",
        false,
    );

    let status = refused(&mut server, &mut client, NoToken::Draining).await;
    is(&status, Code::Unavailable, "DRAINING", false);
}

#[tokio::test]
async fn a_report_reaches_the_owner_and_brings_back_outcome_and_token() {
    let mut server = serve().await;
    server.publish(1);
    let mut client = server.client().await;
    let cases = [
        (Outcome::AlreadyNewer, pb::Outcome::AlreadyNewer),
        (Outcome::Refreshed, pb::Outcome::Refreshed),
        (Outcome::StillValid, pb::Outcome::StillValid),
    ];
    for (generation, (outcome, expected)) in (2..).zip(cases) {
        let mut request = stale(1);
        request.stale_token = "token-1".into();
        request.leaked = true;
        let view = server.alive(generation, Duration::from_hours(1));
        let owner = async {
            let reported = server.publisher.reports.recv().await.unwrap();
            assert_eq!(
                (reported.report.errcode, reported.report.leaked),
                (40001, true)
            );
            assert!(matches!(reported.report.stale, Stale::Value(t) if t.expose() == "token-1"));
            server.publisher.publish(&reported.app, view);
            reported.reply.send(Ok(outcome)).unwrap();
        };
        let (answer, ()) = tokio::join!(client.force_refresh(request), owner);
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.outcome(), expected);
        assert_eq!(answer.token.unwrap().generation, generation);
    }
}

#[tokio::test]
async fn the_key_says_who_asks_and_a_new_list_counts_at_once() {
    let orders = |key: &str, rights: &[Right]| Consumer {
        key: Secret::new(key),
        grant: Arc::new(Grant {
            holder: "orders".into(),
            apps: Some([app("shop")].into()),
            rights: rights.iter().copied().collect(),
            margin: Duration::ZERO,
        }),
    };
    let consumers = vec![orders("old", &[Right::Read, Right::Refresh])];
    let server = serve_with(settings(), consumers, Duration::from_secs(1)).await;
    server.publish(1);
    let view = server.alive(1, Duration::from_secs(100));
    server.publisher.publish(&app("other"), view);
    let mut client = server.client().await;

    for request in [Request::new(get("shop")), with_key(get("shop"), "wrong")] {
        let status = client.get_token(request).await.unwrap_err();
        is(&status, Code::Unauthenticated, "UNAUTHENTICATED", false);
    }
    let stream = server.history.watch(&mut client, watch("", 0)).await;
    let status = stream.unwrap_err();
    is(&status, Code::Unauthenticated, "UNAUTHENTICATED", false);
    client.get_token(with_key(get("wx1"), "old")).await.unwrap();

    let hidden = client.get_token(with_key(get("other"), "old")).await;
    let hidden = hidden.unwrap_err();
    is(&hidden, Code::NotFound, "UNKNOWN_APP", false);
    let expected = "no app named `other` is configured here";
    assert_eq!(hidden.message(), expected, "as if it did not exist");

    let mut leaked = stale(1);
    leaked.leaked = true;
    let status = client.force_refresh(with_key(leaked, "old")).await;
    is(
        &status.unwrap_err(),
        Code::PermissionDenied,
        "NOT_ALLOWED",
        false,
    );

    let consumers = vec![orders("new", &[Right::Read])];
    server.access.send_replace(Arc::new(Access::new(consumers)));
    let status = client.get_token(with_key(get("shop"), "old")).await;
    is(
        &status.unwrap_err(),
        Code::Unauthenticated,
        "UNAUTHENTICATED",
        false,
    );
    let status = client.force_refresh(with_key(stale(1), "new")).await;
    is(
        &status.unwrap_err(),
        Code::PermissionDenied,
        "NOT_ALLOWED",
        false,
    );
    client
        .get_token(with_key(get("shop"), "new"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_caller_waits_for_the_first_outcome_almost_until_its_deadline() {
    let server = serve().await;
    let mut client = server.client().await;
    let mut request = Request::new(get("shop"));
    request.set_timeout(Duration::from_millis(600));
    let start = Instant::now();
    let status = client.get_token(request).await.unwrap_err();
    is(&status, Code::Unavailable, "NO_VALID_TOKEN", true);
    let waited = start.elapsed().as_millis();
    assert!((450..600).contains(&waited), "{waited} ms");

    let waiting = tokio::spawn({
        let mut client = client.clone();
        async move { client.get_token(get("shop")).await }
    });
    server.publish(1);
    let answer = within(waiting, "the first outcome").await.unwrap();
    assert_eq!(answer.unwrap().into_inner().token.unwrap().generation, 1);
}

#[tokio::test]
async fn a_passed_deadline_is_called_by_its_name() {
    let server = serve().await;
    server.publish(1);
    let mut client = patient_client(&server).await;
    let request = limited(watch("shop", 0), "300m");
    let mut stream = server.history.watch(&mut client, request).await.unwrap();
    assert_eq!(told(&mut stream).await, (Cause::Current, 1));
    let status = end(&mut stream).await;
    is(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", false);

    let unanswered = client.force_refresh(limited(stale(1), "300m")).await;
    let status = unanswered.unwrap_err();
    is(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", false);

    let status = client.get_token(limited(get("shop"), "soon")).await;
    is(
        &status.unwrap_err(),
        Code::InvalidArgument,
        "BAD_REQUEST",
        false,
    );
}

pub(crate) fn limited<T>(message: T, limit: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    let limit = limit.parse().unwrap();
    request.metadata_mut().insert("grpc-timeout", limit);
    request
}

/// A client that sends its deadline and does not count it: tonic's gives up by itself.
pub(crate) async fn patient_client(
    server: &Running,
) -> TokenServiceClient<
    impl Service<http::Request<Body>, Response = http::Response<Incoming>, Error = hyper::Error>,
> {
    let io = TokioIo::new(server.socket().await);
    let handshake = http2::handshake(TokioExecutor::new(), io).await;
    let (sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let send = service_fn(move |request| sender.clone().send_request(request));
    let origin = server.url.parse().unwrap();
    TokenServiceClient::with_origin(send, origin)
}

#[tokio::test]
async fn all_of_64_watchers_see_the_rotation() {
    let server = serve().await;
    server.publish(1);
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut client = server.client().await;
        for _ in 0..8 {
            let stream = server.history.watch(&mut client, watch("shop", 0)).await;
            streams.push(stream.unwrap());
        }
    }
    for stream in &mut streams {
        assert_eq!(told(stream).await, (Cause::Current, 1));
    }
    server.publish(2);
    for stream in &mut streams {
        assert_eq!(told(stream).await, (Cause::Rotated, 2));
    }
}

#[tokio::test]
async fn a_watcher_that_holds_the_token_hears_of_the_next_one_first() {
    let server = serve().await;
    server.publish(5);
    let mut client = server.client().await;
    let stream = server.history.watch(&mut client, watch("shop", 5)).await;
    server.publish(6);
    assert_eq!(told(&mut stream.unwrap()).await, (Cause::Rotated, 6));
}

#[tokio::test]
async fn a_stream_whose_token_dies_ends_with_the_error_of_get_token() {
    let server = serve().await;
    let life = Duration::from_millis(300);
    let mut view = server.alive(1, life);
    view.trouble = failed(Remedy::IpList, server.tokens.now().boot).trouble;
    server.publisher.publish(&app("shop"), view);
    let mut client = server.client().await;
    let stream = server.history.watch(&mut client, watch("shop", 0)).await;
    let mut stream = stream.unwrap();
    assert_eq!(told(&mut stream).await, (Cause::Current, 1));
    let status = end(&mut stream).await;
    let metadata = is(&status, Code::FailedPrecondition, "NEEDS_OPERATOR", false);
    assert_eq!(metadata["hint"], "do this");
}

#[tokio::test]
async fn draining_is_the_last_word_and_the_server_ends_although_nobody_reads() {
    let server = serve().await;
    server.publish(1);
    let mut client = server.client().await;
    let stream = server.history.watch(&mut client, watch("shop", 0)).await;
    let mut stream = stream.unwrap();
    assert_eq!(told(&mut stream).await, (Cause::Current, 1));
    // These stay open and are never read.
    let mut idle = server.client().await;
    let _unread = server.history.watch(&mut idle, watch("shop", 0)).await;
    let mut health = HealthClient::new(server.channel().await);
    let _health = health.watch(health_of("")).await.unwrap();
    let _silent = server.socket().await;

    let start = Instant::now();
    server.drain_and_stop().await;
    assert!(start.elapsed() < Duration::from_secs(1), "{start:?}");
    assert_eq!(told(&mut stream).await, (Cause::Draining, 1));
    is(
        &end(&mut stream).await,
        Code::Unavailable,
        "DRAINING",
        false,
    );
}

#[tokio::test]
async fn a_peer_that_acknowledges_nothing_is_cut_in_the_end() {
    let limit = Duration::from_millis(300);
    let server = serve_with(settings(), Vec::new(), limit).await;
    let mut deaf = server.socket().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    deaf.write_all(preface).await.unwrap();
    let mut settings = [0; 9];
    deaf.read_exact(&mut settings).await.unwrap();

    let start = Instant::now();
    server.drain_and_stop().await;
    let took = start.elapsed();
    assert!(took >= limit && took < limit * 3, "{took:?}");
}

#[tokio::test]
async fn calls_under_way_finish_while_the_server_ends() {
    let mut server = serve().await;
    server.publish(1);
    let mut client = server.client().await;
    let report = tokio::spawn(async move { client.force_refresh(stale(1)).await });
    let reported = within(server.publisher.reports.recv(), "the report").await;
    let Running {
        publisher,
        stop,
        serving,
        url,
        ..
    } = server;
    let address = url.strip_prefix("http://").unwrap().to_owned();
    publisher.drain();
    stop.cancel();
    let closed = || async { TcpStream::connect(&address).await.is_err() };
    eventually(closed, "the listener closes").await;
    assert!(!serving.is_finished(), "a call is under way");
    reported
        .unwrap()
        .reply
        .send(Ok(Outcome::StillValid))
        .unwrap();
    let answer = within(report, "the answer").await.unwrap().unwrap();
    assert_eq!(answer.into_inner().outcome(), pb::Outcome::StillValid);
    within(serving, "the server ends").await.unwrap();
}

#[tokio::test]
async fn an_aged_connection_asks_its_streams_to_come_back() {
    let mut settings = settings();
    settings.max_connection_age = Duration::from_millis(300);
    let server = serve_with(settings, Vec::new(), Duration::from_secs(10)).await;
    server.publish(1);
    let mut client = server.client().await;
    let stream = server.history.watch(&mut client, watch("shop", 0)).await;
    let mut stream = stream.unwrap();
    assert_eq!(told(&mut stream).await, (Cause::Current, 1));
    assert_eq!(told(&mut stream).await, (Cause::Draining, 1));
    is(
        &end(&mut stream).await,
        Code::Unavailable,
        "DRAINING",
        false,
    );
    let stream = server.history.watch(&mut client, watch("shop", 0)).await;
    assert_eq!(told(&mut stream.unwrap()).await, (Cause::Current, 1));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_seat() {
    let mut settings = settings();
    settings.max_connections = 1;
    let server = serve_with(settings, Vec::new(), Duration::from_secs(10)).await;
    server.publish(1);
    let mut first = server.client().await;
    first.get_token(get("shop")).await.unwrap();
    let second = Endpoint::from_shared(server.url.clone()).unwrap();
    let mut second = Client::new(second.connect_lazy());
    let second = tokio::spawn(async move { second.get_token(get("shop")).await });
    // The server is awake all the time, and answers who has a seat.
    for _ in 0..100 {
        first.get_token(get("shop")).await.unwrap();
    }
    assert!(!second.is_finished(), "there is one seat");
    drop(first);
    within(second, "the seat").await.unwrap().unwrap();
}

#[tokio::test]
async fn a_unix_socket_serves_and_goes_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grpc.sock");
    let mut settings = settings();
    settings.listen = Listen::Unix(path.clone());
    let server = serve_with(settings, Vec::new(), Duration::from_secs(10)).await;
    assert_eq!(server.url, format!("unix://{}", path.display()));
    server.publish(1);
    let mut client = server.client().await;
    client.get_token(get("shop")).await.unwrap();
    server.drain_and_stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn an_address_in_use_is_refused_by_name() {
    let server = serve().await;
    let address = server.url.strip_prefix("http://").unwrap();
    let mut settings = settings();
    settings.listen = Listen::Tcp(address.to_owned());
    let access = server.access.subscribe();
    let second = Server::bind(&settings, server.tokens.clone(), access, &server.metrics).await;
    let error = second.unwrap_err();
    assert!(matches!(error, BindError::InUse(_)));
    assert!(error.to_string().contains(address), "{error}");
}

fn health_of(service: &str) -> HealthCheckRequest {
    let service = service.into();
    HealthCheckRequest { service }
}

#[tokio::test]
async fn health_follows_the_facts_in_both_directions() {
    let server = serve().await;
    let health = HealthClient::new(server.channel().await);
    let is = async |service: &'static str, serving: bool| {
        let expected = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        let ask = || {
            let mut health = health.clone();
            async move {
                let answer = health.check(health_of(service)).await.unwrap();
                answer.into_inner().status() == expected
            }
        };
        let start = Instant::now();
        eventually(ask, &format!("`{service}` serving: {serving}")).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{service}");
    };
    let ready = ["", "wxtokend.v1.TokenService"];
    let other = app("other");
    for service in ready.into_iter().chain(["app/shop", "app/other"]) {
        is(service, false).await;
    }
    is("live", true).await;

    server.publish(1);
    is("app/shop", true).await;
    is("", false).await;
    let trouble = failed(Remedy::BackOff, server.tokens.now().boot);
    server.publisher.publish(&other, trouble);
    for service in ready {
        is(service, true).await;
    }
    is("app/other", false).await;

    let nothing = View {
        settled: true,
        ..View::default()
    };
    server.publisher.publish(&app("shop"), nothing);
    for service in ready.into_iter().chain(["app/shop"]) {
        is(service, false).await;
    }
    server.publish(2);
    is("", true).await;
    server.stop.cancel();
    for service in ready {
        is(service, false).await;
    }
    is("app/shop", true).await;

    let mut health = health;
    let unknown = health.check(health_of("nope")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn nothing_serves_before_the_first_look() {
    let server = serve().await;
    let mut health = HealthClient::new(server.channel().await);
    let changes = health.watch(health_of("")).await.unwrap();
    let first = changes.into_inner().next().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn reflection_lists_the_services_without_a_key() {
    let consumer = Consumer {
        key: Secret::new("k"),
        grant: Arc::new(Grant::all()),
    };
    let server = serve_with(settings(), vec![consumer], Duration::from_secs(1)).await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let ask = |request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let symbol = "wxtokend.v1.TokenService.WatchToken".to_owned();
    let asks = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(symbol)),
    ]);
    let answers = client.server_reflection_info(asks).await.unwrap();
    let mut answers = answers.into_inner();
    let mut next = async || answers.message().await.unwrap().unwrap().message_response;

    let Some(MessageResponse::ListServicesResponse(list)) = next().await else {
        panic!("no list");
    };
    let names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    for service in ["wxtokend.v1.TokenService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == service), "{names:?}");
    }
    let Some(MessageResponse::FileDescriptorResponse(files)) = next().await else {
        panic!("no file");
    };
    assert!(!files.file_descriptor_proto.is_empty());
}
