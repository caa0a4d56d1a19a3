//! Listeners for gRPC and HTTP that strangers cannot fill up: connections are bounded in number, those that say
//! nothing at first are closed, and HTTP connections have a bounded life.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

/// Connections of one listener at once: every datanode and tool of a large cluster fits.
const MAX_CONNECTIONS: usize = 1024;

/// Pause after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When a connection is closed whatever it does.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Unless its first bytes come within this time.
    FirstBytes(Duration),
    /// After this time.
    Life(Duration),
}

/// The listener.
#[derive(Debug)]
pub struct GuardedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    limit: Limit,
}

/// One connection.
#[derive(Debug)]
pub struct GuardedStream {
    socket: TcpStream,
    deadline: Option<Pin<Box<Sleep>>>,
    limit: Limit,
    _place: OwnedSemaphorePermit,
}

impl GuardedListener {
    /// Guards a listener.
    pub fn new(listener: TcpListener, limit: Limit) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)), limit }
    }

    async fn next(&mut self) -> (GuardedStream, SocketAddr) {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await;
            match (self.listener.accept().await, place) {
                (Ok((socket, peer)), Ok(place)) => {
                    if socket.set_nodelay(true).is_err() {
                        continue;
                    }
                    let (Limit::FirstBytes(time) | Limit::Life(time)) = self.limit;
                    let deadline = Some(Box::pin(sleep(time)));
                    return (GuardedStream { socket, deadline, limit: self.limit, _place: place }, peer);
                }
                (Err(error), _) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
                // The semaphore is never closed.
                (Ok(_), Err(_)) => {}
            }
        }
    }

    /// The connections as a stream, for tonic.
    pub fn into_stream(self) -> impl futures::Stream<Item = io::Result<GuardedStream>> {
        futures::stream::unfold(self, |mut listener| async move {
            let (stream, _) = listener.next().await;
            Some((Ok(stream), listener))
        })
    }
}

impl axum::serve::Listener for GuardedListener {
    type Io = GuardedStream;
    type Addr = SocketAddr;

    fn accept(&mut self) -> impl Future<Output = (Self::Io, Self::Addr)> + Send {
        self.next()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected for GuardedStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.socket).poll_read(cx, buf);
        if outcome.is_ready() && matches!(self.limit, Limit::FirstBytes(_)) {
            self.deadline = None;
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
