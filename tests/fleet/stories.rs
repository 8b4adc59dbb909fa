//! What happens to three replicas, told one fault at a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use wxtokend::{
    pb::{self, Outcome},
    sandbox::{Pool, Settings},
};

use crate::{
    engines::{Etcd, Redis},
    process::{PATIENCE, Process, Server, stale, token, token_that, until, watch_request},
    replicas::{Fleet, LEASE, Replica},
};

/// From a publication to the last replica.
const DELIVERY: Duration = Duration::from_secs(1);

pub(crate) fn lives_of(secs: u64) -> Settings {
    Settings {
        life: Duration::from_secs(secs),
        overlap: Duration::from_secs(3),
        ..Settings::default()
    }
}

pub(crate) const REFRESH: &str = "overlap = '3s'\nfloor = '100ms'\nprobe_every = '1s'";

pub(crate) async fn three(etcd: &Etcd, life: u64, apps: &[&str]) -> Fleet {
    let mut fleet = Fleet::on_etcd(etcd, 3, lives_of(life), apps, REFRESH).await;
    fleet.start().await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_fetch_one_token_and_each_rotation_is_everywhere_within_a_second() {
    let etcd = Etcd::start(3).await;
    let fleet = three(&etcd, 10, &["classic", "stable"]).await;
    for app in ["classic", "stable"] {
        let tokens = fleet.everybody_has(app, "is there").await;
        let one = |t: &pb::Token| (t.generation, t.access_token.clone());
        assert!(tokens.iter().all(|t| one(t) == one(&tokens[0])), "{app}");
        assert_eq!(fleet.wechat.counts(app).mints(), 1, "{app}");
    }
    let mut streams = Vec::new();
    for replica in &fleet.replicas {
        let mut client = replica.client().await;
        let history = &replica.server().history;
        let stream = history.watch(&mut client, watch_request("classic"));
        streams.push(stream.await.unwrap());
    }
    for stream in &mut streams {
        stream.message().await.unwrap().unwrap();
    }
    for rotation in 1..3 {
        let first = streams[0].message().await.unwrap().unwrap();
        let (began, first) = (Instant::now(), first.token.unwrap());
        for stream in &mut streams[1..] {
            let message = stream.message().await.unwrap().unwrap();
            assert_eq!(message.token.unwrap().generation, first.generation);
        }
        assert!(began.elapsed() < DELIVERY, "{:?}", began.elapsed());
        assert_eq!(fleet.wechat.counts("classic").mints(), 1 + rotation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_refreshes_within_a_lease_of_the_death_of_the_one_that_did() {
    let etcd = Etcd::start(3).await;
    let mut fleet = three(&etcd, 60, &["classic"]).await;
    let before = fleet.everybody_has("classic", "is there").await;
    let holder = fleet.holder(&etcd, "classic").await.unwrap();
    fleet.replicas[holder].kill().await;
    let began = Instant::now();
    let others = (0..3).filter(|n| *n != holder);
    loop {
        let now = fleet.holder(&etcd, "classic").await;
        if now.is_some_and(|now| now != holder) {
            break;
        }
        assert!(began.elapsed() < LEASE * 2, "nobody took over");
        sleep(Duration::from_millis(50)).await;
    }
    println!("taken over after {:?}", began.elapsed());
    for n in others {
        let mut client = fleet.replicas[n].client().await;
        let token = token(&mut client, "classic").await.unwrap();
        assert_eq!(token.generation, before[n].generation, "no token is burnt");
    }
    assert_eq!(fleet.wechat.counts("classic").mints(), 1);
    fleet.replicas[holder].start().await;
    fleet.everybody_has("classic", "is there").await;
    assert_eq!(fleet.wechat.counts("classic").mints(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_gives_up_its_claims_at_once() {
    let etcd = Etcd::start(1).await;
    let mut fleet = three(&etcd, 60, &["classic", "stable"]).await;
    fleet.everybody_has("classic", "is there").await;
    let holder = fleet.holder(&etcd, "classic").await.unwrap();
    let server = fleet.replicas[holder].server.take().unwrap();
    server.process.signal("TERM").await;
    let began = Instant::now();
    while fleet.holder(&etcd, "classic").await.is_none() {
        assert!(began.elapsed() < LEASE / 2, "nobody took over");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.process.end().await.code(), 0);
    assert_eq!(fleet.wechat.counts("classic").mints(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_reach_wechat_leaves_its_apps_to_one_that_can() {
    let etcd = Etcd::start(1).await;
    let apps = ["classic", "stable"];
    let fleet = three(&etcd, 16, &apps).await;
    for app in apps {
        fleet.everybody_has(app, "is there").await;
    }
    for round in 0..2 {
        let holder = fleet.holder(&etcd, "classic").await.unwrap();
        let away = &fleet.replicas[holder];
        away.to_wechat.cut();
        for app in apps {
            let before = fleet.wechat.counts(app).mints();
            let renewed = || fleet.wechat.counts(app).mints() > before;
            until("another replica refreshes", renewed).await;
        }
        let now = fleet.holder(&etcd, "classic").await;
        assert_ne!(now, Some(holder), "in round {round}");
        // What the others obtain arrives where WeChat cannot be reached.
        for app in apps {
            let mut client = away.client().await;
            let lives = |token: &pb::Token| fleet.wechat.accepts(app, &token.access_token);
            token_that(&mut client, app, "lives", lives).await;
        }
        away.mend();
    }
}

/// Replicas still reach it, and it does not know at once that it leads nobody any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_of_etcd_that_is_cut_off_from_the_other_members_costs_nothing() {
    let etcd = Etcd::start(3).await;
    let fleet = three(&etcd, 12, &["classic"]).await;
    let before = fleet.everybody_has("classic", "is there").await;
    let holder = fleet.holder(&etcd, "classic").await;
    let leader = etcd.leader().await.unwrap();
    etcd.network.cut_off(leader);
    let another = async || etcd.leader().await.is_some_and(|now| now != leader);
    let began = Instant::now();
    while !another().await {
        assert!(began.elapsed() < LEASE, "no other member leads");
    }
    for (replica, before) in fleet.replicas.iter().zip(before) {
        let newer = |token: &pb::Token| token.generation > before.generation;
        let mut client = replica.client().await;
        token_that(&mut client, "classic", "is newer", newer).await;
    }
    assert_eq!(fleet.wechat.counts("classic").mints(), 2, "as planned");
    etcd.network.mend(leader);
    let now = loop {
        // The one that was cut off has to find the others first.
        if let Some(now) = fleet.holder(&etcd, "classic").await {
            break now;
        }
        assert!(began.elapsed() < PATIENCE, "nobody refreshes");
    };
    assert_eq!(Some(now), holder, "the claim stayed where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_token_that_is_reported_at_all_replicas_at_once_is_replaced_once() {
    let etcd = Etcd::start(3).await;
    // Without looks that nobody asked for: what such a one saw is believed for a while.
    let refresh = REFRESH.replace("'1s'", "'1m'");
    let mut fleet = Fleet::on_etcd(&etcd, 3, lives_of(60), &["classic"], &refresh).await;
    fleet.start().await;
    let tokens = fleet.everybody_has("classic", "is there").await;
    // A younger one is not judged.
    sleep(Duration::from_secs(3)).await;
    fleet.wechat.revoke("classic", Pool::Classic);
    let mut reports = Vec::new();
    for _ in 0..10 {
        for replica in &fleet.replicas {
            let (mut client, request) = (
                replica.client().await,
                stale("classic", &tokens[0].access_token),
            );
            reports.push(tokio::spawn(async move {
                client.force_refresh(request).await.unwrap().into_inner()
            }));
        }
    }
    for report in reports {
        let answer = report.await.unwrap();
        assert_eq!(answer.outcome(), Outcome::Refreshed);
        let token = answer.token.unwrap();
        assert!(fleet.wechat.accepts("classic", &token.access_token));
        assert!(token.generation > tokens[0].generation);
    }
    assert_eq!(fleet.wechat.counts("classic").mints(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_token_that_is_reported_anywhere_is_looked_at_and_stays() {
    let etcd = Etcd::start(1).await;
    let fleet = three(&etcd, 60, &["stable"]).await;
    let tokens = fleet.everybody_has("stable", "is there").await;
    sleep(Duration::from_secs(3)).await;
    for replica in &fleet.replicas {
        let mut client = replica.client().await;
        let request = stale("stable", &tokens[0].access_token);
        let answer = client.force_refresh(request).await.unwrap().into_inner();
        assert_eq!(answer.outcome(), Outcome::StillValid);
        assert_eq!(answer.token.unwrap().generation, tokens[0].generation);
    }
    assert_eq!(fleet.wechat.counts("stable").mints(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_app_is_told_alike_by_every_replica() {
    let etcd = Etcd::start(1).await;
    let mut fleet = Fleet::on_etcd(&etcd, 3, lives_of(60), &["stable"], REFRESH).await;
    for replica in &fleet.replicas {
        replica.home.write("stable", "another-secret");
    }
    fleet.start().await;
    for replica in &fleet.replicas {
        let mut client = replica.client().await;
        let status = token(&mut client, "stable").await.unwrap_err();
        let (code, reason, errcode) = crate::process::row(&status);
        assert_eq!(code, tonic::Code::FailedPrecondition, "{status:?}");
        assert_eq!(reason, "NEEDS_OPERATOR");
        assert!(errcode.is_some(), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_down_all_go_on_and_a_start_uses_the_local_copy() {
    let etcd = Etcd::start(1).await;
    let mut fleet = three(&etcd, 60, &["classic", "stable"]).await;
    let classic = fleet.everybody_has("classic", "is there").await;
    let stable = fleet.everybody_has("stable", "is there").await;
    for replica in &mut fleet.replicas {
        replica.cut_from_the_store();
    }
    fleet.replicas[2].kill().await;
    fleet.replicas[2].start().await;
    sleep(LEASE + Duration::from_secs(1)).await;
    for (n, replica) in fleet.replicas.iter().enumerate() {
        let mut client = replica.client().await;
        let token = token(&mut client, "classic").await.unwrap();
        assert_eq!(token.generation, classic[n].generation, "replica {n}");
        let token = crate::process::token(&mut client, "stable").await.unwrap();
        assert_eq!(token.access_token, stable[n].access_token, "replica {n}");
    }
    assert_eq!(fleet.wechat.counts("classic").mints(), 1);
    assert_eq!(fleet.wechat.counts("stable").mints(), 1);
    fleet.replicas.iter().for_each(Replica::mend);
    // Their claims had ended.
    let began = Instant::now();
    for app in ["classic", "stable"] {
        while !fleet.claimed(&etcd, app).await {
            assert!(began.elapsed() < PATIENCE, "nobody refreshes {app} again");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_up_between_note_and_request_for_longer_than_a_lease_it_does_no_harm() {
    let etcd = Etcd::start(1).await;
    let mut fleet = Fleet::on_etcd(&etcd, 2, lives_of(40), &["classic"], REFRESH).await;
    // The second fetch, the first planned one, is held up just before the request.
    let hold = [("FAILPOINTS", "asking=1*off->1*sleep(1000)->off")];
    let first = &mut fleet.replicas[0];
    first.server = Some(Server::of(first.home.spawn_with(&hold)).await);
    token_that(&mut first.client().await, "classic", "is there", |_| true).await;
    fleet.replicas[1].start().await;
    let before = fleet.everybody_has("classic", "is there").await;
    let mut client = etcd.client().await;
    loop {
        let got = client.get("/wxtokend/wx-classic/record", None).await;
        if got.unwrap().kvs()[0]
            .value_str()
            .unwrap()
            .contains("\"reserved\"")
        {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    fleet.replicas[0].server().process.signal("STOP").await;
    // A pause is a fact, not a wait for one: the other one takes over and recovers meanwhile.
    let mut other = fleet.replicas[1].client().await;
    let next = token_that(&mut other, "classic", "is newer", |token| {
        token.access_token != before[1].access_token
    })
    .await;
    fleet.replicas[0].server().process.signal("CONT").await;
    // What the first one asks for now retires the other's token, which must be noticed before that dies.
    let mut own = fleet.replicas[0].client().await;
    let (began, mut dead_since) = (Instant::now(), None);
    while began.elapsed() < Duration::from_secs(8) {
        let mut dead = false;
        for client in [&mut own, &mut other] {
            // One that stood still may have none for a moment.
            if let Ok(token) = token(client, "classic").await {
                dead |= !fleet.wechat.accepts("classic", &token.access_token);
            }
        }
        // The token before the last dies in the moment in which its successor is made.
        dead_since = dead_since.or(Some(Instant::now())).filter(|_| dead);
        let moment = dead_since.is_none_or(|since| since.elapsed() < DELIVERY);
        let said = || fleet.replicas.iter().map(|r| r.server().process.stderr());
        assert!(
            moment,
            "a dead token: {}",
            said().collect::<Vec<_>>().join("---\n")
        );
        sleep(Duration::from_millis(20)).await;
    }
    for token in fleet.everybody_has("classic", "is there").await {
        assert!(token.generation >= next.generation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_whose_clocks_are_ten_minutes_off_serve_right_lives() {
    let etcd = Etcd::start(1).await;
    let mut fleet = Fleet::on_etcd(&etcd, 3, lives_of(3600), &["classic"], REFRESH).await;
    set_clocks_apart(&mut fleet);
    // Each of them refreshes once, and each of the others follows it.
    for holder in 0..3 {
        fleet.replicas[holder].start().await;
        token_that(
            &mut fleet.replicas[holder].client().await,
            "classic",
            "is there",
            |_| true,
        )
        .await;
        let others: Vec<usize> = (0..3).filter(|n| *n != holder).collect();
        for n in &others {
            fleet.replicas[*n].start().await;
        }
        for token in fleet.everybody_has("classic", "is there").await {
            let left = token.time_to_live.unwrap().seconds;
            assert!(
                (3500..=3600).contains(&left),
                "{left} s, refreshed by {holder}"
            );
            assert!(fleet.wechat.accepts("classic", &token.access_token));
        }
        for replica in &mut fleet.replicas {
            replica.kill().await;
        }
        // The claim of the dead has to end before somebody else can refresh.
        while fleet.claimed(&etcd, "classic").await {
            sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(
        fleet.wechat.counts("classic").mints(),
        1,
        "none was fetched needlessly"
    );
}

/// A new leader counts the leases that tell ages from the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn after_an_election_of_etcd_a_replica_that_starts_with_another_clock_serves_right_lives() {
    let etcd = Etcd::start(3).await;
    let mut fleet = Fleet::on_etcd(&etcd, 3, lives_of(3600), &["classic"], REFRESH).await;
    set_clocks_apart(&mut fleet);
    fleet.replicas[0].start().await;
    let mut client = fleet.replicas[0].client().await;
    token_that(&mut client, "classic", "is there", |_| true).await;
    let began = Instant::now();
    // The note, the token, and the token again.
    for saves in [2, 3] {
        while fleet.saves(&etcd, "classic").await < Some(saves) {
            assert!(began.elapsed() < PATIENCE, "fewer than {saves} saves");
            sleep(Duration::from_millis(50)).await;
        }
        if saves == 2 {
            etcd.network.cut_off(etcd.leader().await.unwrap());
        }
    }
    for n in 1..3 {
        fleet.replicas[n].start().await;
    }
    for token in fleet.everybody_has("classic", "is there").await {
        let left = token.time_to_live.unwrap().seconds;
        assert!((3500..=3600).contains(&left), "{left} s");
    }
    assert_eq!(fleet.wechat.counts("classic").mints(), 1);
}

/// Those of the second and the third are ten minutes off.
fn set_clocks_apart(fleet: &mut Fleet) {
    let library = glob_libfaketime().pop().expect("libfaketime is installed");
    for (replica, offset) in fleet.replicas.iter_mut().zip(["+0", "+600", "-600"]) {
        let home = std::mem::replace(
            &mut replica.home,
            crate::process::Home::new("http://x", "", &[]),
        );
        replica.home = home
            .variable("LD_PRELOAD", &library)
            .variable("FAKETIME", offset)
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

fn glob_libfaketime() -> Vec<String> {
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    let library = |entry: std::fs::DirEntry| entry.path().join("faketime/libfaketime.so.1");
    let libraries = folders.filter_map(Result::ok).map(library);
    let there = libraries.filter(|path| path.exists());
    there.map(|path| path.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_move_from_files_to_etcd_and_on_to_redis_without_a_fetch() {
    let (etcd, redis) = (Etcd::start(1).await, Redis::start().await);
    let apps = ["classic", "stable"];
    let on_etcd = Fleet::on_etcd(&etcd, 1, lives_of(3600), &apps, REFRESH).await;
    let mut on_redis = Fleet::on_redis(&redis, 1, lives_of(3600), &apps, REFRESH).await;
    let wechat = on_etcd.wechat.clone();
    let files = crate::process::Home::new(&wechat.url(), REFRESH, &apps);
    let server = files.serve().await;
    let first = token_that(&mut server.client().await, "classic", "is there", |_| true).await;
    let second = token_that(&mut server.client().await, "stable", "is there", |_| true).await;
    for app in apps {
        files.saved(app).await;
    }

    let copy = async |from: &str, to: &str| {
        Process::run(&["store", "copy", "--from", from, "--to", to]).await
    };
    let (a, b, c) = (
        files.config(),
        on_etcd.replicas[0].home.config(),
        on_redis.replicas[0].home.config(),
    );
    let refused = copy(&a, &b).await;
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("is in use by"), "{refused:?}");
    server.process.signal("TERM").await;
    server.process.end().await;

    let copied = copy(&a, &b).await;
    assert_eq!(copied.code(), 0, "{copied:?}");
    assert_eq!(copied.stdout.matches("\tcopied\t").count(), 2, "{copied:?}");
    let again = copy(&a, &b).await;
    assert_eq!(
        again.stdout.matches("\tthere already\t").count(),
        2,
        "{again:?}"
    );
    let onwards = copy(&b, &c).await;
    assert_eq!(
        onwards.stdout.matches("\tcopied\t").count(),
        2,
        "{onwards:?}"
    );
    for told in [&refused, &copied, &onwards] {
        assert!(
            !told.stdout.contains(&first.access_token)
                && !told.stderr.contains(&first.access_token)
        );
    }

    goes_on_with(
        &mut on_redis,
        &wechat,
        [("classic", &first), ("stable", &second)],
    )
    .await;
    // While a server uses it, nothing is taken away from under it.
    let busy = copy(&c, &b).await;
    assert!(
        busy.code() == 1 && busy.stderr.contains("is in use by replica"),
        "{busy:?}"
    );
}

/// A replica that is started with these tokens in its store fetches none.
async fn goes_on_with(
    on_redis: &mut Fleet,
    wechat: &crate::process::WeChat,
    tokens: [(&str, &pb::Token); 2],
) {
    // It talks to the WeChat of the others: the one that it was set up with knows of no token.
    let wrong = on_redis.replicas[0].to_wechat.url();
    let home = std::mem::replace(
        &mut on_redis.replicas[0].home,
        crate::process::Home::new("http://x", "", &[]),
    );
    on_redis.replicas[0].home = home.replace(&wrong, &wechat.url());
    on_redis.start().await;
    let mut client = on_redis.replicas[0].client().await;
    for (app, before) in tokens {
        let token = token_that(&mut client, app, "is there", |_| true).await;
        assert_eq!(token.access_token, before.access_token, "{app}");
        assert_eq!(token.generation, before.generation, "{app}");
        assert_eq!(wechat.counts(app).mints(), 1, "{app}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_missed_what_etcd_has_forgotten_catches_up() {
    let etcd = Etcd::start(1).await;
    let mut fleet = Fleet::on_etcd(&etcd, 2, lives_of(8), &["classic"], REFRESH).await;
    fleet.start().await;
    let before = fleet.everybody_has("classic", "is there").await;
    let holder = fleet.holder(&etcd, "classic").await.unwrap();
    let other = 1 - holder;
    fleet.replicas[other].cut_from_the_store();
    let mut client = fleet.replicas[holder].client().await;
    let newer = token_that(&mut client, "classic", "is newer", |token| {
        token.generation > before[holder].generation
    })
    .await;
    // The watch of the one that is cut off would have to begin before what is left.
    let mut direct = etcd.client().await;
    let now = direct.get("/wxtokend/", None).await.unwrap();
    let revision = now.header().unwrap().revision();
    direct.compact(revision, None).await.unwrap();
    fleet.replicas[other].mend();
    let mut client = fleet.replicas[other].client().await;
    token_that(&mut client, "classic", "is as new", |token| {
        token.generation >= newer.generation
    })
    .await;
    // And it hears of what comes then.
    token_that(&mut client, "classic", "comes after that", |token| {
        token.generation > newer.generation
    })
    .await;
}
