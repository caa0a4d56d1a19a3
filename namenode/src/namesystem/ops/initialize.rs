//! First command of a cluster.

use dfs_proto::{InodeId, v1::FileType};
use prost::Message;

use super::{IDENTITY_KEY, RECORD_VERSION, check};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError, RecordFault, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::{Table, Tables};

/// Mode of the root directory.
const ROOT_MODE: u16 = 0o755;

/// Makes the root directory and records the identity. Once more with the same cluster id: nothing.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::InitializeOp,
) -> Result<Reply, NamesystemError> {
    let invalid = |reason| NamesystemError::InvalidArgument { subject: op.cluster_id.clone(), reason };
    if op.cluster_id.is_empty() || op.block_pool_id.is_empty() {
        return Err(invalid(InvalidReason::Incomplete));
    }
    check::principal(&op.superuser)?;
    check::principal(&op.supergroup)?;
    if let Some(raw) = tables.get(Table::Meta, IDENTITY_KEY.as_bytes())? {
        let known = log::InitializeOp::decode(raw.value().get(1..).unwrap_or_default()).map_err(|_| {
            StoreError::Corrupt {
                table: Table::Meta.name(),
                key: IDENTITY_KEY.as_bytes().to_vec(),
                fault: RecordFault::Field("message"),
            }
        })?;
        if known.cluster_id != op.cluster_id {
            return Err(invalid(InvalidReason::OtherCluster));
        }
        return Ok(Reply::Empty(Default::default()));
    }
    let mut identity = vec![RECORD_VERSION];
    op.encode_raw(&mut identity);
    tables.insert(Table::Meta, IDENTITY_KEY.as_bytes(), &identity);
    let now_ns = context.now_ns;
    tables.put_inode(&Inode {
        id: InodeId::ROOT,
        kind: FileType::Directory,
        mode: ROOT_MODE,
        nlink: 2,
        parent: InodeId::ROOT,
        rdev: 0,
        size: 0,
        atime_ns: now_ns,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        btime_ns: now_ns,
        block_size: 0,
        change: 1,
        replication: 0,
        owner: op.superuser.clone(),
        group: op.supergroup.clone(),
        holder: None,
        symlink: Vec::new(),
        xattrs: Vec::new(),
        allocated: 0,
        open_blocks: 0,
    });
    tables.counters.inodes += 1;
    Ok(Reply::Empty(Default::default()))
}
