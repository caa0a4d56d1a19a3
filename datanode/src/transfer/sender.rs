//! Sends a range of a replica as packets.
//!
//! Large ranges go from the page cache to the socket with `sendfile`; only headers and checksums pass
//! through here. Small ranges are read and go out with headers, checksums and the closing packet in one
//! call. A reader that does not want checksums gets data that was verified here. What may be overwritten is never sent
//! with `sendfile`: pages still on their way would change under their checksums.

use std::io::{self, IoSlice};
use std::net::TcpStream;

use dfs_proto::packet::PacketHeader;
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::MsgFlags;

use super::buffers::{PIECE_BYTES, Scratch};
use super::net::send_all;
use crate::dataset::Dataset;
use crate::dataset::reader::ReadHandle;
use crate::error::DatanodeError;
use crate::throttle::Throttle;

/// Data bytes of a packet sent with `sendfile`. A packet costs two system calls here and one at the reader, so that larger
/// ones save nothing more. Nothing here or at our readers holds a packet: data goes from the page cache to the
/// socket, and readers take it in smaller pieces, so smaller packets would not spare anybody's cache.
const READ_PACKET_BYTES: u64 = 1 << 20;

/// Ranges up to this size are read and sent in one call.
const SMALL_BYTES: u64 = 64 << 10;

/// Ranges from this size on are announced to the kernel as sequential reads.
const SEQUENTIAL_BYTES: u64 = 1 << 20;

/// The socket waits for the data before it sends the header: full segments, no short ones.
const MORE_FOLLOWS: MsgFlags = MsgFlags::from_bits_retain(nix::libc::MSG_MORE);

/// What to send.
#[derive(Debug)]
pub struct Range<'a> {
    /// First byte, on a chunk boundary.
    pub start: u64,
    /// End, on a chunk boundary or the replica's length.
    pub end: u64,
    /// Whether packets carry checksums.
    pub with_checksums: bool,
    /// What each packet has to wait for; nothing if a client asks.
    pub pace: Option<&'a Throttle>,
}

/// Sends `prologue`, the packets of the range, and the packet that ends the block.
pub fn send_range(
    socket: &TcpStream,
    dataset: &Dataset,
    handle: &mut ReadHandle,
    range: &Range<'_>,
    prologue: &[u8],
    scratch: &mut Scratch,
) -> Result<(), DatanodeError> {
    let length = range.end - range.start;
    scratch.head.clear();
    scratch.head.extend_from_slice(prologue);
    if range.with_checksums && length > SMALL_BYTES && !handle.may_be_overwritten() {
        send_large(socket, handle, range, scratch)
    } else {
        send_buffered(socket, dataset, handle, range, scratch)
    }
}

fn chunk_multiple(limit: u64, chunk: u64) -> u64 {
    (limit / chunk).max(1) * chunk
}

fn header(offset: u64, seqno: i64, data_len: u64, last: bool) -> PacketHeader {
    PacketHeader {
        offset_in_block: offset,
        seqno,
        last_packet_in_block: last,
        data_len: data_len as u32,
        sync_block: false,
        zero_len: 0,
    }
}

fn send_large(
    socket: &TcpStream,
    handle: &ReadHandle,
    range: &Range<'_>,
    scratch: &mut Scratch,
) -> Result<(), DatanodeError> {
    if range.end - range.start >= SEQUENTIAL_BYTES {
        // Advice only: a file system that does not take it reads as well.
        let _ = posix_fadvise(handle.data(), 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
    }
    let checksum = handle.checksum();
    let step = chunk_multiple(READ_PACKET_BYTES, checksum.bytes_per_checksum() as u64);
    let (mut offset, mut seqno) = (range.start, 0);
    while offset < range.end {
        let end = (offset + step).min(range.end);
        if let Some(pace) = range.pace {
            pace.pay(end - offset)?;
        }
        let sums_len = checksum.checksums_len((end - offset) as usize);
        header(offset, seqno, end - offset, false).encode(sums_len, &mut scratch.head);
        handle.note_use();
        handle.checksums(offset, end, &mut scratch.head)?;
        send_all(socket, &mut [IoSlice::new(&scratch.head)], MORE_FOLLOWS)?;
        send_file(socket, handle, offset, end)?;
        scratch.head.clear();
        offset = end;
        seqno += 1;
    }
    header(range.end, seqno, 0, true).encode(0, &mut scratch.head);
    send_all(socket, &mut [IoSlice::new(&scratch.head)], MsgFlags::empty())?;
    Ok(())
}

fn send_file(socket: &TcpStream, handle: &ReadHandle, offset: u64, end: u64) -> Result<(), DatanodeError> {
    let mut at = offset as i64;
    while (at as u64) < end {
        let wanted = (end - at as u64) as usize;
        match sendfile(socket, handle.data(), Some(&mut at), wanted) {
            // It is the file that ended, not the socket.
            Ok(0) => return Err(handle.ends_at(at as u64)),
            Ok(_) | Err(Errno::EINTR) => {}
            // No socket fails like this; a sector that cannot be read does.
            Err(Errno::EIO) => return Err(handle.failed(Errno::EIO.into())),
            Err(Errno::EAGAIN) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    Ok(())
}

fn send_buffered(
    socket: &TcpStream,
    dataset: &Dataset,
    handle: &mut ReadHandle,
    range: &Range<'_>,
    scratch: &mut Scratch,
) -> Result<(), DatanodeError> {
    let checksum = handle.checksum();
    let step = chunk_multiple(PIECE_BYTES as u64, checksum.bytes_per_checksum() as u64);
    let mut tail = Vec::new();
    let mut sums = Vec::new();
    let (mut offset, mut seqno) = (range.start, 0);
    loop {
        let end = (offset + step).min(range.end);
        let length = (end - offset) as usize;
        let data = &mut scratch.piece.bytes()[..length];
        if length > 0 {
            if let Some(pace) = range.pace {
                pace.pay(end - offset)?;
            }
            sums.clear();
            dataset.read_consistent(handle, data, offset, &mut sums)?;
            let sums_len = if range.with_checksums { sums.len() } else { 0 };
            header(offset, seqno, length as u64, false).encode(sums_len, &mut scratch.head);
            if range.with_checksums {
                scratch.head.extend_from_slice(&sums);
            } else {
                handle.check(data, offset, &sums)?;
            }
            seqno += 1;
        }
        if end == range.end {
            header(end, seqno, 0, true).encode(0, &mut tail);
        }
        let mut parts = [IoSlice::new(&scratch.head), IoSlice::new(data), IoSlice::new(&tail)];
        send_all(socket, &mut parts, MsgFlags::empty())?;
        if end == range.end {
            return Ok(());
        }
        scratch.head.clear();
        offset = end;
    }
}
