//! Peers that send much of what costs them little, to the real program: its memory is looked at.

use std::time::Duration;

use tokio::time::timeout;

use super::{City, vitals::Vitals};
use crate::{
    peer::{
        CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PRIORITY, Peer, SETTINGS, WIDE, frame, get,
        grant, head, headers, reset, streams, values, watch,
    },
    served::eventually,
};

/// What all floods together may add to the program's memory.
const MIB: u64 = 32;

/// What becomes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is told to go away, or cut.
    Cut,
    /// It costs nothing but itself.
    Borne,
}

use Fate::{Borne, Cut};

struct Flood {
    name: &'static str,
    /// What the peer says before.
    once: Vec<u8>,
    /// All of the flood.
    all: Vec<u8>,
    fate: Fate,
}

impl Flood {
    fn new(name: &'static str, all: Vec<u8>, fate: Fate) -> Self {
        let once = Vec::new();
        Self {
            name,
            once,
            all,
            fate,
        }
    }

    fn after(self, once: Vec<u8>) -> Self {
        Self { once, ..self }
    }
}

fn calls(count: u32, of: fn(u32) -> Vec<u8>) -> Vec<u8> {
    streams(count).flat_map(of).collect()
}

/// Of calls, and of what belongs to them.
fn floods_of_calls() -> Vec<Flood> {
    let open = || frame(HEADERS, END_HEADERS, 1, &head("GetToken"));
    let unfinished = || frame(HEADERS, 0, 1, &head("GetToken"));
    let taken_back = calls(50_000, |id| [get(id, "classic"), reset(id)].concat());
    let wrong = calls(50_000, |id| [get(id, "classic"), grant(id, WIDE)].concat());
    let empty = frame(DATA, 0, 1, b"").repeat(100_000);
    let padded = frame(DATA, 8, 1, &[&[255][..], &[0; 256]].concat()).repeat(20_000);
    let nothing = frame(CONTINUATION, 0, 1, b"").repeat(50_000);
    let a_byte = frame(CONTINUATION, 0, 1, b"\0").repeat(50_000);
    let much = headers(&[("x", &"y".repeat(8000))]);
    let much = frame(CONTINUATION, 0, 1, &much).repeat(2000);
    let nameless = headers(&vec![("", ""); 5000]);
    let nameless = frame(HEADERS, END_HEADERS, 1, &nameless);
    vec![
        Flood::new("rapid reset", taken_back, Cut),
        Flood::new("calls that the server resets", wrong, Cut),
        Flood::new("data without data", empty, Cut).after(open()),
        Flood::new("data of nothing but padding", padded, Cut).after(open()),
        Flood::new("empty continuations", nothing, Cut).after(unfinished()),
        Flood::new("continuations of a byte", a_byte, Cut).after(unfinished()),
        Flood::new("endless headers", much, Cut).after(unfinished()),
        Flood::new("headers without names", nameless, Cut),
    ]
}

/// Of all other frames.
fn floods_of_frames() -> Vec<Flood> {
    let window = |size| frame(SETTINGS, 0, 0, &values(&[(4, size)]));
    let settings = frame(SETTINGS, 0, 0, &values(&[(3, 100); 10])).repeat(50_000);
    let windows = [window(1), window(65_535)].concat().repeat(5000);
    let crowd = calls(900, |id| watch(id, "classic"));
    let pings = frame(PING, 0, 0, b"12345678").repeat(100_000);
    let unasked = frame(PING, 1, 0, b"12345678").repeat(100_000);
    let priorities = frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(100_000);
    let grants = grant(0, 1).repeat(100_000);
    let unknown = frame(99, 255, 1, &[7; 1000]).repeat(20_000);
    vec![
        Flood::new("settings", settings, Cut),
        Flood::new("windows of many streams", windows, Cut).after(crowd),
        Flood::new("pings", pings, Borne),
        Flood::new("pongs that nobody asked for", unasked, Borne),
        Flood::new("priorities", priorities, Borne),
        Flood::new("window a byte at a time", grants, Borne),
        Flood::new("unknown frames", unknown, Borne),
    ]
}

/// What becomes of the peer.
async fn fate(url: &str, flood: &Flood) -> Fate {
    let mut peer = Peer::greeting(url).await;
    peer.pour(&flood.once).await;
    peer.pour(&flood.all).await;
    let pong = async {
        peer.send(&frame(PING, 0, 0, b"StillIn?")).await.ok()?;
        loop {
            let frame = peer.frame().await?;
            if frame.kind == PING && frame.payload == b"StillIn?" {
                return Some(());
            }
        }
    };
    let pong = timeout(Duration::from_secs(20), pong).await;
    let pong = pong.expect("neither cut nor answered");
    if pong.is_some() { Borne } else { Cut }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_costs_little_memory_and_the_neighbours_are_served() {
    let mut city = City::new().await;
    let vitals = Vitals(city.server.process.pid());
    let (before, descriptors) = (vitals.peak(), vitals.descriptors());
    for flood in floods_of_calls().into_iter().chain(floods_of_frames()) {
        let fate = fate(city.url(), &flood).await;
        assert_eq!(fate, flood.fate, "{}", flood.name);
        city.neighbours.are_served().await;
    }
    city.goes_on().await;
    let peak = vitals.peak();
    assert!(peak <= before + MIB, "from {before} to {peak} MiB");
    let gone = || async { vitals.descriptors() <= descriptors };
    eventually(gone, "all are forgotten").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_who_come_and_go_leave_nothing() {
    let mut city = City::new().await;
    let vitals = Vitals(city.server.process.pid());
    let (before, descriptors) = (vitals.peak(), vitals.descriptors());
    for turn in 0..2000 {
        let mut peer = match turn % 2 {
            0 => Peer::silent(city.url()).await,
            _ => Peer::greeting(city.url()).await,
        };
        if turn % 4 == 3 {
            peer.send(&watch(1, "classic")).await.unwrap();
        }
    }
    city.goes_on().await;
    let gone = || async { vitals.descriptors() <= descriptors };
    eventually(gone, "all are forgotten").await;
    let peak = vitals.peak();
    assert!(peak <= before + MIB, "from {before} to {peak} MiB");
}
