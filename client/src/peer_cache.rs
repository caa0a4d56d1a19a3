//! Idle connections to datanodes.
//!
//! Shared by all readers and writers of a client. Invariants: only connections that finished their operation cleanly
//! get in; per datanode and in total the number is bounded; what has been idle for longer than [`MAX_IDLE`] is not used
//! again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::TransferFault;
use crate::connection::DataConnection;

/// Idle connections kept for one datanode: more parallel callers than this open new ones at times.
const MAX_PER_DATANODE: usize = 32;

/// Idle connections kept in total, so that a client of a large cluster does not run out of files.
const MAX_TOTAL: usize = 256;

/// Longest idle time: below the time after which a datanode closes an idle connection.
const MAX_IDLE: Duration = Duration::from_secs(3);

/// The cache.
#[derive(Default)]
pub(crate) struct PeerCache {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    by_peer: HashMap<SocketAddr, Vec<(Instant, DataConnection)>>,
    total: usize,
}

/// A connection, and whether it had been used before (then it may turn out to be dead at first use).
pub(crate) struct Lease {
    pub connection: DataConnection,
    pub reused: bool,
}

impl PeerCache {
    /// An idle connection to `peer`, or a new one if there is none or `fresh` is asked for.
    pub(crate) async fn get(
        &self,
        peer: SocketAddr,
        fresh: bool,
        connect_timeout: Duration,
        patience: Duration,
    ) -> Result<Lease, TransferFault> {
        if !fresh && let Some(mut connection) = self.take(peer) {
            connection.set_patience(patience);
            return Ok(Lease { connection, reused: true });
        }
        let connection = DataConnection::connect(peer, connect_timeout, patience).await?;
        Ok(Lease { connection, reused: false })
    }

    /// The youngest usable idle connection to `peer`. Unusable ones are closed on the way.
    fn take(&self, peer: SocketAddr) -> Option<DataConnection> {
        let mut idle = self.lock();
        let idle = &mut *idle;
        let connections = idle.by_peer.get_mut(&peer)?;
        let mut found = None;
        while let Some((since, connection)) = connections.pop() {
            idle.total -= 1;
            if since.elapsed() > MAX_IDLE {
                // All others are older.
                idle.total -= connections.len();
                connections.clear();
            } else if connection.is_reusable() {
                found = Some(connection);
                break;
            }
        }
        if connections.is_empty() {
            idle.by_peer.remove(&peer);
        }
        found
    }

    /// Keeps a connection whose operation finished cleanly.
    pub(crate) fn put(&self, connection: DataConnection) {
        let mut idle = self.lock();
        if idle.total >= MAX_TOTAL {
            return;
        }
        let connections = idle.by_peer.entry(connection.peer()).or_default();
        if connections.len() < MAX_PER_DATANODE {
            connections.push((Instant::now(), connection));
            idle.total += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn connections_are_reused_until_the_peer_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let peer = listener.local_addr().expect("address");
        let cache = PeerCache::default();
        let first = cache.get(peer, false, SECOND, SECOND).await.expect("connects");
        assert!(!first.reused);
        let (server_side, _) = listener.accept().await.expect("accepts");
        cache.put(first.connection);
        let second = cache.get(peer, false, SECOND, SECOND).await.expect("cached");
        assert!(second.reused);
        drop(server_side);
        let deadline = Instant::now() + 5 * SECOND;
        while second.connection.is_reusable() {
            assert!(Instant::now() < deadline, "the close never arrived");
            tokio::task::yield_now().await;
        }
        cache.put(second.connection);
        let third = cache.get(peer, false, SECOND, SECOND).await.expect("connects");
        assert!(!third.reused);
        assert_eq!(cache.lock().total, 0);
    }
}
