//! What we are measured against: tonic's own server with the same contract and a constant reply.

use std::{
    convert::Infallible,
    future::pending,
    io::{self, BufRead},
    pin::Pin,
    task::{Context, Poll},
    thread,
};

use http::{Request, Response};
use prost::Message;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{TcpListenerStream, WatchStream},
};
use tonic::{
    Status,
    body::Body,
    server::{Grpc, NamedService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};
use wxtokend::pb;

/// Serves the token of `WXTOKEND_BENCH_REPLY`, a `GetTokenResponse` in hexadecimal; each line on
/// stdin pushes it to all streams.
pub(crate) async fn serve() {
    let reply = std::env::var("WXTOKEND_BENCH_REPLY").expect("the reply");
    let reply = pb::GetTokenResponse::decode(bytes(&reply).as_slice()).expect("a message");
    let (push, pushed) = watch::channel(());
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            line.expect("a line");
            push.send_replace(());
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("grpc http://{}", listener.local_addr().expect("bound"));
    // As in tonic's own `serve`: without it every answer waits for an acknowledgement.
    let sockets = TcpListenerStream::new(listener).map(|socket| {
        let socket = socket?;
        socket.set_nodelay(true)?;
        io::Result::Ok(socket)
    });
    let server = Server::builder().add_service(Constant { reply, pushed });
    server
        .serve_with_incoming(sockets)
        .await
        .expect("it serves");
    pending::<()>().await;
}

/// What tonic's generator makes of a contract, by hand: the generated code of this crate has a codec
/// of our own.
#[derive(Clone)]
struct Constant {
    reply: pb::GetTokenResponse,
    pushed: watch::Receiver<()>,
}

impl NamedService for Constant {
    const NAME: &'static str = "wxtokend.v1.TokenService";
}

type Pushes = Pin<Box<dyn Stream<Item = Result<pb::WatchTokenResponse, Status>> + Send>>;

impl Service<Request<Body>> for Constant {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let constant = self.clone();
        if request.uri().path().ends_with("/GetToken") {
            Box::pin(constant.get(request))
        } else {
            Box::pin(constant.watch(request))
        }
    }
}

impl Constant {
    async fn get(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let answer = service_fn(|_: tonic::Request<pb::GetTokenRequest>| {
            let reply = self.reply.clone();
            async move { Ok::<_, Status>(tonic::Response::new(reply)) }
        });
        Ok(Grpc::new(ProstCodec::default())
            .unary(answer, request)
            .await)
    }

    async fn watch(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let answer = service_fn(|_: tonic::Request<pb::WatchTokenRequest>| {
            let message = pb::WatchTokenResponse {
                token: self.reply.token.clone(),
                cause: pb::Cause::Rotated.into(),
            };
            let pushes = WatchStream::new(self.pushed.clone());
            let pushes: Pushes = Box::pin(pushes.map(move |()| Ok(message.clone())));
            async move { Ok::<_, Status>(tonic::Response::new(pushes)) }
        });
        let mut grpc = Grpc::new(ProstCodec::default());
        Ok(grpc.server_streaming(answer, request).await)
    }
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("two digits");
    (0..hexadecimal.len()).step_by(2).map(digit).collect()
}
