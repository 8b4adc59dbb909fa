//! HTTP around the model.
//!
//! Everything that is decided is decided in the model; this file only puts replies on the wire, or
//! refuses to. Every connection carries one request, so a torn one never takes a second down with it.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Call, Delivery, Model, Outage, Reply, control};

/// The longest request body that is read.
const BODY_LIMIT: usize = 64 * 1024;

/// How soon an outage that refuses connections begins and ends.
const TICK: Duration = Duration::from_millis(10);

/// The model, shared with whoever turns its knobs.
pub type Shared = Arc<Mutex<Model>>;

/// Tells the time since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// A simulated WeChat that is being served; it ends when this is dropped.
pub struct Shell {
    address: SocketAddr,
    model: Shared,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Shell {
    /// Serves `model` on `listener`, on a task of its own.
    ///
    /// # Errors
    ///
    /// The listener does not know its address.
    pub fn start(listener: TcpListener, model: Model, clock: Clock) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (model, stop) = (Arc::new(Mutex::new(model)), CancellationToken::new());
        let served = serve(listener, Arc::clone(&model), clock, stop.clone());
        Ok(Self {
            address,
            model,
            stop: stop.drop_guard(),
            task: tokio::spawn(served),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a base URL, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The model, to look at it and to turn its knobs. Nothing is served while it is held.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// Closes everything and waits until it is closed.
    pub async fn stop(self) {
        drop(self.stop);
        drop(self.task.await);
    }
}

impl fmt::Debug for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shell")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn lock(model: &Mutex<Model>) -> MutexGuard<'_, Model> {
    // A test that failed with the model in its hands must not take the server down.
    model.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves `model` on `listener` until `stop`; then every connection is closed at once.
pub async fn serve(listener: TcpListener, model: Shared, clock: Clock, stop: CancellationToken) {
    let serving = accept(listener, model, clock);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = serving => {}
    }
}

async fn accept(listener: TcpListener, model: Shared, clock: Clock) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let refusing = || lock(&model).outage(clock()) == Outage::Refuse;
    let mut connections = JoinSet::new();
    let mut open = Some(listener);
    loop {
        while connections.try_join_next().is_some() {}
        if refusing() {
            // The kernel refuses for us as long as nobody listens.
            open = None;
        } else if open.is_none() {
            open = TcpListener::bind(address).await.ok();
        }
        let Some(listener) = &open else {
            sleep(TICK).await;
            continue;
        };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if !refusing() => {
                    let (model, clock) = (Arc::clone(&model), Arc::clone(&clock));
                    connections.spawn(converse(stream, peer.ip(), model, clock));
                }
                Ok(_) => {}
                // Out of file descriptors, usually: some will be closed.
                Err(_) => sleep(TICK).await,
            },
            () = sleep(TICK) => {}
        }
    }
}

/// One connection: one request, and whatever comes back.
async fn converse(stream: TcpStream, peer: IpAddr, model: Shared, clock: Clock) {
    let (model, clock) = (&model, &clock);
    let service = service_fn(move |request| answer(request, peer, model, clock));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Torn connections are what this program is for, and hyper calls each of them an error.
    drop(connection.await);
}

/// No reply: hyper closes the connection.
#[derive(Debug)]
struct NoReply;

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no reply, on purpose")
    }
}

impl std::error::Error for NoReply {}

async fn answer(
    request: Request<Incoming>,
    peer: IpAddr,
    model: &Mutex<Model>,
    clock: &Clock,
) -> Result<Response<Sent>, NoReply> {
    let reply = match read(request, peer).await {
        Some(call) => {
            let (mut model, at) = (lock(model), clock());
            control::answer(&mut model, at, &call).unwrap_or_else(|| model.handle(at, &call))
        }
        None => Reply::bare(413),
    };
    if !reply.delay.is_zero() {
        sleep(reply.delay).await;
    }
    match reply.delivery {
        Delivery::Whole | Delivery::Cut => Ok(response(&reply)),
        Delivery::Lost | Delivery::Hang | Delivery::Refused => Err(NoReply),
    }
}

/// Reads a request, unless it is too long.
async fn read(request: Request<Incoming>, peer: IpAddr) -> Option<Call> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_LIMIT).collect().await.ok()?;
    let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
    Some(Call {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: query.into_owned().collect(),
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        client_ip: peer.to_canonical(),
    })
}

fn response(reply: &Reply) -> Response<Sent> {
    let mut response = Response::builder()
        .status(reply.status)
        .header(CONTENT_LENGTH, reply.body.len());
    if !reply.content_type.is_empty() {
        response = response.header(CONTENT_TYPE, &reply.content_type);
    }
    let sent = match reply.delivery {
        Delivery::Cut => reply.body.len() / 2,
        _ => reply.body.len(),
    };
    let body = Sent {
        part: Some(Bytes::copy_from_slice(&reply.body.as_bytes()[..sent])),
        length: reply.body.len() as u64,
        torn: sent < reply.body.len(),
        flushed: false,
    };
    response
        .body(body)
        .unwrap_or_else(|_| Response::new(Sent::default()))
}

/// A body that may end before its time.
#[derive(Debug, Default)]
struct Sent {
    part: Option<Bytes>,
    length: u64,
    torn: bool,
    flushed: bool,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = NoReply;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, NoReply>>> {
        if let Some(part) = self.part.take() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if !self.torn {
            return Poll::Ready(None);
        }
        if !self.flushed {
            // hyper sends what it has when a body hesitates, and nothing when it fails.
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(NoReply)))
    }

    fn is_end_stream(&self) -> bool {
        self.part.is_none() && !self.torn
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;
    use crate::sandbox::{Credentials, Fault, Kind, Knobs, Settings};

    const AT: Duration = Duration::from_secs(1_800_000_007);

    async fn shell() -> Shell {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let model = Model::new(Settings::default(), 1);
        Shell::start(listener, model, Arc::new(|| AT)).unwrap()
    }

    async fn faulty(kind: Kind) -> Shell {
        let shell = shell().await;
        let faults = vec![Fault::new(kind)];
        shell
            .model()
            .turn(
                AT,
                &Knobs {
                    faults,
                    ..Knobs::default()
                },
            )
            .unwrap();
        shell
    }

    fn classic() -> String {
        let Credentials { appid, secret } = Credentials::default();
        format!("GET /cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}")
    }

    /// Everything that comes back for one request, until the connection ends.
    async fn ask(shell: &Shell, line: &str, body: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(shell.address()).await?;
        let length = body.len();
        let request =
            format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        let mut got = Vec::new();
        timeout(Duration::from_secs(20), stream.read_to_end(&mut got)).await??;
        Ok(String::from_utf8(got).unwrap())
    }

    fn split(reply: &str) -> (usize, &str) {
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        (length.unwrap().parse().unwrap(), body)
    }

    #[tokio::test]
    async fn a_good_reply_arrives_whole() {
        let shell = shell().await;
        let reply = ask(&shell, &classic(), "").await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(
            reply.contains("content-type: application/json; encoding=utf-8\r\n"),
            "{reply}"
        );
        assert!(reply.contains("connection: close\r\n"), "{reply}");
        let (length, body) = split(&reply);
        assert_eq!(length, body.len());
        assert!(body.ends_with(r#"","expires_in":7200}"#), "{body}");
    }

    #[tokio::test]
    async fn a_posted_body_is_read() {
        let shell = shell().await;
        let body = Call::stable(&Credentials::default(), true).body;
        let reply = ask(&shell, "POST /cgi-bin/stable_token", &body)
            .await
            .unwrap();
        assert!(reply.contains("access_token"), "{reply}");
        assert_eq!(shell.model().counts().forced_fetches, 1);
    }

    #[tokio::test]
    async fn a_query_is_decoded() {
        let shell = shell().await;
        let reply = ask(&shell, &classic().replace("wx", "%77x"), "")
            .await
            .unwrap();
        assert!(reply.contains("access_token"), "{reply}");
    }

    #[tokio::test]
    async fn an_unknown_path_is_a_404_without_body_and_type() {
        let reply = ask(&shell().await, "GET /x", "").await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 404 "), "{reply}");
        assert!(!reply.contains("content-type"), "{reply}");
        assert_eq!(split(&reply), (0, ""));
    }

    #[tokio::test]
    async fn too_long_a_body_is_refused() {
        let body = "x".repeat(BODY_LIMIT + 1);
        let reply = ask(&shell().await, "POST /cgi-bin/stable_token", &body).await;
        // The refusal may be lost: hyper closes on what it did not read.
        assert!(reply.map_or(true, |reply| reply.starts_with("HTTP/1.1 413 ")));
    }

    #[tokio::test]
    async fn a_cut_body_is_shorter_than_announced() {
        let shell = faulty(Kind::Cut).await;
        let reply = ask(&shell, &classic(), "").await.unwrap();
        let (length, body) = split(&reply);
        assert_eq!(body.len(), length / 2);
        assert!(body.starts_with("{\"access_token\":\"98_"));
    }

    #[tokio::test]
    async fn a_truncated_body_has_the_length_announced() {
        let shell = faulty(Kind::Truncated).await;
        let reply = ask(&shell, &classic(), "").await.unwrap();
        let (length, body) = split(&reply);
        assert_eq!(body.len(), length);
        assert!(!body.ends_with('}'));
    }

    #[tokio::test]
    async fn a_lost_reply_is_a_closed_connection_and_a_mint() {
        let shell = faulty(Kind::Lost).await;
        assert_eq!(ask(&shell, &classic(), "").await.unwrap(), "");
        assert_eq!(shell.model().counts().classic_mints, 1);
    }

    #[tokio::test]
    async fn a_hanging_call_ends_without_a_byte() {
        let shell = faulty(Kind::Hang).await;
        let hang = Some(Duration::from_millis(300));
        shell
            .model()
            .turn(
                AT,
                &Knobs {
                    hang,
                    ..Knobs::default()
                },
            )
            .unwrap();
        let patience = Duration::from_millis(100);
        let line = classic();
        let mut call = Box::pin(ask(&shell, &line, ""));
        assert!(timeout(patience, &mut call).await.is_err());
        assert_eq!(call.await.unwrap(), "");
        assert_eq!(shell.model().counts().classic_mints, 1);
    }

    #[tokio::test]
    async fn a_hanging_call_keeps_nobody_else_waiting() {
        let shell = faulty(Kind::Hang).await;
        let (line, control) = (classic(), "GET /sandbox/state");
        tokio::select! {
            _ = ask(&shell, &line, "") => panic!("it should hang"),
            reply = async {
                while shell.model().counts().classic_mints == 0 {
                    tokio::task::yield_now().await;
                }
                ask(&shell, control, "").await
            } => assert!(reply.unwrap().contains("classic_mints")),
        }
    }

    #[tokio::test]
    async fn an_outage_can_refuse_connections_and_end() {
        let shell = shell().await;
        let turn = |outage| {
            let outage = Some(outage);
            shell
                .model()
                .turn(
                    AT,
                    &Knobs {
                        outage,
                        ..Knobs::default()
                    },
                )
                .unwrap();
        };
        let refused = async |wanted: bool| {
            let tried = async || match TcpStream::connect(shell.address()).await {
                Ok(_) => false,
                Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            };
            while tried().await != wanted {
                tokio::task::yield_now().await;
            }
        };
        turn(Outage::Refuse);
        timeout(Duration::from_secs(20), refused(true))
            .await
            .unwrap();
        turn(Outage::None);
        timeout(Duration::from_secs(20), refused(false))
            .await
            .unwrap();
        assert!(
            ask(&shell, &classic(), "")
                .await
                .unwrap()
                .contains("access_token")
        );
    }

    #[tokio::test]
    async fn a_gateway_answers_in_html() {
        let reply = ask(&faulty(Kind::Gateway).await, &classic(), "")
            .await
            .unwrap();
        assert!(reply.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{reply}");
        assert!(reply.contains("content-type: text/html\r\n"), "{reply}");
    }

    #[tokio::test]
    async fn the_control_endpoint_answers_while_wechat_is_down() {
        let shell = shell().await;
        let knobs = "POST /sandbox/knobs";
        ask(&shell, knobs, r#"{"outage":"cut"}"#).await.unwrap();
        assert_eq!(ask(&shell, &classic(), "").await.unwrap(), "");
        ask(&shell, knobs, r#"{"outage":"none"}"#).await.unwrap();
        assert!(
            ask(&shell, &classic(), "")
                .await
                .unwrap()
                .contains("access_token")
        );
    }

    #[tokio::test]
    async fn a_stopped_shell_closes_its_port_and_hanging_calls() {
        let shell = faulty(Kind::Hang).await;
        let address = shell.address();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{} HTTP/1.1\r\nHost: x\r\n\r\n", classic());
        stream.write_all(request.as_bytes()).await.unwrap();
        while shell.model().counts().classic_mints == 0 {
            tokio::task::yield_now().await;
        }
        timeout(Duration::from_secs(20), shell.stop())
            .await
            .unwrap();
        let mut rest = Vec::new();
        let closed = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest))
            .await
            .unwrap();
        assert!(closed.is_err() || rest.is_empty());
        assert!(TcpStream::connect(address).await.is_err());
    }
}
