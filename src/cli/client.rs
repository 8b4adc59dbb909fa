//! Calling a server.

use std::{fs, time::Duration};

use anyhow::Context;
use tokio::time::sleep;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{Endpoint, Failure};
use crate::pb::{
    self, ForceRefreshRequest, ForceRefreshResponse, GetTokenRequest, WatchTokenRequest,
    WatchTokenResponse, token_service_client::TokenServiceClient,
};

const CONNECT: Duration = Duration::from_secs(5);

/// A call must end: the server waits up to 10 s for a first outcome.
const CALL: Duration = Duration::from_secs(15);

/// Killing a leaked token takes two mints 30 s apart.
const DRILL: Duration = Duration::from_mins(2);

/// The pauses between two attempts to watch again.
const RECONNECT: std::ops::Range<u64> = 100..10_000;

/// A connected client that shows its key with every call.
pub(super) struct Client {
    calls: TokenServiceClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

pub(super) async fn connect(endpoint: &Endpoint) -> Result<Client, Failure> {
    let key = endpoint.key()?;
    let calls = TokenServiceClient::new(endpoint.channel().await?);
    Ok(Client { calls, key })
}

/// Whether `service` is SERVING.
pub(super) async fn health(endpoint: &Endpoint, service: String) -> Result<bool, Failure> {
    let mut client = HealthClient::new(endpoint.channel().await?);
    let mut request = Request::new(HealthCheckRequest { service });
    request.set_timeout(CONNECT);
    let answer = client.check(request).await;
    let answer = answer.map_err(|status| Failure::refused(&status))?;
    Ok(answer.into_inner().status() == ServingStatus::Serving)
}

impl Endpoint {
    async fn channel(&self) -> Result<Channel, Failure> {
        let invalid = || format!("`{}` is no endpoint", self.endpoint);
        let endpoint = tonic::transport::Endpoint::from_shared(self.endpoint.clone())
            .with_context(invalid)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await;
        channel.map_err(|error| Failure::not_reachable(&self.endpoint, &error))
    }

    fn key(&self) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let Some(path) = &self.key_file else {
            return Ok(None);
        };
        let unusable = || format!("the key in {} cannot be used", path.display());
        let read = || -> anyhow::Result<MetadataValue<Ascii>> {
            let key = fs::read_to_string(path).with_context(unusable)?;
            format!("Bearer {}", key.trim())
                .parse()
                .with_context(unusable)
        };
        let mut value = read().map_err(|error| Failure::unusable_key(&error))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Client {
    pub(super) async fn get(&mut self, app_id: String) -> Result<pb::Token, Failure> {
        let request = self.request(GetTokenRequest { app_id }, Some(CALL));
        let answer = self.calls.get_token(request).await;
        let answer = answer.map_err(|status| Failure::refused(&status))?;
        let token = answer.into_inner().token;
        Ok(token.context("the server sent no token")?)
    }

    pub(super) async fn refresh(
        &mut self,
        request: ForceRefreshRequest,
    ) -> Result<ForceRefreshResponse, Failure> {
        let limit = if request.leaked { DRILL } else { CALL };
        let request = self.request(request, Some(limit));
        let answer = self.calls.force_refresh(request).await;
        let answer = answer.map_err(|status| Failure::refused(&status))?;
        Ok(answer.into_inner())
    }

    /// Hands every message to `print`, and watches again when the stream ends for a reason that
    /// passes. Never returns `Ok` before `print` fails.
    pub(super) async fn watch(
        mut self,
        app_id: String,
        mut print: impl FnMut(&WatchTokenResponse) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (mut known_generation, mut pause) = (0, RECONNECT.start);
        loop {
            let request = WatchTokenRequest {
                app_id: app_id.clone(),
                known_generation,
            };
            let request = self.request(request, None);
            let ended = match self.calls.watch_token(request).await {
                Err(status) => status,
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => {
                                known_generation = generation(&message).max(known_generation);
                                pause = RECONNECT.start;
                                print(&message)?;
                            }
                            Ok(None) => break Status::unavailable("the stream ended"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            if !passes(ended.code()) {
                return Err(Failure::refused(&ended));
            }
            eprintln!("{}; watching again", ended.message());
            sleep(Duration::from_millis(
                pause / 2 + fastrand::u64(0..=pause / 2),
            ))
            .await;
            pause = (pause * 2).min(RECONNECT.end);
        }
    }

    fn request<T>(&self, message: T, limit: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            request.metadata_mut().insert("authorization", key.clone());
        }
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        request
    }
}

fn generation(message: &WatchTokenResponse) -> u64 {
    message.token.as_ref().map_or(0, |token| token.generation)
}

/// Whatever is not the caller's own mistake. A torn connection shows as `UNKNOWN` or `INTERNAL`, and
/// a person may be at work on what needs one.
fn passes(code: Code) -> bool {
    let passing = [
        Code::Unavailable,
        Code::Unknown,
        Code::Internal,
        Code::FailedPrecondition,
    ];
    passing.contains(&code)
}
