//! A connection to a datanode's data port.
//!
//! Owned by one operation at a time. Reads go through a small buffer, so that a response, a packet header and
//! the data of a small file cost one system call, while the bulk of a packet is read straight into its
//! destination. The socket's receive buffer is left to the kernel's autotuning (setting it would cap it at a fraction of
//! what autotuning reaches); it is also what prefetches: the datanode keeps filling it while the caller works.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use dfs_proto::data_transfer::{MAX_MESSAGE_BYTES, decode_length};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::TransferFault;

/// Buffer for responses, acks, packet headers and small data: a 4 KiB file fits with all its framing.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;

/// One connection.
pub(crate) struct DataConnection {
    stream: TcpStream,
    peer: SocketAddr,
    patience: Duration,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl DataConnection {
    /// Connects. `patience` is the longest silence accepted later.
    pub(crate) async fn connect(
        peer: SocketAddr,
        connect_timeout: Duration,
        patience: Duration,
    ) -> Result<Self, TransferFault> {
        let stream = timeout(connect_timeout, TcpStream::connect(peer))
            .await
            .map_err(|_| TransferFault::Timeout)??;
        stream.set_nodelay(true)?;
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Ok(Self { stream, peer, patience, buffer, start: 0, end: 0 })
    }

    /// Sets the longest silence accepted from now on.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The datanode's address.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether an idle connection can carry another operation: open, with nothing left to read.
    pub(crate) fn is_reusable(&self) -> bool {
        let mut probe = [0u8; 1];
        self.start == self.end
            && matches!(self.stream.try_read(&mut probe), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends all of `bytes`.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), TransferFault> {
        timeout(self.patience, self.stream.write_all(bytes)).await.map_err(|_| TransferFault::Timeout)??;
        Ok(())
    }

    /// Reads some bytes, at least one; an end of the stream is an error.
    pub(crate) async fn read_some(&mut self, into: &mut [u8]) -> Result<usize, TransferFault> {
        if self.start < self.end {
            let n = into.len().min(self.end - self.start);
            into[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
            self.start += n;
            return Ok(n);
        }
        let n =
            timeout(self.patience, self.stream.read(into)).await.map_err(|_| TransferFault::Timeout)??;
        if n == 0 { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(n) }
    }

    /// Fills `into`.
    pub(crate) async fn read_exact(&mut self, into: &mut [u8]) -> Result<(), TransferFault> {
        let mut have = 0;
        while have < into.len() {
            have += self.read_some(&mut into[have..]).await?;
        }
        Ok(())
    }

    /// Reads a message with its length in front.
    pub(crate) async fn read_message<M: Message + Default>(&mut self) -> Result<M, TransferFault> {
        let (prefix, length) = loop {
            if let Some(found) = decode_length(&self.buffer[self.start..self.end])? {
                break found;
            }
            self.fill_more(BUFFER_BYTES).await?;
        };
        self.start += prefix;
        if length > BUFFER_BYTES {
            let mut raw = vec![0; length.min(MAX_MESSAGE_BYTES)];
            self.read_exact(&mut raw).await?;
            return decode(&raw);
        }
        while self.end - self.start < length {
            self.fill_more(BUFFER_BYTES).await?;
        }
        let raw = &self.buffer[self.start..self.start + length];
        self.start += length;
        decode(raw)
    }

    /// The next `N` bytes; see [`Self::read_buffered`].
    pub(crate) async fn read_array<const N: usize>(
        &mut self,
        expected: usize,
    ) -> Result<[u8; N], TransferFault> {
        const { assert!(N <= BUFFER_BYTES) }
        let raw = self.read_buffered(N, expected).await?;
        let mut array = [0; N];
        array.copy_from_slice(raw);
        Ok(array)
    }

    /// The next `len` bytes, at most [`BUFFER_BYTES`], as they lie in the buffer. If they have to be waited for, up to
    /// `expected` bytes are read at once: as many as shall go through the buffer, since what follows them is
    /// better read straight into its destination.
    pub(crate) async fn read_buffered(
        &mut self,
        len: usize,
        expected: usize,
    ) -> Result<&[u8], TransferFault> {
        while self.end - self.start < len {
            self.fill_more(expected.max(len) - (self.end - self.start)).await?;
        }
        self.start += len;
        Ok(&self.buffer[self.start - len..self.start])
    }

    /// Reads up to `most` more bytes into the buffer, once. Cancelling it loses nothing.
    async fn fill_more(&mut self, most: usize) -> Result<(), TransferFault> {
        self.make_room();
        let until = self.end.saturating_add(most).min(BUFFER_BYTES);
        let free = &mut self.buffer[self.end..until];
        let n =
            timeout(self.patience, self.stream.read(free)).await.map_err(|_| TransferFault::Timeout)??;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.end += n;
        Ok(())
    }

    /// Moves what is buffered to the front when the end is reached.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == BUFFER_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// The socket, for a writer that waits for both directions at once.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads what has arrived, without waiting. False if nothing has.
    pub(crate) fn try_fill(&mut self) -> Result<bool, TransferFault> {
        self.make_room();
        match self.stream.try_read(&mut self.buffer[self.end..]) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => {
                self.end += n;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A message that has arrived whole, if there is one. Messages over the buffer's size are refused.
    pub(crate) fn buffered_message<M: Message + Default>(&mut self) -> Result<Option<M>, TransferFault> {
        let Some((prefix, length)) = decode_length(&self.buffer[self.start..self.end])? else {
            return Ok(None);
        };
        if prefix + length > BUFFER_BYTES {
            return Err(TransferFault::Unexpected { field: "message length" });
        }
        let from = self.start + prefix;
        if self.end - from.min(self.end) < length {
            return Ok(None);
        }
        self.start = from + length;
        Ok(Some(decode(&self.buffer[from..from + length])?))
    }
}

fn decode<M: Message + Default>(raw: &[u8]) -> Result<M, TransferFault> {
    Ok(M::decode(raw).map_err(dfs_proto::data_transfer::TransferError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn no_more_goes_through_the_buffer_than_was_expected() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let second = Duration::from_secs(20);
        let address = listener.local_addr().expect("address");
        let mut connection = DataConnection::connect(address, second, second).await.expect("connects");
        let (mut peer, _) = listener.accept().await.expect("accepts");
        let sent: Vec<u8> = (0..200).collect();
        peer.write_all(&sent).await.expect("sent");
        connection.socket().readable().await.expect("arrives");
        assert_eq!(connection.read_array::<6>(20).await.expect("read")[..], sent[..6]);
        assert_eq!(connection.end - connection.start, 14);
        assert_eq!(connection.read_buffered(30, 20).await.expect("read"), &sent[6..36]);
        assert_eq!(connection.end - connection.start, 0, "the rest waits for its destination");
        let mut rest = [0; 164];
        connection.read_exact(&mut rest).await.expect("read");
        assert_eq!(rest[..], sent[36..]);
    }
}
