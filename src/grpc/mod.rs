//! How tokens leave: gRPC.
//!
//! tonic encodes, decodes and routes; the way in is our own, on hyper. tonic's server can neither end
//! an endless stream when it shuts down, nor close an aged connection politely, nor stop waiting for
//! a peer that never speaks, and it answers a passed deadline with `CANCELLED`.
//!
//! A call passes, in this order: `crate::listener` (sockets, accepting), `greeting` (the first
//! bytes), `calm` (peers that are restless), `connection` (HTTP/2, limits, age), `conversation` (one task
//! for a connection and its streams), `outflow` and `pace` (readers that do not read),
//! `measure` (counts it), `deadline` (how long a call may last), `asked` (a request that never
//! comes), `calls` (which service), `caller` (who asks), `request` (is it well formed), `service`
//! (the three calls) and, for streams, `streams` and `watch`. Its answer goes out through `answer`,
//! and `readers` knows who has which token. `wire` and `status` say how tokens and errors look to
//! callers, `frame` and `press` (one for many readers) how they travel, `health` how well we are.
//! `seldom` keeps a task from looking at what has not happened.

mod answer;
mod asked;
mod caller;
mod calls;
mod calm;
mod connection;
mod conversation;
mod deadline;
mod frame;
mod greeting;
mod health;
mod measure;
mod outflow;
mod pace;
mod press;
mod readers;
mod request;
mod seats;
mod seldom;
mod service;
mod status;
mod streams;
mod watch;
mod wire;

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::service::Service as _;
use tokio::{select, sync::watch as slot, task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Status, codegen::StdError, service::Routes};
use tracing::warn;

use self::{
    caller::Door,
    calls::Calls,
    connection::{Called, Connection, Host},
    health::Health,
    seats::{Seat, Seats},
    service::Service,
};
pub use self::{streams::Streams, watch::TokenStream};
use crate::{
    config,
    domain::access::{Access, Peer},
    listener::{BindError, Listener, Socket, room},
    pb,
    telemetry::Metrics,
    tokens::Tokens,
};

/// A gRPC server with its socket bound: callers may connect, and are answered once it serves.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    seats: Seats,
    host: Arc<Host>,
    health: Health,
    tokens: Tokens,
}

impl Server {
    /// Binds the socket. `access` says who may ask; a new value counts from the next call on.
    pub async fn bind(
        settings: &config::Grpc,
        tokens: Tokens,
        access: slot::Receiver<Arc<Access>>,
        metrics: &Metrics,
    ) -> Result<Self, BindError> {
        let streams = Streams::new(&tokens, metrics);
        let readers = streams.readers().clone();
        let (health, health_service) = Health::new(tokens.clone(), readers).await;
        let door = Door::new(tokens.clone(), access);
        let most = settings.max_request_bytes;
        let service = Service::new(door, tokens.clone(), streams, most);
        let health_service = health_service.max_decoding_message_size(most);
        let others = with_reflection(Routes::new(health_service), most).prepare();
        Ok(Self {
            listener: Listener::bind(&settings.listen).await?,
            seats: Seats::new(room(settings.max_connections), metrics.connections()),
            host: Arc::new(Host::new(
                settings,
                Calls::new(service, others),
                metrics.requests(),
            )),
            health,
            tokens,
        })
    }

    /// Where to reach it from this machine: `http://127.0.0.1:43211` or `unix:///run/grpc.sock`.
    pub fn local_url(&self) -> &str {
        self.listener.url()
    }

    /// Answers one call as if it had come over a connection from `peer`, so that what a request says
    /// can be tried without a socket.
    pub async fn answer<B>(
        &self,
        request: Request<B>,
        peer: Peer,
    ) -> Response<impl Body<Data = Bytes, Error = Status> + use<B>>
    where
        B: Body<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
    {
        let connection = Connection::new(peer, self.host.end.child_token());
        let answer = Called::new(&self.host, connection).call(request);
        match answer.await {
            Ok(answer) => answer,
        }
    }

    /// Answers calls until `stop`. Then it accepts no more connections, waits until the owner of the
    /// tokens says that streams must end, lets them and all other calls finish, and `limit` after
    /// `stop` at the latest cuts what is left. Returns then, whatever peers do.
    pub async fn serve(self, stop: CancellationToken, limit: Duration) {
        let health = self.health.keep_true(stop.clone());
        let _health = AbortOnDropHandle::new(tokio::spawn(health));
        // Dropping it, and so dropping this future, leaves no connection behind.
        let mut connections = JoinSet::new();
        let accepting = accept(self.listener, self.seats, &self.host, &mut connections);
        select! {
            biased;
            () = stop.cancelled() => {}
            () = accepting => {}
        }
        let end = end(&self.tokens, &self.host, &mut connections);
        if timeout(limit, end).await.is_err() {
            let left = connections.len();
            warn!(connections = left, "cut connections that did not end");
        }
        connections.shutdown().await;
    }
}

/// Runs until it is dropped; the listener closes with it.
async fn accept(
    mut listener: Listener,
    mut seats: Seats,
    host: &Arc<Host>,
    connections: &mut JoinSet<()>,
) {
    loop {
        let mut arrival = pin!(arrival(&mut listener, &mut seats));
        let (seat, socket, peer) = loop {
            select! {
                arrived = &mut arrival => break arrived,
                // Nobody wants to know how it ended, but until it is asked it takes memory.
                Some(_) = connections.join_next() => {}
            }
        };
        connections.spawn(Arc::clone(host).serve(socket, peer, seat));
    }
}

async fn arrival(listener: &mut Listener, seats: &mut Seats) -> (Seat, Socket, Peer) {
    // Taken before accepting: who finds no seat waits in the kernel's queue.
    let seat = seats.free().await;
    let (socket, peer) = listener.accept().await;
    (seat.take(), socket, peer)
}

/// Ends every connection as politely as its peer allows.
async fn end(tokens: &Tokens, host: &Host, connections: &mut JoinSet<()>) {
    // An error means that the owner is gone, which is as good a reason to end.
    let _ = tokens.draining().wait_for(|draining| *draining).await;
    host.end.cancel();
    while connections.join_next().await.is_some() {}
}

/// Both versions, which take requests of `most` bytes: `grpcurl` and `buf` ask with v1, Python's `grpcio-reflection` with v1alpha.
fn with_reflection(routes: Routes, most: usize) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let sound = "descriptors made by a compiler can be read";
    let v1 = builder().build_v1().expect(sound);
    let v1alpha = builder().build_v1alpha().expect(sound);
    routes
        .add_service(v1.max_decoding_message_size(most))
        .add_service(v1alpha.max_decoding_message_size(most))
}
