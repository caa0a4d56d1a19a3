//! Receives the packets of one block: forwards them, checks them, writes them, acknowledges them.
//!
//! One thread does it all. A packet is handled in pieces that stay in the core's cache: received, forwarded,
//! verified, written. Nothing unverified reaches the disk, and nothing is acknowledged before it is
//! written here and acknowledged by every member after us. The last member acknowledges at once; others
//! relay acknowledgements whenever they would otherwise wait. A member after us that fails does not stop the
//! packets: they are kept here and acknowledged with an error, so that the writer learns who failed and
//! rebuilds the pipeline.

mod random;
mod relay;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::packet::{HEARTBEAT_SEQNO, PACKET_LENGTHS_BYTES, PacketHeader, PacketLengths};
use dfs_proto::transfer::{BlockOpResponseProto, Status};

use super::acks::{AckWriter, Outstanding, OutstandingPackets};
use super::buffers::Scratch;
use super::net::{BUFFER_BYTES, Connection};
use crate::dataset::open_replica::WriterToken;
use crate::dataset::writer::{Place, ReplicaWriter};
use crate::error::DatanodeError;
use crate::metrics::Metrics;

/// Longest checksums of one packet: 64 Ki chunks, which is 32 MiB of data at HDFS's chunk size.
const MAX_CHECKSUMS_BYTES: usize = 256 << 10;

/// A packet with more data than this is acknowledged at once; acknowledgements of smaller ones that are
/// followed by more in the buffer are gathered.
const GATHER_DATA_BYTES: u32 = 64 << 10;

/// Length of our packets' headers, expected when large packets follow each other: the rest of the packet is
/// then received straight into place.
const USUAL_HEAD_BYTES: usize = PACKET_LENGTHS_BYTES + 25;

/// What happens to the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A client's block: every packet is acknowledged, the last one closes the replica.
    Pipeline,
    /// A copy: one answer at the end, the last packet closes the replica.
    Copy,
    /// A copy that then joins a pipeline.
    CopyToRbw,
}

/// How long to wait for whom.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For the writer's next packet.
    pub stream: Duration,
    /// For a downstream acknowledgement.
    pub peer: Duration,
}

/// What a block comes in for.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What happens to the packets.
    pub mode: Mode,
    /// Packets may be at any offset.
    pub random: bool,
    /// There is no other member: the writer hears everything at once, after a sync.
    pub alone: bool,
    /// How long to wait for whom.
    pub waits: Waits,
}

/// One block being received.
#[derive(Debug)]
pub struct BlockReceiver<'a> {
    upstream: &'a mut Connection,
    downstream: Option<Connection>,
    writer: Option<ReplicaWriter>,
    /// Where the writer of the packets looks how far they have come.
    progress: Arc<WriterToken>,
    mode: Mode,
    random: bool,
    alone: bool,
    waits: Waits,
    scratch: &'a mut Scratch,
    metrics: &'a Metrics,
    acks: AckWriter,
    outstanding: OutstandingPackets,
    /// Packets written that wait for a sync before they are acknowledged, and those behind them.
    held: Vec<PacketHeader>,
    /// When the oldest outstanding packet's acknowledgement is overdue.
    ack_due: Instant,
    /// A member after us failed.
    downstream_failed: bool,
    /// Bytes of lengths, header and checksums to receive before the data.
    expected_head: usize,
    /// Bytes of the packets to come that the downstream member got with the request.
    ahead: usize,
    end: u64,
}

impl<'a> BlockReceiver<'a> {
    /// Packets come from `upstream` and go to `writer` and to `downstream`, which has got the first `ahead`
    /// bytes of them. The writer is told `ready` with the first acknowledgements, or before we wait for it.
    pub fn new(
        upstream: &'a mut Connection,
        downstream: Option<(Connection, usize)>,
        writer: ReplicaWriter,
        ready: Option<&BlockOpResponseProto>,
        terms: Terms,
        scratch: &'a mut Scratch,
        metrics: &'a Metrics,
    ) -> Self {
        let end = writer.length();
        let (downstream, ahead) = downstream.map_or((None, 0), |(d, ahead)| (Some(d), ahead));
        let mut acks = AckWriter::default();
        if let Some(ready) = ready {
            acks.add_message(ready);
        }
        Self {
            upstream,
            downstream,
            progress: Arc::clone(writer.token()),
            writer: Some(writer),
            mode: terms.mode,
            random: terms.random,
            alone: terms.alone,
            waits: terms.waits,
            scratch,
            metrics,
            acks,
            outstanding: OutstandingPackets::default(),
            held: Vec::new(),
            ack_due: Instant::now(),
            downstream_failed: false,
            expected_head: BUFFER_BYTES,
            ahead,
            end,
        }
    }

    /// Receives up to the block's end. On success everything is acknowledged, and the downstream connection is
    /// returned if it can carry another operation. After an error the writer has been told, where that
    /// is possible, and the connection is of no more use.
    pub fn run(mut self) -> Result<Option<Connection>, DatanodeError> {
        self.upstream.set_timeout(self.waits.stream)?;
        loop {
            let header = match self.receive_packet() {
                Ok(header) => header,
                Err((seqno, error)) => {
                    self.tell_failure(seqno, &error);
                    return Err(error);
                }
            };
            if header.last_packet_in_block {
                break;
            }
        }
        while !self.outstanding.is_empty() {
            self.wait(false)?;
        }
        self.flush_acks()?;
        if self.mode != Mode::Pipeline {
            let done = BlockOpResponseProto { status: Status::Success.into(), ..Default::default() };
            self.upstream.send_message(&done)?;
        }
        Ok(self.downstream.take().filter(|_| !self.downstream_failed && self.ahead == 0))
    }

    /// Handles one packet; an error comes with the packet's number if that is known.
    fn receive_packet(&mut self) -> Result<PacketHeader, (Option<i64>, DatanodeError)> {
        let (header, checksums_len) = self.receive_head().map_err(|e| (None, e))?;
        if header.seqno != HEARTBEAT_SEQNO {
            // Before the body: who is busy with a packet has received it.
            self.progress.note_received(1);
        }
        self.receive_body(&header, checksums_len).map_err(|e| (Some(header.seqno), e))?;
        if self.held.is_empty() {
            self.progress.note_stored();
        }
        Ok(header)
    }

    /// Receives lengths, header and checksums into `scratch.head`, as they came.
    fn receive_head(&mut self) -> Result<(PacketHeader, usize), DatanodeError> {
        let mut raw_lengths = [0; PACKET_LENGTHS_BYTES];
        self.receive_at_least(PACKET_LENGTHS_BYTES)?;
        raw_lengths.copy_from_slice(&self.upstream.buffered()[..PACKET_LENGTHS_BYTES]);
        let lengths = PacketLengths::decode(raw_lengths)?;
        let head_len = PACKET_LENGTHS_BYTES + lengths.header_len;
        self.receive_at_least(head_len)?;
        let head = &self.upstream.buffered()[..head_len];
        let (header, checksums_len) = lengths.decode_header(&head[PACKET_LENGTHS_BYTES..])?;
        self.scratch.head.clear();
        self.scratch.head.extend_from_slice(head);
        self.upstream.consume(head_len);
        if checksums_len > MAX_CHECKSUMS_BYTES {
            return Err(dfs_proto::packet::PacketError::Field("checksums").into());
        }
        self.scratch.head.resize(head_len + checksums_len, 0);
        self.flush_before_waiting(checksums_len)?;
        self.upstream.read_exact(&mut self.scratch.head[head_len..])?;
        self.expected_head = if header.data_len as usize > BUFFER_BYTES {
            USUAL_HEAD_BYTES.max(head_len) + checksums_len
        } else {
            BUFFER_BYTES
        };
        Ok((header, checksums_len))
    }

    /// Waits for bytes of the writer; relays acknowledgements meanwhile.
    fn receive_at_least(&mut self, least: usize) -> Result<(), DatanodeError> {
        if self.upstream.buffered().len() >= least {
            return Ok(());
        }
        self.flush_before_waiting(least)?;
        if self.downstream.is_some() && !self.downstream_failed {
            while self.upstream.buffered().len() < least && !self.upstream.try_fill(self.expected_head)? {
                self.wait(true)?;
                if self.downstream_failed {
                    break;
                }
            }
        }
        self.upstream.fill(least, self.expected_head)?;
        Ok(())
    }

    fn receive_body(&mut self, header: &PacketHeader, checksums_len: usize) -> Result<(), DatanodeError> {
        if self.random {
            return self.receive_anywhere(header, checksums_len);
        }
        if header.zero_len > 0 {
            return Err(DatanodeError::Field("zero_len"));
        }
        let head_len = self.scratch.head.len() - checksums_len;
        let block = self.writer()?.block();
        let checksum = self.writer()?.checksum();
        let place = self.writer()?.place(header.offset_in_block, header.data_len, checksums_len)?;
        let chunk = checksum.bytes_per_checksum();
        let step = self.scratch.piece.bytes().len() / chunk * chunk;
        let mut left = header.data_len as usize;
        let mut offset = header.offset_in_block;
        let mut sums_at = head_len;
        let mut first = true;
        let mut continued_sum = None;
        while left > 0 || first {
            let length = left.min(step);
            self.flush_before_waiting(length)?;
            self.upstream.read_exact(&mut self.scratch.piece.bytes()[..length])?;
            self.progress.note_received(length as u64);
            self.forward(length, first)?;
            let piece = &self.scratch.piece.bytes()[..length];
            let sums_len = checksum.checksums_len(length);
            let sums = &self.scratch.head[sums_at..sums_at + sums_len];
            if let Err(bad) = checksum.verify(piece, sums) {
                return Err(DatanodeError::Checksum { block, offset: offset + (bad.chunk * chunk) as u64 });
            }
            if let Some(writer) = &mut self.writer {
                match place {
                    Place::Known => {}
                    Place::Aligned if self.mode == Mode::Pipeline => writer.write_data(piece, offset)?,
                    Place::Aligned => writer.write_copied(piece, offset)?,
                    Place::Continued => {
                        continued_sum = Some(writer.continued_sum(offset, piece)?);
                        writer.write_data(piece, offset)?;
                    }
                }
            }
            left -= length;
            offset += length as u64;
            sums_at += sums_len;
            first = false;
        }
        self.metrics.bytes_written.increment(u64::from(header.data_len));
        if self.mode == Mode::Pipeline {
            self.metrics.count_client(u64::from(header.data_len));
        }
        if let Some(writer) = &mut self.writer {
            match (place, continued_sum) {
                (Place::Known, _) => {}
                (_, Some(sum)) => {
                    writer.commit(header.offset_in_block, header.data_len, &sum.to_be_bytes())?;
                }
                (_, None) => {
                    let sums = &self.scratch.head[head_len..];
                    writer.commit(header.offset_in_block, header.data_len, sums)?;
                }
            }
            if header.sync_block && !self.alone {
                // The members before us shall sync at the same time, not after us.
                self.acks.flush(self.upstream)?;
            }
            if header.sync_block && !header.last_packet_in_block {
                writer.sync()?;
            }
            self.end = writer.length();
        }
        if header.last_packet_in_block {
            self.close(header.sync_block)?;
        }
        self.acknowledge(header)
    }

    fn writer(&self) -> Result<&ReplicaWriter, DatanodeError> {
        self.writer.as_ref().ok_or(DatanodeError::Field("last_packet_in_block"))
    }

    /// The block is complete here.
    fn close(&mut self, durable: bool) -> Result<(), DatanodeError> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        // The connections outlive the block: nobody may shut them down on its behalf any more.
        writer.token().forget_sockets();
        match self.mode {
            Mode::Pipeline | Mode::Copy => writer.finalize(durable),
            Mode::CopyToRbw => writer.become_rbw(),
        }
    }

    /// The packet is on disk here.
    fn acknowledge(&mut self, header: &PacketHeader) -> Result<(), DatanodeError> {
        if self.mode != Mode::Pipeline {
            return Ok(());
        }
        if self.downstream.is_some() && !self.downstream_failed {
            if self.outstanding.is_empty() {
                self.ack_due = Instant::now() + self.waits.peer;
            }
            return self.outstanding.push(Outstanding { seqno: header.seqno, end: self.end });
        }
        let downstream: &[i32] = if self.downstream_failed { &[Status::Error as i32] } else { &[] };
        if !self.downstream_failed
            && let Some(writer) = &self.writer
        {
            writer.acknowledged(self.end);
        }
        self.acks.add(header.seqno, Status::Success, downstream);
        if header.data_len > GATHER_DATA_BYTES || self.acks.is_full() {
            self.flush_acks()?;
        }
        Ok(())
    }

    /// Nothing may be gathered while we wait for bytes: the writer may be waiting for it before it sends them.
    fn flush_before_waiting(&mut self, wanted: usize) -> Result<(), DatanodeError> {
        if self.upstream.buffered().len() >= wanted {
            return Ok(());
        }
        self.release_held()?;
        self.flush_acks()
    }

    fn flush_acks(&mut self) -> Result<(), DatanodeError> {
        Ok(self.acks.flush(self.upstream)?)
    }

    /// Tells the writer, as far as it can still be told, that this member failed.
    fn tell_failure(&mut self, seqno: Option<i64>, error: &DatanodeError) {
        if error.is_disconnect() || matches!(error, DatanodeError::WriterStopped { .. }) {
            return;
        }
        // The oldest packet that waits for its acknowledgement is the one that the writer expects to hear of.
        let seqno = self.held.first().map(|held| held.seqno).or(seqno);
        match (self.mode, seqno) {
            (Mode::Pipeline, Some(seqno)) => {
                let status = match error.transfer_status() {
                    told @ (Status::ErrorChecksum | Status::ErrorNoSpace) => told,
                    _ => Status::Error,
                };
                self.acks.add(seqno, status, &[]);
                // The connection is closed next either way.
                let _ = self.flush_acks();
            }
            (Mode::Pipeline, None) => {}
            (Mode::Copy | Mode::CopyToRbw, _) => {
                let failed = BlockOpResponseProto {
                    status: error.transfer_status().into(),
                    message: Some(error.to_string()),
                    ..Default::default()
                };
                let _ = self.upstream.send_message(&failed);
            }
        }
    }
}
