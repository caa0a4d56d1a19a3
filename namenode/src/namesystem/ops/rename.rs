//! Moving a node to another name or directory.

use dfs_proto::InodeId;

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Moves one entry, whatever hangs below it. With `overwrite` it takes the place of a file or of an
/// empty directory; two names of one inode stay as they are.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::RenameOp,
) -> Result<Reply, NamesystemError> {
    let src_path = Path::parse(op.src.as_ref())?;
    let dst_path = Path::parse(op.dst.as_ref())?;
    let src = resolve::place(tables, context.caller, &src_path)?
        .ok_or_else(|| check::invalid(src_path.subject(), InvalidReason::BaseItself))?;
    let Some(src_entry) = src.child else {
        return Err(NamesystemError::NotFound { path: src_path.subject() });
    };
    let mut moved = tables.existing_inode(src_entry.inode)?;
    resolve::check_remove(context.caller, &src.directory, &moved, &src_path, Spot::Directory)?;
    let dst = resolve::place(tables, context.caller, &dst_path)?
        .ok_or_else(|| NamesystemError::AlreadyExists { path: dst_path.subject() })?;
    resolve::check_access(context.caller, &dst.directory, Access::WRITE_EXECUTE, &dst_path, Spot::Directory)?;
    if dst.child.is_some_and(|entry| entry.inode == moved.id) {
        return Ok(Reply::Empty(Default::default()));
    }
    let one_directory = src.directory.id == dst.directory.id;
    if moved.is_directory() && !one_directory && is_below(tables, &dst.directory, moved.id)? {
        return Err(check::invalid(dst_path.subject(), InvalidReason::IntoItself));
    }
    let replaced = match dst.child {
        Some(entry) => {
            let existing = tables.existing_inode(entry.inode)?;
            check_replace(tables, context, op, &dst.directory, &existing, &moved, &dst_path)?;
            Some(existing)
        }
        None => None,
    };

    let now_ns = context.now_ns;
    let mut src_directory = src.directory;
    tables.unlink(&mut src_directory, src.name, &moved, now_ns);
    let mut dst_directory = if one_directory {
        src_directory
    } else {
        tables.put_inode(&src_directory);
        dst.directory
    };
    if let Some(replaced) = replaced {
        tables.unlink(&mut dst_directory, dst.name, &replaced, now_ns);
        tables.drop_link(context, replaced)?;
    }
    tables.link(&mut dst_directory, dst.name, &moved, now_ns);
    tables.put_inode(&dst_directory);
    moved.parent = dst_directory.id;
    moved.touch_attributes(now_ns);
    tables.put_inode(&moved);
    Ok(Reply::Empty(Default::default()))
}

fn check_replace(
    tables: &Tables<'_>,
    context: &Context<'_>,
    op: &log::RenameOp,
    directory: &Inode,
    existing: &Inode,
    moved: &Inode,
    path: &Path<'_>,
) -> Result<(), NamesystemError> {
    if !op.overwrite {
        return Err(NamesystemError::AlreadyExists { path: path.subject() });
    }
    resolve::check_remove(context.caller, directory, existing, path, Spot::Directory)?;
    match (moved.is_directory(), existing.is_directory()) {
        (true, false) => Err(NamesystemError::NotADirectory { path: path.subject() }),
        (false, true) => Err(NamesystemError::IsADirectory { path: path.subject() }),
        (true, true) if tables.has_entries(existing.id)? => {
            Err(NamesystemError::DirectoryNotEmpty { path: path.subject() })
        }
        _ => Ok(()),
    }
}

/// Whether `directory` is `ancestor` or below it. Ends at the root, or where a deletion cut the tree.
pub(super) fn is_below(
    tables: &Tables<'_>,
    directory: &Inode,
    ancestor: InodeId,
) -> Result<bool, StoreError> {
    let mut at = directory.id;
    let mut parent = directory.parent;
    loop {
        if at == ancestor {
            return Ok(true);
        }
        if at == parent {
            return Ok(false);
        }
        at = parent;
        match tables.inode(at)? {
            Some(inode) => parent = inode.parent,
            None => return Ok(false),
        }
    }
}
