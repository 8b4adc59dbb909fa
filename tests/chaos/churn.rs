//! Callers that come, do little and go, again and again: nothing may be left of them.
//!
//! `WXTOKEND_CHURN` says how many; each goes in one of two ways (FIN, RST), after one of five things.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use wxtokend::{pb, sandbox::Settings};

use crate::{
    measured,
    process::{Home, PATIENCE, Process, WeChat, http, token_that},
};

/// Callers when nobody says how many.
const FEW: u64 = 20_000;

/// Who come at a time.
const CROWD: u64 = 64;

/// Memory may grow by so much from the first tenth of the callers to the last: at rest it is 19 to 23 MB, however many
/// there were.
const SLACK: u64 = 8 << 20;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it takes a while: `.ci/run chaos`, and the whole million: `.ci/full churn`"]
async fn callers_that_come_and_go_leave_nothing_behind() {
    let count = std::env::var("WXTOKEND_CHURN");
    let count = count.map_or(FEW, |count| count.parse().expect("a number"));
    let wechat = WeChat::start(&["shop"], Settings::default()).await;
    let home = Home::new(&wechat.url(), "", &["shop"]).and("[admin]\nlisten = '127.0.0.1:0'\n");
    let server = home.serve().await;
    let admin = server.process.stdout_line("admin ").await;
    let admin = admin.strip_prefix("admin ").unwrap();
    let mut client = server.client().await;
    let token = token_that(&mut client, "shop", "is there", |_| true).await;
    drop(client);
    let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let visit = Arc::new(Visit::new(address, &token.access_token));

    let start = Rest::of(&server.process, admin, &visit, 0).await;
    let warm = Rest::of(&server.process, admin, &visit, count / 10).await;
    let end = Rest::of(&server.process, admin, &visit, count - count / 10).await;
    let a_second = f64::from(u32::try_from(count - count / 10).unwrap()) / end.took.as_secs_f64();
    println!("{count} callers, {a_second:.0} a second; after a tenth {warm:?}, at the end {end:?}");
    assert_eq!(
        end.descriptors, start.descriptors,
        "files or sockets are left"
    );
    assert!(end.memory < warm.memory + SLACK, "memory grew");
    let mut client = server.client().await;
    token_that(&mut client, "shop", "is still there", |_| true).await;
}

/// What a server has when nobody is there.
#[derive(Debug)]
struct Rest {
    /// How long the callers took.
    took: Duration,
    memory: u64,
    descriptors: usize,
}

impl Rest {
    /// After `callers` have come and gone.
    async fn of(process: &Process, admin: &str, visit: &Arc<Visit>, callers: u64) -> Self {
        let began = Instant::now();
        let left = Arc::new(AtomicU64::new(callers));
        let mut tasks = JoinSet::new();
        for _ in 0..CROWD {
            let (visit, left) = (Arc::clone(visit), Arc::clone(&left));
            tasks.spawn(async move {
                let less = |left: u64| left.checked_sub(1);
                while let Ok(turn) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
                    let visited = timeout(PATIENCE, visit.pay(turn)).await;
                    visited.unwrap_or_else(|_| panic!("caller {turn} got no answer"));
                }
            });
        }
        tasks.join_all().await;
        let took = began.elapsed();
        let gone = async {
            loop {
                let (_, page) = http(admin, "GET", "/metrics", "").await;
                let none = |name| {
                    page.lines()
                        .any(|line| line == format!("wxtokend_{name} 0"))
                };
                if none("connections") && none("watch_streams{app=\"shop\"}") {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, gone)
            .await
            .expect("all connections are over");
        Self {
            took,
            memory: memory_kept(process).await,
            descriptors: descriptors_kept(process).await,
        }
    }
}

/// The least within as long as the allocator keeps what it may need again: ten seconds.
async fn memory_kept(process: &Process) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..24 {
        least = least.min(measured::memory(process));
        sleep(Duration::from_millis(500)).await;
    }
    least
}

/// The fewest within a second. What only passes by, as a look at WeChat or the last scrape, is not
/// there all the time; what was forgotten is.
async fn descriptors_kept(process: &Process) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..20 {
        fewest = fewest.min(measured::descriptors(process));
        sleep(Duration::from_millis(50)).await;
    }
    fewest
}

/// What a caller does.
struct Visit {
    address: SocketAddr,
    get: Vec<u8>,
    watch: Vec<u8>,
    token: Vec<u8>,
}

impl Visit {
    fn new(address: SocketAddr, token: &str) -> Self {
        let app_id = String::from("shop");
        let get = pb::GetTokenRequest {
            app_id: app_id.clone(),
        };
        let watch = pb::WatchTokenRequest {
            app_id,
            known_generation: 0,
        };
        Self {
            address,
            get: call("GetToken", &get.encode_to_vec()),
            watch: call("WatchToken", &watch.encode_to_vec()),
            token: token.as_bytes().to_vec(),
        }
    }

    async fn pay(&self, turn: u64) {
        let mut stream = self.connect(turn).await;
        match turn % 5 {
            0 => {}
            1 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
            2 => {
                stream.write_all(PREFACE).await.unwrap();
                // The server's own settings: it is in the middle of its greeting.
                stream.read_u8().await.unwrap();
            }
            3 => self.ask(&mut stream, &self.get).await,
            _ => self.ask(&mut stream, &self.watch).await,
        }
        if (turn / 5).is_multiple_of(2) {
            stream.set_zero_linger().unwrap();
        }
    }

    /// From an address of its own for each few thousand: who closes first blocks a port for a minute.
    async fn connect(&self, turn: u64) -> TcpStream {
        let [.., high, low] = (turn / 2000).to_be_bytes();
        let from = Ipv4Addr::new(127, 1, high, low);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Until the token has come.
    async fn ask(&self, stream: &mut TcpStream, call: &[u8]) {
        stream.write_all(call).await.unwrap();
        let mut heard = Vec::new();
        while !heard
            .windows(self.token.len())
            .any(|part| part == self.token)
        {
            let read = stream.read_buf(&mut heard).await.unwrap();
            assert_ne!(read, 0, "it hung up");
        }
    }
}

/// The bytes of a first call on a new connection.
fn call(method: &str, message: &[u8]) -> Vec<u8> {
    let path = format!("/wxtokend.v1.TokenService/{method}");
    let mut headers = vec![0x83, 0x86]; // POST, http
    for (name, value) in [
        (":path", &*path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        headers.push(0); // a literal that is not to be remembered
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap());
            headers.extend(text.as_bytes());
        }
    }
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], message].concat();
    let settings = frame(4, 0, 0, &[]);
    let (headers, body) = (frame(1, 4, 1, &headers), frame(0, 1, 1, &body));
    [PREFACE, &settings, &headers, &body].concat()
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [.., high, low] = payload.len().to_be_bytes();
    [&[0, high, low, kind, flags, 0, 0, 0, stream], payload].concat()
}
