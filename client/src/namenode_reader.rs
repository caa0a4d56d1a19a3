//! The thread of a connection to a namenode: makes the connection, then reads answers.
//!
//! It waits in `recv` with a timeout of [`TICK`], so that calls without an answer fail not much later than they
//! should. The end of the thread is the end of the link, whichever comes first.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::framing::{self, FrameError, LENGTH_BYTES, PREFACE_BYTES};
use socket2::{SockRef, TcpKeepalive};
use tonic::{Code, Status};

use crate::namenode_link::{Answer, Link, LinkError, Success};

/// Time to connect to one namenode and hear from it before the next attempt.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How late a call may be found to be overdue.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// Silence of the connection after which the kernel asks the other side whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// The kernel asks again after this time, [`KEEPALIVE_PROBES`] times.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// See [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_PROBES: u32 = 3;

/// What was sent is acknowledged by the other side's kernel within this time, or the connection is dead.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);

/// Read at once, and kept: usual answers have a few hundred bytes, listings some 100 KiB.
const READ_BYTES: usize = 64 << 10;

/// A namenode that is being stopped may still take a connection and close it: so often another one is tried before the other side
/// is taken for a server of another kind.
const CLOSED_MAX: u32 = 5;

/// Time before that.
const CLOSED_PAUSE: Duration = Duration::from_millis(100);

/// Lives as long as the link.
pub(crate) fn run(link: &Arc<Link>, address: &str) {
    let Err(error) = serve(link, address);
    link.fail(error);
}

fn serve(link: &Arc<Link>, address: &str) -> Result<std::convert::Infallible, LinkError> {
    let until = Instant::now() + CONNECT_TIMEOUT;
    let mut closed = 0;
    let (socket, input) = loop {
        let socket = connect(address, until).map_err(LinkError::Connect)?;
        match greet(&socket, until, || link.fail_overdue(Instant::now())) {
            Ok(input) => break (socket, input),
            Err(LinkError::ClosedAtOnce) if closed < CLOSED_MAX => {
                closed += 1;
                std::thread::sleep(CLOSED_PAUSE);
            }
            Err(error) => return Err(error),
        }
    };
    let socket = link.opened(socket).map_err(LinkError::Connect)?;
    link.begin();
    read_answers(link, socket, input)
}

/// Exchanges prefaces; answers what was read behind the other side's. `meanwhile` is called when nothing has come for a while.
pub(crate) fn greet(
    mut socket: &TcpStream,
    until: Instant,
    meanwhile: impl Fn(),
) -> Result<Input, LinkError> {
    io::Write::write_all(&mut socket, &framing::preface()).map_err(LinkError::Broken)?;
    let mut input = Input { bytes: vec![0; READ_BYTES], taken: 0, filled: 0 };
    while input.filled < PREFACE_BYTES {
        match input.fill(socket) {
            Ok(true) => {}
            Ok(false) => {
                meanwhile();
                if Instant::now() >= until {
                    return Err(LinkError::Silent);
                }
            }
            // A server of another kind may close, or reset, when it sees our first bytes.
            Err(LinkError::Closed) => return Err(LinkError::ClosedAtOnce),
            Err(LinkError::Broken(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(LinkError::ClosedAtOnce);
            }
            Err(error) => return Err(error),
        }
        if !framing::may_be_preface(&input.bytes[..input.filled.min(PREFACE_BYTES)]) {
            return Err(LinkError::NotANamenode(FrameError::Preface));
        }
    }
    let mut preface = [0; PREFACE_BYTES];
    preface.copy_from_slice(&input.bytes[..PREFACE_BYTES]);
    framing::check_preface(preface).map_err(LinkError::NotANamenode)?;
    input.consume(PREFACE_BYTES);
    Ok(input)
}

fn read_answers(
    link: &Arc<Link>,
    socket: &TcpStream,
    mut input: Input,
) -> Result<std::convert::Infallible, LinkError> {
    let mut next_look = Instant::now() + TICK;
    loop {
        while let Some((id, answer)) = input.next_answer().map_err(LinkError::Frame)? {
            link.answer(id, answer);
        }
        input.fill(socket)?;
        let now = Instant::now();
        if now >= next_look {
            link.fail_overdue(now);
            next_look = now + TICK;
        }
    }
}

/// Connects to the first address of `host:port` that takes the connection.
pub(crate) fn connect(address: &str, until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for addr in address.to_socket_addrs()? {
        match connect_to(addr, until.saturating_duration_since(Instant::now())) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to(addr: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    // The least that the call accepts: zero would be an error of another kind.
    let socket = TcpStream::connect_timeout(&addr, patience.max(Duration::from_millis(1)))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(TICK))?;
    let options = SockRef::from(&socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    options.set_tcp_keepalive(&keepalive)?;
    options.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(socket)
}

/// Bytes that have come.
pub(crate) struct Input {
    /// Initialised room, of which the bytes from `taken` to `filled` have come and were not taken.
    bytes: Vec<u8>,
    taken: usize,
    filled: usize,
}

impl Input {
    /// Waits for more as long as the socket does; false if nothing has come.
    pub(crate) fn fill(&mut self, mut socket: &TcpStream) -> Result<bool, LinkError> {
        if self.taken > 0 {
            self.bytes.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
        }
        if self.filled == self.bytes.len() {
            // Follows what arrives, not what is announced.
            self.bytes.resize(2 * self.bytes.len(), 0);
        }
        match socket.read(&mut self.bytes[self.filled..]) {
            Ok(0) => Err(LinkError::Closed),
            Ok(more) => {
                self.filled += more;
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(false),
                _ => Err(LinkError::Broken(error)),
            },
        }
    }

    /// Whether everything that has come was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.filled
    }

    fn consume(&mut self, count: usize) {
        self.taken += count;
        if self.is_empty() {
            (self.taken, self.filled) = (0, 0);
            if self.bytes.len() > READ_BYTES {
                self.bytes = vec![0; READ_BYTES];
            }
        }
    }

    /// The next whole frame: which call it answers, and how.
    pub(crate) fn next_answer(&mut self) -> Result<Option<(u64, Answer)>, FrameError> {
        let Ok(frame) = framing::split_frame(&self.bytes[self.taken..self.filled])? else { return Ok(None) };
        let length = LENGTH_BYTES + frame.len();
        let (id, answer) = framing::decode_answer(frame)?;
        let answer = match answer {
            framing::Answer::Message { message, changed } => {
                Ok(Success { message: Bytes::copy_from_slice(message), changed })
            }
            framing::Answer::Refused { code, text, details } => {
                let code = Code::from_i32(i32::from(code));
                Err(Status::with_details(code, text, Bytes::copy_from_slice(details)))
            }
        };
        self.consume(length);
        Ok(Some((id, answer)))
    }
}
