//! Sockets: how many there may be, binding them, and accepting without ever spinning. Every way out
//! begins here.

mod lobby;
mod room;

use std::{
    fs::Permissions,
    io,
    net::IpAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf, absolute},
    time::Duration,
};

use tokio::{
    fs,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{Instant, sleep},
};
use tokio_util::either::Either;
use tracing::{info, warn};

pub use self::{
    lobby::Lobby,
    room::{room, room_beside, room_for_http, room_for_probes},
};
use crate::{config::Listen, domain::access::Peer};

/// The pause after the first failure to accept; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// So many connections in a row end a trouble, [`LONGEST_PAUSE`] after the last failure. At the limit of
/// open files some get through now and then, also many at once where others leave at once, and each
/// time would be worth two lines of log.
const CALM: u32 = 20;

/// The owner and its group may connect. Who may ask is decided by whom the file lets in.
const MODE: u32 = 0o660;

/// Why no socket could be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("cannot listen on `{0}`: another program already does")]
    InUse(String),
    /// A unix socket would have to replace something that is none.
    #[error("cannot listen on `{0}`: there is a file that is not a socket")]
    NotASocket(String),
    /// Everything else: no right, no such host, no such folder.
    #[error("cannot listen on `{address}`")]
    Io {
        /// The configured address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// An accepted connection.
pub type Socket = Either<TcpStream, UnixStream>;

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    url: String,
    trouble: Option<Trouble>,
}

/// Why nothing can be accepted.
#[derive(Debug)]
struct Trouble {
    kind: io::ErrorKind,
    pause: Duration,
    /// The last failure, and how many connections came since.
    at: Instant,
    accepted_since: u32,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// Removes its file before it closes: once it is closed a successor may have put its own there.
#[derive(Debug)]
struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // It may be gone already, and there is nobody to tell.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// Binds a socket; callers may connect from now on.
    pub async fn bind(address: &Listen) -> Result<Self, BindError> {
        let (kind, url) = match address {
            Listen::Tcp(address) => bind_tcp(address).await?,
            Listen::Unix(path) => bind_unix(path).await?,
        };
        let trouble = None;
        Ok(Self { kind, url, trouble })
    }

    /// Where to reach it from this machine: `http://127.0.0.1:43211` or `unix:///run/grpc.sock`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The next connection, and where it comes from. Losing this future loses no connection.
    pub async fn accept(&mut self) -> (Socket, Peer) {
        loop {
            match self.kind.accept().await {
                Ok(accepted) => {
                    self.calm_down();
                    return accepted;
                }
                Err(error) if is_the_peers(&error) => {}
                Err(error) => sleep(self.pause_after(&error)).await,
            }
        }
    }

    fn calm_down(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.pause = Duration::ZERO;
            trouble.accepted_since += 1;
            if trouble.accepted_since >= CALM && trouble.at.elapsed() >= LONGEST_PAUSE {
                info!(listener = %self.url, "accepting connections again");
                self.trouble = None;
            }
        }
    }

    /// Out of files or memory: the connection stays in the queue, so trying again at once would spin.
    fn pause_after(&mut self, error: &io::Error) -> Duration {
        let kind = error.kind();
        let last = self.trouble.take().filter(|trouble| trouble.kind == kind);
        if last.is_none() {
            warn!(listener = %self.url, %error, "cannot accept connections");
        }
        let pause = last.map_or(Duration::ZERO, |trouble| trouble.pause * 2);
        let pause = pause.clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.trouble = Some(Trouble {
            kind,
            pause,
            at: Instant::now(),
            accepted_since: 0,
        });
        pause
    }
}

impl Kind {
    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without it the first answer waits 40 ms for an acknowledgement.
                stream.set_nodelay(true)?;
                Ok((Either::Left(stream), peer_at(address.ip())))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                Ok((Either::Right(stream), Peer::Unix))
            }
        }
    }
}

/// Where an address is.
fn peer_at(address: IpAddr) -> Peer {
    // A socket that speaks IPv6 sees IPv4's loopback as `::ffff:127.0.0.1`.
    if address.to_canonical().is_loopback() {
        Peer::Loopback
    } else {
        Peer::Remote
    }
}

async fn bind_tcp(address: &str) -> Result<(Kind, String), BindError> {
    let error = |source: io::Error| failed(address, source);
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let url = format!("http://{}", listener.local_addr().map_err(error)?);
    Ok((Kind::Tcp(listener), url))
}

async fn bind_unix(path: &Path) -> Result<(Kind, String), BindError> {
    let shown = path.display().to_string();
    let error = |source: io::Error| failed(&shown, source);
    let path = absolute(path).map_err(error)?;
    make_room(&path, &shown).await?;
    let listener = UnixListener::bind(&path).map_err(error)?;
    let socket = UnixSocket { listener, path };
    let mode = Permissions::from_mode(MODE);
    let set = fs::set_permissions(&socket.path, mode).await;
    set.map_err(error)?;
    let url = format!("unix://{}", socket.path.display());
    Ok((Kind::Unix(socket), url))
}

/// Removes a socket that nobody answers on any more, as a killed server leaves it.
async fn make_room(path: &Path, shown: &str) -> Result<(), BindError> {
    let error = |source: io::Error| failed(shown, source);
    let found = match fs::symlink_metadata(path).await {
        Ok(found) => found,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(other) => return Err(error(other)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(shown.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).await.map_err(error)
        }
        _ => Err(BindError::InUse(shown.to_owned())),
    }
}

fn failed(address: &str, source: io::Error) -> BindError {
    let address = address.to_owned();
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        _ => BindError::Io { address, source },
    }
}

/// Whether only the one connection failed, which is gone.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn unix(path: &Path) -> Result<Listener, BindError> {
        Listener::bind(&Listen::Unix(path.to_owned())).await
    }

    #[test]
    fn loopback_has_three_spellings() {
        for near in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(peer_at(near.parse().unwrap()), Peer::Loopback, "{near}");
        }
        for far in ["10.0.0.1", "0.0.0.0", "::ffff:10.0.0.1", "fe80::1"] {
            assert_eq!(peer_at(far.parse().unwrap()), Peer::Remote, "{far}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let tcp = |address: &str| Listen::Tcp(address.to_owned());
        let first = Listener::bind(&tcp("127.0.0.1:0")).await.unwrap();
        let address = first.url().strip_prefix("http://").unwrap();
        let error = Listener::bind(&tcp(address)).await.unwrap_err();
        let expected = format!("cannot listen on `{address}`: another program already does");
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn what_is_said_on_an_accepted_connection_is_sent_at_once() {
        let any = Listen::Tcp("127.0.0.1:0".into());
        let mut listener = Listener::bind(&any).await.unwrap();
        let address = listener.url().strip_prefix("http://").unwrap().to_owned();
        let _peer = TcpStream::connect(address).await.unwrap();
        let (socket, peer) = listener.accept().await;
        assert_eq!(peer, Peer::Loopback);
        let Either::Left(socket) = socket else {
            panic!("not TCP");
        };
        assert!(socket.nodelay().unwrap(), "it waits for more");
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grpc.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead server leaves its file");

        let listener = unix(&path).await.unwrap();
        assert_eq!(listener.url(), format!("unix://{}", path.display()));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);

        let second = unix(&path).await.unwrap_err();
        assert!(matches!(second, BindError::InUse(_)), "{second}");
        assert!(path.exists());
        drop(listener);
        assert!(!path.exists(), "the file goes with the socket");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = unix(&path).await.unwrap_err();
        assert!(matches!(error, BindError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_to_accept_slow_down_to_one_try_a_second() {
        let mut listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".into()))
            .await
            .unwrap();
        let full = io::Error::from_raw_os_error(24);
        let pause = |listener: &mut Listener| listener.pause_after(&full).as_millis();
        for expected in [50, 100, 200, 400, 800, 1000, 1000] {
            assert_eq!(pause(&mut listener), expected);
        }
        listener.calm_down();
        assert_eq!(pause(&mut listener), 50, "one got through");
        for _ in 0..2 * CALM {
            listener.calm_down();
        }
        assert!(listener.trouble.is_some(), "many at once are no calm");
        assert_eq!(pause(&mut listener), 50, "and no new trouble follows");
        sleep(LONGEST_PAUSE).await;
        for _ in 0..CALM {
            assert!(listener.trouble.is_some());
            listener.calm_down();
        }
        assert!(listener.trouble.is_none());
        assert!(!is_the_peers(&full));
    }
}
