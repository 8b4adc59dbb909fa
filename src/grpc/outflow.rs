//! A socket that breaks when its peer takes no bytes any more.
//!
//! A peer may leave its receive window shut for as long as it likes. Then nothing can be written, not
//! even a farewell: hyper, which has noticed that its pings are not answered, waits until it can say
//! so, and with it waits everything that the connection holds. An error from the socket is what ends
//! that. Pace does the same for a single stream whose peer grants no window.
//!
//! The other way round, who closes a socket that holds unread bytes makes the kernel throw away what
//! it has not delivered: a peer that is cut because it talks too much would never read why. So the last
//! bytes get a moment to arrive, in which what comes is read and forgotten.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::pace::STALL;

/// How long a peer has to close, once we have said all.
const LINGER: Duration = Duration::from_secs(1);

/// As much is read and forgotten meanwhile; who sends more does not listen.
const FORGOTTEN: usize = 1024 * 1024;

/// A socket with a limit to its patience, whose timer runs only while it waits for its peer.
#[derive(Debug)]
pub(super) struct Outflow<S> {
    socket: S,
    patience: Option<Pin<Box<Sleep>>>,
    said_all: bool,
    /// How much more of what comes is forgotten.
    forgetting: usize,
}

impl<S> Outflow<S> {
    /// Gives the peer of `socket` [`STALL`] to take the next bytes.
    pub(super) fn new(socket: S) -> Self {
        Self {
            socket,
            patience: None,
            said_all: false,
            forgetting: FORGOTTEN,
        }
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

impl<S: AsyncRead + Unpin> Outflow<S> {
    /// Reads and forgets. Ready when the peer has closed, has sent too much, or breaks.
    fn forget(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; 4096];
        while self.forgetting > 0 {
            let mut into = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(&mut self.socket).poll_read(cx, &mut into));
            let more = read.map_or(0, |()| into.filled().len());
            let left = self.forgetting.saturating_sub(more);
            self.forgetting = if more > 0 { left } else { 0 };
        }
        Poll::Ready(())
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

// Not vectored, though sockets are: to one that is h2 writes every frame of more than 256 bytes by
// itself. To others it copies frames of less than a kilobyte together, which all of ours are.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Outflow<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.judge(tried, cx)
    }

    // Sockets have no buffer to flush.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.said_all {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
            this.said_all = true;
            this.patience = None;
        }
        if this.forget(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let patience = this.patience.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        patience.as_mut().poll(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
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

    async fn lingering(socket: DuplexStream) -> Duration {
        let start = Instant::now();
        Outflow::new(socket).shutdown().await.unwrap();
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_on_can_still_read_the_end() {
        let (mut peer, socket) = duplex(10);
        let ending = spawn(lingering(socket));
        peer.write_all(&[7; 10_000]).await.unwrap();
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
        drop(peer);
        assert_eq!(ending.await.unwrap(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_close_is_not_waited_for() {
        let (_peer, socket) = duplex(10);
        assert_eq!(lingering(socket).await, LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_without_end_is_cut() {
        let (mut peer, socket) = duplex(10_000);
        let ending = spawn(lingering(socket));
        let endless = vec![7; 2 * FORGOTTEN];
        assert!(peer.write_all(&endless).await.is_err());
        assert_eq!(ending.await.unwrap(), Duration::ZERO);
    }
}
