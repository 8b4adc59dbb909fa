//! More apps than the other tests have: `WXTOKEND_APPS`, or a hundred.
//!
//! How long it takes is printed, for `SCALING.md`; `.ci/full apps` does so for a thousand, of a release.

use std::{env, time::Duration};

use etcd_client::GetOptions;
use tokio::time::{Instant, sleep};

use crate::{
    engines::Etcd,
    replicas::{Fleet, lease},
    stories::{REFRESH, lives_of},
};

/// A replica that is lost is made up for within this, whatever number of apps it refreshed.
const FAILOVER: Duration = Duration::from_mins(2);

/// To start with nothing, each with a fetch.
const START: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn of_many_apps_that_one_replica_refreshed_none_waits_longer_for_another_when_it_is_lost() {
    let count = env::var("WXTOKEND_APPS").map_or(100, |count| count.parse().unwrap());
    let names: Vec<String> = (0..count).map(|n| format!("shop-{n}")).collect();
    let apps: Vec<&str> = names.iter().map(String::as_str).collect();
    let etcd = Etcd::start(3).await;
    let mut fleet = Fleet::on_etcd(&etcd, 3, lives_of(3600), &apps, REFRESH).await;

    let began = Instant::now();
    fleet.replicas[0].start().await;
    let claims = claims(&fleet, &etcd, |claims| claims.len() == count).await;
    println!("{count} apps claimed after {:?}", began.elapsed());
    let dead = claims[0];
    assert!(
        claims.iter().all(|lease| *lease == dead),
        "one has them all"
    );
    has_all(&fleet, 0, &apps).await;
    println!("and fetched after {:?}", began.elapsed());
    for n in 1..3 {
        let began = Instant::now();
        fleet.replicas[n].start().await;
        has_all(&fleet, n, &apps).await;
        println!("known by replica {n} after {:?}", began.elapsed());
    }

    fleet.replicas[0].kill().await;
    let began = Instant::now();
    self::claims(&fleet, &etcd, |claims| {
        claims.iter().any(|lease| *lease != dead)
    })
    .await;
    let first = began.elapsed();
    let moved = |claims: &[i64]| claims.iter().filter(|lease| **lease != dead).count() == count;
    self::claims(&fleet, &etcd, moved).await;
    let last = began.elapsed();
    println!(
        "taken over, with a lease of {} s: the first after {first:?}, the last after {last:?}",
        lease()
    );
    assert!(last < FAILOVER, "{last:?}");
    for app in apps {
        assert_eq!(fleet.wechat.counts(app).mints(), 1, "{app}");
    }
}

/// Asks for each app, which waits until it is there.
async fn has_all(fleet: &Fleet, n: usize, apps: &[&str]) {
    let mut client = fleet.replicas[n].client().await;
    for app in apps {
        crate::process::token_that(&mut client, app, "is there", |_| true).await;
    }
}

/// The leases of all claims, once they are as they are to be.
async fn claims(fleet: &Fleet, etcd: &Etcd, fit: impl Fn(&[i64]) -> bool) -> Vec<i64> {
    let (began, mut client) = (Instant::now(), etcd.client().await);
    loop {
        let keys = GetOptions::new().with_prefix().with_keys_only();
        let listed = client.get("/wxtokend/", Some(keys)).await.unwrap();
        let claims = listed
            .kvs()
            .iter()
            .filter(|key| key.key().ends_with(b"/claim"));
        let leases: Vec<i64> = claims.map(etcd_client::KeyValue::lease).collect();
        if fit(&leases) {
            return leases;
        }
        let said = || fleet.replicas[0].log();
        assert!(
            began.elapsed() < START,
            "{} claims\n{}",
            leases.len(),
            said()
        );
        sleep(Duration::from_millis(50)).await;
    }
}
