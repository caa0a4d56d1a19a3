//! The receiver's dealings with the member after us: passing packets on, relaying acknowledgements, giving it up.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::time::Instant;

use dfs_proto::transfer::Status;
use nix::sys::socket::MsgFlags;

use super::BlockReceiver;
use crate::error::DatanodeError;
use crate::transfer::acks::all_succeeded;
use crate::transfer::net::{BUFFER_BYTES, send_some, wait_for};

impl BlockReceiver<'_> {
    /// Passes a piece on, with the packet's head in front of the first one. While the downstream member takes
    /// no data, its acknowledgements are relayed.
    pub(super) fn forward(&mut self, length: usize, with_head: bool) -> Result<(), DatanodeError> {
        let head_len = if with_head { self.scratch.head.len() } else { 0 };
        let mut sent = self.ahead.min(head_len + length);
        self.ahead -= sent;
        while sent < head_len + length && !self.downstream_failed {
            let Some(downstream) = &self.downstream else {
                return Ok(());
            };
            let piece = &self.scratch.piece.bytes()[..length];
            let head = &self.scratch.head[..head_len];
            let parts = [
                IoSlice::new(&head[sent.min(head_len)..]),
                IoSlice::new(&piece[sent.saturating_sub(head_len)..]),
            ];
            match send_some(downstream.socket(), &parts, MsgFlags::MSG_DONTWAIT) {
                Ok(count) => sent += count,
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    self.acks.flush(self.upstream)?;
                    let (ready, writable) = wait_for(None, downstream.socket(), true, self.waits.peer)?;
                    if ready.second {
                        self.relay()?;
                    } else if !writable {
                        self.fail_downstream(&e.into());
                    }
                }
                Err(e) => self.fail_downstream(&e.into()),
            }
        }
        Ok(())
    }

    /// Waits for acknowledgements, and with `for_writer` also for the writer, and relays what came.
    pub(super) fn wait(&mut self, for_writer: bool) -> Result<(), DatanodeError> {
        let Some(downstream) = &self.downstream else {
            return Ok(());
        };
        let timeout = if self.outstanding.is_empty() {
            self.waits.stream
        } else {
            self.ack_due.saturating_duration_since(Instant::now())
        };
        if !self.outstanding.is_empty() && !downstream.buffered().is_empty() {
            // Acknowledgements that came behind the answer to the request, or part of one.
            let before = downstream.buffered().len();
            self.take_acks();
            if self.downstream.as_ref().is_none_or(|d| d.buffered().len() < before) {
                return self.flush_acks();
            }
        }
        let Some(downstream) = &self.downstream else {
            return Ok(());
        };
        let upstream = for_writer.then(|| &**self.upstream.socket());
        let (ready, _) = wait_for(upstream, downstream.socket(), false, timeout)?;
        if ready.second {
            self.relay()?;
        } else if !ready.first {
            if self.outstanding.is_empty() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            if Instant::now() >= self.ack_due {
                self.fail_downstream(&io::Error::from(io::ErrorKind::TimedOut).into());
            }
        }
        self.flush_acks()
    }

    /// Takes what the downstream member sent and passes acknowledgements on.
    fn relay(&mut self) -> Result<(), DatanodeError> {
        let Some(downstream) = &mut self.downstream else {
            return Ok(());
        };
        if let Err(error) = downstream.try_fill(BUFFER_BYTES) {
            self.fail_downstream(&error.into());
            return Ok(());
        }
        self.take_acks();
        Ok(())
    }

    /// Passes on the acknowledgements that were received.
    fn take_acks(&mut self) {
        let Some(downstream) = &mut self.downstream else {
            return;
        };
        let mut outcome = Ok(());
        while outcome.is_ok() {
            match self.outstanding.next_ack(downstream) {
                Ok(Some((packet, replies))) => {
                    self.acks.add(packet.seqno, Status::Success, replies);
                    self.ack_due = Instant::now() + self.waits.peer;
                    if !all_succeeded(replies) {
                        outcome = Err(DatanodeError::PeerStatus {
                            peer: downstream.peer(),
                            status: Status::Error,
                            message: format!("{replies:?}"),
                        });
                    } else if let Some(writer) = &self.writer {
                        writer.acknowledged(packet.end);
                    }
                }
                Ok(None) => break,
                Err(error) => outcome = Err(error),
            }
        }
        if let Err(error) = outcome {
            self.fail_downstream(&error);
        }
    }

    /// Gives the downstream member up and answers for it.
    fn fail_downstream(&mut self, error: &DatanodeError) {
        self.downstream_failed = true;
        if let Some(downstream) = &self.downstream {
            tracing::info!(peer = %downstream.peer(), %error, "downstream member failed");
            // It may be gone already.
            let _ = downstream.socket().shutdown(Shutdown::Both);
        }
        for packet in self.outstanding.drain() {
            self.acks.add(packet.seqno, Status::Success, &[Status::Error as i32]);
        }
    }
}
