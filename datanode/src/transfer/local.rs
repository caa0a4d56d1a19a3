//! Hands out descriptors of replica files to readers on the same machine (HDFS calls it short-circuit reads):
//! they read and verify by themselves, and the datanode's processor is not needed.
//!
//! The socket is an abstract UNIX socket named after the datanode's uuid, so a reader that reaches it shares this
//! machine (and network namespace). One request is one op 87, answered by a `BlockOpResponseProto` and, on success, one
//! byte that carries two read-only descriptors: data file, `.meta` file. The answer tells the checksum in
//! `read_op_checksum_info`. A small replica's checksums and bytes are sent instead if the reader wants that: it would
//! need both files once only.
//!
//! Only finalized replicas are given out: of one being written, the last checksum is in memory. A replica that is reopened
//! later keeps its files, so a reader may meet bytes that are being changed; its checksums tell, and it comes over the network
//! then.

use std::collections::HashMap;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dfs_proto::data_transfer::{
    self, MAX_MESSAGE_BYTES, OP_PREFIX_BYTES, Op, SHORT_CIRCUIT_VERSION, TransferError, encode_delimited,
    local_socket_name,
};
use dfs_proto::transfer::{
    BlockOpResponseProto, OpRequestShortCircuitAccessProto, ReadOpChecksumInfoProto, Status,
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use prost::Message;

use super::{Shared, failure};
use crate::dataset::reader::ReadHandle;
use crate::error::DatanodeError;
use crate::sync::lock;

/// Readers served at once: each has a thread, and a process needs one or two connections.
const MAX_CONNECTIONS: usize = 256;

/// Stack of a connection's thread.
const STACK_BYTES: usize = 512 << 10;

/// Longest idle time of a connection, and longest wait for a request's rest: readers connect again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The byte that carries the descriptors.
const CARRIER: u8 = 0;

/// Largest content sent: fits the socket's buffer.
const MAX_CONTENT_BYTES: u64 = 64 << 10;

/// Bytes received at once: some dozen requests fit, which a reader that reads ahead sends together.
const RECEIVE_BYTES: usize = 4 << 10;

/// Answers to requests that came together are sent together up to this size, so that the reader is woken less often.
const SENT_TOGETHER_BYTES: usize = 32 << 10;

/// The server.
#[derive(Debug)]
pub struct LocalServer {
    state: Arc<LocalState>,
    listener: UnixListener,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct LocalState {
    shared: Arc<Shared>,
    open: Mutex<HashMap<u64, UnixStream>>,
    next_id: AtomicU64,
    stopping: AtomicBool,
}

impl LocalServer {
    /// Serves the replicas of `shared` at the socket of the datanode `uuid`.
    pub fn start(uuid: &str, shared: Arc<Shared>) -> Result<Self, DatanodeError> {
        let address = SocketAddr::from_abstract_name(local_socket_name(uuid))?;
        let listener = UnixListener::bind_addr(&address)?;
        let state = Arc::new(LocalState {
            shared,
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        let (accept_from, accept_state) = (listener.try_clone()?, Arc::clone(&state));
        let accepting = thread::Builder::new()
            .name("local-accept".into())
            .spawn(move || accept(&accept_from, &accept_state))
            .map_err(DatanodeError::Thread)?;
        Ok(Self { state, listener, accepting: Mutex::new(Some(accepting)) })
    }

    /// Stops accepting and cuts all readers off. Their threads end soon after.
    pub fn close(&self) {
        self.state.stopping.store(true, Ordering::Release);
        // Wakes the accepting thread; an error means that it is awake already.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for socket in lock(&self.state.open).values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Closes and waits until nobody is accepted any more, so that another process can have the name.
    pub fn stop(&self) {
        self.close();
        if let Some(thread) = lock(&self.accepting).take()
            && thread.join().is_err()
        {
            tracing::error!("thread that accepts local readers panicked");
        }
        // One more time: a reader may have been accepted meanwhile.
        self.close();
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.close();
    }
}

fn accept(listener: &UnixListener, state: &Arc<LocalState>) {
    loop {
        let accepted = listener.accept();
        if state.stopping.load(Ordering::Acquire) {
            return;
        }
        let started = accepted.and_then(|(socket, _)| start(socket, state));
        if let Err(error) = started {
            tracing::warn!(%error, "cannot serve a local reader");
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}

fn start(socket: UnixStream, state: &Arc<LocalState>) -> io::Result<()> {
    if lock(&state.open).len() >= MAX_CONNECTIONS {
        state.shared.metrics.refused_connections.increment(1);
        return Ok(());
    }
    socket.set_read_timeout(Some(IDLE_TIMEOUT))?;
    socket.set_write_timeout(Some(IDLE_TIMEOUT))?;
    let id = state.next_id.fetch_add(1, Ordering::Relaxed);
    lock(&state.open).insert(id, socket.try_clone()?);
    let reader = Reader { state: Arc::clone(state), id };
    thread::Builder::new().name(format!("local-{id}")).stack_size(STACK_BYTES).spawn(move || {
        if let Err(error) = reader.serve(socket) {
            tracing::debug!(%error, "local reader's connection ended");
        }
    })?;
    Ok(())
}

/// One connection's registration; dropping it takes it out.
struct Reader {
    state: Arc<LocalState>,
    id: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.state.open).remove(&self.id);
    }
}

impl Reader {
    /// Serves requests until the peer hangs up, is silent for too long or sends something else.
    fn serve(&self, socket: UnixStream) -> Result<(), DatanodeError> {
        let mut socket = BufReader::with_capacity(RECEIVE_BYTES, socket);
        let shared = &*self.state.shared;
        // Answers to requests with others behind them.
        let mut held = Vec::new();
        loop {
            let mut prefix = [0; OP_PREFIX_BYTES];
            match socket.read_exact(&mut prefix) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            }
            let op = data_transfer::decode_op_prefix(prefix)?;
            if op != Op::RequestShortCircuitFds {
                return Err(TransferError::UnknownOp(op as u8).into());
            }
            let request: OpRequestShortCircuitAccessProto = read_message(&mut socket)?;
            match open(shared, &request) {
                Ok(handle) => {
                    if wants_content(&request, &handle) {
                        append_content(&mut held, shared, &handle);
                    } else {
                        socket.get_ref().write_all(&held)?;
                        held.clear();
                        send_files(socket.get_ref(), &handle)?;
                    }
                    shared.metrics.local_reads.increment(1);
                }
                Err(error) => encode_delimited(&failure(&error, String::new()), &mut held),
            }
            if socket.buffer().is_empty() || held.len() >= SENT_TOGETHER_BYTES {
                socket.get_ref().write_all(&held)?;
                held.clear();
                held.shrink_to(SENT_TOGETHER_BYTES);
            }
        }
    }
}

/// The replica, if it is finalized.
fn open(shared: &Shared, request: &OpRequestShortCircuitAccessProto) -> Result<ReadHandle, DatanodeError> {
    if request.max_version < SHORT_CIRCUIT_VERSION {
        return Err(DatanodeError::Field("max_version"));
    }
    let block = shared.block_of(&request.header)?;
    let handle = shared.dataset.open_read(block, 0)?;
    if !handle.is_finalized() {
        return Err(DatanodeError::ReplicaNotFound { block });
    }
    Ok(handle)
}

/// Whether a replica's content is to be sent. One that may be overwritten is for the reader, who looks twice.
fn wants_content(request: &OpRequestShortCircuitAccessProto, handle: &ReadHandle) -> bool {
    let up_to = u64::from(request.content_up_to.unwrap_or(0)).min(MAX_CONTENT_BYTES);
    (1..=up_to).contains(&handle.length()) && !handle.may_be_overwritten()
}

/// The answer to a request that is served.
fn ready(handle: &ReadHandle) -> BlockOpResponseProto {
    BlockOpResponseProto {
        status: Status::Success.into(),
        short_circuit_access_version: Some(SHORT_CIRCUIT_VERSION),
        read_op_checksum_info: Some(ReadOpChecksumInfoProto {
            checksum: handle.checksum().to_proto(),
            chunk_offset: 0,
        }),
        ..Default::default()
    }
}

/// Appends checksums and bytes, or why there are none. The reader verifies them; here nobody looks at them.
fn append_content(raw: &mut Vec<u8>, shared: &Shared, handle: &ReadHandle) {
    let (begin, length) = (raw.len(), handle.length() as usize);
    let answer = BlockOpResponseProto { content_length: Some(length as u32), ..ready(handle) };
    raw.reserve(length + length / 16 + 64);
    encode_delimited(&answer, raw);
    let read = handle.checksums(0, handle.length(), raw).and_then(|()| {
        let at = raw.len();
        raw.resize(at + length, 0);
        handle.read_data(&mut raw[at..], 0)
    });
    if let Err(error) = read {
        shared.dataset.report_if_damaged(handle, &error);
        raw.truncate(begin);
        encode_delimited(&failure(&error, String::new()), raw);
    }
}

fn send_files(socket: &UnixStream, handle: &ReadHandle) -> io::Result<()> {
    let mut raw = Vec::with_capacity(64);
    encode_delimited(&ready(handle), &mut raw);
    raw.push(CARRIER);
    let files = [handle.data().as_raw_fd(), handle.meta().as_raw_fd()];
    let control = [ControlMessage::ScmRights(&files)];
    let sent =
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&raw)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    // The descriptors went with the first byte.
    let mut rest = socket;
    rest.write_all(&raw[sent..])
}

/// Reads a message with its length in front, byte by byte up to the length: requests are short.
fn read_message<M: Message + Default>(socket: &mut impl Read) -> Result<M, TransferError> {
    let mut prefix = Vec::with_capacity(8);
    let length = loop {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        prefix.push(byte[0]);
        if let Some((_, length)) = data_transfer::decode_length(&prefix)? {
            break length.min(MAX_MESSAGE_BYTES);
        }
    };
    let mut raw = vec![0; length];
    socket.read_exact(&mut raw)?;
    Ok(M::decode(raw.as_slice())?)
}
