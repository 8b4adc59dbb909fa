//! A socket that breaks when its peer takes no bytes any more.
//!
//! A peer may leave its receive window shut for as long as it likes. Then nothing can be written, not
//! even a farewell: hyper, which has noticed that its pings are not answered, waits until it can say
//! so, and with it waits everything that the connection holds. An error from the socket is what ends
//! that. Pace does the same for a single stream whose peer grants no window.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::pace::STALL;

/// A socket with a limit to its patience, whose timer runs only while a write waits.
#[derive(Debug)]
pub(super) struct Outflow<S> {
    socket: S,
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Outflow<S> {
    /// Gives the peer of `socket` [`STALL`] to take the next bytes.
    pub(super) fn new(socket: S) -> Self {
        let patience = None;
        Self { socket, patience }
    }

    /// What came of a try to write, unless there have been enough of them.
    fn judge<T>(
        &mut self,
        tried: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.patience = None;
            return tried;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(STALL)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Outflow<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outflow<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.judge(tried, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.judge(tried, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    // Sockets have no buffer to flush, and to close one takes no peer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        spawn,
        time::{Instant, sleep},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_no_byte_for_30_s_is_given_up() {
        let (_peer, socket) = duplex(10);
        let mut socket = Outflow::new(socket);
        socket.write_all(&[0; 10]).await.unwrap();
        sleep(Duration::from_hours(1)).await;
        let start = Instant::now();
        let error = socket.write_all(&[0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_byte_now_and_then_is_not() {
        let (mut peer, socket) = duplex(10);
        let mut socket = Outflow::new(socket);
        let (start, pause) = (Instant::now(), Duration::from_secs(29));
        let writing = spawn(async move { socket.write_all(&[7; 20]).await });
        for _ in 0..10 {
            sleep(pause).await;
            assert_eq!(peer.read_u8().await.unwrap(), 7);
        }
        writing.await.unwrap().unwrap();
        assert_eq!(start.elapsed(), 10 * pause);
    }
}
