//! Sends many small replicas to one datanode, one behind the other, and takes the answers when all are out.
//!
//! What a small copy costs is waking threads up: the target for the request, us for the answer. Sent in a row, both are woken once for
//! many. Invariant: answers come in the order of the requests, so each is known by its place. When a target refuses one
//! it hangs up, and those behind it are sent one by one, as is a replica that is not small after all.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use dfs_proto::transfer::DatanodeInfoProto;

use super::Shared;
use super::copy::{Parcel, begin, copy_replica, end};
use super::net::Connection;
use super::peers::{PeerConnection, address_of};
use crate::error::DatanodeError;
use crate::replica::BlockRef;

/// Replicas sent before their answers are waited for: their files are open meanwhile.
pub const BATCH_REPLICAS: usize = 32;

/// Largest replica that is sent so: larger ones are worth a wait of their own.
pub const BATCH_BYTES_EACH: u64 = 64 << 10;

/// One replica to be copied.
#[derive(Clone, Debug)]
pub struct SmallCopy {
    /// What.
    pub block: BlockRef,
    /// To which storage of the target.
    pub storage_id: Option<String>,
}

/// Copies closed replicas; answers what became of each, in order.
pub fn copy_batch(
    shared: &Shared,
    copies: &[SmallCopy],
    target: &DatanodeInfoProto,
) -> Vec<Result<(), DatanodeError>> {
    shared.transfers.fetch_add(1, Ordering::Relaxed);
    let mut outcomes: Vec<Option<Result<(), DatanodeError>>> = copies.iter().map(|_| None).collect();
    let unreachable = send_in_a_row(shared, copies, target, &mut outcomes).err();
    shared.transfers.fetch_sub(1, Ordering::Relaxed);
    let mut lost = unreachable.as_ref().and_then(DatanodeError::socket_error);
    let each = copies.iter().zip(outcomes).map(|(copy, outcome)| match (outcome, lost) {
        (Some(outcome), _) => outcome,
        // Nobody waits for a target that is away once for each replica.
        (None, Some(kind)) => match address_of(target) {
            Ok(peer) => Err(DatanodeError::Peer { peer, source: kind.into() }),
            Err(error) => Err(error),
        },
        (None, None) => {
            let outcome = copy_replica(shared, copy.block, target, copy.storage_id.clone(), "", None);
            if let Err(error @ DatanodeError::Peer { .. }) = &outcome {
                lost = error.socket_error();
            }
            outcome
        }
    });
    each.collect()
}

/// Fills in the outcomes of those that were answered. An error: the target cannot be reached, or has fallen silent.
fn send_in_a_row(
    shared: &Shared,
    copies: &[SmallCopy],
    target: &DatanodeInfoProto,
    outcomes: &mut [Option<Result<(), DatanodeError>>],
) -> Result<(), DatanodeError> {
    let PeerConnection { mut connection, .. } = shared.peers.get(address_of(target)?)?;
    begin(shared, &mut connection)?;
    let mut sent = VecDeque::with_capacity(copies.len());
    for (place, copy) in copies.iter().enumerate() {
        let parcel = Parcel::of(shared, copy.block, copy.storage_id.clone(), "");
        if parcel.as_ref().is_ok_and(|parcel| parcel.length > BATCH_BYTES_EACH) {
            // The namenode has cut its block, which the replica will be when it is next written.
            continue;
        }
        match parcel.and_then(|parcel| send(shared, &connection, parcel)) {
            Ok(Ok(parcel)) => sent.push_back((place, parcel)),
            Ok(Err(_)) => break,
            Err(error) => outcomes[place] = Some(Err(error)),
        }
    }
    while let Some((place, parcel)) = sent.pop_front() {
        match parcel.take_answer(shared, &mut connection, Ok(())) {
            Ok(()) => outcomes[place] = Some(Ok(())),
            // It was closed while it was idle, or behind a refusal: the others are sent one by one.
            Err(error) if error.is_hang_up() => return Ok(()),
            Err(error @ DatanodeError::Peer { .. }) => return Err(error),
            Err(error) => {
                outcomes[place] = Some(Err(error));
                return Ok(());
            }
        }
    }
    end(shared, connection)
}

/// The inner error is the connection's. One of the replica itself has sent nothing: a small one is read before it is sent.
fn send(
    shared: &Shared,
    connection: &Connection,
    mut parcel: Parcel,
) -> Result<Result<Parcel, DatanodeError>, DatanodeError> {
    match parcel.send(shared, connection, None) {
        Ok(()) => Ok(Ok(parcel)),
        Err(error @ DatanodeError::Transfer(_)) => Ok(Err(error)),
        Err(error) => {
            parcel.report_if_damaged(shared, &error);
            Err(error)
        }
    }
}
