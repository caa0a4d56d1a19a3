//! A connection that speaks the client library's frames ([`dfs_proto::framing`]).
//!
//! Everything happens in the connection's task. The first step of a call is made when its frame is read; a call that
//! needs to wait for nothing is answered then. Others wait beside each other and hold up nobody. Answers that are
//! ready together leave in one write.
//!
//! Invariants: what is kept for a connection is bounded ([`CALLS_MAX`] and [`WAITING_BYTES_MAX`] of calls that wait,
//! [`OUTPUT_BYTES_MAX`] and one answer of output, one frame and a read of input); beyond, nothing is read until there is
//! room. The end of the connection ends its calls, and so does a client that gives one up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use dfs_proto::MAX_RPC_BYTES;
use dfs_proto::framing::{self, CALLS_MAX, FrameError, PREFACE_BYTES, Request};
use futures::future::{AbortHandle, Abortable};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::framed_call::{FramedCall, Outcome};
use crate::listener::Connection;
use crate::unary_services::OneMessage;

/// Messages of calls that wait may add up to so much before nothing more is read: a few of the largest.
const WAITING_BYTES_MAX: usize = 4 * MAX_RPC_BYTES;

/// Answers that wait for the client to read them may add up to so much before no more are made.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Read at once, and kept by a connection that is idle: a request has 100 to 300 bytes.
const READ_BYTES: usize = 8 << 10;

/// Buffers that grew beyond this are given back when they are empty.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Rounds of reading and answering before other connections get their turn.
const ROUNDS_MAX: usize = 16;

/// Why a connection ended before its client wanted.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client sends what is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The client uses the identity of a call that is not answered yet for another one.
    #[error("call id {id} is in use")]
    CallId {
        /// The identity.
        id: u64,
    },
}

/// See the module.
pub struct FramedConnection<S> {
    connection: Connection,
    info: TcpConnectInfo,
    services: S,
    preface: [u8; PREFACE_BYTES],
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that were written.
    written: usize,
    waiting: FuturesUnordered<Abortable<FramedCall>>,
    /// To give up those that wait, and the sizes of their messages.
    waiters: HashMap<u64, (AbortHandle, usize)>,
    /// Sum of these sizes.
    waiting_bytes: usize,
}

impl<S> FramedConnection<S>
where
    S: Service<
            http::Request<OneMessage>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = BoxFuture<http::Response<Body>, Infallible>,
        >,
{
    /// A connection whose client began with `preface`.
    pub fn new(connection: Connection, services: S, preface: [u8; PREFACE_BYTES]) -> Self {
        let info = connection.connect_info();
        Self {
            connection,
            info,
            services,
            preface,
            input: Vec::new(),
            output: framing::preface().to_vec(),
            written: 0,
            waiting: FuturesUnordered::new(),
            waiters: HashMap::new(),
            waiting_bytes: 0,
        }
    }

    /// Serves until the client closes the connection.
    pub async fn serve(mut self) -> Result<(), ConnectionError> {
        if let Err(error) = framing::check_preface(self.preface) {
            // Ours tells the client what it met.
            std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
            return Err(error.into());
        }
        self.connection.find_dead_peer()?;
        // Fair by itself: see `ROUNDS_MAX`. Tokio's budget would only suspend calls that are nearly done.
        tokio::task::unconstrained(std::future::poll_fn(|cx| self.poll_serve(cx))).await
    }

    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        for _ in 0..ROUNDS_MAX {
            self.take_finished(cx);
            let more = self.take_frames(cx)?;
            let flushed = self.poll_flush(cx)?.is_ready();
            if !self.has_room() {
                // Woken by a call that ends, or by the socket when it takes more.
                return Poll::Pending;
            }
            if more {
                continue;
            }
            match self.poll_fill(cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => {}
                Poll::Pending => {
                    self.give_back(flushed);
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether another call may be taken.
    fn has_room(&self) -> bool {
        self.waiting.len() < CALLS_MAX
            && self.waiting_bytes < WAITING_BYTES_MAX
            && self.output.len() - self.written < OUTPUT_BYTES_MAX
    }

    /// Takes the answers of calls that have waited.
    fn take_finished(&mut self, cx: &mut Context<'_>) {
        while self.output.len() - self.written < OUTPUT_BYTES_MAX
            && let Poll::Ready(Some(ended)) = self.waiting.poll_next_unpin(cx)
        {
            if let Ok(outcome) = ended {
                self.forget(outcome.id);
                self.answer(&outcome);
            }
        }
    }

    /// Takes all whole frames of the input; true if it stopped for lack of room.
    fn take_frames(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        let mut more = false;
        let taken = loop {
            match framing::split_frame(rest) {
                Err(error) => break Err(error.into()),
                Ok(Err(_)) => break Ok(()),
                Ok(Ok(_)) if !self.has_room() => {
                    more = true;
                    break Ok(());
                }
                Ok(Ok(frame)) => {
                    rest = &rest[framing::LENGTH_BYTES + frame.len()..];
                    if let Err(error) = self.take_frame(cx, frame) {
                        break Err(error);
                    }
                }
            }
        };
        let consumed = input.len() - rest.len();
        self.input = input;
        self.input.drain(..consumed);
        taken.map(|()| more)
    }

    fn take_frame(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Result<(), ConnectionError> {
        match framing::decode_request(frame)? {
            Request::Call { id, path, message } => {
                if self.waiters.contains_key(&id) {
                    return Err(ConnectionError::CallId { id });
                }
                let mut call = FramedCall::new(id, self.begin(path, message));
                match Pin::new(&mut call).poll(cx) {
                    Poll::Ready(outcome) => self.answer(&outcome),
                    Poll::Pending => {
                        // What it waits for now wakes this task, whose next step polls the call again.
                        let (handle, registration) = AbortHandle::new_pair();
                        self.waiters.insert(id, (handle, message.len()));
                        self.waiting_bytes += message.len();
                        self.waiting.push(Abortable::new(call, registration));
                    }
                }
            }
            Request::Abandon { id } => {
                if let Some(handle) = self.forget(id) {
                    handle.abort();
                }
            }
        }
        Ok(())
    }

    /// Takes a call from those that wait.
    fn forget(&mut self, id: u64) -> Option<AbortHandle> {
        let (handle, message_bytes) = self.waiters.remove(&id)?;
        self.waiting_bytes -= message_bytes;
        Some(handle)
    }

    fn begin(&mut self, path: &str, message: &[u8]) -> BoxFuture<http::Response<Body>, Infallible> {
        let Ok(uri) = path.parse::<http::Uri>() else {
            let refused = Status::unimplemented("not a method's path").into_http();
            return Box::pin(std::future::ready(Ok(refused)));
        };
        let mut request = http::Request::new(OneMessage::new(Bytes::copy_from_slice(message)));
        *request.uri_mut() = uri;
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        request.extensions_mut().insert(self.info.clone());
        self.services.call(request)
    }

    fn answer(&mut self, outcome: &Outcome) {
        if let Err(error) = outcome.encode(&mut self.output) {
            // Impossible: a refusal with a short text and no details always fits.
            tracing::error!(%error, "a call is left without an answer");
        }
    }

    /// Writes what there is; pending if the socket takes no more.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            match Pin::new(&mut self.connection).poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(more)) => self.written += more,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.output.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads what there is, at most as much again as there was: memory follows what arrives, not what is announced.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < READ_BYTES / 4 {
            self.input.reserve(READ_BYTES.max(self.input.len()));
        }
        pin!(self.connection.read_buf(&mut self.input)).poll(cx)
    }

    /// Lets go of large buffers that are empty.
    fn give_back(&mut self, flushed: bool) {
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES_MAX {
            self.input = Vec::new();
        }
        if flushed && self.output.capacity() > KEPT_BYTES_MAX {
            self.output = Vec::new();
        }
    }
}
