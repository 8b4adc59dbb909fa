//! Descriptors run out.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::{net::TcpStream, time::sleep};

use super::{City, admin_of, vitals::Vitals};
use crate::{
    peer::{DATA, Peer, watch},
    process::http,
    served::{eventually, within},
};

/// How long a server without descriptors is looked at.
const WHILE: Duration = Duration::from_secs(2);

/// Who tries to accept again and again uses all of it. Two neighbours cost far less, even in an
/// unoptimized program.
const LITTLE: Duration = Duration::from_millis(500);

/// How often `words` stand on stderr.
fn times(city: &City, words: &str) -> usize {
    city.server.process.stderr().matches(words).count()
}

/// The processor time that the server uses in a while.
async fn idles(city: &City) {
    let vitals = Vitals(city.server.process.pid());
    let before = vitals.processor();
    sleep(WHILE).await;
    let used = vitals.processor().saturating_sub(before);
    assert!(used < LITTLE, "{used:?} of processor time in {WHILE:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_a_low_limit_leaves_descriptors_for_wechat_and_the_store() {
    let mut city = City::of(|home| home.spawn_with_files("-n 64")).await;
    let mut crowd = Vec::new();
    // Some get a seat, the others wait in the kernel's queue, which may hold 128.
    for _ in 0..120 {
        let mut peer = Peer::greeting(city.url()).await;
        peer.send(&watch(1, "classic")).await.unwrap();
        crowd.push(peer);
    }
    let admin = admin_of(&city.server);
    let mut silent = Vec::new();
    for _ in 0..300 {
        let address = admin.strip_prefix("http://").unwrap();
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    idles(&city).await;
    let (ready, why) = within(http(&admin, "GET", "/readyz", ""), "a probe").await;
    assert_eq!(ready, 200, "{why}");
    let fetches = city.wechat.counts("classic").classic_fetches;
    city.goes_on().await;
    assert!(city.wechat.counts("classic").classic_fetches > fetches);
    assert_eq!(times(&city, "all connections are taken"), 1);
    assert_eq!(times(&city, "Too many open files"), 0);
    assert_eq!(times(&city, "ERROR"), 0, "{}", city.server.process.stderr());

    // Who waited is served when others leave.
    let mut last = crowd.pop().unwrap();
    drop(crowd);
    within(last.await_kind(DATA), "a token for the last").await;
    city.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_descriptor_the_server_waits_warns_once_and_comes_back() {
    let mut city = City::new().await;
    let pid = city.server.process.pid();
    let vitals = Vitals(pid);
    let pid = Pid::from_raw(pid.try_into().unwrap());
    let limit = |files: u64| {
        let limit = Rlimit {
            current: Some(files),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        prlimit(pid, Resource::Nofile, limit).unwrap()
    };
    // As if something else had taken them: there is no room for one more.
    let before = limit(3);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(Peer::greeting(city.url()).await);
    }
    let warned = "cannot accept connections";
    let has_warned = || async { times(&city, warned) > 0 };
    eventually(has_warned, "a warning").await;
    idles(&city).await;
    assert_eq!(times(&city, warned), 1, "once");
    city.neighbours.are_served().await;

    limit(before.current.unwrap());
    for peer in &mut crowd {
        peer.is_alive().await;
    }
    let calm = "accepting connections again";
    city.server.process.until_stderr(calm).await;
    city.goes_on().await;
    drop(crowd);
    let few = || async { vitals.descriptors() < 64 };
    eventually(few, "they are closed").await;
}
