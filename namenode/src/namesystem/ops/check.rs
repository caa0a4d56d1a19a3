//! Checks of arguments and leases that several operations share.

use dfs_proto::{InodeId, v1};
use v1::FileType;

use super::NAMENODE_HOLDER;
use crate::namesystem::block_record::BlockRecord;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::MODE_BITS;
use crate::namesystem::rows::Rows;
use crate::namesystem::stored_block::BlockState;
use crate::namesystem::tables::Tables;

/// Longest name of a user, group, lease holder, datanode or storage in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Most replicas of a block, as in HDFS.
pub(super) const REPLICATION_MAX: u32 = 512;

/// Blocks of one file at most: 128 TiB with the default block size.
pub(in crate::namesystem) const BLOCKS_PER_FILE_MAX: u64 = 1 << 20;

/// Largest block in bytes.
const BLOCK_SIZE_MAX: u64 = 4 << 30;

/// Refusal of an argument.
pub(super) fn invalid(subject: impl Into<String>, reason: InvalidReason) -> NamesystemError {
    NamesystemError::InvalidArgument { subject: subject.into(), reason }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains('\0')
}

/// Start of a text that may be of any length.
fn shown(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).collect()
}

/// A user or group name.
pub(super) fn principal(name: &str) -> Result<(), NamesystemError> {
    if is_name(name) { Ok(()) } else { Err(invalid(shown(name), InvalidReason::Principal)) }
}

/// A client's lease holder name.
pub(super) fn holder(name: &str) -> Result<(), NamesystemError> {
    if is_name(name) && name != NAMENODE_HOLDER {
        Ok(())
    } else {
        Err(invalid(shown(name), InvalidReason::Holder))
    }
}

/// The node that the caller means, if it says so (0: it does not).
pub(super) fn expected(meant: u64, found: Option<InodeId>, path: &Path<'_>) -> Result<(), NamesystemError> {
    if meant == 0 || found.is_some_and(|found| found.get() == meant) {
        return Ok(());
    }
    Err(NamesystemError::Conflict { path: path.subject(), meant: InodeId(meant), found })
}

/// Storage ids of one block or one datanode.
pub(super) fn storage_ids(storage_ids: &[String]) -> Result<(), NamesystemError> {
    match storage_ids.iter().find(|id| !is_name(id)) {
        Some(bad) => Err(invalid(shown(bad), InvalidReason::StorageId)),
        None if storage_ids.len() > REPLICATION_MAX as usize => {
            Err(invalid(shown(&storage_ids[0]), InvalidReason::StorageId))
        }
        None => Ok(()),
    }
}

/// Permission bits.
pub(super) fn mode(mode: u32, path: &Path<'_>) -> Result<u16, NamesystemError> {
    match u16::try_from(mode) {
        Ok(bits) if mode <= MODE_BITS => Ok(bits),
        _ => Err(invalid(path.subject(), InvalidReason::Mode)),
    }
}

/// Replicas wanted.
pub(super) fn replication(replication: u32, path: &Path<'_>) -> Result<u16, NamesystemError> {
    match u16::try_from(replication) {
        Ok(count) if (1..=REPLICATION_MAX).contains(&replication) => Ok(count),
        _ => Err(invalid(path.subject(), InvalidReason::Replication)),
    }
}

/// Block size of a new file.
pub(super) fn block_size(bytes: u64, path: &Path<'_>) -> Result<(), NamesystemError> {
    if (1..=BLOCK_SIZE_MAX).contains(&bytes) {
        Ok(())
    } else {
        Err(invalid(path.subject(), InvalidReason::BlockSize))
    }
}

/// A regular file.
pub(super) fn regular(inode: &Inode, path: &Path<'_>) -> Result<(), NamesystemError> {
    match inode.kind {
        FileType::File => Ok(()),
        FileType::Directory => Err(NamesystemError::IsADirectory { path: path.subject() }),
        FileType::Symlink => Err(NamesystemError::SymbolicLink { path: path.subject() }),
        FileType::Unspecified
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharDevice
        | FileType::BlockDevice => Err(invalid(path.subject(), InvalidReason::NotARegularFile)),
    }
}

/// A file that nobody writes.
pub(super) fn closed(inode: &Inode, path: &Path<'_>) -> Result<(), NamesystemError> {
    match &inode.holder {
        None => Ok(()),
        Some(holder) => Err(held(holder, path)),
    }
}

/// A node whose permission bits mean something.
pub(super) fn has_mode(inode: &Inode, path: &Path<'_>) -> Result<(), NamesystemError> {
    if inode.kind == FileType::Symlink {
        return Err(NamesystemError::SymbolicLink { path: path.subject() });
    }
    Ok(())
}

/// A file that nobody writes, or this client.
pub(super) fn closed_or_held_by(inode: &Inode, holder: &str, path: &Path<'_>) -> Result<(), NamesystemError> {
    if holds(inode, holder) { Ok(()) } else { closed(inode, path) }
}

/// Refusal because `holder` writes the file.
pub(super) fn held(holder: &str, path: &Path<'_>) -> NamesystemError {
    if holder == NAMENODE_HOLDER {
        NamesystemError::RecoveryInProgress { path: path.subject() }
    } else {
        NamesystemError::LeaseHeldByOther { path: path.subject(), holder: holder.to_owned() }
    }
}

/// The file with this id, which has a name or is open somewhere.
pub(super) fn live_file(tables: &Tables<'_>, inode: u64) -> Result<Inode, NamesystemError> {
    let inode = InodeId(inode);
    match tables.live_inode(inode)? {
        Some(file) if file.is_file() => Ok(file),
        _ => Err(NamesystemError::InodeNotFound { inode }),
    }
}

/// Whether a client's `holder` has the file open for writing. The namenode's own holder is no client's,
/// whatever a request says.
pub(super) fn holds(file: &Inode, holder: &str) -> bool {
    holder != NAMENODE_HOLDER && file.holder.as_deref() == Some(holder)
}

/// The file with this id, which `holder` has open for writing.
pub(super) fn written_by(tables: &Tables<'_>, inode: u64, holder: &str) -> Result<Inode, NamesystemError> {
    let file = live_file(tables, inode)?;
    if holds(&file, holder) {
        Ok(file)
    } else {
        Err(NamesystemError::LeaseExpired { inode: file.id, holder: shown(holder) })
    }
}

/// A block that the request names, which must be one of the file's.
pub(super) fn block_of(
    tables: &Tables<'_>,
    file: &Inode,
    block: &v1::Block,
) -> Result<BlockRecord, NamesystemError> {
    match tables.block_record(block.block_id())? {
        Some(record) if record.inode == file.id => Ok(record),
        Some(_) => Err(invalid(block.to_string(), InvalidReason::NotInFile)),
        None => Err(NamesystemError::BlockNotFound { block: block.block_id() }),
    }
}

/// A block under construction, named with the recorded stamp or the one issued since.
pub(super) fn writable(record: &BlockRecord, block: &v1::Block) -> Result<(), NamesystemError> {
    if record.state == BlockState::Complete {
        return Err(invalid(block.to_string(), InvalidReason::BlockComplete));
    }
    if block.stamp() != record.stamp && block.stamp() != record.issued {
        return Err(NamesystemError::StaleGenerationStamp {
            block: record.id,
            given: block.stamp(),
            recorded: record.stamp,
        });
    }
    Ok(())
}

/// A length between what is recorded and the block size.
pub(super) fn length(record: &BlockRecord, file: &Inode, block: &v1::Block) -> Result<(), NamesystemError> {
    if (record.length..=file.block_size).contains(&block.length) {
        Ok(())
    } else {
        Err(invalid(block.to_string(), InvalidReason::BlockLength))
    }
}

/// A block that its writer finishes. Answers whether there is something to commit: a block that is
/// complete as named was committed before.
pub(super) fn commit(
    record: &BlockRecord,
    file: &Inode,
    committed: &v1::CommittedBlock,
) -> Result<bool, NamesystemError> {
    let block = committed.block.unwrap_or_default();
    commit_on(record, file, &block, &committed.storage_ids)
}

/// As [`commit`], for a block and its storages.
pub(super) fn commit_on(
    record: &BlockRecord,
    file: &Inode,
    block: &v1::Block,
    on: &[String],
) -> Result<bool, NamesystemError> {
    if record.state == BlockState::Complete && block.stamp() == record.stamp && block.length == record.length
    {
        return Ok(false);
    }
    writable(record, block)?;
    length(record, file, block)?;
    storage_ids(on)?;
    if on.is_empty() {
        return Err(NamesystemError::NotYetReplicated { block: record.id });
    }
    Ok(true)
}
