//! What probes say: the truth that matters, in both directions, and before anything ends.

use std::time::Duration;

use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use wxtokend::{domain::Remedy, pb::Cause, tokens::View};

use crate::{
    process::{get, watch_request},
    served::{Running, app, eventually, failed, serve, within},
};

struct Probe(HealthClient<Channel>);

impl Probe {
    async fn of(server: &Running) -> Self {
        Self(HealthClient::new(server.channel().await))
    }

    async fn says(&self, service: &str) -> bool {
        let service = service.to_owned();
        let mut health = self.0.clone();
        let answer = health.check(HealthCheckRequest { service }).await;
        answer.unwrap().into_inner().status() == ServingStatus::Serving
    }

    async fn comes_to(&self, service: &str, serving: bool, what: &str) {
        eventually(|| async { self.says(service).await == serving }, what).await;
    }
}

/// Of the other app it is known that there is no token, so that readiness is about `shop` alone.
async fn settled() -> (Running, Probe) {
    let server = serve().await;
    let trouble = failed(Remedy::BackOff, server.tokens.now().boot);
    server.publisher.publish(&app("other"), trouble);
    let probe = Probe::of(&server).await;
    (server, probe)
}

/// envoyproxy/envoy#47309: ready, although the listener had no certificate; gravitational/teleport PR
/// #64418: never ready again after it recovered. Guard: readiness is a token that can be handed out,
/// `Tokens::ready` in `tokens/mod.rs`.
/// Without the guard (settled is enough): ready without any token.
#[tokio::test]
async fn envoy_47309_ready_means_a_token_to_hand_out_in_both_directions() {
    let (server, probe) = settled().await;
    for generation in 1..4 {
        let nothing = View {
            settled: true,
            ..View::default()
        };
        server.publisher.publish(&app("shop"), nothing);
        probe.comes_to("", false, "not ready without a token").await;
        server.publish(generation);
        probe.comes_to("", true, "ready with a token").await;
        let mut dead = server.alive(generation, Duration::from_hours(1));
        dead.current.as_mut().unwrap().dead = true;
        server.publisher.publish(&app("shop"), dead);
        probe.comes_to("", false, "not ready with a dead one").await;
    }
}

/// DataDog/datadog-agent#5349: liveness failed for what the environment did, and restarts made it worse.
/// Guard: `Tokens::alive` asks for the owner's loop and nothing else, `tokens/mod.rs`.
/// Without the guard (alive is ready): killed because WeChat is down.
#[tokio::test]
async fn datadog_agent_5349_liveness_does_not_fail_because_wechat_does() {
    let (server, probe) = settled().await;
    let trouble = failed(Remedy::BackOff, server.tokens.now().boot);
    server.publisher.publish(&app("shop"), trouble);
    server.publish(1);
    probe.comes_to("", true, "ready").await;
    let trouble = failed(Remedy::BackOff, server.tokens.now().boot);
    server.publisher.publish(&app("shop"), trouble);
    probe.comes_to("", false, "not ready").await;
    assert!(probe.says("live").await);
}

/// Basekick-Labs/arc#603: twenty hours of failures behind green probes, because nobody asked the one who
/// does the work. Guard: the beat of the owner's loop, `Tokens::silence` in `tokens/mod.rs`.
/// Without the guard (alive is always true): live although the loop stands still.
#[tokio::test]
async fn arc_603_a_loop_that_stands_still_is_not_alive() {
    let (server, probe) = settled().await;
    for _ in 0..2 {
        server.publisher.beat(server.tokens.now().boot);
        probe.comes_to("live", true, "alive").await;
        let long_ago = server.tokens.now().boot - Duration::from_secs(61);
        server.publisher.beat(long_ago);
        probe.comes_to("live", false, "not alive").await;
    }
}

/// kubernetes/kubernetes#43576: SIGTERM raced the removal of the endpoint, and calls failed during every
/// roll-out. Guard: readiness goes first, `Health::keep_true` in `grpc/health.rs`; the rest ends after.
/// Without the guard (a stop changes no fact): ready until the socket closes.
#[tokio::test]
async fn kubernetes_43576_readiness_goes_before_anything_else_does() {
    let (server, probe) = settled().await;
    server.publish(1);
    probe.comes_to("", true, "ready").await;
    let mut client = server.client().await;
    let stream = server.history.watch(&mut client, watch_request("shop"));
    let mut stream = stream.await.unwrap();
    within(stream.message(), "a token").await.unwrap().unwrap();

    server.stop.cancel();
    probe.comes_to("", false, "not ready").await;
    client.get_token(get("shop")).await.unwrap();
    server.publish(2);
    let message = within(stream.message(), "news").await;
    assert_eq!(message.unwrap().unwrap().cause(), Cause::Rotated);

    server.publisher.drain();
    let message = within(stream.message(), "the last word").await;
    assert_eq!(message.unwrap().unwrap().cause(), Cause::Draining);
    within(server.serving, "the end").await.unwrap();
}
