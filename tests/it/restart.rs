//! The whole program's ends and beginnings: signals, restarts, `kill -9`, two servers on one folder.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request};
use wxtokend::{
    pb::{self, Cause},
    sandbox::{Fault, Kind, Knobs, Settings},
};

use crate::{
    process::{Home, PATIENCE, Server, WeChat, get, row, time, token, token_that, watch_request},
    seen::Seen,
};

const BOTH: [&str; 2] = ["classic", "stable"];

fn lives(life: u64, overlap: u64) -> Settings {
    Settings {
        life: Duration::from_secs(life),
        overlap: Duration::from_secs(overlap),
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_living_token_fetches_nothing() {
    let wechat = WeChat::start(&BOTH, lives(3600, 300)).await;
    let home = Home::new(&wechat.url(), "", &BOTH);
    let mut first: Option<BTreeMap<&str, pb::Token>> = None;
    for ending in ["TERM", "KILL", "INT", "KILL"] {
        let server = home.serve().await;
        let mut client = server.client().await;
        let mut tokens = BTreeMap::new();
        for name in BOTH {
            let token = token_that(&mut client, name, "is there", |_| true).await;
            tokens.insert(name, token);
        }
        let first = first.get_or_insert_with(|| tokens.clone());
        for name in BOTH {
            assert_eq!(tokens[name].access_token, first[name].access_token);
            assert_eq!(tokens[name].generation, first[name].generation);
            // Files have milliseconds.
            let (then, now) = (
                time(first[name].expire_time),
                time(tokens[name].expire_time),
            );
            assert!(
                then.abs_diff(now) < Duration::from_millis(2),
                "{then:?} {now:?}"
            );
        }
        // Asked, published, and after that saved.
        for name in BOTH {
            home.saved(name).await;
        }
        server.process.signal(ending).await;
        server.process.end().await;
    }
    for name in BOTH {
        assert_eq!(wechat.counts(name).fetches(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_comes_back_with_a_living_token_and_no_lower_generation() {
    let seed = fastrand::u64(..);
    let mut dice = fastrand::Rng::with_seed(seed);
    let wechat = WeChat::start(&BOTH, lives(6, 2)).await;
    wechat.turn(&Knobs {
        latency: Some(Duration::from_millis(20)),
        faults: vec![Fault::new(Kind::Lost).with_probability(0.2)],
        ..Knobs::default()
    });
    let refresh = "overlap = '2s'\nfloor = '100ms'\nceiling = '1s'";
    let home = Home::new(&wechat.url(), refresh, &BOTH);
    let mut highest = Seen::default();
    for round in 0..12 {
        let place = format!("round {round} of seed {seed}");
        let began = Instant::now();
        let mut server = home.serve().await;
        let mut client = server.client().await;
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "it took too long to serve, {place}"
        );
        for name in BOTH {
            let lives = |token: &pb::Token| wechat.accepts(name, &token.access_token);
            let token = token_that(&mut client, name, "lives", lives).await;
            highest.sees(name, &token, &place);
        }
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(8),
            "a living token after {took:?}, {place}"
        );
        // Then it is killed, wherever it is: between note and answer, answer and save …
        let life = Instant::now() + Duration::from_millis(dice.u64(0..1500));
        while Instant::now() < life {
            for name in BOTH {
                if let Ok(token) = token(&mut client, name).await {
                    highest.sees(name, &token, &place);
                }
            }
            sleep(Duration::from_millis(2)).await;
        }
        server.process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_wechat_answers_the_token_that_was_saved_is_served_at_once() {
    let wechat = WeChat::start(&["classic"], lives(6, 2)).await;
    let home = Home::new(
        &wechat.url(),
        "overlap = '2s'\nfloor = '100ms'",
        &["classic"],
    );
    let mut server = home.serve().await;
    let mut client = server.client().await;
    let first = token_that(&mut client, "classic", "is there", |_| true).await;
    home.saved("classic").await;
    // The second fetch is carried out and hangs.
    wechat.turn(&Knobs {
        faults: vec![
            Fault::new(Kind::Hang)
                .on(wxtokend::sandbox::Endpoint::Classic)
                .times(1),
        ],
        ..Knobs::default()
    });
    let asked = async {
        while wechat.counts("classic").classic_fetches < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("it refreshes");
    server.process.kill().await;

    let server = home.serve().await;
    let mut client = server.client().await;
    let again = token(&mut client, "classic").await.unwrap();
    assert_eq!(
        again.access_token, first.access_token,
        "the old one lives for the overlap"
    );
    assert!(
        again.generation > first.generation,
        "the number of the lost one may have been seen"
    );
    let keep_for = again.keep_for.unwrap().seconds;
    assert!(keep_for < 2, "it is suspect: {keep_for} s");
    let newer = |token: &pb::Token| token.access_token != first.access_token;
    let began = Instant::now();
    let next = token_that(&mut client, "classic", "is new", newer).await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert!(next.generation > again.generation);
    assert!(wechat.accepts("classic", &next.access_token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_folder_refuses_and_names_the_first() {
    let wechat = WeChat::start(&["stable"], lives(3600, 300)).await;
    let home = Home::new(&wechat.url(), "", &["stable"]);
    let server = home.serve().await;
    let second = home.spawn().end().await;
    assert_eq!(second.code(), 1, "{second:?}");
    assert!(second.stderr.starts_with("error: "), "{}", second.stderr);
    let pid = format!("process {} ", server.process.pid());
    assert!(second.stderr.contains(&pid), "{}", second.stderr);
    assert_eq!(second.stdout, "", "it announced a listener");
    let mut client = server.client().await;
    token_that(&mut client, "stable", "is there", |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_every_watcher_and_exits_with_0() {
    let wechat = WeChat::start(&BOTH, lives(3600, 300)).await;
    let server = Home::new(&wechat.url(), "", &BOTH);
    let server = server.serve().await;
    let mut streams = Vec::new();
    for turn in 0..50 {
        let mut client = server.client().await;
        let request = watch_request(BOTH[turn % 2]);
        let mut stream = server.history.watch(&mut client, request).await.unwrap();
        let first = timeout(PATIENCE, stream.message()).await.unwrap();
        assert_eq!(first.unwrap().unwrap().cause(), Cause::Current);
        streams.push(stream);
    }
    let mut idle = server.client().await;
    let began = Instant::now();
    server.process.signal("TERM").await;
    for mut stream in streams {
        let last = timeout(PATIENCE, stream.message()).await.unwrap();
        let last = last.unwrap().unwrap();
        assert_eq!(last.cause(), Cause::Draining);
        assert!(last.token.is_some(), "the whole truth");
        let status = timeout(PATIENCE, stream.message())
            .await
            .unwrap()
            .unwrap_err();
        let (code, reason, _) = row(&status);
        assert_eq!((code, &*reason), (Code::Unavailable, "DRAINING"));
    }
    let ended = server.process.end().await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert!(idle.get_token(get("stable")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_a_fetch_that_was_sent_and_saves_its_token() {
    let wechat = WeChat::start(&["classic"], lives(3600, 300)).await;
    wechat.turn(&Knobs {
        latency: Some(Duration::from_millis(1500)),
        ..Knobs::default()
    });
    let home = Home::new(&wechat.url(), "", &["classic"]);
    let server = home.serve().await;
    let asked = async {
        while wechat.counts("classic").classic_fetches < 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, asked)
        .await
        .expect("it asks at the start");
    server.process.signal("TERM").await;
    let ended = server.process.end().await;
    assert_eq!(ended.code(), 0, "{ended:?}");

    let server = home.serve().await;
    let mut client = server.client().await;
    let token = token(&mut client, "classic").await.unwrap();
    assert!(wechat.accepts("classic", &token.access_token));
    assert_eq!(wechat.counts("classic").classic_fetches, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_tries_at_once_and_reads_the_keys_again() {
    let wechat = WeChat::start(&["stable"], lives(3600, 300)).await;
    let only = |addresses: &[&str]| Knobs {
        ip_list: Some(addresses.iter().map(ToString::to_string).collect()),
        ..Knobs::default()
    };
    wechat.turn(&only(&["10.9.8.7"]));
    let home = Home::new(&wechat.url(), "", &["stable"]);
    let key = home.path("orders").display().to_string();
    let home = home.and(&format!(
        "[[consumer]]\nname = 'orders'\nkey_file = '{key}'\napps = ['stable']\n"
    ));
    home.write("orders", "the-old-key-of-orders");
    let server = home.serve().await;
    let refused = ask(&server, "the-old-key-of-orders").await.unwrap_err();
    assert_eq!(row(&refused).2.as_deref(), Some("40164"), "{refused:?}");

    // The next attempt would be in half a minute or later.
    wechat.turn(&only(&[]));
    home.write("orders", "the-new-key-of-orders");
    server.process.signal("HUP").await;
    let began = Instant::now();
    while ask(&server, "the-new-key-of-orders").await.is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{}",
            server.process.stderr()
        );
        sleep(Duration::from_millis(20)).await;
    }
    let status = ask(&server, "the-old-key-of-orders").await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    // A key that is gone changes nothing.
    std::fs::remove_file(home.path("orders")).unwrap();
    server.process.signal("HUP").await;
    server
        .process
        .until_stderr("the old keys stay in force")
        .await;
    ask(&server, "the-new-key-of-orders").await.unwrap();
}

async fn ask(server: &Server, key: &str) -> Result<pb::GetTokenResponse, tonic::Status> {
    let mut request = Request::new(get("stable"));
    let value = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let answer = server.client().await.get_token(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_becomes_read_only_costs_nobody_a_token() {
    let wechat = WeChat::start(&BOTH, lives(4, 1)).await;
    let home = Home::new(&wechat.url(), "overlap = '1s'\nfloor = '100ms'", &BOTH);
    let server = home.serve().await;
    let mut client = server.client().await;
    let mut last = BTreeMap::new();
    for name in BOTH {
        let token = token_that(&mut client, name, "is there", |_| true).await;
        last.insert(name, token.generation);
        home.saved(name).await;
    }
    // Permissions do not stop root, a missing folder does.
    std::fs::rename(home.path("data"), home.path("away")).unwrap();
    for name in BOTH {
        let newer = |token: &pb::Token| token.generation > last[name];
        let token = token_that(&mut client, name, "is newer", newer).await;
        assert!(wechat.accepts(name, &token.access_token), "{name}");
    }
    server
        .process
        .until_stderr("the token cannot be saved")
        .await;
    std::fs::rename(home.path("away"), home.path("data")).unwrap();
    server.process.until_stderr("the store works again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_server_left_behind_is_taken_over_and_a_living_one_is_not() {
    let wechat = WeChat::start(&["stable"], lives(3600, 300)).await;
    let home = Home::new(&wechat.url(), "", &["stable"]).on_unix();
    let mut server = home.serve().await;
    server.process.kill().await;
    assert!(home.path("grpc.sock").exists(), "it was left behind");
    let server = home.serve().await;
    let mut client = server.client().await;
    token_that(&mut client, "stable", "is there", |_| true).await;

    let socket = home.path("grpc.sock").display().to_string();
    let other = Home::new(&wechat.url(), "", &["stable"]).replace(
        "listen = '127.0.0.1:0'",
        &format!("listen = 'unix://{socket}'"),
    );
    let second = other.spawn().end().await;
    assert_eq!(second.code(), 1, "{second:?}");
    assert!(second.stderr.contains(&socket), "{}", second.stderr);
    token(&mut client, "stable").await.unwrap();
    server.process.signal("TERM").await;
    assert_eq!(server.process.end().await.code(), 0);
    assert!(!home.path("grpc.sock").exists(), "it cleans up");
}
