//! One connection of a pipeline: to the first member, which passes everything on, or to one of several that are all
//! written to directly.
//!
//! Invariants: bytes go out in the order they were queued; an acknowledgement is taken off the connection only when those
//! before it have been taken off here, so that what is kept is bounded by the connection's buffer.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use dfs_proto::packet::HEARTBEAT_SEQNO;
use dfs_proto::transfer::{BlockOpResponseProto, PipelineAckProto, Status};

use crate::TransferFault;
use crate::connection::DataConnection;
use crate::out_packet::OutPacket;

/// Segments given to the kernel in one call: heads and data of several packets.
const MAX_SLICES: usize = 16;

/// One connection with what is on its way.
pub(super) struct Link {
    pub connection: DataConnection,
    pub outgoing: VecDeque<Bytes>,
    /// Acknowledgements that have come.
    pub acks: VecDeque<PipelineAckProto>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    pub received: bool,
    pub sent: bool,
}

impl Link {
    pub(super) fn new(connection: DataConnection) -> Self {
        Self { connection, outgoing: VecDeque::new(), acks: VecDeque::new() }
    }

    /// Sends what is queued and waits for the answer.
    pub(super) async fn exchange(&mut self) -> Result<BlockOpResponseProto, TransferFault> {
        while !self.outgoing.is_empty() {
            self.connection.socket().writable().await?;
            self.write_some()?;
        }
        self.connection.read_message().await
    }

    /// Queues a packet.
    pub(super) fn queue(&mut self, packet: &OutPacket) {
        self.outgoing.push_back(packet.head.clone());
        if !packet.data.is_empty() {
            self.outgoing.push_back(packet.data.clone());
        }
    }

    /// Receives and sends what can be without waiting. The task is woken when more can be.
    pub(super) fn step(&mut self, cx: &mut Context<'_>) -> Result<Step, TransferFault> {
        let mut step = Step::default();
        self.take_acks()?;
        while self.acks.is_empty() {
            match self.connection.socket().poll_read_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(ready) => ready?,
            }
            if self.connection.try_fill()? {
                step.received = true;
                self.take_acks()?;
            }
        }
        while !self.outgoing.is_empty() {
            match self.connection.socket().poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(ready) => ready?,
            }
            step.sent |= self.write_some()?;
        }
        Ok(step)
    }

    /// Takes what had arrived before a failure.
    pub(super) fn take_late(&mut self) {
        while self.acks.is_empty() {
            let taken = self.take_acks().and_then(|()| self.connection.try_fill());
            if !matches!(taken, Ok(true)) {
                return;
            }
        }
    }

    /// Takes acknowledgements out of the buffer; those of heartbeats say nothing more.
    fn take_acks(&mut self) -> Result<(), TransferFault> {
        while let Some(ack) = self.connection.buffered_message::<PipelineAckProto>()? {
            if ack.seqno != HEARTBEAT_SEQNO || !succeeded(&ack) {
                self.acks.push_back(ack);
            }
        }
        Ok(())
    }

    /// Writes once. False if there was no room.
    fn write_some(&mut self) -> Result<bool, TransferFault> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.outgoing) {
            *slice = IoSlice::new(segment);
            count += 1;
        }
        let mut written = match self.connection.socket().try_write_vectored(&slices[..count]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        while let Some(front) = self.outgoing.front_mut() {
            if front.len() > written {
                front.advance(written);
                break;
            }
            written -= front.len();
            self.outgoing.pop_front();
        }
        Ok(true)
    }
}

/// Whether all members from there on have done what was asked.
pub(super) fn succeeded(ack: &PipelineAckProto) -> bool {
    !ack.reply.is_empty() && ack.reply.iter().all(|status| *status == i32::from(Status::Success))
}
