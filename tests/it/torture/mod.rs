//! Peers that do what no client does, beside programs that behave: the former are cut or refused, the
//! latter notice nothing.
//!
//! Every test hurts a server with bytes made by hand, then asks whether its neighbours were served all
//! the while and see the next rotation, and whether the server has forgotten the peers that are gone.

mod crowds;
mod descriptors;
mod drain;
mod floods;
mod mixture;
mod neighbours;
mod nonsense;
mod phrases;
mod readers;
mod strangers;
mod vitals;

use std::time::Duration;

use wxtokend::{
    config,
    sandbox::Settings,
    telemetry::{Facts, Metrics},
};

use self::neighbours::Neighbours;
use crate::{
    process::{Home, Process, Server, WeChat},
    served::{Running, eventually, serve_with, settings},
};

/// A server with a token, and neighbours who use it.
struct Town {
    server: Running,
    neighbours: Neighbours,
    generation: u64,
}

impl Town {
    async fn new() -> Self {
        Self::with(settings()).await
    }

    async fn with(settings: config::Grpc) -> Self {
        let server = serve_with(settings, Vec::new(), Duration::from_secs(10)).await;
        server.publish(1);
        let neighbours = Neighbours::of(&server.url, "shop", &server.history).await;
        Self {
            server,
            neighbours,
            generation: 1,
        }
    }

    fn url(&self) -> &str {
        &self.server.url
    }

    /// Publishes a token, which the neighbours see soon.
    async fn rotates(&mut self) {
        self.generation += 1;
        self.server.publish(self.generation);
        self.neighbours.see(self.generation).await;
        self.neighbours.are_served().await;
    }

    /// How many connections the server counts.
    fn connections(&self) -> u64 {
        connections(&self.server.metrics)
    }

    /// Waits until only the neighbours are connected.
    async fn is_rid_of_them(&self) {
        let alone = || async { self.connections() == Neighbours::CONNECTIONS };
        eventually(alone, "only the neighbours are connected").await;
    }
}

/// What the gauge of connections says.
fn connections(metrics: &Metrics) -> u64 {
    let nothing = Facts {
        now: std::time::SystemTime::UNIX_EPOCH,
        live: true,
        ready: true,
        draining: false,
        apps: Vec::new(),
    };
    let page = metrics.page(nothing);
    let mut lines = page.lines();
    let value = lines.find_map(|line| line.strip_prefix("wxtokend_connections "));
    value.unwrap().parse().unwrap()
}

/// The real program, whose token rotates every two seconds and lives for twenty, and neighbours who use
/// it. For what only
/// a process has: memory, descriptors, processor time.
struct City {
    wechat: WeChat,
    server: Server,
    neighbours: Neighbours,
    _home: Home,
}

impl City {
    async fn new() -> Self {
        Self::of(Home::spawn).await
    }

    async fn of(start: impl FnOnce(&Home) -> Process) -> Self {
        let lives = Settings {
            life: Duration::from_secs(20),
            overlap: Duration::from_secs(1),
            ..Settings::default()
        };
        let wechat = WeChat::start(&["classic"], lives).await;
        let refresh = "at = 0.1\noverlap = '1s'\nprobe_every = '0s'";
        let home = Home::new(&wechat.url(), refresh, &["classic"]);
        let home = home.and("[admin]\nlisten = '127.0.0.1:0'\n");
        let server = Server::of(start(&home)).await;
        let neighbours = Neighbours::of(&server.url, "classic", &server.history).await;
        Self {
            wechat,
            server,
            neighbours,
            _home: home,
        }
    }

    fn url(&self) -> &str {
        &self.server.url
    }

    /// The neighbours see two more rotations, and are served.
    async fn goes_on(&mut self) {
        for _ in 0..2 {
            self.neighbours.see(self.neighbours.newest() + 1).await;
        }
        self.neighbours.are_served().await;
    }
}

/// Where a server has its probes.
fn admin_of(server: &Server) -> String {
    let stdout = server.process.stdout();
    let mut lines = stdout.lines();
    let admin = lines.find_map(|line| line.strip_prefix("admin "));
    admin.unwrap().to_owned()
}
