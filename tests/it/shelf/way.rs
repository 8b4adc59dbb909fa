//! The way to WeChat and back: which endpoint, from which address, for tokens of any length.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;
use wxtokend::{
    clock::Clock,
    config,
    domain::{Generation, Mode, Record},
    sandbox::Settings,
    store,
    tokens::{Current, View},
    upstream::read_fetch,
};

use super::shop::{BOTH, Shop, policy};
use crate::{
    process::{Home, WeChat, appid, get, stale, token_that, watch_request},
    served::{app, serve, within},
};

/// w7corp/easywechat#947: hosts that were added by themselves were not on the IP list. Guard: the address
/// that WeChat saw is in the message and in the hint, `Refusal` in `upstream/error.rs`.
/// Without the guard (the general hint): nobody is told which address.
#[tokio::test(start_paused = true)]
async fn easywechat_947_an_address_that_is_not_listed_is_named_with_what_to_do() {
    for mode in BOTH {
        let settings = Settings {
            ip_list: vec!["203.0.113.7".into()],
            ..Settings::default()
        };
        let mut shop = Shop::closed(settings, policy(mode));
        shop.world.start().await;
        let refused = shop.token_within(Duration::from_secs(5)).await;
        let status = Status::from(refused.unwrap_err());
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("`127.0.0.1`"), "{status:?}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "NEEDS_OPERATOR");
        assert_eq!(info.metadata["errcode"], "40164");
        let hint = &info.metadata["hint"];
        assert!(
            hint.contains("`127.0.0.1`") && hint.contains("IP"),
            "{hint}"
        );
    }
}

/// w7corp/easywechat#2759: the flag for stable tokens was there and did nothing. Guards: the default of
/// `mode` in `config/raw.rs`, the endpoint in `WeChat::fetch` of `upstream/wechat.rs`.
/// Without the guards: stable apps at the classic endpoint (`match self.mode` turned around).
#[tokio::test(flavor = "multi_thread")]
async fn easywechat_2759_the_mode_decides_which_endpoint_is_asked() {
    let names = ["classic", "stable", "default"];
    let wechat = WeChat::start(&names, Settings::default()).await;
    let home = Home::new(&wechat.url(), "overlap = '1s'", &names);
    let home = home.replace("name = 'default'\nmode = 'stable'\n", "name = 'default'\n");
    let server = home.serve().await;
    let mut client = server.client().await;
    for name in names {
        let token = token_that(&mut client, name, "is there", |_| true).await;
        let report = client.force_refresh(stale(name, &token.access_token));
        report.await.unwrap();
        let counts = wechat.counts(name);
        let (classic, stable) = (counts.classic_fetches, counts.stable_fetches);
        if name == "classic" {
            assert!(classic > 0 && stable == 0, "{}: {counts:?}", appid(name));
        } else {
            assert!(classic == 0 && stable > 0, "{}: {counts:?}", appid(name));
        }
        assert_eq!(counts.forced_fetches, 0, "a living token is not forced out");
    }
}

/// node-webot/wechat-oauth#41: a token grew from 107 to 109 characters and did not fit its column. Guard:
/// no length is assumed below 8 KiB, `TOKEN_LIMIT` in `upstream/reply.rs`.
/// Without the guard (512): no token.
#[tokio::test]
async fn wechat_oauth_41_a_token_of_any_length_gets_through_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let store = store::open(&config::Store::File { path }, Vec::new(), Clock::SYSTEM)
        .unwrap()
        .store();
    let server = serve().await;
    let mut client = server.client().await;
    for (generation, length) in (1..).zip([1, 107, 109, 512, 513, 8 * 1024]) {
        let value = "t".repeat(length);
        let body = format!(r#"{{"access_token":"{value}","expires_in":7200}}"#);
        let fetched = read_fetch(200, body.as_bytes()).unwrap();

        let view = server.alive(generation, fetched.time_to_live);
        let current = view.current.unwrap();
        let mut token = Arc::into_inner(current.token).unwrap();
        token.value = fetched.value;
        let record = Record {
            token: Some(Arc::new(token)),
            generation: Generation(generation),
            ..Record::new(Mode::Stable)
        };
        store.save("wx1", &record).await.unwrap();
        let loaded = store.load("wx1").await.unwrap().unwrap();

        let view = View {
            current: Some(Current {
                token: loaded.token.unwrap(),
                keep_until: current.keep_until,
                ..current
            }),
            settled: true,
            ..View::default()
        };
        server.publisher.publish(&app("shop"), view);
        let got = client.get_token(get("shop")).await.unwrap().into_inner();
        assert_eq!(got.token.unwrap().access_token, value, "{length}");
        let stream = server.history.watch(&mut client, watch_request("shop"));
        let first = within(stream.await.unwrap().message(), "a token").await;
        let first = first.unwrap().unwrap();
        assert_eq!(first.token.unwrap().access_token, value, "{length}");
    }
}
