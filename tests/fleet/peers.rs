//! The network between the members of a cluster, from which each of them can be cut off.
//!
//! All of them are on one machine, so who comes is known by the process that has the other end.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::watch;

use crate::links::carry;

/// Members that are cut off from all others.
type Cut = BTreeSet<usize>;

/// The ways between members, whose processes are named by the folders in their command lines.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    folders: Vec<PathBuf>,
    cut: Arc<watch::Sender<Cut>>,
}

impl Network {
    pub(crate) fn between(folders: Vec<PathBuf>) -> Self {
        let cut = Arc::default();
        Self { folders, cut }
    }

    /// A way to `member`, who listens at this port; where it begins.
    pub(crate) fn way_to(&self, member: usize, port: u16) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (this, target) = (self.clone(), format!("127.0.0.1:{port}"));
        tokio::spawn(async move {
            while let Ok((near, from)) = listener.accept().await {
                let ends = [Some(member), this.member_at(from)];
                let open = move |cut: &Cut| !ends.iter().flatten().any(|end| cut.contains(end));
                tokio::spawn(carry(near, target.clone(), this.cut.subscribe(), open));
            }
        });
        format!("http://{at}")
    }

    /// Nothing gets from or to it any more, and nobody is told.
    pub(crate) fn cut_off(&self, member: usize) {
        self.cut.send_if_modified(|cut| cut.insert(member));
    }

    pub(crate) fn mend(&self, member: usize) {
        self.cut.send_if_modified(|cut| cut.remove(&member));
    }

    fn member_at(&self, end: SocketAddr) -> Option<usize> {
        let command = command_at(end)?;
        let folders = self.folders.iter();
        let mut named = folders.map(|folder| folder.display().to_string());
        named.position(|folder| command.contains(&folder))
    }
}

/// The command line of the process that has this end of a connection.
fn command_at(end: SocketAddr) -> Option<String> {
    let SocketAddr::V4(end) = end else {
        return None;
    };
    let address = u32::from_le_bytes(end.ip().octets());
    let local = format!("{address:08X}:{:04X}", end.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let mut rows = table.lines().map(|row| row.split_whitespace());
    let inode = rows.find_map(|row| {
        let fields: Vec<_> = row.collect();
        (fields.get(1) == Some(&local.as_str())).then(|| fields.get(9).copied())?
    });
    let socket = format!("socket:[{}]", inode?);
    let has = |process: &PathBuf| {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten();
        let mut open = open
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        open.any(|file| file.as_os_str() == socket.as_str())
    };
    let mut processes = fs::read_dir("/proc").ok()?.flatten().map(|p| p.path());
    let process = processes.find(has)?;
    fs::read_to_string(process.join("cmdline")).ok()
}
