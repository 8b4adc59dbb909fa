//! `/v1/apps/{app}/token`.

use std::time::Duration;

use serde_json::Value;
use tokio::{task::JoinHandle, time::Instant};
use wxtokend::{
    domain::{access::Right, report::Stale},
    tokens::{NoToken, Outcome},
};

use super::{Reply, Site, consumer};
use crate::served::{app, within};

const LIFE: Duration = Duration::from_hours(2);

const PAGE: &str = "/v1/apps/shop/token";

fn waiting(site: &Site, target: &str, known: &str) -> JoinHandle<Reply> {
    let (url, target) = (site.url.clone(), target.to_owned());
    let known = format!("If-None-Match: {known}");
    tokio::spawn(async move { super::ask(&url, "GET", &target, &[&known], "").await })
}

#[tokio::test]
async fn it_tells_what_grpc_tells() {
    let site = Site::open(Vec::new()).await;
    site.publish("shop", 7, LIFE);
    let reply = site.get(PAGE).await;
    assert_eq!((reply.status, reply.header("etag")), (200, Some("\"7\"")));
    let json = reply.json();
    let names: Vec<&String> = json.as_object().unwrap().keys().collect();
    let expected = [
        "access_token",
        "app_id",
        "expire_time",
        "generation",
        "issue_time",
        "keep_for",
        "previous_expire_time",
        "time_to_live",
    ];
    assert_eq!(names, expected);
    assert_eq!(json["app_id"], "shop");
    assert_eq!(json["access_token"], "token-7");
    assert_eq!(json["generation"], 7);
    let span = |name: &str| json[name].as_f64().unwrap();
    assert!(span("time_to_live") > 7190.0 && span("time_to_live") <= 7200.0);
    assert!(span("keep_for") > 3590.0 && span("keep_for") <= 3600.0);
    let time = json["expire_time"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    assert_eq!(site.get("/v1/apps/wx1/token").await.json()["app_id"], "wx1");
    assert_eq!(site.ask("HEAD", PAGE, &[], "").await.body, "");
}

#[tokio::test]
async fn bad_questions_get_a_status_and_a_number() {
    let consumers = vec![
        consumer("orders", &[Right::Read], 0),
        consumer("blind", &[Right::Refresh], 0),
    ];
    let site = Site::open(consumers).await;
    site.publish("shop", 1, LIFE);
    // (method, target, status, errcode)
    let table = [
        ("GET", "/v1/apps/shop/token", 401, 41004),
        ("GET", "/v1/apps/shop/token?secret=no", 401, 40125),
        (
            "GET",
            "/v1/apps/none/token?secret=key-of-orders",
            404,
            40013,
        ),
        (
            "GET",
            "/v1/apps/other/token?secret=key-of-orders",
            404,
            40013,
        ),
        ("GET", "/v1/apps/%ff/token?secret=key-of-orders", 400, 40097),
        ("GET", "/v1/apps/shop/token?secret=key-of-blind", 403, 48001),
        (
            "GET",
            "/v1/apps/shop/token?secret=key-of-orders&stale=x",
            403,
            48001,
        ),
        (
            "GET",
            "/v1/apps/shop/token?secret=key-of-orders&wait=x",
            400,
            40097,
        ),
        (
            "GET",
            "/v1/apps/shop/token?secret=key-of-orders&wait=2m",
            400,
            40097,
        ),
        (
            "GET",
            "/v1/apps/shop/token?secret=key-of-orders&wait=-1",
            400,
            40097,
        ),
        (
            "POST",
            "/v1/apps/shop/token?secret=key-of-orders",
            405,
            43001,
        ),
    ];
    for (method, target, status, errcode) in table {
        let reply = site.ask(method, target, &[], "").await;
        let told = (reply.status, reply.json()["errcode"].clone());
        assert_eq!(told, (status, Value::from(errcode)), "{method} {target}");
    }
}

#[tokio::test]
async fn who_knows_the_generation_is_told_so() {
    let site = Site::open(Vec::new()).await;
    site.publish("shop", 7, LIFE);
    for (known, status) in [
        ("\"7\"", 304),
        ("W/\"7\"", 304),
        ("\"5\", \"7\"", 304),
        ("7", 304),
        ("\"6\"", 200),
        ("\"77\"", 200),
        ("", 200),
    ] {
        let header = format!("If-None-Match: {known}");
        let reply = site.ask("GET", PAGE, &[&header], "").await;
        assert_eq!(reply.status, status, "{known}");
        assert_eq!(reply.header("etag"), Some("\"7\""), "{known}");
    }
}

#[tokio::test]
async fn who_waits_is_told_the_next_token_at_once() {
    let site = Site::open(Vec::new()).await;
    site.publish("shop", 7, LIFE);
    let wait = format!("{PAGE}?wait=30s");
    let reply = site.ask("GET", &wait, &["If-None-Match: \"6\""], "").await;
    assert_eq!(
        reply.json()["generation"],
        7,
        "there is nothing to wait for"
    );
    assert_eq!(site.get(&wait).await.json()["generation"], 7);

    let waiting = waiting(&site, &wait, "\"7\"");
    // The same token again is no news.
    site.publish("shop", 7, LIFE + LIFE);
    assert!(!waiting.is_finished());
    let begun = Instant::now();
    site.publish("shop", 8, LIFE);
    let reply = within(waiting, "news").await.unwrap();
    assert_eq!(reply.json()["generation"], 8);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_wait_without_news_ends_in_time_and_with_the_server() {
    let site = Site::open(Vec::new()).await;
    site.publish("shop", 7, LIFE);
    for (wait, least) in [("300ms", 300), ("1", 1000)] {
        let begun = Instant::now();
        let target = format!("{PAGE}?wait={wait}");
        let reply = waiting(&site, &target, "\"7\"").await.unwrap();
        assert_eq!(reply.status, 304);
        assert!(begun.elapsed().as_millis() >= least, "{wait}");
    }
    let waiting = waiting(&site, &format!("{PAGE}?wait=30s"), "\"7\"");
    // Whoever comes later is told so as well.
    site.publisher.drain();
    assert_eq!(within(waiting, "the end").await.unwrap().status, 304);
}

#[tokio::test]
async fn a_wait_ends_when_the_token_dies() {
    let site = Site::open(Vec::new()).await;
    site.publish("shop", 7, Duration::from_millis(500));
    let reply = within(
        waiting(&site, &format!("{PAGE}?wait=1m"), "\"7\""),
        "the end",
    )
    .await;
    let reply = reply.unwrap();
    assert_eq!(
        (reply.status, &reply.json()["errcode"]),
        (503, &(-1).into())
    );
    assert_eq!(reply.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_stale_token_is_reported_by_its_value() {
    let mut site = Site::open(Vec::new()).await;
    site.publish("shop", 7, LIFE);
    let (retry_after, errcode) = (Duration::from_secs(9), None);
    let unsure = NoToken::Inconclusive {
        retry_after,
        errcode,
    };
    let too_often = NoToken::TooOften {
        retry_after,
        errcode,
    };
    // (by header, what becomes of it, status, what is told)
    let table = [
        (false, Ok(Outcome::Refreshed), 200, "OUTCOME_REFRESHED"),
        (true, Ok(Outcome::StillValid), 200, "OUTCOME_STILL_VALID"),
        (false, Err(unsure), 503, ""),
        (true, Err(too_often), 429, ""),
    ];
    for (by_header, outcome, status, told) in table {
        let url = site.url.clone();
        let asking = tokio::spawn(async move {
            let target = if by_header {
                PAGE.into()
            } else {
                format!("{PAGE}?stale=to%6ben")
            };
            let headers: &[&str] = if by_header {
                &["X-Stale-Token: token"]
            } else {
                &[]
            };
            super::ask(&url, "GET", &target, headers, "").await
        });
        let reported = within(site.publisher.reports.recv(), "a report")
            .await
            .unwrap();
        assert_eq!(reported.app, app("shop"));
        let Stale::Value(value) = &reported.report.stale else {
            panic!("it is reported by its value");
        };
        assert_eq!(value.expose(), "token");
        reported.reply.send(outcome).unwrap();
        let reply = within(asking, "an answer").await.unwrap();
        assert_eq!(reply.status, status);
        assert_eq!(reply.json()["outcome"].as_str().unwrap_or_default(), told);
        assert_eq!(reply.header("retry-after").is_some(), status != 200);
    }
}
