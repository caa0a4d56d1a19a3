//! One connection to a namenode, which speaks frames ([`dfs_proto::framing`]).
//!
//! A caller writes its frame itself, straight to the socket, and waits; the link's thread
//! (`namenode_reader`) reads the answers and wakes exactly the callers that they are for. So a call costs two changes of
//! threads on this side, whatever runtime the callers live on, or none at all.
//!
//! ```text
//! call -> register -> send: socket is free ----------> send(2), never waiting
//!                       |   somebody writes, or the connection is being made: queue, who writes takes it along
//!                       +-- the socket is full: a thread of its own writes the rest
//! thread: connect, prefaces, queue -> recv(2) -> answers to callers; calls without an answer in time fail
//! ```
//!
//! Invariants: frames leave whole and in the order of `send`, since one thread at a time is `busy` writing; a registered
//! call is answered exactly once, by the namenode, its deadline or the end of the link; a call that
//! is dropped is told to the namenode; a link that has failed stays so.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use dfs_proto::framing::{self, CALLS_MAX, FrameError};
use dfs_proto::v1::LogPosition;
use dfs_proto::{ErrorKind, MAX_RPC_BYTES, RpcError};
use nix::sys::socket::MsgFlags;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tonic::Status;

use crate::namenode_reader;

/// Queued bytes beyond which callers wait before they add more: the largest request, or thousands of usual ones.
const QUEUE_BYTES_MAX: usize = MAX_RPC_BYTES;

/// A caller that finds more in the queue each time it has written leaves it to a thread after so many rounds.
const ROUNDS_MAX: usize = 8;

/// Stack of the link's threads, which call nothing deep.
pub(crate) const STACK_BYTES: usize = 256 << 10;

/// Why a connection to a namenode ended, or was none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It could not be made.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// It broke.
    #[error("connection broke")]
    Broken(#[source] io::Error),
    /// The other side closed it.
    #[error("connection closed by the namenode")]
    Closed,
    /// The other side does not begin as a namenode does.
    #[error("it does not answer as a namenode")]
    NotANamenode(#[source] FrameError),
    /// The other side closed the connection instead of beginning as a namenode does.
    #[error("it closes the connection at once")]
    ClosedAtOnce,
    /// The other side says nothing.
    #[error("no answer in time")]
    Silent,
    /// What came is no frame.
    #[error("bad answer")]
    Frame(#[source] FrameError),
    /// The answer is of a call that was not made.
    #[error("answer to no call")]
    Unasked,
    /// The client was dropped.
    #[error("client is closed")]
    Dropped,
}

impl LinkError {
    /// The status that calls get.
    pub(crate) fn status(self) -> Status {
        let mut status = match &self {
            Self::NotANamenode(FrameError::Version { theirs }) => {
                let reason = format!("namenode speaks {theirs}, client {}", framing::FRAMING_VERSION);
                return RpcError::new(ErrorKind::VersionMismatch, "framing", reason).to_status();
            }
            Self::NotANamenode(_) | Self::ClosedAtOnce | Self::Frame(_) | Self::Unasked => {
                Status::internal(self.to_string())
            }
            Self::Connect(_) | Self::Broken(_) | Self::Closed | Self::Silent | Self::Dropped => {
                Status::unavailable(self.to_string())
            }
        };
        status.set_source(Arc::new(self));
        status
    }
}

/// A call's success.
#[derive(Debug)]
pub(crate) struct Success {
    /// The message, with gRPC's head.
    pub(crate) message: Bytes,
    /// Where in the namenode's log the change is, if it was answered before that was on disk.
    pub(crate) changed: Option<LogPosition>,
}

/// How a call ended; an error is the namenode's refusal or the link's failure.
pub(crate) type Answer = Result<Success, Status>;

/// A call without an answer.
struct Waiting {
    answer: oneshot::Sender<Answer>,
    until: Instant,
}

#[derive(Default)]
struct Calls {
    /// At most [`CALLS_MAX`].
    waiting: HashMap<u64, Waiting>,
    broken: Option<Status>,
}

struct Out {
    /// Whole frames that nobody has begun to write.
    queued: Vec<u8>,
    /// Somebody writes, or will when the connection is made.
    busy: bool,
}

/// See the module.
pub(crate) struct Link {
    socket: OnceLock<TcpStream>,
    calls: Mutex<Calls>,
    out: Mutex<Out>,
    places: Semaphore,
    room: Notify,
}

impl Link {
    /// A link to `host:port`, and the thread that makes the connection.
    pub(crate) fn start(address: &str) -> Arc<Self> {
        let link = Arc::new(Self {
            socket: OnceLock::new(),
            calls: Mutex::default(),
            out: Mutex::new(Out { queued: Vec::new(), busy: true }),
            places: Semaphore::new(CALLS_MAX),
            room: Notify::new(),
        });
        let (reading, address) = (Arc::clone(&link), address.to_owned());
        let thread = thread::Builder::new().name("namenode-calls".to_owned()).stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(move || namenode_reader::run(&reading, &address)) {
            link.fail(LinkError::Connect(error));
        }
        link
    }

    /// Whether calls fail without being sent.
    pub(crate) fn is_broken(&self) -> bool {
        self.calls().broken.is_some()
    }

    /// A place among the calls under way; held until the call has ended.
    pub(crate) async fn place(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.places.acquire().await.map_err(|_| LinkError::Dropped.status())
    }

    /// Sends a frame that makes the call `id`, and waits for its answer until `until`.
    pub(crate) async fn call(self: &Arc<Self>, id: u64, frame: Vec<u8>, until: Instant) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.register(id, Waiting { answer, until })?;
        let mut under_way = UnderWay { link: self, id, ended: false };
        loop {
            let room = self.room.notified();
            if self.out().queued.len() <= QUEUE_BYTES_MAX || self.is_broken() {
                break;
            }
            room.await;
        }
        self.send(frame);
        let answer = answered.await;
        under_way.ended = true;
        answer.unwrap_or_else(|_| Err(LinkError::Dropped.status()))
    }

    fn register(&self, id: u64, waiting: Waiting) -> Result<(), Status> {
        let mut calls = self.calls();
        if let Some(status) = &calls.broken {
            return Err(status.clone());
        }
        calls.waiting.insert(id, waiting);
        Ok(())
    }

    /// Hands over the connection that was made; what was queued meanwhile leaves.
    pub(crate) fn opened(self: &Arc<Self>, socket: TcpStream) -> io::Result<&TcpStream> {
        let socket = self.socket.get_or_init(|| socket);
        if self.is_broken() {
            // Whoever failed it before there was a socket could not close it.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(socket)
    }

    /// Writes what was queued while the connection was made. From now on callers write themselves.
    pub(crate) fn begin(self: &Arc<Self>) {
        if let Some(queued) = self.next_to_write() {
            self.write(queued);
        }
    }

    /// Answers a call.
    pub(crate) fn answer(&self, id: u64, answer: Answer) {
        let waited = self.calls().waiting.remove(&id);
        // One that was given up has no entry, or its caller has just gone.
        if let Some(waiting) = waited {
            let _ = waiting.answer.send(answer);
        }
    }

    /// Fails calls whose time is over.
    pub(crate) fn fail_overdue(self: &Arc<Self>, now: Instant) {
        let overdue: Vec<(u64, Waiting)> =
            self.calls().waiting.extract_if(|_, waiting| waiting.until <= now).collect();
        for (id, waiting) in overdue {
            let _ = waiting.answer.send(Err(LinkError::Silent.status()));
            self.abandon(id);
        }
    }

    /// Ends the link: calls under way and later ones fail.
    pub(crate) fn fail(&self, error: LinkError) {
        let waiting = {
            let mut calls = self.calls();
            if calls.broken.is_some() {
                return;
            }
            calls.broken = Some(error.status());
            std::mem::take(&mut calls.waiting)
        };
        if let Some(socket) = self.socket.get() {
            // Fails if it is closed already; what blocks in it ends in any case.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let status = self.calls().broken.clone();
        for waiting in waiting.into_values() {
            if let Some(status) = &status {
                let _ = waiting.answer.send(Err(status.clone()));
            }
        }
        self.room.notify_waiters();
    }

    /// Sends a frame as soon as the socket takes it.
    fn send(self: &Arc<Self>, frame: Vec<u8>) {
        {
            let mut out = self.out();
            if out.busy {
                out.queued.extend_from_slice(&frame);
                return;
            }
            out.busy = true;
        }
        self.write(frame);
    }

    /// Writes, as the one who is busy, this and what is queued meanwhile; never waits.
    fn write(self: &Arc<Self>, mut bytes: Vec<u8>) {
        let Some(socket) = self.socket.get() else { return };
        for _ in 0..ROUNDS_MAX {
            match send_now(socket, &bytes) {
                Ok(sent) if sent == bytes.len() => {}
                Ok(sent) => {
                    bytes.drain(..sent);
                    return self.write_elsewhere(bytes);
                }
                Err(error) => return self.fail(LinkError::Broken(error)),
            }
            match self.next_to_write() {
                Some(queued) => bytes = queued,
                None => return,
            }
        }
        self.write_elsewhere(bytes);
    }

    /// Goes on writing in a thread of its own, until nothing is left to write.
    fn write_elsewhere(self: &Arc<Self>, mut bytes: Vec<u8>) {
        let link = Arc::clone(self);
        let thread = thread::Builder::new().name("namenode-writes".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let Some(mut socket) = link.socket.get() else { return };
            loop {
                // The socket itself blocks; a dead peer ends this by the socket's timeouts, and `fail` does at once.
                if let Err(error) = socket.write_all(&bytes) {
                    return link.fail(LinkError::Broken(error));
                }
                match link.next_to_write() {
                    Some(queued) => bytes = queued,
                    None => return,
                }
            }
        });
        if let Err(error) = spawned {
            self.fail(LinkError::Broken(error));
        }
    }

    /// What the busy one has to write next; if nothing, it is busy no longer.
    fn next_to_write(&self) -> Option<Vec<u8>> {
        let queued = {
            let mut out = self.out();
            if out.queued.is_empty() {
                out.busy = false;
                return None;
            }
            std::mem::take(&mut out.queued)
        };
        self.room.notify_waiters();
        Some(queued)
    }

    /// Tells the namenode that nobody waits for a call.
    fn abandon(self: &Arc<Self>, id: u64) {
        let mut frame = Vec::new();
        framing::encode_abandon(&mut frame, id);
        self.send(frame);
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered call. Dropped before its end, it is given up.
struct UnderWay<'a> {
    link: &'a Arc<Link>,
    id: u64,
    ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let waited = self.link.calls().waiting.remove(&self.id);
        if waited.is_some() {
            self.link.abandon(self.id);
        }
    }
}

/// Sends what the socket takes at once.
fn send_now(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let mut sent = 0;
    while sent < bytes.len() {
        match nix::sys::socket::send(socket.as_raw_fd(), &bytes[sent..], flags) {
            Ok(more) => sent += more,
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}
