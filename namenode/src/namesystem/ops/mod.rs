//! The operations, one module a family.

mod initialize;

use super::apply::Context;
use super::error::{InvalidReason, NamesystemError};
use super::tables::Tables;
use crate::log;
use log::command::Op;
use log::reply::Reply;

/// Lease holder of files that the namenode itself is closing.
pub const NAMENODE_HOLDER: &str = "dfs_namenode";

/// Key of the cluster's identity in the meta table.
pub(super) const IDENTITY_KEY: &str = "identity";

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
    }
}

/// Carries out a command's operation.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    command: &log::Command,
) -> Result<Reply, NamesystemError> {
    match &command.op {
        Some(Op::Initialize(op)) => initialize::run(tables, context, op),
        _ => Err(NamesystemError::InvalidArgument {
            subject: String::new(),
            reason: InvalidReason::Incomplete,
        }),
    }
}

/// Longest name of a user, group or lease holder in bytes.
const PRINCIPAL_BYTES_MAX: usize = 255;

/// Checks a user or group name.
fn check_principal(name: &str) -> Result<(), NamesystemError> {
    if name.is_empty() || name.len() > PRINCIPAL_BYTES_MAX || name.contains('\0') {
        return Err(NamesystemError::InvalidArgument {
            subject: name.chars().take(PRINCIPAL_BYTES_MAX).collect(),
            reason: InvalidReason::Principal,
        });
    }
    Ok(())
}
