//! Acknowledgements of a write pipeline: reading those of the downstream member, writing ours.

use std::collections::VecDeque;
use std::io;

use dfs_proto::data_transfer::{self, TransferError};
use dfs_proto::transfer::{PipelineAckProto, Status};
use prost::Message;

use super::net::{BUFFER_BYTES, Connection};
use crate::error::DatanodeError;

/// Packets without acknowledgement at most. Hadoop's writers keep 80 in flight, ours fewer; a writer whose
/// packets are tiny and whose pipeline is slow stays far below this.
const MAX_OUTSTANDING: usize = 16_384;

/// Acknowledgements gathered before they are sent regardless.
const MAX_GATHERED_BYTES: usize = 4096;

/// A packet that is on disk here and not acknowledged downstream yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Sequence number.
    pub seqno: i64,
    /// Length of the replica with this packet.
    pub end: u64,
}

/// Acknowledgements on their way to the writer.
#[derive(Debug, Default)]
pub struct AckWriter {
    gathered: Vec<u8>,
    ack: PipelineAckProto,
}

impl AckWriter {
    /// Adds the acknowledgement of a packet: our status, then those of the members after us.
    pub fn add(&mut self, seqno: i64, ours: Status, downstream: &[i32]) {
        self.ack.seqno = seqno;
        self.ack.reply.clear();
        self.ack.reply.push(ours.into());
        self.ack.reply.extend_from_slice(downstream);
        data_transfer::encode_delimited(&self.ack, &mut self.gathered);
    }

    /// Adds another message: the answer to the request, when packets came with it.
    pub fn add_message(&mut self, message: &impl Message) {
        data_transfer::encode_delimited(message, &mut self.gathered);
    }

    /// Whether enough is gathered to be sent.
    pub fn is_full(&self) -> bool {
        self.gathered.len() >= MAX_GATHERED_BYTES
    }

    /// Sends what is gathered.
    pub fn flush(&mut self, to: &Connection) -> io::Result<()> {
        if !self.gathered.is_empty() {
            to.send(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }
}

/// The packets that a downstream member has yet to acknowledge, oldest first.
#[derive(Debug, Default)]
pub struct OutstandingPackets {
    packets: VecDeque<Outstanding>,
    ack: PipelineAckProto,
}

impl OutstandingPackets {
    /// Adds the newest packet.
    pub fn push(&mut self, packet: Outstanding) -> Result<(), DatanodeError> {
        if self.packets.len() >= MAX_OUTSTANDING {
            return Err(DatanodeError::TooManyPackets(MAX_OUTSTANDING));
        }
        self.packets.push_back(packet);
        Ok(())
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Takes all packets out: nobody will acknowledge them any more.
    pub fn drain(&mut self) -> impl Iterator<Item = Outstanding> + '_ {
        self.packets.drain(..)
    }

    /// Takes the next whole acknowledgement out of what was received from the downstream member. It must be
    /// the oldest packet's. While no packet is outstanding nothing is taken: a member that got packets
    /// ahead of our own work on them may acknowledge early.
    pub fn next_ack(
        &mut self,
        from: &mut Connection,
    ) -> Result<Option<(Outstanding, &[i32])>, DatanodeError> {
        if self.packets.is_empty() {
            return Ok(None);
        }
        let Some((prefix, length)) = data_transfer::decode_length(from.buffered())? else {
            return Ok(None);
        };
        if prefix + length > BUFFER_BYTES {
            return Err(TransferError::Length.into());
        }
        let Some(raw) = from.buffered().get(prefix..prefix + length) else {
            return Ok(None);
        };
        self.ack.clear();
        self.ack.merge(raw).map_err(TransferError::Decode)?;
        from.consume(prefix + length);
        let expected = self.packets.front().map_or(i64::MIN, |p| p.seqno);
        match self.packets.pop_front() {
            Some(packet) if packet.seqno == self.ack.seqno => Ok(Some((packet, &self.ack.reply))),
            _ => Err(DatanodeError::AckOrder { found: self.ack.seqno, expected }),
        }
    }
}

/// Whether all members succeeded.
pub fn all_succeeded(replies: &[i32]) -> bool {
    replies.iter().all(|r| *r == i32::from(Status::Success))
}
