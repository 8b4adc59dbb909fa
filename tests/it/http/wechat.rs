//! The two calls of SDKs, and the bare token.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::TcpStream;
use wxtokend::{
    domain::{Generation, access::Right, report::Stale},
    tokens::{Outcome, View},
};

use super::{Reply, Site, consumer};
use crate::served::{app, within};

const LIFE: Duration = Duration::from_hours(2);

const TOKEN: &str = "/cgi-bin/token?grant_type=client_credential&appid=wx1";

/// The errcode of a reply that an SDK can read, 0 for a token.
fn errcode(reply: &Reply) -> i64 {
    assert_eq!(reply.status, 200, "{reply:?}");
    let kind = reply.header("content-type").unwrap();
    assert!(kind.starts_with("application/json"), "{reply:?}");
    let json = reply.json();
    if json["access_token"].is_string() {
        assert!(json["expires_in"].as_u64().unwrap() > 0, "{reply:?}");
        return 0;
    }
    assert!(
        json["errmsg"].as_str().unwrap().contains("rid: "),
        "{reply:?}"
    );
    json["errcode"].as_i64().unwrap()
}

#[tokio::test]
async fn both_calls_answer_both_methods_and_take_what_sdks_send() {
    let site = Site::open(Vec::new()).await;
    site.publish("shop", 7, LIFE);
    let json =
        r#"{"grant_type":"client_credential","appid":"wx1","secret":"x","force_refresh":false}"#;
    let query = "grant_type=client_credential&appid=wx1&secret=x&neededText=";
    for page in ["/cgi-bin/token", "/cgi-bin/stable_token"] {
        let asked = format!("{page}?{query}");
        for (method, target, body) in [
            ("GET", &*asked, ""),
            ("POST", &*asked, ""),
            ("POST", page, json),
            ("POST", page, query),
            ("GET", page, json),
        ] {
            let reply = site.ask(method, target, &[], body).await;
            assert_eq!(errcode(&reply), 0, "{method} {target} {body}");
            assert_eq!(reply.json()["access_token"], "token-7");
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
    }
}

#[tokio::test]
async fn whatever_is_wrong_has_status_200_and_a_number_of_wechats() {
    let rights = [Right::Read, Right::Refresh];
    let consumers = vec![consumer("orders", &rights, 0), consumer("blind", &[], 0)];
    let site = Site::open(consumers).await;
    site.publish("shop", 1, LIFE);
    let ask = "grant_type=client_credential&appid=wx1";
    let deep = "[".repeat(60_000);
    let long = " ".repeat(70_000);
    // (method, query, body, errcode)
    let table = [
        ("GET", &*format!("{ask}&secret=key-of-orders"), "", 0),
        ("GET", ask, "", 41004),
        ("GET", &format!("{ask}&secret="), "", 41004),
        ("GET", &format!("{ask}&secret=no"), "", 40125),
        (
            "GET",
            "grant_type=client_credential&appid=wx9&secret=key-of-orders",
            "",
            40013,
        ),
        (
            "GET",
            "grant_type=client_credential&appid=wx2&secret=key-of-orders",
            "",
            40013,
        ),
        (
            "GET",
            "grant_type=client_credential&secret=key-of-orders",
            "",
            41002,
        ),
        ("GET", "appid=wx1&secret=key-of-orders", "", 40002),
        (
            "GET",
            "grant_type=password&appid=wx1&secret=key-of-orders",
            "",
            40002,
        ),
        ("GET", &format!("{ask}&secret=key-of-blind"), "", 48001),
        ("POST", "", r#"{"appid":"#, 47001),
        ("POST", "", "[]", 47001),
        ("POST", "", &deep, 47001),
        ("POST", "", &long, 47001),
        ("POST", "", "\u{fffd}", 41004),
        ("PUT", &format!("{ask}&secret=key-of-orders"), "", 43001),
        ("DELETE", "", "", 43001),
    ];
    for (method, query, body, expected) in table {
        for page in ["/cgi-bin/token", "/cgi-bin/stable_token"] {
            let reply = site
                .ask(method, &format!("{page}?{query}"), &[], body)
                .await;
            assert_eq!(
                errcode(&reply),
                expected,
                "{method} {page}?{query} {body:.20}"
            );
        }
    }
}

#[tokio::test]
async fn a_key_may_be_in_the_headers() {
    let site = Site::open(vec![consumer("orders", &[Right::Read], 0)]).await;
    site.publish("shop", 1, LIFE);
    let bearer = ["authorization: Bearer key-of-orders"];
    let reply = site.ask("GET", TOKEN, &bearer, "").await;
    assert_eq!(errcode(&reply), 0);
}

#[tokio::test]
async fn without_a_token_sdks_are_told_to_come_back() {
    let site = Site::open(Vec::new()).await;
    let view = View {
        settled: true,
        ..View::default()
    };
    site.publisher.publish(&app("shop"), view);
    assert_eq!(errcode(&site.get(TOKEN).await), -1);
    site.publish("shop", 1, Duration::from_millis(900));
    assert_eq!(
        errcode(&site.get(TOKEN).await),
        -1,
        "no whole second is left"
    );
    site.publish("shop", 2, LIFE);
    assert_eq!(errcode(&site.get(TOKEN).await), 0);
}

#[tokio::test]
async fn a_token_is_lent_for_less_than_the_overlap_plus_what_the_sdk_subtracts() {
    let margins = [0, 60, 1500];
    let consumers = margins.map(|margin| consumer(&margin.to_string(), &[Right::Read], margin));
    let site = Site::open(consumers.into()).await;
    // (life, least and most lease): half of a life may be kept, 0.8 of the overlap are lent
    for (generation, (life, least, most)) in [(7200, 216, 240), (200, 89, 100), (5, 1, 2)]
        .into_iter()
        .enumerate()
    {
        site.publish("shop", generation as u64 + 1, Duration::from_secs(life));
        for margin in margins {
            let reply = site.get(&format!("{TOKEN}&secret=key-of-{margin}")).await;
            let expires_in = reply.json()["expires_in"].as_u64().unwrap();
            let lease = expires_in - margin;
            assert!((least..=most).contains(&lease), "{life}: {lease}");
        }
    }
}

#[tokio::test]
async fn who_asks_again_within_its_lease_is_taken_for_a_complaint() {
    let rights = [Right::Read, Right::Refresh];
    let mut site = Site::open(vec![consumer("orders", &rights, 0)]).await;
    site.publish("shop", 5, LIFE);
    let target = format!("{TOKEN}&secret=key-of-orders");
    assert_eq!(site.get(&target).await.json()["access_token"], "token-5");
    assert!(site.publisher.reports.is_empty(), "the first time is none");

    // Another process, perhaps.
    assert_eq!(site.get(&target).await.json()["access_token"], "token-5");
    assert!(site.publisher.reports.is_empty());

    // Whoever says so itself is believed, and waits for what becomes of it.
    let asks = |target: &str| {
        let (url, target) = (site.url.clone(), target.to_owned());
        tokio::spawn(async move { super::ask(&url, "GET", &target, &[], "").await })
    };
    let asking = asks(&format!("{target}&force_refresh=true"));
    let reported = within(site.publisher.reports.recv(), "a report")
        .await
        .unwrap();
    assert!(matches!(
        reported.report.stale,
        Stale::Generation(Generation(5))
    ));
    // So do all others who come back, and nobody reports a second time.
    let others = [asks(&target), asks(&target)];
    assert!(
        within(site.publisher.reports.recv(), "")
            .now_or_never()
            .is_none()
    );
    site.publish("shop", 6, LIFE);
    reported.reply.send(Ok(Outcome::Refreshed)).unwrap();
    for asking in others.into_iter().chain([asking]) {
        assert_eq!(asking.await.unwrap().json()["access_token"], "token-6");
    }

    // A loop makes no second look within 30 s.
    for _ in 0..50 {
        assert_eq!(site.get(&target).await.json()["access_token"], "token-6");
    }
    assert!(site.publisher.reports.is_empty());

    // Whoever insists is believed again a second later.
    let insisting = async {
        loop {
            let asking = asks(&format!("{target}&force_refresh=true"));
            tokio::select! {
                reported = site.publisher.reports.recv() => break reported.unwrap(),
                answered = asking => assert_eq!(errcode(&answered.unwrap()), 0),
            }
        }
    };
    let reported = within(insisting, "another look").await;
    assert!(matches!(
        reported.report.stale,
        Stale::Generation(Generation(6))
    ));
}

#[tokio::test]
async fn who_may_only_read_gets_the_token_and_complains_about_nothing() {
    let mut site = Site::open(vec![consumer("developers", &[Right::Read], 0)]).await;
    site.publish("shop", 5, LIFE);
    let target = format!("{TOKEN}&secret=key-of-developers&force_refresh=true");
    for _ in 0..3 {
        assert_eq!(site.get(&target).await.json()["access_token"], "token-5");
    }
    assert!(site.publisher.reports.try_recv().is_err());
}

#[tokio::test]
async fn the_bare_page_is_nothing_but_the_token() {
    let site = Site::of(&[("shop", "wx1")], Vec::new()).await;
    site.publish("shop", 3, LIFE);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let reply = site.ask(method, "/get_access_token", &[], "").await;
        assert_eq!((reply.status, &*reply.body), (200, "token-3"), "{method}");
        assert_eq!(
            reply.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    let reply = site.get("/get_access_token?appid=wx9").await;
    assert_eq!(
        (reply.status, &reply.json()["errcode"]),
        (404, &40013.into())
    );

    let consumers = vec![consumer("orders", &[Right::Read], 0)];
    let site = Site::open(consumers).await;
    site.publish("shop", 4, LIFE);
    let reply = site.get("/get_access_token").await;
    assert_eq!(
        (reply.status, &reply.json()["errcode"]),
        (401, &41004.into())
    );
    // It sees one of two apps.
    let reply = site.get("/get_access_token?secret=key-of-orders").await;
    assert_eq!(reply.body, "token-4");
    let bearer = ["Authorization: Bearer key-of-orders"];
    let reply = site.ask("POST", "/get_access_token", &bearer, "").await;
    assert_eq!(reply.body, "token-4");

    let site = Site::open(Vec::new()).await;
    site.publish("shop", 5, LIFE);
    let reply = site.get("/get_access_token").await;
    assert_eq!(
        (reply.status, &reply.json()["errcode"]),
        (400, &41002.into())
    );
    assert_eq!(
        site.get("/get_access_token?appid=shop").await.body,
        "token-5"
    );
}

#[tokio::test]
async fn other_pages_are_none() {
    let site = Site::open(Vec::new()).await;
    for target in [
        "/",
        "/cgi-bin",
        "/cgi-bin/token/",
        "/v1/apps/shop",
        "/metrics",
    ] {
        let reply = site.get(target).await;
        assert_eq!(
            (reply.status, &reply.json()["errcode"]),
            (404, &40066.into())
        );
    }
}

#[tokio::test]
async fn a_stop_lets_answers_finish_and_closes_idle_connections() {
    let mut site = Site::open(Vec::new()).await;
    site.publish("shop", 1, LIFE);
    site.get(TOKEN).await;
    let address = site.url.strip_prefix("http://").unwrap().to_owned();
    let idle = TcpStream::connect(&address).await.unwrap();
    let url = site.url.clone();
    let forced = format!("{TOKEN}&force_refresh=true");
    let asking = tokio::spawn(async move { super::ask(&url, "GET", &forced, &[], "").await });
    let reported = within(site.publisher.reports.recv(), "it waits for a look")
        .await
        .unwrap();
    site.stop.cancel();
    within(idle.readable(), "an idle connection is closed")
        .await
        .unwrap();
    assert_eq!(idle.try_read(&mut [0; 8]).unwrap(), 0);
    reported.reply.send(Ok(Outcome::StillValid)).unwrap();
    assert_eq!(errcode(&within(asking, "an answer").await.unwrap()), 0);
    within(site.serving, "the server ends").await.unwrap();
    assert!(
        TcpStream::connect(&address).await.is_err(),
        "nobody listens"
    );
}
