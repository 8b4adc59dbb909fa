//! A network that can be cut: a TCP proxy between a program and what it talks to.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// One way from here to there. What is under way when it is cut arrives when it is mended, as with TCP, unless
/// its sender has closed the connection: then the kernel drops it, for programs that bound that.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    at: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
}

impl Link {
    /// A way to `target`, `host:port`.
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let whole = Arc::new(watch::Sender::new(true));
        let open = whole.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let whole = |whole: &bool| *whole;
                tokio::spawn(carry(near, target.clone(), open.clone(), whole));
            }
        });
        Self { at, whole }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    pub(crate) fn address(&self) -> String {
        self.at.to_string()
    }

    /// Nothing gets through any more, and nobody is told.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

/// Carries what comes from `near` to `target`, and back, while the state of the network is one in which
/// the way is `open`.
pub(crate) async fn carry<S: Clone>(
    mut near: TcpStream,
    target: String,
    mut state: watch::Receiver<S>,
    open: impl Fn(&S) -> bool,
) {
    let mut sent = Vec::new();
    if !hold(&mut near, &mut sent, &mut state, &open).await {
        return;
    }
    // Who is not there refuses, and so does the link.
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(
        copy(near_in, far_out, sent, state.clone(), &open),
        copy(far_in, near_out, Vec::new(), state, &open)
    );
}

async fn copy<S>(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut sent: Vec<u8>,
    mut state: watch::Receiver<S>,
    open: impl Fn(&S) -> bool,
) {
    while hold(&mut from, &mut sent, &mut state, &open).await {
        if to.write_all(&sent).await.is_err() {
            return;
        }
        sent.clear();
        if !matches!(from.read_buf(&mut sent).await, Ok(1..)) {
            return;
        }
    }
}

/// Waits until the way is open, and collects what is sent meanwhile. Whether it is still wanted there: nobody
/// sends it again after its sender has gone.
async fn hold<S>(
    from: &mut (impl AsyncRead + Unpin),
    sent: &mut Vec<u8>,
    state: &mut watch::Receiver<S>,
    open: impl Fn(&S) -> bool,
) -> bool {
    while !open(&state.borrow_and_update()) {
        let goes_on = tokio::select! {
            changed = state.changed() => changed.is_ok(),
            more = from.read_buf(sent) => matches!(more, Ok(1..)),
        };
        if !goes_on {
            return false;
        }
    }
    true
}
