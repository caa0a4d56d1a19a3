//! Sends a replica to another datanode: on the namenode's order, or on a client's (op 86) when a datanode
//! joins a pipeline. Connections are kept, so that small replicas do not pay for connecting.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dfs_proto::data_transfer::{Op, encode_op};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::transfer::{
    BlockOpResponseProto, ClientOperationHeaderProto, DatanodeInfoProto, OpTransferBlockProto,
    OpWriteBlockProto, Status,
};

use super::net::Connection;
use super::peers::{PeerConnection, address_of, at, of_peer};
use super::sender::{Range, send_range};
use super::{Shared, failure};
use crate::dataset::reader::ReadHandle;
use crate::error::DatanodeError;
use crate::replica::BlockRef;
use crate::throttle::Throttle;

/// Longest time in which a target takes no bytes, or says nothing after the last one: shorter than the namenode waits for a
/// copy, so that it hears of the failure, and long enough for a busy disk.
const TARGET_WAIT: Duration = Duration::from_secs(15);

/// Serves op 86; the connection can go on.
pub fn transfer_block(
    shared: &Shared,
    client: &mut Connection,
    op: &OpTransferBlockProto,
) -> Result<(), DatanodeError> {
    let outcome = shared.block_of(&op.header.base_header).and_then(|block| {
        if op.targets.is_empty() {
            return Err(DatanodeError::Field("targets"));
        }
        for (i, target) in op.targets.iter().enumerate() {
            let storage = op.target_storage_ids.get(i).cloned();
            copy_replica(shared, block, target, storage, &op.header.client_name, None)?;
        }
        Ok(())
    });
    let answer = match outcome {
        Ok(()) => BlockOpResponseProto { status: Status::Success.into(), ..Default::default() },
        Err(error) => {
            tracing::warn!(%error, "replica cannot be copied");
            failure(&error, String::new())
        }
    };
    client.send_message(&answer)?;
    Ok(())
}

/// Sends a replica with at least the stamp of `asked`. With a client's name, a replica being written is copied up
/// to its visible length; without, only closed replicas are. `pace` slows the copy down. The target has the replica on return.
pub fn copy_replica(
    shared: &Shared,
    asked: BlockRef,
    target: &DatanodeInfoProto,
    storage_id: Option<String>,
    client_name: &str,
    pace: Option<&Throttle>,
) -> Result<(), DatanodeError> {
    shared.transfers.fetch_add(1, Ordering::Relaxed);
    let outcome = copy(shared, asked, target, storage_id, client_name, pace);
    shared.transfers.fetch_sub(1, Ordering::Relaxed);
    outcome
}

fn copy(
    shared: &Shared,
    asked: BlockRef,
    target: &DatanodeInfoProto,
    storage_id: Option<String>,
    client_name: &str,
    pace: Option<&Throttle>,
) -> Result<(), DatanodeError> {
    let mut parcel = Parcel::of(shared, asked, storage_id, client_name)?;
    let addr = address_of(target)?;
    let PeerConnection { connection, reused } = shared.peers.get(addr)?;
    match parcel.deliver(shared, connection, pace) {
        // The target may have closed a kept connection a moment ago.
        Err(error) if reused && error.is_hang_up() => {
            parcel.deliver(shared, shared.peers.connect(addr)?, pace)
        }
        outcome => outcome,
    }
}

/// A replica that is ready to go out.
pub(super) struct Parcel {
    handle: ReadHandle,
    /// Bytes of it to send.
    pub(super) length: u64,
    /// The request that goes before them.
    prologue: Vec<u8>,
}

impl Parcel {
    /// Opens a replica with at least the stamp of `asked`.
    pub(super) fn of(
        shared: &Shared,
        asked: BlockRef,
        storage_id: Option<String>,
        client_name: &str,
    ) -> Result<Self, DatanodeError> {
        let visible = shared.dataset.visible_length(asked)?;
        let handle = shared.dataset.open_read(asked, visible)?;
        if !handle.is_finalized() && client_name.is_empty() {
            return Err(DatanodeError::Unsupported("copying a replica that is being written"));
        }
        let length = if handle.is_finalized() { handle.length() } else { visible };
        let stage = if handle.is_finalized() { Stage::TransferFinalized } else { Stage::TransferRbw };
        let request = OpWriteBlockProto {
            header: ClientOperationHeaderProto {
                base_header: shared.header_for(handle.block(), length),
                client_name: client_name.to_owned(),
            },
            targets: Vec::new(),
            source: None,
            stage: stage.into(),
            pipeline_size: 1,
            min_bytes_rcvd: length,
            max_bytes_rcvd: length,
            latest_generation_stamp: handle.block().stamp.get(),
            requested_checksum: handle.checksum().to_proto(),
            caching_strategy: None,
            storage_id,
            target_storage_ids: Vec::new(),
            random_access: None,
            verify_first: None,
        };
        let prologue = encode_op(Op::WriteBlock, &request);
        Ok(Self { handle, length, prologue })
    }

    /// Sends the request and the bytes, and waits for the answer.
    fn deliver(
        &mut self,
        shared: &Shared,
        mut connection: Connection,
        pace: Option<&Throttle>,
    ) -> Result<(), DatanodeError> {
        begin(shared, &mut connection)?;
        let sent = self.send(shared, &connection, pace);
        // A target that refuses says why before it hangs up; its answer counts, not our broken pipe.
        self.take_answer(shared, &mut connection, sent)?;
        end(shared, connection)
    }

    /// Sends the request and the bytes.
    pub(super) fn send(
        &mut self,
        shared: &Shared,
        connection: &Connection,
        pace: Option<&Throttle>,
    ) -> Result<(), DatanodeError> {
        let mut scratch = shared.scratch.take(self.handle.checksum().bytes_per_checksum());
        let (length, prologue) = (self.length, &self.prologue);
        let sent = send_prefix(shared, connection, &mut self.handle, length, prologue, &mut scratch, pace);
        shared.scratch.give(scratch);
        sent
    }

    /// Takes the answer; `sent` is how sending went.
    pub(super) fn take_answer(
        &self,
        shared: &Shared,
        connection: &mut Connection,
        sent: Result<(), DatanodeError>,
    ) -> Result<(), DatanodeError> {
        let addr = connection.peer();
        let answer = connection.read_message::<BlockOpResponseProto>(TARGET_WAIT);
        match (sent, answer) {
            (_, Ok(answer)) if answer.status() == Status::Success => {
                shared.metrics.bytes_read.increment(self.length);
                Ok(())
            }
            (_, Ok(answer)) => {
                if answer.status() == Status::ErrorChecksum {
                    shared.dataset.verify(self.handle.block())?;
                }
                let message = answer.message.clone().unwrap_or_default();
                Err(DatanodeError::PeerStatus { peer: addr, status: answer.status(), message })
            }
            (Err(DatanodeError::Transfer(error)), Err(_)) => Err(of_peer(addr)(error)),
            (Err(error), Err(_)) => {
                shared.dataset.report_if_damaged(&self.handle, &error);
                Err(error)
            }
            (Ok(()), Err(error)) => Err(of_peer(addr)(error)),
        }
    }

    /// It could not be read: tells the namenode if it is damaged.
    pub(super) fn report_if_damaged(&self, shared: &Shared, error: &DatanodeError) {
        shared.dataset.report_if_damaged(&self.handle, error);
    }
}

/// Copies begin on a connection.
pub(super) fn begin(shared: &Shared, connection: &mut Connection) -> Result<(), DatanodeError> {
    let wait = TARGET_WAIT.min(shared.config.stream_timeout);
    let addr = connection.peer();
    connection.socket().set_write_timeout(Some(wait)).map_err(at(addr))?;
    connection.set_timeout(wait).map_err(at(addr))
}

/// All copies on a connection have been answered: it is kept.
pub(super) fn end(shared: &Shared, connection: Connection) -> Result<(), DatanodeError> {
    let addr = connection.peer();
    connection.socket().set_write_timeout(Some(shared.config.stream_timeout)).map_err(at(addr))?;
    shared.peers.put(connection);
    Ok(())
}

/// Sends the first `length` bytes. A prefix that ends inside a chunk of a replica being written gets a checksum
/// of its own.
fn send_prefix(
    shared: &Shared,
    connection: &Connection,
    handle: &mut ReadHandle,
    length: u64,
    prologue: &[u8],
    scratch: &mut super::buffers::Scratch,
    pace: Option<&Throttle>,
) -> Result<(), DatanodeError> {
    let mut prefix = if handle.may_be_overwritten() { None } else { handle.prefix(length)? };
    let range = Range { start: 0, end: length, with_checksums: true, pace };
    let source = prefix.as_mut().unwrap_or(handle);
    send_range(connection.socket(), &shared.dataset, source, &range, prologue, scratch)
}
