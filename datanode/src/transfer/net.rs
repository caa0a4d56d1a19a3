//! A data connection: a blocking socket with a small read buffer. The unit of everything in `transfer`.
//!
//! Large payloads bypass the buffer: [`Connection::read_exact`] takes what is buffered and receives the rest
//! straight into the caller's memory. Silence longer than the timeout is an error of kind `TimedOut`.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::data_transfer::{self, OP_PREFIX_BYTES, Op, TransferError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, recv, sendmsg};
use prost::Message;

/// Read buffer of a connection: holds a whole small block with all its headers.
pub const BUFFER_BYTES: usize = 16 << 10;

/// A data connection.
#[derive(Debug)]
pub struct Connection {
    socket: Arc<TcpStream>,
    peer: SocketAddr,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    timeout: Option<Duration>,
}

impl Connection {
    /// Takes over a connected socket. `send_timeout` is the longest wait for a peer that takes no data.
    pub fn new(socket: TcpStream, peer: SocketAddr, send_timeout: Duration) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(send_timeout))?;
        Ok(Self {
            socket: Arc::new(socket),
            peer,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            timeout: None,
        })
    }

    /// The socket.
    pub const fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// The other side.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sets the longest wait for the next bytes.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        if self.timeout != Some(timeout) {
            self.socket.set_read_timeout(Some(timeout))?;
            self.timeout = Some(timeout);
        }
        Ok(())
    }

    /// Bytes received and not consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes `count` buffered bytes out.
    pub fn consume(&mut self, count: usize) {
        self.start += count.min(self.end - self.start);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn receive(&mut self, limit: usize, flags: MsgFlags) -> io::Result<usize> {
        if self.start > 0 && self.buffer.len() - self.end < limit {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let to = self.buffer.len().min(self.end + limit);
        let count = receive_some(&self.socket, &mut self.buffer[self.end..to], flags)?;
        self.end += count;
        Ok(count)
    }

    /// Receives until at least `least` bytes are buffered, in reads of at most `limit` bytes beyond what is
    /// there. `least` is at most [`BUFFER_BYTES`].
    pub fn fill(&mut self, least: usize, limit: usize) -> io::Result<()> {
        while self.end - self.start < least {
            let missing = least - (self.end - self.start);
            if self.receive(limit.max(missing), MsgFlags::empty())? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Receives what is there, at most `limit` bytes, without waiting. `false`: nothing is there.
    pub fn try_fill(&mut self, limit: usize) -> io::Result<bool> {
        match self.receive(limit, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Fills `out`.
    pub fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        let have = out.len().min(self.end - self.start);
        out[..have].copy_from_slice(&self.buffer[self.start..self.start + have]);
        self.consume(have);
        let mut filled = have;
        while filled < out.len() {
            match receive_some(&self.socket, &mut out[filled..], MsgFlags::MSG_WAITALL)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Waits for the start of the next operation; `None`: the peer hung up instead.
    pub fn read_op(&mut self, deadline: Duration) -> Result<Option<Op>, TransferError> {
        if self.buffered().is_empty() {
            match self.fill(1, BUFFER_BYTES) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                other => other?,
            }
        }
        let deadline = Instant::now() + deadline;
        self.fill_by(OP_PREFIX_BYTES, deadline)?;
        let mut raw = [0; OP_PREFIX_BYTES];
        raw.copy_from_slice(&self.buffered()[..OP_PREFIX_BYTES]);
        let op = data_transfer::decode_op_prefix(raw)?;
        self.consume(OP_PREFIX_BYTES);
        Ok(Some(op))
    }

    /// Like `fill`, but the whole must be there by `deadline`: a peer that sends a byte now and then
    /// does not hold a thread.
    fn fill_by(&mut self, least: usize, deadline: Instant) -> io::Result<()> {
        while self.buffered().len() < least {
            let have = self.buffered().len();
            self.fill(have + 1, BUFFER_BYTES)?;
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Reads a message with its length in front, all of it within `within`.
    pub fn read_message<M: Message + Default>(&mut self, within: Duration) -> Result<M, TransferError> {
        let deadline = Instant::now() + within;
        let (prefix, length) = loop {
            if let Some(found) = data_transfer::decode_length(self.buffered())? {
                break found;
            }
            let have = self.buffered().len();
            self.fill_by(have + 1, deadline)?;
        };
        self.consume(prefix);
        if length <= BUFFER_BYTES {
            self.fill_by(length, deadline)?;
            let message = M::decode(&self.buffered()[..length])?;
            self.consume(length);
            return Ok(message);
        }
        // Longer than the buffer, at most MAX_MESSAGE_BYTES: a pipeline of hundreds of members.
        let mut raw = Vec::new();
        while raw.len() < length {
            self.fill_by(1, deadline)?;
            let have = self.buffered().len().min(length - raw.len());
            raw.extend_from_slice(&self.buffered()[..have]);
            self.consume(have);
        }
        Ok(M::decode(raw.as_slice())?)
    }

    /// Sends a message with its length in front.
    pub fn send_message(&self, message: &impl Message) -> io::Result<()> {
        let mut raw = Vec::with_capacity(message.encoded_len() + 5);
        data_transfer::encode_delimited(message, &mut raw);
        self.send(&raw)
    }

    /// Sends bytes.
    pub fn send(&self, raw: &[u8]) -> io::Result<()> {
        send_all(&self.socket, &mut [IoSlice::new(raw)], MsgFlags::empty())
    }
}

/// One receive; a timeout is `TimedOut`.
fn receive_some(socket: &TcpStream, into: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match recv(socket.as_raw_fd(), into, flags) {
            Ok(count) => return Ok(count),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Sends as much as the socket takes in one call; a timeout, or a full socket without waiting, is `TimedOut`.
pub fn send_some(socket: &TcpStream, parts: &[IoSlice<'_>], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), parts, &[], flags | MsgFlags::MSG_NOSIGNAL, None) {
            Ok(count) => return Ok(count),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Sends everything.
pub fn send_all(socket: &TcpStream, mut parts: &mut [IoSlice<'_>], flags: MsgFlags) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let count = send_some(socket, parts, flags)?;
        IoSlice::advance_slices(&mut parts, count);
    }
    Ok(())
}

/// Which of two sockets can be read, and whether the second can be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    /// First socket has bytes or an end.
    pub first: bool,
    /// Second socket has bytes or an end.
    pub second: bool,
}

/// Waits until one of two sockets can be read, or with `second_writable` the second one be written.
/// Nothing ready: `timeout` has passed.
pub fn wait_for(
    first: Option<&TcpStream>,
    second: &TcpStream,
    second_writable: bool,
    timeout: Duration,
) -> io::Result<(Ready, bool)> {
    let interest = if second_writable { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
    let mut fds = [PollFd::new(second.as_fd(), interest), PollFd::new(second.as_fd(), PollFlags::POLLIN)];
    let mut count = 1;
    if let Some(first) = first {
        fds[1] = PollFd::new(first.as_fd(), PollFlags::POLLIN);
        count = 2;
    }
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match nix::poll::poll(&mut fds[..count], timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let events = |i: usize| fds[i].revents().unwrap_or_else(PollFlags::empty);
    let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
    let ready =
        Ready { first: count == 2 && events(1).intersects(readable), second: events(0).intersects(readable) };
    Ok((ready, events(0).intersects(PollFlags::POLLOUT)))
}
