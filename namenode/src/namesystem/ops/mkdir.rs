//! Making directories.

use dfs_proto::v1::FileType;

use super::{check, make_node};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::edit::FreshInode;
use crate::namesystem::error::{NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// What parents made on the way have at least, so that their owner can go on below them (HDFS's rule).
const OWNER_WRITE_EXECUTE: u16 = 0o300;

/// Makes a directory. With `create_parents`, one that exists is fine.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::MkdirOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let mode = check::mode(op.mode, &path)?;
    let walk = resolve::walk(tables, context.caller, &path)?;
    let Some((last, parents)) = walk.rest.split_last() else {
        return exists(&resolve::directory(tables, walk.directory, &path)?, op, &path);
    };
    if let Some(entry) = walk.child {
        return exists(&tables.existing_inode(entry.inode)?, op, &path);
    }
    if !parents.is_empty() && !op.create_parents {
        return Err(NamesystemError::NotFound { path: path.subject() });
    }
    let directory = resolve::directory(tables, walk.directory, &path)?;
    resolve::check_access(
        context.caller,
        &directory,
        Access::WRITE_EXECUTE,
        &path,
        Spot::Before(walk.rest.len()),
    )?;
    check_creator(context)?;

    let parent_mode = (mode & 0o777) | OWNER_WRITE_EXECUTE;
    let mut directory = make_parents(tables, context, directory, parents, Some(parent_mode))?;
    let made = make(tables, context, &mut directory, last, mode)?;
    tables.put_inode(&directory);
    tables.put_inode(&made);
    Ok(Reply::Status(made.status(bytes::Bytes::new())))
}

fn exists(inode: &Inode, op: &log::MkdirOp, path: &Path<'_>) -> Result<Reply, NamesystemError> {
    if op.create_parents && inode.is_directory() {
        Ok(Reply::Status(inode.status(bytes::Bytes::new())))
    } else {
        Err(NamesystemError::AlreadyExists { path: path.subject() })
    }
}

/// Makes directories below one another, the first in `directory`. All are written but the innermost,
/// which is returned. Without a mode they take that of the directory above, as HDFS does for Create.
pub(super) fn make_parents(
    tables: &mut Tables<'_>,
    context: &Context<'_>,
    mut directory: Inode,
    names: &[&[u8]],
    mode: Option<u16>,
) -> Result<Inode, StoreError> {
    for name in names {
        let mode = mode.unwrap_or((directory.mode & 0o777) | OWNER_WRITE_EXECUTE);
        let made = make(tables, context, &mut directory, name, mode)?;
        tables.put_inode(&directory);
        directory = made;
    }
    Ok(directory)
}

/// Enters a new directory into `directory`; the caller writes both.
fn make(
    tables: &mut Tables<'_>,
    context: &Context<'_>,
    directory: &mut Inode,
    name: &[u8],
    mode: u16,
) -> Result<Inode, StoreError> {
    let owner = context.caller.map_or(directory.owner.as_str(), |c| c.user.as_str());
    let (mode, xattrs) = make_node::inherit(directory, FileType::Directory, mode, 0)?;
    let mut made = tables.new_inode(FreshInode {
        reserved: None,
        kind: FileType::Directory,
        mode,
        parent: directory.id,
        owner,
        group: &directory.group,
        now_ns: context.now_ns,
    });
    made.xattrs = xattrs;
    tables.link(directory, name, &made, context.now_ns);
    Ok(made)
}

/// Checks that the caller's name can be an owner.
pub(super) fn check_creator(context: &Context<'_>) -> Result<(), NamesystemError> {
    context.caller.map_or(Ok(()), |caller| check::principal(&caller.user))
}
