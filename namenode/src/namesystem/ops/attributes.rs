//! Mode, owner, times and replication.

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::effect::Effect;
use crate::namesystem::error::{NamesystemError, StoreError};
use crate::namesystem::path::Path;
use crate::namesystem::permission::{SET_GROUP_ID, SET_USER_ID};
use crate::namesystem::resolve;
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Sets the mode. The set-group-id bit of a file falls if its group is none of the caller's (POSIX).
pub(super) fn set_permission(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::SetPermissionOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let mut mode = check::mode(op.mode, &path)?;
    let mut inode = resolve::node(tables, context.caller, &path)?;
    check::has_mode(&inode, &path)?;
    resolve::check_owner(context.caller, &inode, &path)?;
    if let Some(caller) = context.caller
        && !caller.superuser
        && !inode.is_directory()
        && !caller.groups.contains(&inode.group)
    {
        mode &= !SET_GROUP_ID;
    }
    tables.set_mode(&mut inode, mode)?;
    inode.touch_attributes(context.now_ns);
    tables.put_inode(&inode);
    Ok(Reply::Empty(Default::default()))
}

/// Sets owner and group; an empty name leaves its part. Only the superuser gives a node away; its
/// owner may choose among own groups, and then the set-id bits of a file fall (POSIX).
pub(super) fn set_owner(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::SetOwnerOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    for name in [&op.owner, &op.group] {
        if !name.is_empty() {
            check::principal(name)?;
        }
    }
    let mut inode = resolve::node(tables, context.caller, &path)?;
    if let Some(caller) = context.caller
        && !caller.superuser
    {
        resolve::check_owner(context.caller, &inode, &path)?;
        let owner_stays = op.owner.is_empty() || op.owner == inode.owner;
        let own_group = op.group.is_empty() || caller.groups.contains(&op.group);
        if !owner_stays || !own_group {
            return Err(NamesystemError::NotPermitted { path: path.subject(), user: caller.user.clone() });
        }
        if !inode.is_directory() {
            inode.mode &= !(SET_USER_ID | SET_GROUP_ID);
        }
    }
    if !op.owner.is_empty() {
        inode.owner.clone_from(&op.owner);
    }
    if !op.group.is_empty() {
        inode.group.clone_from(&op.group);
    }
    inode.touch_attributes(context.now_ns);
    tables.put_inode(&inode);
    Ok(Reply::Empty(Default::default()))
}

/// Sets access and modification time. That somebody has read the node, which the namenode itself notes, is no
/// change of its attributes.
pub(super) fn set_times(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::SetTimesOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let mut inode = resolve::node(tables, context.caller, &path)?;
    resolve::check_owner(context.caller, &inode, &path)?;
    inode.atime_ns = op.atime_ns.unwrap_or(inode.atime_ns);
    inode.mtime_ns = op.mtime_ns.unwrap_or(inode.mtime_ns);
    if context.caller.is_some() || op.mtime_ns.is_some() {
        inode.touch_attributes(context.now_ns);
    }
    tables.put_inode(&inode);
    Ok(Reply::Empty(Default::default()))
}

/// Sets the replication of a file and of all its blocks.
pub(super) fn set_replication(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::SetReplicationOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let replication = check::replication(op.replication, &path)?;
    let mut file = resolve::node(tables, context.caller, &path)?;
    check::regular(&file, &path)?;
    resolve::check_owner(context.caller, &file, &path)?;
    if file.replication == replication {
        return Ok(Reply::Empty(Default::default()));
    }
    let blocks = tables.file_blocks_from(file.id, 0)?.collect::<Result<Vec<_>, StoreError>>()?;
    for (_, id) in blocks {
        let mut record = tables.existing_block(id)?;
        record.replication = replication;
        tables.put_block(&record);
        context.effects.push(Effect::ReplicationChanged { block: tables.stored_block(&record)? });
    }
    file.replication = replication;
    file.touch_attributes(context.now_ns);
    tables.put_inode(&file);
    Ok(Reply::Empty(Default::default()))
}
