//! Making nodes of any type, by POSIX's rules.

use dfs_proto::InodeId;
use dfs_proto::v1::FileType;

use super::{block_spec, check, mkdir};
use crate::log::{self, reply::Reply};
use crate::namesystem::acl;
use crate::namesystem::apply::Context;
use crate::namesystem::edit::FreshInode;
use crate::namesystem::error::{InvalidReason, NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::{self, Access, SET_GROUP_ID};
use crate::namesystem::reservation::Reservation;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::tables::Tables;
use crate::namesystem::xattrs::Xattrs;

/// Longest target of a symbolic link: a path of Linux without its final NUL.
const SYMLINK_BYTES_MAX: usize = 4_095;

/// Mode of symbolic links: nobody looks at it.
const SYMLINK_MODE: u16 = 0o777;

/// Makes a node under a name that is free. A file with a holder is open for writing, with its first block
/// if targets are given.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::MakeNodeOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let shape = Shape::check(op, &path)?;
    let exists = || NamesystemError::AlreadyExists { path: path.subject() };
    let place = resolve::place(tables, context.caller, &path)?.ok_or_else(exists)?;
    if place.child.is_some() {
        return Err(exists());
    }
    let mut directory = place.directory;
    resolve::check_access(context.caller, &directory, Access::WRITE_EXECUTE, &path, Spot::Directory)?;
    mkdir::check_creator(context)?;
    check_device(context, shape.kind, &path)?;
    let group = group(context, op, &directory, &path)?;
    let reserved = match op.inode {
        0 => None,
        number => Some(Reservation::of(tables, &op.session, InodeId(number))?),
    };

    let owner = context.caller.map_or(directory.owner.as_str(), |c| c.user.as_str());
    let (mode, xattrs) = shape.mode(context, &directory, op.umask, group)?;
    if let Some(reservation) = &reserved {
        tables.use_reserved(&op.session, reservation, InodeId(op.inode));
    }
    let mut node = tables.new_inode(FreshInode {
        reserved: reserved.map(|_| InodeId(op.inode)),
        kind: shape.kind,
        mode,
        parent: directory.id,
        owner,
        group,
        now_ns: context.now_ns,
    });
    shape.fill(op, &mut node);
    node.xattrs = xattrs;
    tables.link(&mut directory, place.name, &node, context.now_ns);
    tables.put_inode(&directory);
    let mut block = None;
    if !op.holder.is_empty() {
        tables.take_lease(context, &mut node, &op.holder)?;
        if !op.targets.is_empty() {
            let record = tables.allocate_block(context, &mut node, 0, &op.targets)?;
            block = Some(block_spec(&record, node.block_size, op.targets.clone()));
        }
    }
    tables.put_inode(&node);
    let status = Some(node.status(bytes::Bytes::new()));
    Ok(Reply::Opened(log::OpenedForWrite { status, block, new_generation_stamp: 0 }))
}

/// Type, bits and numbers of the new node, checked.
struct Shape {
    kind: FileType,
    mode: u16,
    replication: u16,
    block_size: u64,
}

impl Shape {
    fn check(op: &log::MakeNodeOp, path: &Path<'_>) -> Result<Self, NamesystemError> {
        let kind = op.r#type();
        let mut shape = Self { kind, mode: check::mode(op.mode, path)?, replication: 0, block_size: 0 };
        check::mode(op.umask, path)?;
        match kind {
            FileType::Unspecified => return Err(check::invalid(path.subject(), InvalidReason::Incomplete)),
            FileType::File => {
                shape.replication = check::replication(op.replication, path)?;
                check::block_size(op.block_size, path)?;
                shape.block_size = op.block_size;
                if !op.holder.is_empty() {
                    check::holder(&op.holder)?;
                }
                check::storage_ids(&op.targets)?;
            }
            FileType::Symlink => {
                check_target(&op.symlink, path)?;
                shape.mode = SYMLINK_MODE;
            }
            FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharDevice
            | FileType::BlockDevice => {}
        }
        if kind != FileType::File && !op.holder.is_empty() {
            return Err(check::invalid(path.subject(), InvalidReason::NotARegularFile));
        }
        Ok(shape)
    }

    /// Bits of the node and its extended attributes: what it inherits, without the set-group-id bit that would
    /// lend a group to somebody outside of it (Linux's rules).
    fn mode(
        &self,
        context: &Context<'_>,
        directory: &Inode,
        umask: u32,
        group: &str,
    ) -> Result<(u16, Vec<u8>), StoreError> {
        if self.kind == FileType::Symlink {
            return Ok((self.mode, Vec::new()));
        }
        let umask = u16::try_from(umask).unwrap_or_default();
        let (mode, xattrs) = inherit(directory, self.kind, self.mode, umask)?;
        let outsider = context.caller.is_some_and(|c| !permission::in_group(c, group));
        let lends = self.kind != FileType::Directory && outsider && permission::runs_as_group(mode);
        Ok((if lends { mode & !SET_GROUP_ID } else { mode }, xattrs))
    }

    fn fill(&self, op: &log::MakeNodeOp, node: &mut Inode) {
        match self.kind {
            FileType::File => {
                node.replication = self.replication;
                node.block_size = self.block_size;
            }
            FileType::Symlink => {
                node.symlink = op.symlink.to_vec();
                node.size = op.symlink.len() as u64;
            }
            FileType::CharDevice | FileType::BlockDevice => node.rdev = op.rdev,
            FileType::Unspecified | FileType::Directory | FileType::Fifo | FileType::Socket => {}
        }
    }
}

/// Mode and extended attributes of a new file or directory in `directory`: with its default list, whose say the
/// umask has none in, and for directories with its set-group-id bit.
pub(super) fn inherit(
    directory: &Inode,
    kind: FileType,
    mode: u16,
    umask: u16,
) -> Result<(u16, Vec<u8>), StoreError> {
    let is_directory = kind == FileType::Directory;
    let handed_down = if is_directory { directory.mode & SET_GROUP_ID } else { 0 };
    let Some(default) = acl::stored(directory.id, &directory.xattrs, acl::DEFAULT)? else {
        return Ok((mode & !umask | handed_down, Vec::new()));
    };
    let (list, mode) = default.inherited(mode);
    let mut xattrs = Xattrs::default();
    if !list.is_minimal() {
        xattrs.set(acl::ACCESS, &list.encode());
    }
    if is_directory {
        xattrs.set(acl::DEFAULT, &default.encode());
    }
    Ok((mode | handed_down, xattrs.encode()))
}

/// A target is any bytes but NUL.
fn check_target(target: &[u8], path: &Path<'_>) -> Result<(), NamesystemError> {
    if target.is_empty() || target.contains(&0) {
        return Err(check::invalid(path.subject(), InvalidReason::SymlinkTarget));
    }
    if target.len() > SYMLINK_BYTES_MAX {
        return Err(NamesystemError::NameTooLong { path: path.subject() });
    }
    Ok(())
}

/// Only the superuser makes device nodes.
fn check_device(context: &Context<'_>, kind: FileType, path: &Path<'_>) -> Result<(), NamesystemError> {
    match context.caller {
        Some(caller) if matches!(kind, FileType::CharDevice | FileType::BlockDevice) && !caller.superuser => {
            Err(NamesystemError::NotPermitted { path: path.subject(), user: caller.user.clone() })
        }
        _ => Ok(()),
    }
}

/// Group of the node: the directory's if that has the set-group-id bit or the request names none.
fn group<'a>(
    context: &Context<'_>,
    op: &'a log::MakeNodeOp,
    directory: &'a Inode,
    path: &Path<'_>,
) -> Result<&'a str, NamesystemError> {
    if op.group.is_empty() || directory.mode & SET_GROUP_ID != 0 {
        return Ok(&directory.group);
    }
    check::principal(&op.group)?;
    match context.caller {
        Some(caller) if !permission::in_group(caller, &op.group) => {
            Err(NamesystemError::NotPermitted { path: path.subject(), user: caller.user.clone() })
        }
        _ => Ok(&op.group),
    }
}
