//! The least HTTP/2 that a client can speak: the load must cost less than what it loads.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How HTTP/2 begins.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a connection may receive before it grants more: as good as no limit.
const WINDOW: u32 = 1 << 30;

/// Something that matters to the load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard {
    /// A message, or a part of one.
    Data,
    /// The call is over, as it should be.
    End { stream: u32 },
}

/// One connection to a server.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    path: String,
    body: Vec<u8>,
    next_stream: u32,
    received: u32,
}

impl Connection {
    /// Connects, ready to send the message `body` to `path` again and again.
    pub(crate) async fn open(address: &str, path: &str, body: &[u8]) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut connection = Self {
            socket,
            out: PREFACE.to_vec(),
            input: Vec::new(),
            path: path.to_owned(),
            body: framed(body),
            next_stream: 1,
            received: 0,
        };
        // SETTINGS_INITIAL_WINDOW_SIZE
        let window = [&[0, 4][..], &WINDOW.to_be_bytes()].concat();
        connection.frame(SETTINGS, 0, 0, &window);
        connection.frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        Ok(connection)
    }

    /// Begins one more call. It is sent with the next [`Connection::flush`].
    pub(crate) fn call(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let headers = if stream == 1 {
            first_headers(&self.path)
        } else {
            LATER_HEADERS.to_vec()
        };
        self.frame(HEADERS, END_HEADERS, stream, &headers);
        let body = std::mem::take(&mut self.body);
        self.frame(DATA, END_STREAM, stream, &body);
        self.body = body;
        stream
    }

    /// Takes a call back. So says the next [`Connection::flush`].
    pub(crate) fn take_back(&mut self, stream: u32) {
        let cancel: u32 = 8;
        self.frame(RST_STREAM, 0, stream, &cancel.to_be_bytes());
    }

    /// Streams that are called from now on have no window. So says the next [`Connection::flush`].
    pub(crate) fn shut(&mut self) {
        self.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Waits for bytes and tells `heard` what they say.
    pub(crate) async fn listen(&mut self, mut heard: impl FnMut(Heard)) -> io::Result<()> {
        if self.socket.read_buf(&mut self.input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while let Some((kind, flags, stream, payload, after)) = split(rest) {
            rest = after;
            self.hear(kind, flags, stream, payload, &mut heard)?;
        }
        self.input = rest.to_vec();
        if !self.out.is_empty() {
            self.flush().await?;
        }
        Ok(())
    }

    fn hear(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        heard: &mut impl FnMut(Heard),
    ) -> io::Result<()> {
        match kind {
            DATA => {
                self.grant(payload.len());
                heard(Heard::Data);
            }
            HEADERS if flags & END_STREAM != 0 => heard(Heard::End { stream }),
            SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            RST_STREAM | GOAWAY => return Err(io::ErrorKind::ConnectionReset.into()),
            _ => {}
        }
        Ok(())
    }

    fn grant(&mut self, bytes: usize) {
        self.received += u32::try_from(bytes).expect("a frame is small");
        if self.received > WINDOW / 2 {
            let grant = self.received.to_be_bytes();
            self.received = 0;
            self.frame(WINDOW_UPDATE, 0, 0, &grant);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame is small");
        self.out.extend(&length.to_be_bytes()[1..]);
        self.out.extend([kind, flags]);
        self.out.extend(stream.to_be_bytes());
        self.out.extend(payload);
    }
}

type Frame<'a> = (u8, u8, u32, &'a [u8], &'a [u8]);

/// The first frame of `bytes` and what follows it.
fn split(bytes: &[u8]) -> Option<Frame<'_>> {
    let (head, rest) = bytes.split_at_checked(9)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let (payload, after) = rest.split_at_checked(length)?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], stream, payload, after))
}

/// A gRPC message: not compressed, with its length.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message is small");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// The headers of a call, the first time; all but the method and the scheme go into HPACK's table.
fn first_headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // POST, http
    remembered(&mut block, Some(4), "", path);
    remembered(&mut block, Some(1), "", "localhost");
    remembered(&mut block, Some(31), "", "application/grpc");
    remembered(&mut block, None, "te", "trailers");
    remembered(&mut block, Some(58), "", "bench/1.0");
    block
}

/// The same from the table, as every real client does it.
const LATER_HEADERS: [u8; 7] = [0x83, 0x86, 0xC2, 0xC1, 0xC0, 0xBF, 0xBE];

fn remembered(block: &mut Vec<u8>, name: Option<u8>, literal: &str, value: &str) {
    let text = |block: &mut Vec<u8>, text: &str| {
        block.push(u8::try_from(text.len()).expect("shorter than 127"));
        block.extend(text.as_bytes());
    };
    block.push(0x40 | name.unwrap_or(0));
    if name.is_none() {
        text(block, literal);
    }
    text(block, value);
}
