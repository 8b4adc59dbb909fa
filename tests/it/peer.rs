//! A peer that speaks HTTP/2 by hand, as badly as a test wants it to.
//!
//! It shares no code with the server's HTTP/2, so neither hides a mistake of the other; and it sees
//! what a client library keeps to itself: each frame, each error code, the end of the socket.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    select,
};
use wxtokend::pb::{self, Cause};

use crate::served::within;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;

/// The window that both directions of everything begin with.
pub(crate) const WINDOW: u32 = 65_535;

/// The greatest window there is.
pub(crate) const WIDE: u32 = (1 << 31) - 1;

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// Of a `RST_STREAM` or a `GOAWAY`.
    pub(crate) fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The message of a stream of tokens: why it came, and the generation of its token.
    pub(crate) fn told(&self) -> (Cause, u64) {
        assert_eq!(self.kind, DATA, "{self:?}");
        let message = pb::WatchTokenResponse::decode(&self.payload[5..]).unwrap();
        (message.cause(), message.token.unwrap().generation)
    }
}

/// What was left of a connection when it was over.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// The error of its last GOAWAY.
    pub(crate) goaway: Option<u32>,
    /// The error of each stream that was reset.
    pub(crate) resets: BTreeMap<u32, u32>,
    /// The streams that ended as they should.
    pub(crate) ended: Vec<u32>,
    /// How many frames came.
    pub(crate) frames: usize,
}

impl Remains {
    fn note(&mut self, frame: &Frame) {
        self.frames += 1;
        match frame.kind {
            GOAWAY => self.goaway = Some(frame.error()),
            RST_STREAM => drop(self.resets.insert(frame.stream, frame.error())),
            _ if frame.ends_stream() => self.ended.push(frame.stream),
            _ => {}
        }
    }
}

/// One connection to a server.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: TcpStream,
    input: Vec<u8>,
    heard: VecDeque<Frame>,
    /// Acknowledges settings and answers pings.
    pub(crate) polite: bool,
    /// Lets the server send as much again as it has sent.
    pub(crate) grants: bool,
}

impl Peer {
    /// Connects and says nothing.
    pub(crate) async fn silent(url: &str) -> Self {
        let address = url.strip_prefix("http://").unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            input: Vec::new(),
            heard: VecDeque::new(),
            polite: true,
            grants: true,
        }
    }

    /// Connects and begins HTTP/2 as everybody does.
    pub(crate) async fn greeting(url: &str) -> Self {
        Self::with(url, &[]).await
    }

    /// Connects and begins HTTP/2 with these settings: `(identifier, value)`.
    pub(crate) async fn with(url: &str, settings: &[(u16, u32)]) -> Self {
        let mut peer = Self::silent(url).await;
        let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &values(settings))].concat();
        peer.send(&greeting).await.unwrap();
        peer
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// Sends as much of `bytes` as the server takes, and reads at the same time, or both would wait
    /// for each other. What is read is kept for later. Returns how much was sent until the server had
    /// enough.
    pub(crate) async fn pour(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            let (mut reader, mut writer) = self.socket.split();
            let over = select! {
                wrote = writer.write(&bytes[sent..]) => {
                    wrote.map(|length| sent += length).is_err()
                }
                read = reader.read_buf(&mut self.input) => read.unwrap_or(0) == 0,
            };
            self.sort();
            if over {
                break;
            }
        }
        sent
    }

    /// The next frame, or nothing: the connection is over.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.heard.pop_front() {
                // Who is gone gets no answer, which is found out at the next read.
                let _ = self.react(&frame).await;
                return Some(frame);
            }
            if self.socket.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
            self.sort();
        }
    }

    /// Waits for a frame of this kind.
    pub(crate) async fn await_kind(&mut self, kind: u8) -> Frame {
        self.await_frame(&format!("a frame of kind {kind}"), |frame| {
            frame.kind == kind
        })
        .await
    }

    /// Waits for a frame that `fits`.
    pub(crate) async fn await_frame(&mut self, what: &str, fits: impl Fn(&Frame) -> bool) -> Frame {
        let found = async {
            loop {
                let frame = self.frame().await;
                let frame = frame.unwrap_or_else(|| panic!("the connection ended before {what}"));
                if fits(&frame) {
                    return frame;
                }
            }
        };
        within(found, what).await
    }

    /// Reads to the end of the connection. May take for ever: bound it.
    pub(crate) async fn remains(&mut self) -> Remains {
        let mut remains = Remains::default();
        while let Some(frame) = self.frame().await {
            remains.note(&frame);
        }
        remains
    }

    /// Asks for a pong and waits for it: the server has read everything before it.
    pub(crate) async fn is_alive(&mut self) {
        self.send(&frame(PING, 0, 0, b"AreYouIn")).await.unwrap();
        self.await_frame("a pong", |frame| {
            frame.kind == PING && frame.flags & ACK != 0
        })
        .await;
    }

    /// Makes frames of the bytes that have come.
    fn sort(&mut self) {
        let mut rest = self.input.as_slice();
        while let Some((frame, after)) = first(rest) {
            self.heard.push_back(frame);
            rest = after;
        }
        self.input = rest.to_vec();
    }

    async fn react(&mut self, heard: &Frame) -> io::Result<()> {
        let fresh = heard.flags & ACK == 0;
        match heard.kind {
            SETTINGS if self.polite && fresh => self.send(&frame(SETTINGS, ACK, 0, b"")).await,
            PING if self.polite && fresh => self.send(&frame(PING, ACK, 0, &heard.payload)).await,
            DATA if self.grants && !heard.payload.is_empty() => {
                let taken = u32::try_from(heard.payload.len()).unwrap();
                let both = [grant(0, taken), grant(heard.stream, taken)];
                self.send(&both.concat()).await
            }
            _ => Ok(()),
        }
    }
}

/// The first frame of `bytes`, and what follows it.
fn first(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let (head, rest) = bytes.split_at_checked(9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).unwrap())?;
    let frame = Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
        payload: payload.to_vec(),
    };
    Some((frame, rest))
}

/// One frame, whatever sense it makes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}

/// The payload of SETTINGS.
pub(crate) fn values(settings: &[(u16, u32)]) -> Vec<u8> {
    let one = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    settings.iter().flat_map(one).collect()
}

pub(crate) fn grant(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// The headers of a call of `method` of the token service.
pub(crate) fn head(method: &str) -> Vec<u8> {
    let path = format!("/wxtokend.v1.TokenService/{method}");
    headers(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// A block of headers in the simplest form of HPACK: every name and value as it is.
pub(crate) fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

fn text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128 + 128).unwrap());
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap());
    }
    block.extend(text.as_bytes());
}

/// A message as gRPC sends it.
pub(crate) fn message(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat()
}

/// A whole call.
pub(crate) fn call(stream: u32, method: &str, request: &impl Message) -> Vec<u8> {
    [
        frame(HEADERS, END_HEADERS, stream, &head(method)),
        frame(DATA, END_STREAM, stream, &message(request)),
    ]
    .concat()
}

/// Asks for the token of `app`.
pub(crate) fn get(stream: u32, app: &str) -> Vec<u8> {
    let app_id = app.into();
    call(stream, "GetToken", &pb::GetTokenRequest { app_id })
}

/// Watches the token of `app`.
pub(crate) fn watch(stream: u32, app: &str) -> Vec<u8> {
    let request = pb::WatchTokenRequest {
        app_id: app.into(),
        known_generation: 0,
    };
    call(stream, "WatchToken", &request)
}

/// The numbers of the first `count` streams that a client opens.
pub(crate) fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}
