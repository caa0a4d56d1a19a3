//! Accepts connections, at most so many at once, and looks at their first bytes to see what they speak: our own frames
//! ([`dfs_proto::framing`]) or, whatever else they send, HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dfs_proto::framing::{self, PREFACE_BYTES};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections served at once; a connection costs about 20 KiB. Further ones wait in the backlog.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Silence after which the other end of a connection is asked whether it is there, and given up. Who connects
/// has to say something before.
pub const KEEPALIVE: Duration = Duration::from_secs(20);

/// The kernel asks so often before it gives up a silent peer.
const KEEPALIVE_PROBES: u32 = 4;

/// Pause after a connection could not be accepted: without descriptors, trying at once would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// An accepted connection and its place among [`CONNECTIONS_MAX`].
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// Bytes that were read to see what is spoken: the first `filled` ones, of which `taken` were handed on.
    first: [u8; PREFACE_BYTES],
    filled: usize,
    taken: usize,
    _place: OwnedSemaphorePermit,
}

/// What a connection speaks.
pub enum Spoken {
    /// Our frames; their preface has been read.
    Frames([u8; PREFACE_BYTES]),
    /// HTTP/2, or nothing sensible: nothing has been read, as far as the reader of the connection can tell.
    Http2,
}

/// Waits for the next connection and a place for it.
pub async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<Connection> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = match listener.accept().await {
        Ok(accepted) => accepted,
        Err(error) => {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            return Err(error);
        }
    };
    stream.set_nodelay(true)?;
    Ok(Connection { stream, peer, first: [0; PREFACE_BYTES], filled: 0, taken: 0, _place: place })
}

impl Connection {
    /// Reads as many bytes as it takes to see what is spoken.
    pub async fn spoken(&mut self) -> io::Result<Spoken> {
        let reading = async {
            while self.filled < PREFACE_BYTES {
                match self.stream.read(&mut self.first[self.filled..]).await? {
                    0 if self.filled == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    0 => return Ok(Spoken::Http2),
                    more => self.filled += more,
                }
                if !framing::may_be_preface(&self.first[..self.filled]) {
                    return Ok(Spoken::Http2);
                }
            }
            self.taken = self.filled;
            Ok(Spoken::Frames(self.first))
        };
        tokio::time::timeout(KEEPALIVE, reading).await.map_err(io::Error::from)?
    }

    /// Has the kernel find out when the peer is gone without a word. (HTTP/2 asks by itself.)
    pub fn find_dead_peer(&self) -> io::Result<()> {
        let seconds = KEEPALIVE.as_secs() as u32;
        setsockopt(&self.stream, sockopt::KeepAlive, &true)?;
        setsockopt(&self.stream, sockopt::TcpKeepIdle, &seconds)?;
        setsockopt(&self.stream, sockopt::TcpKeepInterval, &(seconds / KEEPALIVE_PROBES))?;
        setsockopt(&self.stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
        setsockopt(&self.stream, sockopt::TcpUserTimeout, &(2 * KEEPALIVE.as_millis() as u32))?;
        Ok(())
    }

    /// Who connected.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let waiting = &self.first[self.taken..self.filled];
        if waiting.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let taken = waiting.len().min(buf.remaining());
        buf.put_slice(&waiting[..taken]);
        self.taken += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
