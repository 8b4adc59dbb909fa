//! What only Redis does: a master that takes no writes, and one that is replaced.

use std::{process::Command, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    engines::Redis,
    process::{PATIENCE, token, token_that},
    replicas::Fleet,
    stories::{REFRESH, lives_of},
};

/// The pause between two looks at what replicas hand out.
const PAUSE: Duration = Duration::from_millis(50);

/// From the end of a token to the next one of whoever goes on alone.
const MOMENT: Duration = Duration::from_secs(2);

/// `min-replicas-to-write` is how people keep a master from answering what nobody else knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_takes_no_writes_is_as_good_as_none() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::on_redis(&redis, 3, lives_of(12), &["classic", "stable"], REFRESH).await;
    fleet.start().await;
    for app in ["classic", "stable"] {
        fleet.everybody_has(app, "is there").await;
    }
    redis.set("min-replicas-to-write", "1");
    let (began, mut served) = (Instant::now(), Instant::now());
    while began.elapsed() < Duration::from_secs(30) {
        for replica in &fleet.replicas {
            let mut client = replica.client().await;
            let stable = token(&mut client, "stable").await.unwrap();
            assert!(fleet.wechat.accepts("stable", &stable.access_token));
            if let Ok(classic) = token(&mut client, "classic").await {
                assert!(fleet.wechat.accepts("classic", &classic.access_token));
                served = Instant::now();
            }
        }
        // Such a short life is over before it is plain that nobody else refreshes.
        assert!(served.elapsed() < MOMENT, "nobody has a classic token");
        sleep(PAUSE).await;
    }
    redis.set("min-replicas-to-write", "0");
    all_have_the_same(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_sentinels_make_another_server_the_master_no_token_is_refused() {
    let mut redis = Redis::start_with_sentinels(None, false, None).await;
    let apps = ["classic", "stable"];
    let mut fleet = Fleet::on_redis(&redis, 3, lives_of(20), &apps, REFRESH).await;
    fleet.start().await;
    for app in apps {
        fleet.everybody_has(app, "is there").await;
    }
    redis.servers[0].kill();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        for replica in &fleet.replicas {
            let mut client = replica.client().await;
            for app in apps {
                // One that hears of nobody has no classic token for a moment.
                if let Ok(token) = token(&mut client, app).await {
                    assert!(fleet.wechat.accepts(app, &token.access_token), "{app}");
                }
            }
        }
        sleep(PAUSE).await;
    }
    all_have_the_same(&fleet).await;
}

/// Of both apps, and soon.
async fn all_have_the_same(fleet: &Fleet) {
    let began = Instant::now();
    for app in ["classic", "stable"] {
        loop {
            let mut tokens = Vec::new();
            for replica in &fleet.replicas {
                let mut client = replica.client().await;
                tokens.push(token_that(&mut client, app, "is there", |_| true).await);
            }
            let first = &tokens[0];
            let same = |one: &wxtokend::pb::Token| one.access_token == first.access_token;
            if tokens.iter().all(same) && fleet.wechat.accepts(app, &first.access_token) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{app}: they differ");
            sleep(PAUSE).await;
        }
    }
}

impl Redis {
    /// Changes a setting of the first server.
    fn set(&self, setting: &str, value: &str) {
        let port = self.ports[0].to_string();
        let told = Command::new("redis-cli")
            .args(["-p", &port, "config", "set", setting, value])
            .output()
            .unwrap();
        assert_eq!(told.stdout, b"OK\n", "{told:?}");
    }
}
