//! `grpc.health.v1`, for Kubernetes and load balancers.
//!
//! What is well is computed by [`Tokens`] from facts; here it is only looked at, four times a second,
//! and told on. So no fact can change without health following, in both directions.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    select,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::readers::Readers;
use crate::{pb::token_service_server::SERVICE_NAME, tokens::Tokens};

/// Contract: every change shows within a second.
const LOOK: Duration = Duration::from_millis(250);

/// Tells how well we are.
#[derive(Debug)]
pub(super) struct Health {
    tokens: Tokens,
    readers: Readers,
    reporter: HealthReporter,
    told: BTreeMap<String, bool>,
}

impl Health {
    /// Makes the teller and the service. Nothing serves yet, says the service.
    pub(super) async fn new(
        tokens: Tokens,
        readers: Readers,
    ) -> (Self, HealthServer<HealthService>) {
        let reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        let mut health = Self {
            tokens,
            readers,
            reporter,
            told: BTreeMap::new(),
        };
        let services: Vec<String> = health.facts(false).into_keys().collect();
        for service in services {
            health.tell(service, false).await;
        }
        (health, HealthServer::new(service))
    }

    /// Follows the facts for ever. After `stop` we are not ready, whatever they say.
    pub(super) async fn keep_true(mut self, stop: CancellationToken) {
        let mut draining = self.tokens.draining();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.readers.look();
            let stopping = stop.is_cancelled();
            for (service, well) in self.facts(!stopping) {
                self.tell(service, well).await;
            }
            select! {
                _ = look.tick() => {}
                Ok(()) = draining.changed() => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    }

    fn facts(&self, open: bool) -> BTreeMap<String, bool> {
        let ready = open && self.tokens.ready();
        let app = |app| (format!("app/{app}"), self.tokens.usable(app));
        let mut facts: BTreeMap<_, _> = self.tokens.apps().map(app).collect();
        facts.insert(String::new(), ready);
        facts.insert(SERVICE_NAME.into(), ready);
        facts.insert("live".into(), self.tokens.alive());
        facts
    }

    /// Says it only if it is news: each word wakes everybody who watches.
    async fn tell(&mut self, service: String, well: bool) {
        if self.told.get(&service) == Some(&well) {
            return;
        }
        let status = if well {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.reporter.set_service_status(&service, status).await;
        self.told.insert(service, well);
    }
}
