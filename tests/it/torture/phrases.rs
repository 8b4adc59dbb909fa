//! Bytes that make no sense, by what they end. Stream 1 is the one that they are about.

use crate::{
    peer::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, PUSH_PROMISE,
        RST_STREAM, SETTINGS, WIDE, WINDOW_UPDATE, frame, grant, head, headers, message, reset,
        values,
    },
    process::get as ask,
};

/// What it is called, and the bytes.
pub(super) type Phrase = (&'static str, Vec<u8>);

pub(super) const WHOLE: u8 = END_HEADERS | END_STREAM;

const PATH: (&str, &str) = (":path", "/wxtokend.v1.TokenService/GetToken");
const POST: (&str, &str) = (":method", "POST");
const HTTP: (&str, &str) = (":scheme", "http");

/// The beginning of a call.
fn open() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &head("GetToken"))
}

/// A call with these headers, besides those that it needs.
fn with(name: &str, value: &str) -> Vec<u8> {
    let block = [head("GetToken"), headers(&[(name, value)])].concat();
    request(&block)
}

/// A call with just these headers.
fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    request(&headers(fields))
}

fn request(block: &[u8]) -> Vec<u8> {
    let body = frame(DATA, END_STREAM, 1, &message(&ask("shop")));
    [frame(HEADERS, END_HEADERS, 1, block), body].concat()
}

/// A call with this for a body.
fn body(bytes: &[u8]) -> Vec<u8> {
    let mut all = open();
    for chunk in bytes.chunks(16_000) {
        all.extend(frame(DATA, 0, 1, chunk));
    }
    all.extend(frame(DATA, END_STREAM, 1, b""));
    all
}

/// A call whose headers are longer than we read, in frames of the usual length.
fn long_headers() -> Vec<u8> {
    let long = headers(&[("x", &"y".repeat(10_000))]);
    [
        frame(HEADERS, 0, 1, &head("GetToken")),
        frame(CONTINUATION, 0, 1, &long),
        frame(CONTINUATION, END_HEADERS, 1, &long),
        frame(DATA, END_STREAM, 1, &message(&ask("shop"))),
    ]
    .concat()
}

/// Harmless: it is as if they had not been said, or had been said well.
pub(super) fn harmless() -> Vec<Phrase> {
    let settings = |id, value| frame(SETTINGS, 0, 0, &values(&[(id, value)]));
    let text = ("content-type", "text/html");
    vec![
        ("unknown settings", settings(999, 7)),
        ("a table of 4 GiB", settings(1, u32::MAX)),
        ("a pong of no ping", frame(PING, 1, 0, b"12345678")),
        ("an unknown frame", frame(200, 255, 77, b"whatever")),
        ("another method", only(&[(":method", "PUT"), HTTP, PATH])),
        ("another type", only(&[POST, HTTP, PATH, text])),
    ]
}

/// The stream is answered with a status, or reset.
pub(super) fn messages() -> Vec<Phrase> {
    vec![
        ("no message", body(b"")),
        ("half a head", body(&[0, 0])),
        ("4 GiB announced", body(&[0, 255, 255, 255, 255, 1])),
        ("compressed", body(&[1, 0, 0, 0, 0])),
        ("no protobuf", body(&[0, 0, 0, 0, 2, 255, 255])),
        ("two messages", body(&message(&ask("shop")).repeat(2))),
    ]
}

/// So is this one.
pub(super) fn calls() -> Vec<Phrase> {
    let path = |path| only(&[POST, HTTP, (":path", path)]);
    vec![
        ("compressed as a whole", with("grpc-encoding", "gzip")),
        ("a time-out in words", with("grpc-timeout", "soon")),
        ("an endless time-out", with("grpc-timeout", "999999999H")),
        ("headers of 20 KiB", long_headers()),
        ("an unknown service", path("/no.Service/Call")),
        ("an unknown call", path("/wxtokend.v1.TokenService/No")),
        ("a path that is none", path("\u{1}\u{7f}")),
        ("no path", only(&[POST, HTTP])),
        ("no method", only(&[HTTP, PATH])),
        ("a method twice", only(&[POST, POST, HTTP, PATH])),
        (
            "a tunnel",
            only(&[(":method", "CONNECT"), (":authority", "x:1")]),
        ),
        ("an answer", only(&[(":status", "200")])),
        ("a connection header", with("connection", "close")),
        ("a false length", with("content-length", "3")),
        ("a length in words", with("content-length", "long")),
        ("too much window", [open(), grant(1, WIDE)].concat()),
        (
            "a dependence on itself",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 1]),
        ),
    ]
}

/// The connection is over: frames that may not be there.
pub(super) fn frames() -> Vec<Phrase> {
    let block = head("GetToken");
    let amid = [frame(HEADERS, 0, 1, &block), frame(DATA, 0, 1, b"x")];
    let back = [5, 3].map(|id| frame(HEADERS, WHOLE, id, &block));
    let promise = frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]);
    vec![
        ("a stream of even number", frame(HEADERS, WHOLE, 2, &block)),
        ("a stream without number", frame(HEADERS, WHOLE, 0, &block)),
        ("a number that went back", back.concat()),
        ("data of no stream", frame(DATA, 0, 9, b"x")),
        ("data of the connection", frame(DATA, 0, 0, b"x")),
        ("data amid headers", amid.concat()),
        ("a reset of no stream", reset(9)),
        ("a promise", promise),
        ("settings of a stream", frame(SETTINGS, 0, 1, b"")),
        (
            "thanks for no settings",
            frame(SETTINGS, 1, 0, b"").repeat(3),
        ),
        ("a farewell of a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        (
            "a lost continuation",
            frame(CONTINUATION, END_HEADERS, 1, &block),
        ),
    ]
}

/// So it is: numbers that cannot be.
pub(super) fn numbers() -> Vec<Phrase> {
    let settings = |id, value| frame(SETTINGS, 0, 0, &values(&[(id, value)]));
    let padded = frame(DATA, 8, 1, &[200, 0]);
    let long = message(&ask(&"x".repeat(70_000)));
    vec![
        ("no window more", grant(0, 0)),
        (
            "no window more for a stream",
            [open(), grant(1, 0)].concat(),
        ),
        ("too much window for all", grant(0, WIDE)),
        ("more than the window", body(&long)),
        ("a window beyond all", settings(4, u32::MAX)),
        ("a frame size of nothing", settings(5, 1)),
        ("padding beyond the end", [open(), padded].concat()),
        ("a frame that is too long", frame(99, 0, 0, &[0; 16_385])),
        ("settings cut short", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a ping cut short", frame(PING, 0, 0, b"1234567")),
        ("a farewell cut short", frame(GOAWAY, 0, 0, &[0; 4])),
        ("a window cut short", frame(WINDOW_UPDATE, 0, 0, &[1])),
        (
            "a reset cut short",
            [open(), frame(RST_STREAM, 0, 1, &[1])].concat(),
        ),
    ]
}

/// So it is: headers that cannot be read.
pub(super) fn blocks() -> Vec<Phrase> {
    let block = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, bytes);
    vec![
        ("an entry that the table lacks", block(&[0x80 | 127, 73])),
        (
            "a table that is too large",
            block(&[0x3f, 0xe1, 0xff, 0x7f]),
        ),
        ("a number that never ends", block(&[0xff; 50])),
        (
            "no code of Huffman's",
            block(&[0, 0x84, 255, 255, 255, 255]),
        ),
        ("headers cut short", block(&[0, 10, b'x'])),
        ("a name in capitals", with("X-Y", "z")),
        ("a line end in a value", with("x", "y\r\nz: 1")),
    ]
}
