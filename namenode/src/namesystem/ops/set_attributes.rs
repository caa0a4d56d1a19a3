//! Setting attributes by POSIX's rules, any of them in one step.
//!
//! | request                      | who may, beside the superuser                                         |
//! |------------------------------|-----------------------------------------------------------------------|
//! | mode                         | the owner; the set-group-id bit falls if the group is none of the caller's |
//! | owner                        | the owner, if it stays as it is                                       |
//! | group                        | the owner, if it stays or becomes one of the caller's                 |
//! | size                         | who may write, or has the file open for writing                       |
//! | a time given, or one "now"   | the owner                                                             |
//! | both times "now"             | the owner, and who may write                                          |
//! | nothing                      | everybody: the attribute change time is set                           |
//!
//! Another owner, group or size clears the set-id bits of a file, unless the superuser asks (then the kernel
//! that asks says so, with the mode or `kill_privileges`).

use super::{check, size};
use crate::log::{self, Caller, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::{self, Access, SET_GROUP_ID};
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::tables::Tables;

/// Sets what the request names.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::SetAttributesOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let mode = op.mode.map(|mode| check::mode(mode, &path)).transpose()?;
    for name in op.owner.iter().chain(&op.group) {
        check::principal(name)?;
    }
    let mut node = resolve::node(tables, context.caller, &path)?;
    check::expected(op.inode, Some(node.id), &path)?;
    if mode.is_some() {
        check::has_mode(&node, &path)?;
        resolve::check_owner(context.caller, &node, &path)?;
    }
    check_principals(context, op, &node, &path)?;
    check_times(context, op, &node, &path)?;
    if let Some(bytes) = op.size {
        check::regular(&node, &path)?;
        if !op.opened {
            resolve::check_access(context.caller, &node, Access::WRITE, &path, Spot::Node)?;
        }
        check::closed_or_held_by(&node, &op.holder, &path)?;
        size::check(tables, &node, bytes)?;
    }

    let now_ns = context.now_ns;
    if let Some(bytes) = op.size {
        size::set(tables, context, &mut node, bytes)?;
        node.mtime_ns = now_ns;
    }
    set_principals_and_mode(tables, context.caller, op, mode, &mut node)?;
    if op.atime_now || op.atime_ns.is_some() {
        node.atime_ns = op.atime_ns.unwrap_or(now_ns);
    }
    if op.mtime_now || op.mtime_ns.is_some() {
        node.mtime_ns = op.mtime_ns.unwrap_or(now_ns);
    }
    node.touch_attributes(now_ns);
    tables.put_inode(&node);
    Ok(Reply::Status(node.status(bytes::Bytes::new())))
}

fn check_principals(
    context: &Context<'_>,
    op: &log::SetAttributesOp,
    node: &Inode,
    path: &Path<'_>,
) -> Result<(), NamesystemError> {
    let Some(caller) = context.caller.filter(|c| !c.superuser) else {
        return Ok(());
    };
    if op.owner.is_none() && op.group.is_none() {
        return Ok(());
    }
    resolve::check_owner(context.caller, node, path)?;
    let owner_stays = op.owner.as_ref().is_none_or(|owner| *owner == node.owner);
    let own_group =
        op.group.as_ref().is_none_or(|group| *group == node.group || permission::in_group(caller, group));
    if owner_stays && own_group {
        Ok(())
    } else {
        Err(NamesystemError::NotPermitted { path: path.subject(), user: caller.user.clone() })
    }
}

fn check_times(
    context: &Context<'_>,
    op: &log::SetAttributesOp,
    node: &Inode,
    path: &Path<'_>,
) -> Result<(), NamesystemError> {
    let given = op.atime_ns.is_some() || op.mtime_ns.is_some();
    // A change of the size comes with the time of the change: whoever may do that may do this.
    let one_now = op.atime_now != op.mtime_now && op.size.is_none();
    let owner = resolve::check_owner(context.caller, node, path);
    if given || one_now {
        return owner;
    }
    if op.atime_now && op.mtime_now && op.size.is_none() && owner.is_err() {
        return resolve::check_access(context.caller, node, Access::WRITE, path, Spot::Node);
    }
    Ok(())
}

fn set_principals_and_mode(
    tables: &Tables<'_>,
    caller: Option<&Caller>,
    op: &log::SetAttributesOp,
    mode: Option<u16>,
    node: &mut Inode,
) -> Result<(), StoreError> {
    if let Some(owner) = &op.owner {
        node.owner.clone_from(owner);
    }
    if let Some(group) = &op.group {
        node.group.clone_from(group);
    }
    let outsider = caller.is_some_and(|c| !permission::in_group(c, &node.group));
    if let Some(mode) = mode {
        tables.set_mode(node, if outsider { mode & !SET_GROUP_ID } else { mode })?;
    }
    let ordinary = caller.is_some_and(|c| !c.superuser);
    let changed = op.owner.is_some() || op.group.is_some() || op.size.is_some();
    if !node.is_directory() && (op.kill_privileges || ordinary && changed) {
        node.mode = permission::without_set_id(node.mode, outsider);
    }
    Ok(())
}
