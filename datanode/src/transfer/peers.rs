//! Connections to other datanodes, kept between operations so that small blocks do not pay for connecting.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dfs_proto::data_transfer::TransferError;
use dfs_proto::transfer::DatanodeInfoProto;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::AsRawFd;

use super::net::Connection;
use crate::error::DatanodeError;
use crate::sync::lock;

/// Idle connections kept to one datanode: the writers of small blocks that run at once.
const MAX_IDLE_A_PEER: usize = 32;

/// Idle connections kept in all.
const MAX_IDLE: usize = 512;

/// Idle connections are dropped after this part of the peer's own limit, so that we rarely pick one
/// that the peer is about to close.
const IDLE_DIVISOR: u32 = 2;

/// The pool.
#[derive(Debug)]
pub struct PeerPool {
    idle: Mutex<HashMap<SocketAddr, Vec<(Connection, Instant)>>>,
    connect_timeout: Duration,
    send_timeout: Duration,
    max_idle_time: Duration,
}

/// A connection, and whether it carried operations before.
#[derive(Debug)]
pub struct PeerConnection {
    /// The connection.
    pub connection: Connection,
    /// It is from the pool: if it fails at once, a fresh one may succeed.
    pub reused: bool,
}

impl PeerPool {
    /// An empty pool. `keepalive` is how long peers keep idle connections.
    pub fn new(connect_timeout: Duration, send_timeout: Duration, keepalive: Duration) -> Self {
        Self {
            idle: Mutex::default(),
            connect_timeout,
            send_timeout,
            max_idle_time: keepalive / IDLE_DIVISOR,
        }
    }

    /// An idle connection or a new one.
    pub fn get(&self, addr: SocketAddr) -> Result<PeerConnection, DatanodeError> {
        while let Some((connection, since)) = self.pop(addr) {
            if since.elapsed() < self.max_idle_time && is_quiet(&connection) {
                return Ok(PeerConnection { connection, reused: true });
            }
        }
        self.connect(addr).map(|connection| PeerConnection { connection, reused: false })
    }

    fn pop(&self, addr: SocketAddr) -> Option<(Connection, Instant)> {
        lock(&self.idle).get_mut(&addr).and_then(Vec::pop)
    }

    /// A new connection.
    pub fn connect(&self, addr: SocketAddr) -> Result<Connection, DatanodeError> {
        TcpStream::connect_timeout(&addr, self.connect_timeout)
            .and_then(|socket| Connection::new(socket, addr, self.send_timeout))
            .map_err(|source| DatanodeError::Peer { peer: addr, source })
    }

    /// Keeps a connection whose last operation ended cleanly.
    pub fn put(&self, connection: Connection) {
        if !connection.buffered().is_empty() {
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.values().map(Vec::len).sum::<usize>() >= MAX_IDLE {
            idle.retain(|_, kept| {
                kept.retain(|(_, since)| since.elapsed() < self.max_idle_time);
                !kept.is_empty()
            });
            if idle.values().map(Vec::len).sum::<usize>() >= MAX_IDLE {
                return;
            }
        }
        let kept = idle.entry(connection.peer()).or_default();
        if kept.len() < MAX_IDLE_A_PEER {
            kept.push((connection, Instant::now()));
        }
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        lock(&self.idle).clear();
    }
}

/// Whether an idle connection has neither ended nor bytes that nobody asked for.
fn is_quiet(connection: &Connection) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(recv(connection.socket().as_raw_fd(), &mut [0], flags), Err(Errno::EAGAIN))
}

/// Data address of a pipeline member.
pub fn address_of(info: &DatanodeInfoProto) -> Result<SocketAddr, DatanodeError> {
    let bad = || DatanodeError::Address(format!("{}:{}", info.id.ip_addr, info.id.xfer_port));
    let ip: IpAddr = info.id.ip_addr.parse().map_err(|_| bad())?;
    let port = u16::try_from(info.id.xfer_port).map_err(|_| bad())?;
    if port == 0 {
        return Err(bad());
    }
    Ok(SocketAddr::new(ip, port))
}

/// Names the peer in an error of its connection.
pub fn of_peer(peer: SocketAddr) -> impl FnOnce(TransferError) -> DatanodeError {
    move |error| match error {
        TransferError::Io(source) => DatanodeError::Peer { peer, source },
        other => DatanodeError::Peer { peer, source: io::Error::new(io::ErrorKind::InvalidData, other) },
    }
}

/// Names the peer in an error of its socket.
pub fn at(peer: SocketAddr) -> impl FnOnce(io::Error) -> DatanodeError {
    move |source| DatanodeError::Peer { peer, source }
}
