//! Accepts data connections and runs one thread for each.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dfs_proto::data_transfer::{Op, TransferError};
use dfs_proto::transfer::{OpBlockChecksumProto, OpReadBlockProto, OpTransferBlockProto, OpWriteBlockProto};

use super::Shared;
use super::net::Connection;
use super::{checksum_op, copy, read_op, write_op};
use crate::error::DatanodeError;
use crate::sync::lock;

/// Stack of a connection's thread: headers and small buffers; debug builds need most of it.
const STACK_BYTES: usize = 512 << 10;

/// Pause after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After a failed operation the peer may still be sending; its bytes are taken for this long, so that
/// the reason that it was sent is not lost in a connection reset.
const LINGER: Duration = Duration::from_secs(2);

/// Most bytes taken while lingering.
const LINGER_BYTES: usize = 64 << 20;

/// Longest wait for connections to end when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The server.
#[derive(Debug)]
pub struct TransferServer {
    addr: SocketAddr,
    listener: TcpListener,
    state: Arc<ServerState>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct ServerState {
    shared: Arc<Shared>,
    open: Mutex<HashMap<u64, Arc<TcpStream>>>,
    next_id: AtomicU64,
    stopping: AtomicBool,
}

impl TransferServer {
    /// Serves a bound listener.
    pub fn start(listener: TcpListener, shared: Arc<Shared>) -> Result<Self, DatanodeError> {
        let addr = listener.local_addr()?;
        let state = Arc::new(ServerState {
            shared,
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        let (accept_from, accept_state) = (listener.try_clone()?, Arc::clone(&state));
        let accepting = thread::Builder::new()
            .name("xfer-accept".into())
            .spawn(move || accept(&accept_from, &accept_state))
            .map_err(DatanodeError::Thread)?;
        Ok(Self { addr, listener, state, accepting: Mutex::new(Some(accepting)) })
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops accepting and cuts all connections off.
    pub fn close(&self) {
        self.state.stopping.store(true, Ordering::Release);
        // Wakes the accepting thread; an error means that it is awake already.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for socket in lock(&self.state.open).values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.state.shared.peers.clear();
    }

    /// Closes and waits until all threads have ended. Returns whether they have.
    pub fn stop(&self) -> bool {
        self.close();
        if let Some(thread) = lock(&self.accepting).take()
            && thread.join().is_err()
        {
            tracing::error!("accepting thread panicked");
        }
        // One more time: a connection may have been accepted meanwhile.
        self.close();
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.state.shared.xceivers.load(Ordering::Acquire) > 0 {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

fn accept(listener: &TcpListener, state: &Arc<ServerState>) {
    loop {
        let accepted = listener.accept();
        if state.stopping.load(Ordering::Acquire) {
            return;
        }
        match accepted {
            Ok((socket, peer)) => start_xceiver(socket, peer, state),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a data connection");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn start_xceiver(socket: TcpStream, peer: SocketAddr, state: &Arc<ServerState>) {
    let shared = &state.shared;
    if shared.xceivers.load(Ordering::Relaxed) >= shared.config.max_xceivers {
        shared.metrics.refused_connections.increment(1);
        return;
    }
    let connection = match Connection::new(socket, peer, shared.config.stream_timeout) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%peer, %error, "connection ended at once");
            return;
        }
    };
    let id = state.next_id.fetch_add(1, Ordering::Relaxed);
    shared.xceivers.fetch_add(1, Ordering::AcqRel);
    lock(&state.open).insert(id, Arc::clone(connection.socket()));
    let xceiver = Xceiver { state: Arc::clone(state), id };
    let started = thread::Builder::new()
        .name(format!("xceiver-{id}"))
        .stack_size(STACK_BYTES)
        .spawn(move || xceiver.run(connection));
    if let Err(error) = started {
        tracing::warn!(%peer, %error, "no thread for a data connection");
    }
}

/// One connection's registration; dropping it takes it out.
struct Xceiver {
    state: Arc<ServerState>,
    id: u64,
}

impl Drop for Xceiver {
    fn drop(&mut self) {
        lock(&self.state.open).remove(&self.id);
        self.state.shared.xceivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Xceiver {
    fn run(self, mut connection: Connection) {
        let peer = connection.peer();
        let Err(error) = self.serve(&mut connection) else {
            return;
        };
        let metrics = &self.state.shared.metrics;
        if error.is_disconnect() {
            tracing::debug!(%peer, %error, "connection ended");
            return;
        }
        match &error {
            DatanodeError::Transfer(
                TransferError::Version(_)
                | TransferError::UnknownOp(_)
                | TransferError::Length
                | TransferError::Decode(_),
            ) => {
                metrics.foreign_streams.increment(1);
                tracing::debug!(%peer, %error, "not our protocol");
            }
            _ => {
                metrics.failures.increment(1);
                tracing::warn!(%peer, %error, "operation failed");
                if !self.state.stopping.load(Ordering::Acquire) {
                    linger(&mut connection);
                }
            }
        }
    }

    /// Serves operations until the peer hangs up or something goes wrong.
    fn serve(&self, connection: &mut Connection) -> Result<(), DatanodeError> {
        let shared = &*self.state.shared;
        let within = shared.config.handshake_timeout;
        let mut kept = None;
        let mut idle = within;
        loop {
            connection.set_timeout(idle)?;
            let Some(op) = connection.read_op(within)? else {
                return Ok(());
            };
            match op {
                Op::ReadBlock => {
                    let request: OpReadBlockProto = connection.read_message(within)?;
                    if !read_op::read_block(shared, connection, &request, &mut kept)? {
                        return Ok(());
                    }
                }
                Op::WriteBlock => {
                    let request: OpWriteBlockProto = connection.read_message(within)?;
                    write_op::write_block(shared, connection, &request)?;
                }
                Op::BlockChecksum => {
                    let request: OpBlockChecksumProto = connection.read_message(within)?;
                    checksum_op::block_checksum(shared, connection, &request)?;
                }
                Op::TransferBlock => {
                    let request: OpTransferBlockProto = connection.read_message(within)?;
                    copy::transfer_block(shared, connection, &request)?;
                }
                // Descriptors do not travel over TCP.
                Op::RequestShortCircuitFds => return Err(TransferError::UnknownOp(op as u8).into()),
            }
            idle = shared.config.keepalive_timeout;
        }
    }
}

/// Says that nothing more will come and takes what the peer still sends, for a while.
fn linger(connection: &mut Connection) {
    let deadline = Instant::now() + LINGER;
    let mut taken = 0;
    let ended = |e: &io::Error| e.kind() != io::ErrorKind::TimedOut;
    if connection.socket().shutdown(Shutdown::Write).is_err() || connection.set_timeout(LINGER).is_err() {
        return;
    }
    while Instant::now() < deadline && taken < LINGER_BYTES {
        let have = connection.buffered().len();
        connection.consume(have);
        taken += have;
        match connection.fill(1, super::net::BUFFER_BYTES) {
            Ok(()) => {}
            Err(error) => {
                tracing::trace!(ended = ended(&error), "peer stopped sending");
                return;
            }
        }
    }
}
