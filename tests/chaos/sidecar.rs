//! A sidecar whose two servers are killed, stopped and drained in any order: whoever uses what it serves,
//! or what it writes, is never refused and never finds half a token.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use wxtokend::{app::wall_time, pb, sandbox::Settings};

use crate::{
    FEW_CLIENTS, GRPC, measured,
    process::{Home, Process, Server, WeChat, token, token_that, until},
    served::Client,
};

const APP: &str = "stable";

/// For as long as servers fail.
const SPAN: Duration = Duration::from_secs(30);

/// In milliseconds: the longest that a server stands still, or that there is none. A third of the overlap,
/// since it has to start and to be found again.
const LONGEST: u64 = 1000;

/// Memory may grow by so much.
const SLACK: u64 = 4 << 20;

/// One of the servers, each with a store of its own.
struct Host {
    home: Home,
    server: Server,
}

impl Host {
    async fn new(wechat: &WeChat) -> Self {
        let refresh = "overlap = '6s'\nfloor = '100ms'\nprobe_every = '1s'";
        let home = Home::new(&wechat.url(), refresh, &[APP]).replace(GRPC, FEW_CLIENTS);
        let home = home.on_unix();
        let server = home.serve().await;
        Self { home, server }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.home.path("grpc.sock").display())
    }

    async fn fail(&mut self, pause: Duration) {
        match fastrand::u8(..3) {
            0 => {
                self.server.process.signal("STOP").await;
                sleep(pause).await;
                self.server.process.signal("CONT").await;
            }
            1 => {
                self.server.process.kill().await;
                sleep(pause).await;
                self.server = self.home.serve().await;
            }
            _ => {
                self.server.process.signal("TERM").await;
                self.server.process.ended().await;
                self.server = self.home.serve().await;
            }
        }
    }
}

/// A sidecar of both, which writes a file.
async fn sidecar(hosts: &[Host; 2], file: &Path) -> Server {
    let home = &hosts[0].home;
    let text = format!(
        "[agent]\nservers = ['{}', '{}']\napps = ['{APP}']\n{FEW_CLIENTS}listen = '127.0.0.1:0'\n\
         [[output]]\napp = '{APP}'\nkind = 'file'\npath = '{}'\n",
        hosts[0].url(),
        hosts[1].url(),
        file.display()
    );
    home.write("agent.toml", &text);
    let config = home.path("agent.toml").display().to_string();
    let agent = Server::of(Process::start(&["agent", "--config", &config], &[])).await;
    until("there is a file", || file.exists()).await;
    agent
}

/// Reads `file` over and over. How often, and how many of the tokens there WeChat refused.
fn read_all_the_time(file: &Path, wechat: &WeChat, over: &AtomicBool) -> (u64, u64) {
    let (mut reads, mut refused) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let token = fs::read_to_string(file).expect("it is never missing");
        refused += u64::from(!wechat.accepts(APP, &token));
        reads += 1;
    }
    (reads, refused)
}

/// Asks over and over. How many of the tokens WeChat refused.
async fn ask_all_the_time(mut client: Client, wechat: &WeChat, over: &AtomicBool) -> u64 {
    let (mut last, mut refused) = (pb::Token::default(), 0);
    while !over.load(Ordering::Relaxed) {
        let token = token(&mut client, APP).await.expect("there is always one");
        // Two servers without a common store number one token differently. What the other has is taken
        // once next to nothing of what is held is left.
        let fell = token.generation < last.generation;
        assert!(!fell || is_over(&last), "{token:?} after {last:?}");
        refused += u64::from(!wechat.accepts(APP, &token.access_token));
        last = token;
        sleep(Duration::from_millis(20)).await;
    }
    refused
}

fn is_over(token: &pb::Token) -> bool {
    let end = token.expire_time.expect("it is always there");
    SystemTime::try_from(end).expect("it is a time") <= wall_time() + Duration::from_millis(300)
}

/// How many faults there were.
async fn fail_at_random(hosts: &mut [Host; 2]) -> u32 {
    let (end, mut faults) = (Instant::now() + SPAN, 0);
    let some_time = || Duration::from_millis(fastrand::u64(..LONGEST));
    while Instant::now() < end {
        let (pause, [one, other]) = (some_time(), &mut *hosts);
        match fastrand::u8(..3) {
            0 => one.fail(pause).await,
            1 => other.fail(pause).await,
            _ => drop(tokio::join!(one.fail(pause), other.fail(pause))),
        }
        faults += 1;
        sleep(some_time()).await;
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_its_servers_a_sidecar_has_a_living_token() {
    let settings = Settings {
        // Room for several faults of both servers in a row, as there is with WeChat's five minutes.
        life: Duration::from_secs(12),
        overlap: Duration::from_secs(6),
        ..Settings::default()
    };
    let wechat = Arc::new(WeChat::start(&[APP], settings).await);
    let mut hosts = [Host::new(&wechat).await, Host::new(&wechat).await];
    for host in &hosts {
        token_that(&mut host.server.client().await, APP, "is there", |_| true).await;
    }
    let file = hosts[0].home.path("token");
    let agent = sidecar(&hosts, &file).await;
    let before = measured::memory(&agent.process);

    let over = Arc::new(AtomicBool::new(false));
    let reader = spawn_blocking({
        let (over, wechat) = (Arc::clone(&over), Arc::clone(&wechat));
        move || read_all_the_time(&file, &wechat, &over)
    });
    let asker = tokio::spawn({
        let (over, wechat) = (Arc::clone(&over), Arc::clone(&wechat));
        let client = agent.client().await;
        async move { ask_all_the_time(client, &wechat, &over).await }
    });
    let faults = fail_at_random(&mut hosts).await;
    over.store(true, Ordering::Relaxed);

    let ((reads, refused), also_refused) = (reader.await.unwrap(), asker.await.unwrap());
    let grown = measured::memory(&agent.process).saturating_sub(before);
    let minted = wechat.counts(APP).mints();
    println!("{faults} faults, {minted} tokens, {reads} reads, memory {before} + {grown} bytes");
    let said = agent.process.stderr();
    assert_eq!((refused, also_refused), (0, 0), "{said}");
    assert!(grown < SLACK, "memory grew by {grown} bytes");
    assert!(minted >= 4, "there were rotations: {minted}");
}
