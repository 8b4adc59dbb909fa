//! What we are measured against: tonic's own server with the same contract and a constant reply.

use std::{
    future::pending,
    io::{self, BufRead},
    pin::Pin,
    thread,
};

use prost::Message;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{TcpListenerStream, WatchStream},
};
use tonic::{Request, Response, Status, transport::Server};
use wxtokend::pb::{
    self,
    token_service_server::{TokenService, TokenServiceServer},
};

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
    let service = TokenServiceServer::new(Constant { reply, pushed });
    let server = Server::builder().add_service(service);
    server
        .serve_with_incoming(sockets)
        .await
        .expect("it serves");
    pending::<()>().await;
}

struct Constant {
    reply: pb::GetTokenResponse,
    pushed: watch::Receiver<()>,
}

#[tonic::async_trait]
impl TokenService for Constant {
    async fn get_token(
        &self,
        _: Request<pb::GetTokenRequest>,
    ) -> Result<Response<pb::GetTokenResponse>, Status> {
        Ok(Response::new(self.reply.clone()))
    }

    async fn force_refresh(
        &self,
        _: Request<pb::ForceRefreshRequest>,
    ) -> Result<Response<pb::ForceRefreshResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type WatchTokenStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchTokenResponse, Status>> + Send>>;

    async fn watch_token(
        &self,
        _: Request<pb::WatchTokenRequest>,
    ) -> Result<Response<Self::WatchTokenStream>, Status> {
        let message = pb::WatchTokenResponse {
            token: self.reply.token.clone(),
            cause: pb::Cause::Rotated.into(),
        };
        let pushes = WatchStream::new(self.pushed.clone());
        let pushes = pushes.map(move |()| Ok(message.clone()));
        Ok(Response::new(Box::pin(pushes)))
    }
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("two digits");
    (0..hexadecimal.len()).step_by(2).map(digit).collect()
}
