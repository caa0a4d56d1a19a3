//! Op 81, read a range of a replica.

use std::io::IoSlice;

use dfs_proto::checksum::{Checksum, ChecksumKind};
use dfs_proto::data_transfer::encode_delimited;
use dfs_proto::packet::PacketHeader;
use dfs_proto::transfer::{
    BlockOpResponseProto, ClientReadStatusProto, OpReadBlockProto, ReadOpChecksumInfoProto, Status,
};

use nix::sys::socket::MsgFlags;

use super::net::{Connection, send_all};
use super::sender::{Range, send_range};
use super::{Shared, failure};
use crate::dataset::reader::ReadHandle;
use crate::error::DatanodeError;

/// Bytes of one raw read at most.
const RAW_BYTES_MAX: usize = 1 << 20;

/// Serves the operation. `kept` is the replica that this connection read last, kept open for the next read.
/// `Ok(true)`: the connection can go on.
pub fn read_block(
    shared: &Shared,
    client: &mut Connection,
    op: &OpReadBlockProto,
    kept: &mut Option<ReadHandle>,
) -> Result<bool, DatanodeError> {
    shared.metrics.reads.increment(1);
    if op.raw() {
        return read_raw(shared, client, op);
    }
    let (mut handle, wanted_end) = match open(shared, op, kept) {
        Ok(opened) => opened,
        Err(error) => {
            // Refused before anything was sent: the connection is clean.
            client.send_message(&failure(&error, String::new()))?;
            shared.metrics.failures.increment(1);
            tracing::info!(%error, "read refused");
            return Ok(true);
        }
    };
    let with_checksums = op.send_checksums();
    let (start, end) = handle.chunk_range(op.offset, wanted_end);
    let announced = if with_checksums {
        handle.checksum()
    } else {
        let size = handle.checksum().to_proto().bytes_per_checksum;
        Checksum::new(ChecksumKind::Null, size)?
    };
    let ready = BlockOpResponseProto {
        status: Status::Success.into(),
        read_op_checksum_info: Some(ReadOpChecksumInfoProto {
            checksum: announced.to_proto(),
            chunk_offset: start,
        }),
        ..Default::default()
    };
    let mut prologue = Vec::with_capacity(64);
    encode_delimited(&ready, &mut prologue);
    let mut scratch = shared.scratch.take(handle.checksum().bytes_per_checksum());
    let range = Range { start, end, with_checksums, pace: None };
    let sent = send_range(client.socket(), &shared.dataset, &mut handle, &range, &prologue, &mut scratch);
    shared.scratch.give(scratch);
    if let Err(error) = sent {
        shared.dataset.report_if_damaged(&handle, &error);
        return Err(error);
    }
    shared.metrics.bytes_read.increment(end - start);
    shared.metrics.count_client(end - start);
    client.set_timeout(shared.config.keepalive_timeout)?;
    let status: ClientReadStatusProto = match client.read_message(shared.config.keepalive_timeout) {
        Ok(status) => status,
        // Readers that stop early or do not bother hang up.
        Err(error) => {
            let error = DatanodeError::from(error);
            return if error.is_disconnect() { Ok(false) } else { Err(error) };
        }
    };
    if status.status() == Status::ErrorChecksum {
        // The reader saw damage; the network may have done it. Look at the disk.
        match shared.dataset.verify(handle.block()) {
            Ok(()) => {
                tracing::info!(block = %handle.block(), "reader saw a bad checksum, the replica is good")
            }
            Err(error) => tracing::warn!(%error, "reader saw a bad checksum"),
        }
        return Ok(false);
    }
    if handle.is_finalized() {
        *kept = Some(handle);
    }
    Ok(true)
}

/// Serves bytes as they are on the disk. What the disk cannot give fails the request, what the file lacks is zeros.
fn read_raw(shared: &Shared, client: &mut Connection, op: &OpReadBlockProto) -> Result<bool, DatanodeError> {
    let block = shared.block_of(&op.header.base_header)?;
    let len = usize::try_from(op.len).ok().filter(|len| (1..=RAW_BYTES_MAX).contains(len));
    let outcome = len
        .ok_or(DatanodeError::Field("len"))
        .and_then(|len| Ok((len, shared.dataset.read_raw(block.id, op.offset, len)?)));
    let (len, data) = match outcome {
        Ok(read) => read,
        Err(error) => {
            client.send_message(&failure(&error, String::new()))?;
            tracing::info!(%error, "raw read refused");
            return Ok(true);
        }
    };
    let ready = BlockOpResponseProto {
        status: Status::Success.into(),
        read_op_checksum_info: Some(ReadOpChecksumInfoProto {
            checksum: Checksum::new(ChecksumKind::Null, 1)?.to_proto(),
            chunk_offset: op.offset,
        }),
        ..Default::default()
    };
    let mut message = Vec::with_capacity(len + 128);
    encode_delimited(&ready, &mut message);
    raw_header(op.offset, 0, len).encode(0, &mut message);
    message.extend_from_slice(&data);
    raw_header(op.offset + len as u64, 1, 0).encode(0, &mut message);
    send_all(client.socket(), &mut [IoSlice::new(&message)], MsgFlags::empty())?;
    // Whoever rescues makes a connection for each piece.
    Ok(false)
}

fn raw_header(offset: u64, seqno: i64, len: usize) -> PacketHeader {
    PacketHeader {
        offset_in_block: offset,
        seqno,
        last_packet_in_block: len == 0,
        data_len: len as u32,
        sync_block: false,
        zero_len: 0,
    }
}

/// Opens what a request asks for, and tells where the range ends that it gets.
fn open(
    shared: &Shared,
    op: &OpReadBlockProto,
    kept: &mut Option<ReadHandle>,
) -> Result<(ReadHandle, u64), DatanodeError> {
    let block = shared.block_of(&op.header.base_header)?;
    let end = op.offset.checked_add(op.len).ok_or(DatanodeError::Field("len"))?;
    let handle = match kept.take() {
        Some(handle) if shared.dataset.is_current(&handle, block) => handle,
        _ => shared.dataset.open_read(block, end)?,
    };
    if end > handle.length() && handle.block().stamp > block.stamp {
        // The replica has been rewritten, and maybe cut, since the reader located it.
        let end = handle.length().max(op.offset);
        return Ok((handle, end));
    }
    if end > handle.length() {
        return Err(DatanodeError::Range { block, offset: op.offset, end, length: handle.length() });
    }
    Ok((handle, end))
}
