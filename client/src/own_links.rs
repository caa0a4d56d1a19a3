//! Connections to a namenode for callers who block their thread for the answer ([`waiting_thread`]).
//!
//! On the shared connection ([`namenode_link`](crate::namenode_link)) a thread reads the answers and wakes their callers. A caller
//! that may block takes a connection for the time of its call, and reads the answer itself: that is one change of threads less.
//!
//! ```text
//! take -> send(2) -> recv(2) -> put back              the answer comes within PATIENCE
//!                       +-----> recv(2) ... put back  a thread of the runtime goes on reading; the caller's is free
//! ```
//!
//! Invariants: a connection carries one call at a time and is put back when that was answered; a call that is given up closes its
//! connection, which tells the namenode. Connections are made by a thread of their own while calls use the shared one; there are
//! [`CONNECTIONS_MAX`] at most. When one breaks, the idle ones are closed.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::namenode_link::{Answer, LinkError, STACK_BYTES};
use crate::namenode_reader::{self, CONNECT_TIMEOUT, Input, TICK};
use crate::waiting_thread;

/// Longest time that a caller's thread is blocked: many times what a call usually takes.
const PATIENCE: Duration = Duration::from_millis(10);

/// Where more callers wait at a time, answers that come together on the shared connection cost less. A namenode has 10,000 places for
/// connections of all clients.
const CONNECTIONS_MAX: usize = 4;

/// Connections that were not used for so long are closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Time without new connections after one has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Largest frame that is sent: the socket of an idle connection takes it without waiting.
const FRAME_BYTES_MAX: usize = 16 << 10;

/// The connections to one namenode.
pub(crate) struct OwnLinks {
    address: String,
    state: Mutex<State>,
    /// Shared by all connections there are.
    living: Arc<()>,
}

#[derive(Default)]
struct State {
    /// Since when; the one used last is at the end, and used next.
    idle: VecDeque<(Instant, OwnLink)>,
    making: bool,
    not_before: Option<Instant>,
}

/// A connection without a call.
pub(crate) struct OwnLink {
    socket: Arc<TcpStream>,
    input: Input,
    _living: Arc<()>,
}

impl OwnLinks {
    /// Makes no connection yet.
    pub(crate) fn new(address: String) -> Arc<Self> {
        Arc::new(Self { address, state: Mutex::default(), living: Arc::default() })
    }

    /// A connection for a call of `frame_bytes`, if the calling thread may wait and one is idle. If there is none, one is made
    /// for later.
    pub(crate) fn take(self: &Arc<Self>, frame_bytes: usize) -> Option<OwnLink> {
        let mut state = self.state();
        if !waiting_thread::is_allowed() || frame_bytes > FRAME_BYTES_MAX || Handle::try_current().is_err() {
            // A session calls every few seconds in any case.
            while state.idle.front().is_some_and(|(since, _)| since.elapsed() > IDLE_MAX) {
                state.idle.pop_front();
            }
            return None;
        }
        let idle = state.idle.pop_back();
        if idle.is_none() {
            self.make(&mut state);
        }
        idle.map(|(_, link)| link)
    }

    /// Closes those that are idle: the namenode may have gone.
    pub(crate) fn clear(&self) {
        let idle = std::mem::take(&mut self.state().idle);
        drop(idle);
    }

    /// Makes the call `id` and waits for its answer until `until`; the first [`PATIENCE`] of it on the calling thread.
    pub(crate) async fn call(&self, mut link: OwnLink, id: u64, frame: &[u8], until: Instant) -> Answer {
        let patience = Instant::now() + PATIENCE;
        let mut outcome = link.send(frame).and_then(|()| link.receive(id, patience));
        if matches!(outcome, Ok(None)) {
            let mut open = Open(Some(Arc::clone(&link.socket)));
            let (answer, answered) = oneshot::channel();
            tokio::task::spawn_blocking(move || {
                let outcome = link.wait(id, until);
                // Nobody may wait any longer; the connection ends with the message then.
                let _ = answer.send((link, outcome));
            });
            let Ok((answered_link, answered)) = answered.await else {
                return Err(LinkError::Dropped.status());
            };
            open.0 = None;
            (link, outcome) = (answered_link, answered.map(Some));
        }
        match outcome {
            Ok(Some(answer)) => {
                self.state().idle.push_back((Instant::now(), link));
                answer
            }
            Ok(None) => Err(LinkError::Silent.status()),
            Err(error) => {
                let mut state = self.state();
                state.idle.clear();
                state.not_before = Some(Instant::now() + PAUSE);
                Err(error.status())
            }
        }
    }

    fn make(self: &Arc<Self>, state: &mut State) {
        let too_many = Arc::strong_count(&self.living) > CONNECTIONS_MAX;
        if state.making || too_many || state.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        state.making = true;
        let links = Arc::clone(self);
        let thread = thread::Builder::new().name("namenode-links".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let made = links.connect();
            let mut state = links.state();
            state.making = false;
            match made {
                Ok(link) => state.idle.push_back((Instant::now(), link)),
                Err(error) => {
                    tracing::debug!(address = links.address, %error, "calls go on sharing one connection");
                    state.not_before = Some(Instant::now() + PAUSE);
                }
            }
        });
        if spawned.is_err() {
            state.making = false;
            state.not_before = Some(Instant::now() + PAUSE);
        }
    }

    fn connect(&self) -> Result<OwnLink, LinkError> {
        let until = Instant::now() + CONNECT_TIMEOUT;
        let socket = namenode_reader::connect(&self.address, until).map_err(LinkError::Connect)?;
        let input = namenode_reader::greet(&socket, until, || {})?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(LinkError::Connect)?;
        Ok(OwnLink { socket: Arc::new(socket), input, _living: Arc::clone(&self.living) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnLink {
    fn send(&self, frame: &[u8]) -> Result<(), LinkError> {
        (&*self.socket).write_all(frame).map_err(LinkError::Broken)
    }

    /// The answer to the call `id`, or none if it does not come by `until`.
    fn receive(&mut self, id: u64, until: Instant) -> Result<Option<Answer>, LinkError> {
        loop {
            if let Some((answered, answer)) = self.input.next_answer().map_err(LinkError::Frame)? {
                let expected = answered == id && self.input.is_empty();
                return if expected { Ok(Some(answer)) } else { Err(LinkError::Unasked) };
            }
            if !self.input.fill(&self.socket)? && Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// The same, waiting until `until`.
    fn wait(&mut self, id: u64, until: Instant) -> Result<Answer, LinkError> {
        self.socket.set_read_timeout(Some(TICK)).map_err(LinkError::Broken)?;
        let answer = self.receive(id, until)?.ok_or(LinkError::Silent)?;
        self.socket.set_read_timeout(Some(PATIENCE)).map_err(LinkError::Broken)?;
        Ok(answer)
    }
}

/// A connection on which a call is under way. Dropped before that is answered, it is closed.
struct Open(Option<Arc<TcpStream>>);

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            // Fails if it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
#[path = "own_links_tests.rs"]
mod tests;
