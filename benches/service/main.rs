//! The service under load, beside tonic's own server with a constant reply: `cargo bench`.
//!
//! Both are processes of their own, measured in turns in one run, because machines are noisy: what
//! counts are the medians and the ratios. `cargo bench -- get watch` runs some parts only.

mod load;
mod server;
mod stock;
mod torture;
mod wire;

use std::{
    env,
    sync::Arc,
    time::{Duration, SystemTime},
};

use load::{Audience, Crowd};
use prost::Message;
use server::{SECRET, Server, folder};
use tokio::{net::TcpListener, time::sleep};
use wxtokend::{
    pb::{GetTokenRequest, GetTokenResponse, token_service_client::TokenServiceClient},
    sandbox::{Credentials, Model, Settings, Shell},
};

/// Turns of each server; an odd number has a median.
const ROUNDS: usize = 5;

/// News for each crowd, in turns: what the machine does meanwhile matters more to one push than what
/// the servers do. No more than come before the first pings to so many peers, which take a while too.
const PUSHES: usize = 6;

/// Turns with and without peers that misbehave: a hundredth of the calls is what a scheduler does to
/// them, so it takes more.
const TORTURES: usize = 15;

/// The README's promises are about so many.
const CROWD: usize = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--stock") {
        return serve_stock();
    }
    if let Some(at) = arguments.iter().position(|a| a == "--listen") {
        let crowd = arguments[at + 2].parse().expect("a number");
        return load::listen(&arguments[at + 1], crowd).await;
    }
    let wanted = |part: &str| {
        let mut parts = arguments.iter().filter(|a| !a.starts_with("--")).peekable();
        parts.peek().is_none() || parts.any(|a| a == part)
    };
    println!(
        "medians of {ROUNDS} turns each ({PUSHES} pushes in each, {TORTURES} of torture); ratio = median of ours ÷ stock, pair by pair\n"
    );
    if wanted("get") {
        get().await;
    }
    if wanted("watch") {
        watch().await;
    }
    if wanted("streams") {
        streams().await;
    }
    if wanted("start") {
        start().await;
    }
    if wanted("torture") {
        torture().await;
    }
}

/// With the threads that it has by default.
fn serve_stock() {
    let serve = || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(stock::serve());
    };
    std::thread::spawn(serve)
        .join()
        .expect("it serves for ever");
}

/// `GetToken` in a closed loop.
async fn get() {
    let wechat = wechat(Duration::from_hours(2)).await;
    let folder = folder();
    let ours = Server::ours(folder.path(), &wechat.url(), "");
    let stock = Server::stock(&reply_of(&ours).await);
    let (mut rate, mut cost, mut p99) = (
        Pairs::new("calls a second"),
        Pairs::new("processor time a call, µs"),
        Pairs::new("p99, ms"),
    );
    for _ in 0..ROUNDS {
        let mut figures = [[0.0; 3]; 2];
        for (server, figures) in [&ours, &stock].into_iter().zip(&mut figures) {
            let (span, before) = (Duration::from_secs(3), server.cpu());
            let times = load::get(&server.address, 8, 16, span).await;
            let calls = number(times.len());
            let spent = server.cpu() - before;
            *figures = [
                calls / span.as_secs_f64(),
                spent / calls * 1e6,
                times.at(990),
            ];
        }
        let [ours, stock] = figures;
        rate.push(ours[0], stock[0]);
        cost.push(ours[1], stock[1]);
        p99.push(ours[2], stock[2]);
    }
    println!("GetToken, 8 connections with 16 calls under way on each");
    for pairs in [rate, cost, p99] {
        pairs.print();
    }
}

/// `WatchToken` on many connections.
async fn watch() {
    let wechat = wechat(10 * EVERY).await;
    let (mut memory, mut p50, mut p99, mut time) = (
        Pairs::new("memory a connection, kB"),
        Pairs::new("first to half of them, ms"),
        Pairs::new("first to p99 of them, ms"),
        Pairs::new("processor time a push, ms"),
    );
    for _ in 0..ROUNDS {
        let folder = folder();
        let ours = Server::ours(folder.path(), &wechat.url(), REFRESH);
        let mut stock = Server::stock(&reply_of(&ours).await);
        let (mut to_stock, cost_of_stock) = crowd(&stock).await;
        let (mut to_ours, cost) = crowd(&ours).await;
        memory.push(cost / 1e3, cost_of_stock / 1e3);
        to_ours.settle().await;
        for _ in 0..PUSHES {
            let before = [ours.cpu(), stock.cpu()];
            let after_ours = to_ours.hear().await;
            sleep(PAUSE).await;
            stock.push();
            let after_stock = to_stock.hear().await;
            p50.push(after_ours[0], after_stock[0]);
            p99.push(after_ours[1], after_stock[1]);
            let spent = [ours.cpu() - before[0], stock.cpu() - before[1]];
            time.push(spent[0] * 1e3, spent[1] * 1e3);
        }
    }
    println!("WatchToken, {CROWD} connections with a stream each");
    for pairs in [memory, p50, p99, time] {
        pairs.print();
    }
}

/// More streams on the same connections.
async fn streams() {
    let wechat = wechat(Duration::from_hours(2)).await;
    let mut memory = Pairs::new("memory a further stream, kB");
    for _ in 0..ROUNDS {
        let mut figures = [0.0; 2];
        for (at, figure) in figures.iter_mut().enumerate() {
            let folder = folder();
            let ours = Server::ours(folder.path(), &wechat.url(), REFRESH);
            let server = if at == 0 {
                ours
            } else {
                Server::stock(&reply_of(&ours).await)
            };
            let _one = Audience::gather(&server.address, 100, 1).await;
            let before = server.memory();
            let _many = Audience::gather(&server.address, 100, 101).await;
            let connections_and_all = server.memory() - before;
            let _further = Audience::gather(&server.address, 100, 1).await;
            let connections = server.memory() - before - connections_and_all;
            *figure = (connections_and_all - connections) / 10_000.0;
        }
        memory.push(figures[0] / 1e3, figures[1] / 1e3);
    }
    println!("WatchToken, 100 connections with 100 further streams each");
    memory.print();
}

/// From nothing to an answer, and at rest.
async fn start() {
    let wechat = wechat(Duration::from_hours(2)).await;
    let folder = folder();
    let (mut first, mut memory) = (Vec::new(), Vec::new());
    drop(reply_of(&Server::ours(folder.path(), &wechat.url(), "")).await);
    for _ in 0..ROUNDS {
        let begun = tokio::time::Instant::now();
        let server = Server::ours(folder.path(), &wechat.url(), "");
        drop(reply_of(&server).await);
        first.push(begun.elapsed().as_secs_f64() * 1e3);
        memory.push(server.memory() / 1e6);
    }
    println!("Warm start");
    println!(
        "  first answer after {:.0} ms, memory at rest {:.1} MB\n",
        median(first),
        median(memory)
    );
}

/// `GetToken` at a fixed rate, with and without peers that misbehave.
async fn torture() {
    let wechat = wechat(Duration::from_hours(2)).await;
    let folder = folder();
    let streams = torture::STREAMS.to_string();
    let room = [("WXTOKEND__GRPC__MAX_STREAMS_PER_CONNECTION", &*streams)];
    let server = Server::ours_with(folder.path(), &wechat.url(), "", &room);
    drop(reply_of(&server).await);
    let (mut p50, mut p99) = (Pairs::new("p50, ms"), Pairs::new("p99, ms"));
    let (span, calm) = (Duration::from_secs(3), Duration::from_secs(1));
    for _ in 0..TORTURES {
        let alone = torture::steady(&server.address, span).await;
        let crowd = torture::Crowd::gather(&server.address).await;
        sleep(calm).await;
        let beside = torture::steady(&server.address, span).await;
        drop(crowd);
        sleep(calm).await;
        p50.push(beside.at(500), alone.at(500));
        p99.push(beside.at(990), alone.at(990));
    }
    println!("GetToken, 8 connections with 200 calls a second each, beside peers that misbehave");
    for pairs in [p50, p99] {
        pairs.print_as(["with", "without"]);
    }
}

/// Rotates at a tenth of the life, so that no stream has to think of the end of its token.
const REFRESH: &str = "overlap = '2s'\nprobe_every = '0s'\nat = 0.1";

/// From one push to the next.
const EVERY: Duration = Duration::from_secs(4);

/// Between a push of ours and one of tonic's.
const PAUSE: Duration = Duration::from_secs(2);

/// A crowd of readers, and what each costs the server, in bytes.
async fn crowd(server: &Server) -> (Crowd, f64) {
    drop(Audience::gather(&server.address, 10, 1).await);
    let before = server.memory();
    let crowd = Crowd::gather(&server.address, CROWD).await;
    (crowd, (server.memory() - before) / number(CROWD))
}

async fn wechat(life: Duration) -> Shell {
    let account = Credentials {
        appid: "wx-shop".into(),
        secret: SECRET.into(),
    };
    let settings = Settings {
        accounts: vec![account],
        life,
        overlap: Duration::from_secs(2),
        ..Settings::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let clock = || SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Shell::start(listener, Model::new(settings, 7), Arc::new(clock)).expect("it listens")
}

async fn reply_of(server: &Server) -> Vec<u8> {
    let mut client = TokenServiceClient::connect(format!("http://{}", server.address))
        .await
        .expect("a server");
    let request = GetTokenRequest {
        app_id: "shop".into(),
    };
    let reply: GetTokenResponse = client
        .get_token(request)
        .await
        .expect("a token")
        .into_inner();
    reply.encode_to_vec()
}

/// The same figure of both servers, turn by turn.
struct Pairs {
    name: &'static str,
    ours: Vec<f64>,
    stock: Vec<f64>,
}

impl Pairs {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            ours: Vec::new(),
            stock: Vec::new(),
        }
    }

    fn push(&mut self, ours: f64, stock: f64) {
        self.ours.push(ours);
        self.stock.push(stock);
    }

    fn print(self) {
        self.print_as(["ours", "stock"]);
    }

    fn print_as(self, [one, other]: [&str; 2]) {
        let ratios = self
            .ours
            .iter()
            .zip(&self.stock)
            .map(|(o, s)| o / s)
            .collect();
        let (ours, stock, ratio) = (median(self.ours), median(self.stock), median(ratios));
        println!(
            "  {:<28} {one} {ours:>10.2}   {other} {stock:>10.2}   ratio {ratio:.2}",
            self.name
        );
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a few thousand"))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}
