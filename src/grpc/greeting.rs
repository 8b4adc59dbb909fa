//! What every HTTP/2 client says first, and a socket on which it has been said.
//!
//! It is read before hyper gets to see the connection. hyper would wait for it for ever, and with 24
//! KiB of buffers, where a peer that has said nothing yet deserves a few hundred bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::calm::Calm;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits for the preface. `None`: the peer says something else, or has left.
pub(super) async fn greeted<S: AsyncRead + Unpin>(mut socket: S) -> Option<Greeted<S>> {
    let mut said = [0; PREFACE.len()];
    let mut length = 0;
    while length < said.len() {
        match socket.read(&mut said[length..]).await {
            Ok(0) | Err(_) => return None,
            Ok(more) => length += more,
        }
        if !PREFACE.starts_with(&said[..length]) {
            return None;
        }
    }
    Some(Greeted {
        socket,
        greeting: PREFACE,
        calm: Calm::default(),
    })
}

/// A socket that reads as if the preface had not been read yet, and breaks when what follows is too
/// restless.
#[derive(Debug)]
pub(super) struct Greeted<S> {
    socket: S,
    greeting: &'static [u8],
    calm: Calm,
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            let before = into.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(cx, into))?;
            return Poll::Ready(self.calm.hears(&into.filled()[before..]));
        }
        let (now, later) = self
            .greeting
            .split_at(self.greeting.len().min(into.remaining()));
        into.put_slice(now);
        self.greeting = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn the_greeting_can_be_read_again_and_what_follows_it() {
        let (mut peer, socket) = duplex(64);
        for byte in PREFACE.iter().chain(b"frames") {
            peer.write_all(&[*byte]).await.unwrap();
        }
        drop(peer);
        let mut all = Vec::new();
        let mut socket = greeted(socket).await.unwrap();
        socket.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [PREFACE.as_slice(), b"frames"].concat());
    }

    #[tokio::test]
    async fn another_language_is_recognized_by_its_first_letter() {
        for other in ["G", "PRI * HTTP/1", "\x16\x03\x01", ""] {
            let (mut peer, socket) = duplex(64);
            peer.write_all(other.as_bytes()).await.unwrap();
            if other.is_empty() {
                drop(peer);
            }
            assert!(greeted(socket).await.is_none(), "{other:?}");
        }
    }
}
