//! Creating files.

use dfs_proto::v1::FileType;

use super::{block_spec, check, make_node, mkdir};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::edit::FreshInode;
use crate::namesystem::error::NamesystemError;
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Creates a file, open for writing by the holder, and its first block if targets are given. A file
/// that is replaced goes in the same step, under its old inode.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::CreateOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let mode = check::mode(op.mode, &path)?;
    let replication = check::replication(op.replication, &path)?;
    check::block_size(op.block_size, &path)?;
    check::holder(&op.holder)?;
    check::storage_ids(&op.targets)?;
    let walk = resolve::walk(tables, context.caller, &path)?;
    let Some((name, parents)) = walk.rest.split_last() else {
        let base = resolve::directory(tables, walk.directory, &path)?;
        return Err(if base.is_directory() {
            NamesystemError::IsADirectory { path: path.subject() }
        } else {
            NamesystemError::AlreadyExists { path: path.subject() }
        });
    };
    if !parents.is_empty() && !op.create_parents {
        return Err(NamesystemError::NotFound { path: path.subject() });
    }
    let directory = resolve::directory(tables, walk.directory, &path)?;
    let replaced = match walk.child {
        Some(entry) => {
            let existing = tables.existing_inode(entry.inode)?;
            check_replace(context, op, &directory, &existing, &path)?;
            Some(existing)
        }
        None => None,
    };
    resolve::check_access(
        context.caller,
        &directory,
        Access::WRITE_EXECUTE,
        &path,
        Spot::Before(walk.rest.len()),
    )?;
    mkdir::check_creator(context)?;

    let mut directory = mkdir::make_parents(tables, context, directory, parents, None)?;
    if let Some(replaced) = replaced {
        // The entry itself is overwritten below.
        tables.drop_link(context, replaced)?;
    }
    let owner = context.caller.map_or(directory.owner.as_str(), |c| c.user.as_str());
    let (mode, xattrs) = make_node::inherit(&directory, FileType::File, mode, 0)?;
    let mut file = tables.new_inode(FreshInode {
        reserved: None,
        kind: FileType::File,
        mode,
        parent: directory.id,
        owner,
        group: &directory.group,
        now_ns: context.now_ns,
    });
    file.block_size = op.block_size;
    file.replication = replication;
    file.xattrs = xattrs;
    tables.link(&mut directory, name, &file, context.now_ns);
    tables.put_inode(&directory);
    tables.take_lease(context, &mut file, &op.holder)?;
    let block = if op.targets.is_empty() {
        None
    } else {
        let record = tables.allocate_block(context, &mut file, 0, &op.targets)?;
        Some(block_spec(&record, file.block_size, op.targets.clone()))
    };
    tables.put_inode(&file);
    let status = Some(file.status(bytes::Bytes::new()));
    Ok(Reply::Opened(log::OpenedForWrite { status, block, new_generation_stamp: 0 }))
}

fn check_replace(
    context: &Context<'_>,
    op: &log::CreateOp,
    directory: &Inode,
    existing: &Inode,
    path: &Path<'_>,
) -> Result<(), NamesystemError> {
    if existing.is_directory() {
        return Err(NamesystemError::IsADirectory { path: path.subject() });
    }
    match &existing.holder {
        Some(holder) if *holder != op.holder => return Err(check::held(holder, path)),
        _ => {}
    }
    if !op.overwrite {
        return Err(NamesystemError::AlreadyExists { path: path.subject() });
    }
    check::regular(existing, path)?;
    resolve::check_access(context.caller, existing, Access::WRITE, path, Spot::Node)?;
    resolve::check_remove(context.caller, directory, existing, path, Spot::Directory)
}
