//! The operations, one module a family.

mod add_block;
mod adopt_replicas;
mod append;
mod attributes;
pub(super) mod check;
mod commit_blocks;
mod complete;
mod create;
mod datanodes;
mod delete;
mod empty_trash;
mod initialize;
mod make_node;
mod mkdir;
mod move_node;
mod move_to_trash;
pub(super) mod names;
mod orphans;
mod pipeline;
mod recovery;
mod rename;
mod reserve;
mod set_attributes;
mod size;
mod truncate;
mod write_block;
pub(super) mod xattrs;

use dfs_proto::v1;

use super::apply::Context;
use super::block_record::BlockRecord;
use super::error::{InvalidReason, NamesystemError};
use super::tables::Tables;
use crate::log;
use log::command::Op;
use log::reply::Reply;

/// Lease holder of files that the namenode itself is closing.
pub const NAMENODE_HOLDER: &str = "dfs_namenode";

/// Key of the cluster's identity in the meta table.
pub(super) const IDENTITY_KEY: &str = "identity";

/// Key of the bandwidth of repair in the meta table: version 1 (1), `SetRepairBandwidthOp`.
pub(super) const REPAIR_BANDWIDTH_KEY: &str = "repair_bandwidth";

/// Version in front of messages kept in the tables.
pub(super) const RECORD_VERSION: u8 = 1;

/// Field number of a command's operation; 0 if it has none.
pub(super) fn number(command: &log::Command) -> u8 {
    match &command.op {
        None => 0,
        Some(Op::Initialize(_)) => 10,
        Some(Op::Mkdir(_)) => 11,
        Some(Op::Create(_)) => 12,
        Some(Op::Append(_)) => 13,
        Some(Op::AddBlock(_)) => 14,
        Some(Op::AbandonBlock(_)) => 15,
        Some(Op::Complete(_)) => 16,
        Some(Op::Fsync(_)) => 17,
        Some(Op::UpdateBlockForPipeline(_)) => 18,
        Some(Op::UpdatePipeline(_)) => 19,
        Some(Op::Truncate(_)) => 20,
        Some(Op::RecoverLease(_)) => 21,
        Some(Op::CommitBlockSynchronization(_)) => 22,
        Some(Op::Rename(_)) => 23,
        Some(Op::Delete(_)) => 24,
        Some(Op::SetPermission(_)) => 25,
        Some(Op::SetOwner(_)) => 26,
        Some(Op::SetTimes(_)) => 27,
        Some(Op::SetReplication(_)) => 28,
        Some(Op::Reclaim(_)) => 29,
        Some(Op::RegisterDatanode(_)) => 30,
        Some(Op::UpdateHints(_)) => 31,
        Some(Op::MakeNode(_)) => 32,
        Some(Op::Link(_)) => 33,
        Some(Op::Unlink(_)) => 34,
        Some(Op::Move(_)) => 35,
        Some(Op::SetAttributes(_)) => 36,
        Some(Op::SetXattr(_)) => 37,
        Some(Op::RemoveXattr(_)) => 38,
        Some(Op::AcquireLease(_)) => 39,
        Some(Op::WriteBlock(_)) => 40,
        Some(Op::CommitBlocks(_)) => 41,
        Some(Op::ReleaseOrphans(_)) => 42,
        Some(Op::SetDatanodeAdmin(_)) => 43,
        Some(Op::SetRepairBandwidth(_)) => 44,
        Some(Op::MoveToTrash(_)) => 50,
        Some(Op::EmptyTrash(_)) => 51,
        Some(Op::ForgetRestore(_)) => 52,
        Some(Op::ReserveInodes(_)) => 53,
        Some(Op::DropReservations(_)) => 54,
        Some(Op::PassOver(_)) => 55,
        Some(Op::RemoveDatanode(_)) => 60,
        Some(Op::AdoptReplicas(_)) => 70,
    }
}

/// Carries out a command's operation.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    command: &log::Command,
) -> Result<Reply, NamesystemError> {
    let Some(op) = &command.op else {
        return Err(check::invalid("", InvalidReason::Incomplete));
    };
    match op {
        Op::Initialize(op) => initialize::run(tables, context, op),
        Op::Mkdir(op) => mkdir::run(tables, context, op),
        Op::Create(op) => create::run(tables, context, op),
        Op::Append(op) => append::run(tables, context, op),
        Op::AddBlock(op) => add_block::add(tables, context, op),
        Op::AbandonBlock(op) => add_block::abandon(tables, context, op),
        Op::Complete(op) => complete::run(tables, context, op),
        Op::Fsync(op) => pipeline::fsync(tables, context, op),
        Op::UpdateBlockForPipeline(op) => pipeline::update_block(tables, context, op),
        Op::UpdatePipeline(op) => pipeline::update_pipeline(tables, context, op),
        Op::Truncate(op) => truncate::run(tables, context, op),
        Op::RecoverLease(op) => recovery::recover_lease(tables, context, op),
        Op::CommitBlockSynchronization(op) => recovery::commit_block_synchronization(tables, context, op),
        Op::Rename(op) => rename::run(tables, context, op),
        Op::Delete(op) => delete::run(tables, context, op),
        Op::SetPermission(op) => attributes::set_permission(tables, context, op),
        Op::SetOwner(op) => attributes::set_owner(tables, context, op),
        Op::SetTimes(op) => attributes::set_times(tables, context, op),
        Op::SetReplication(op) => attributes::set_replication(tables, context, op),
        Op::Reclaim(op) => delete::reclaim(tables, context, op),
        Op::RegisterDatanode(op) => datanodes::register(tables, context, op),
        Op::UpdateHints(op) => datanodes::update_hints(tables, context, op),
        Op::MakeNode(op) => make_node::run(tables, context, op),
        Op::Link(op) => names::link(tables, context, op),
        Op::Unlink(op) => names::unlink(tables, context, op),
        Op::Move(op) => move_node::run(tables, context, op),
        Op::SetAttributes(op) => set_attributes::run(tables, context, op),
        Op::AcquireLease(op) => write_block::acquire_lease(tables, context, op),
        Op::WriteBlock(op) => write_block::write_block(tables, context, op),
        Op::CommitBlocks(op) => commit_blocks::run(tables, context, op),
        Op::ReleaseOrphans(op) => orphans::release(tables, context, op),
        Op::SetDatanodeAdmin(op) => datanodes::set_admin(tables, context, op),
        Op::RemoveDatanode(op) => datanodes::remove(tables, context, op),
        Op::SetRepairBandwidth(op) => datanodes::set_repair_bandwidth(tables, context, op),
        Op::MoveToTrash(op) => move_to_trash::run(tables, context, op),
        Op::EmptyTrash(op) => empty_trash::run(tables, context, op),
        Op::ForgetRestore(log::ForgetRestoreOp {}) => {
            tables.forget_restore();
            Ok(Reply::Empty(Default::default()))
        }
        Op::ReserveInodes(op) => reserve::reserve(tables, op),
        Op::DropReservations(op) => reserve::give_up(tables, op),
        Op::PassOver(op) => {
            tables.counters.pass_over(op.count);
            Ok(Reply::Empty(Default::default()))
        }
        Op::AdoptReplicas(op) => adopt_replicas::run(tables, context, op),
        Op::SetXattr(op) => xattrs::set(tables, context, op),
        Op::RemoveXattr(op) => xattrs::remove(tables, context, op),
    }
}

/// A block as replies name it.
fn block_spec(record: &BlockRecord, block_size: u64, storage_ids: Vec<String>) -> log::BlockSpec {
    log::BlockSpec {
        block: Some(v1::Block {
            id: record.id.get(),
            generation_stamp: record.stamp.get(),
            length: record.length,
        }),
        offset: record.index * block_size,
        storage_ids,
    }
}
