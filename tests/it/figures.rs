//! What is counted, by whom and how often: calls at the edge, refreshes and reports at the owner.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use tokio::time::sleep;
use tonic::{Code, transport::Endpoint};
use wxtokend::{
    domain::{
        AppName, Generation, Mode, Policy,
        report::{Stale, StaleReport},
    },
    pb::WatchTokenRequest,
    sandbox::{Fault, Kind, Knobs, Outage, Settings},
    telemetry::{Facts, Metrics},
};

use crate::{
    grpc::{limited, patient_client},
    process::{get, stale},
    served::{Client, Running, eventually, serve},
    world::World,
};

/// The lines of these metrics that are not zero, without what all have in common.
pub(crate) fn counted(metrics: &Metrics, names: &[&str]) -> BTreeMap<String, u64> {
    let nothing = Facts {
        now: std::time::SystemTime::UNIX_EPOCH,
        live: true,
        ready: true,
        draining: false,
        apps: Vec::new(),
    };
    let page = metrics.page(nothing);
    let lines = page.lines().filter_map(|line| {
        let (series, value) = line.strip_prefix("wxtokend_")?.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        let value: u64 = value.parse().ok().filter(|value| *value > 0)?;
        names.contains(&name).then(|| (series.to_owned(), value))
    });
    lines.collect()
}

fn expected(lines: &[(&str, u64)]) -> BTreeMap<String, u64> {
    lines.iter().map(|(name, n)| ((*name).into(), *n)).collect()
}

/// Waits until exactly these calls are counted: a caller has its answer before the server knows.
async fn calls_become(server: &Running, lines: &[(&str, u64)]) {
    let lines = lines
        .iter()
        .map(|(labels, n)| (format!("requests_total{{{labels}}}"), *n));
    let wanted: BTreeMap<_, _> = lines.collect();
    let seen = || async { counted(&server.metrics, &["requests_total"]) == wanted };
    let what = format!("{wanted:#?}");
    eventually(seen, &what).await;
}

fn watch(app: &str) -> WatchTokenRequest {
    WatchTokenRequest {
        app_id: app.into(),
        known_generation: 0,
    }
}

async fn code(client: &mut Client, app: &str) -> Code {
    let answer = client.get_token(get(app)).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn a_call_is_counted_once_with_the_code_that_its_caller_got() {
    let server = serve().await;
    server.publish(1);
    let mut client = server.client().await;
    assert_eq!(code(&mut client, "shop").await, Code::Ok);
    assert_eq!(code(&mut client, "shop").await, Code::Ok);
    assert_eq!(code(&mut client, "nothing").await, Code::NotFound);
    assert_eq!(code(&mut client, "").await, Code::InvalidArgument);
    // There is no owner who would answer.
    let mut patient = patient_client(&server).await;
    let report = limited(stale("shop", "token-1"), "100m");
    let late = patient.force_refresh(report).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let long = "x".repeat(70_000);
    let unread = client.force_refresh(stale("shop", &long)).await;
    assert_eq!(unread.unwrap_err().code(), Code::InvalidArgument);
    calls_become(
        &server,
        &[
            ("method=\"GetToken\",code=\"OK\"", 2),
            ("method=\"GetToken\",code=\"NOT_FOUND\"", 1),
            ("method=\"GetToken\",code=\"INVALID_ARGUMENT\"", 1),
            ("method=\"ForceRefresh\",code=\"DEADLINE_EXCEEDED\"", 1),
            ("method=\"ForceRefresh\",code=\"INVALID_ARGUMENT\"", 1),
        ],
    )
    .await;
    let durations = counted(&server.metrics, &["request_duration_seconds_count"]);
    let calls = [
        ("request_duration_seconds_count{method=\"ForceRefresh\"}", 2),
        ("request_duration_seconds_count{method=\"GetToken\"}", 4),
    ];
    assert_eq!(durations, expected(&calls));
}

#[tokio::test]
async fn a_stream_is_counted_at_its_end_and_a_call_that_was_cut_as_cancelled() {
    let server = serve().await;
    server.publish(1);
    let mut client = server.client().await;
    let history = &server.history;
    let drained = history.watch(&mut client, watch("shop")).await;
    let mut drained = drained.unwrap();
    drained.message().await.unwrap();
    let mut left = history.watch(&mut client, watch("shop")).await.unwrap();
    left.message().await.unwrap();
    calls_become(&server, &[]).await;
    drop(left);
    let cancelled = ("method=\"WatchToken\",code=\"CANCELLED\"", 1);
    calls_become(&server, &[cancelled]).await;

    // One whose caller leaves before there is an answer, with its connection.
    let endpoint = Endpoint::from_shared(server.url.clone()).unwrap();
    let mut hasty = Client::new(endpoint.connect().await.unwrap());
    let waiting = tokio::time::timeout(Duration::from_millis(50), hasty.get_token(get("other")));
    assert!(waiting.await.is_err());
    drop(hasty);
    let cut = ("method=\"GetToken\",code=\"CANCELLED\"", 1);
    calls_become(&server, &[cancelled, cut]).await;

    server.stop.cancel();
    server.publisher.drain();
    while let Ok(Some(_)) = drained.message().await {}
    let said = ("method=\"WatchToken\",code=\"UNAVAILABLE\"", 1);
    calls_become(&server, &[cancelled, cut, said]).await;
}

#[tokio::test]
async fn open_connections_are_counted() {
    let server = serve().await;
    let open = || counted(&server.metrics, &["connections"]);
    let (one, other) = (server.socket().await, server.socket().await);
    let two = expected(&[("connections", 2)]);
    eventually(|| async { open() == two }, "two connections").await;
    drop((one, other));
    eventually(|| async { open().is_empty() }, "none").await;
}

/// A world with one app, and no look unless somebody reports.
async fn world(mode: Mode, probe_every: Duration) -> (World, AppName) {
    let policy = Policy {
        mode,
        probe_every,
        ..Policy::default()
    };
    let mut world = World::new(Settings::default(), &[("shop", policy)], 1);
    world.start().await;
    let app = world.apps[0].name.clone();
    world
        .tokens()
        .current(&app, Duration::from_secs(1))
        .await
        .unwrap();
    (world, app)
}

fn strike(world: &World, faults: Vec<Fault>) {
    let knobs = Knobs {
        clear_faults: true,
        faults,
        ..Knobs::default()
    };
    world.model().turn(world.at(), &knobs).unwrap();
}

const REFRESHES: &[&str] = &["refreshes_total", "refresh_duration_seconds_count"];

#[tokio::test(start_paused = true)]
async fn refreshes_are_counted_by_what_came_of_them() {
    fastrand::seed(1);
    let (world, _) = world(Mode::Stable, Duration::from_mins(1)).await;
    let rotated = (
        "refreshes_total{app=\"shop\",result=\"rotated\",errcode=\"0\"}",
        1,
    );
    let answers = |n| ("refresh_duration_seconds_count{app=\"shop\"}", n);
    let counts = || counted(&world.metrics, REFRESHES);
    assert_eq!(counts(), expected(&[rotated, answers(1)]));

    sleep(Duration::from_secs(61)).await;
    let unchanged = (
        "refreshes_total{app=\"shop\",result=\"unchanged\",errcode=\"0\"}",
        1,
    );
    assert_eq!(counts(), expected(&[rotated, unchanged, answers(2)]));

    // (a fault, the series that it counts in)
    let table = [
        (Fault::errcode(40164), "result=\"failed\",errcode=\"40164\""),
        (Fault::errcode(-1), "result=\"failed\",errcode=\"-1\""),
        (
            Fault::errcode(89_777),
            "result=\"failed\",errcode=\"other\"",
        ),
        (
            Fault::errcode(12_345),
            "result=\"failed\",errcode=\"other\"",
        ),
        (
            Fault::new(Kind::Lost),
            "result=\"unknown\",errcode=\"none\"",
        ),
    ];
    for (fault, labels) in table {
        let series = format!("refreshes_total{{app=\"shop\",{labels}}}");
        let count = || counts().get(&series).copied().unwrap_or_default();
        let before = count();
        strike(&world, vec![fault]);
        sleep(Duration::from_mins(11)).await;
        assert!(count() > before, "{series}: {:#?}", counts());
        strike(&world, Vec::new());
        sleep(Duration::from_mins(11)).await;
    }
    let all = counts();
    let attempts: u64 = all
        .iter()
        .filter(|(series, _)| series.starts_with("refreshes_total"))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(
        all["refresh_duration_seconds_count{app=\"shop\"}"],
        attempts
    );
    assert!(
        all.keys().all(|series| !series.contains("12345")),
        "{all:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn reports_are_counted_by_their_outcome() {
    fastrand::seed(1);
    let (world, app) = world(Mode::Classic, Duration::ZERO).await;
    let current = world.tokens().current(&app, Duration::ZERO).await.unwrap();
    let report = |generation, errcode| StaleReport {
        stale: Stale::Generation(generation),
        errcode,
        leaked: false,
    };
    let now = current.token.generation;
    let tokens = world.tokens();
    let forced = |outcome: &str| format!("forced_total{{app=\"shop\",outcome=\"{outcome}\"}}");
    let old = report(Generation(now.0 - 1), 40001);
    tokens.report(&app, old).await.unwrap();
    tokens.report(&app, report(now, 40001)).await.unwrap();
    tokens.report(&app, report(now, 45009)).await.unwrap_err();
    let expected: BTreeMap<_, _> = ["already_newer", "still_valid", "not_a_token_error"]
        .map(|outcome| (forced(outcome), 1))
        .into();
    assert_eq!(counted(&world.metrics, &["forced_total"]), expected);
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_fetch_is_counted() {
    fastrand::seed(1);
    let (world, _) = world(Mode::Classic, Duration::from_mins(1)).await;
    assert!(counted(&world.metrics, &["foreign_rotations_total"]).is_empty());
    let appid = world.apps[0].account.appid.clone();
    // The second fetch of a stranger ends our token.
    for _ in 0..2 {
        let (at, pool) = (world.at(), world.apps[0].pool());
        world.model().foreign_fetch(at, &appid, pool).unwrap();
    }
    sleep(Duration::from_mins(2)).await;
    let one = expected(&[("foreign_rotations_total{app=\"shop\"}", 1)]);
    assert_eq!(counted(&world.metrics, &["foreign_rotations_total"]), one);
}

#[tokio::test(start_paused = true)]
async fn readers_see_a_failing_store_an_open_outcome_and_what_is_left_of_the_budget() {
    fastrand::seed(1);
    let (world, app) = world(Mode::Classic, Duration::from_mins(1)).await;
    let view = || world.tokens().view(&app);
    let left = || view().allowance.left(world.now().wall);
    let whole = Policy::default().daily_replacements;
    assert!(view().unsaved.is_none() && !view().suspect && left() == whole);

    world.disk.broken.store(true, Ordering::Relaxed);
    let outage = |outage| Knobs {
        outage: Some(outage),
        ..Knobs::default()
    };
    // The next fetch is due after half of a life: its note cannot be written, its answer is lost.
    sleep(Duration::from_mins(59)).await;
    world
        .model()
        .turn(world.at(), &outage(Outage::Cut))
        .unwrap();
    sleep(Duration::from_mins(2)).await;
    let why = view().unsaved.expect("the disk is broken");
    assert!(why.starts_with("the disk cannot be written: "), "{why}");
    assert!(view().suspect);

    world.disk.broken.store(false, Ordering::Relaxed);
    world
        .model()
        .turn(world.at(), &outage(Outage::None))
        .unwrap();
    sleep(Duration::from_mins(2)).await;
    assert!(view().unsaved.is_none() && !view().suspect);
    assert_eq!(left(), whole - 1, "the recovery was a replacement");
}
