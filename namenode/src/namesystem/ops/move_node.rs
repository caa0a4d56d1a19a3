//! Moving a node, or exchanging two, by POSIX's rules.

use dfs_proto::InodeId;
use dfs_proto::v1::MoveMode;

use super::{check, rename};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Place, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Moves one entry, whatever hangs below it. Two names of one inode stay as they are.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::MoveOp,
) -> Result<Reply, NamesystemError> {
    let src_path = Path::parse(op.src.as_ref())?;
    let dst_path = Path::parse(op.dst.as_ref())?;
    let src = resolve::place(tables, context.caller, &src_path)?
        .ok_or_else(|| check::invalid(src_path.subject(), InvalidReason::BaseItself))?;
    let dst = resolve::place(tables, context.caller, &dst_path)?
        .ok_or_else(|| check::invalid(dst_path.subject(), InvalidReason::BaseItself))?;
    let Some(src_entry) = src.child else {
        return Err(NamesystemError::NotFound { path: src_path.subject() });
    };
    check::expected(op.inode, Some(src_entry.inode), &src_path)?;
    let moved = tables.existing_inode(src_entry.inode)?;
    let other = dst.child.map(|entry| tables.existing_inode(entry.inode)).transpose()?;
    let mode = op.mode();
    match (mode, &other) {
        (MoveMode::NoReplace, Some(_)) => {
            return Err(NamesystemError::AlreadyExists { path: dst_path.subject() });
        }
        (MoveMode::Exchange, None) => return Err(NamesystemError::NotFound { path: dst_path.subject() }),
        (MoveMode::Replace | MoveMode::Exchange, Some(other)) if other.id == moved.id => {
            return Ok(Reply::Moved(log::Moved {
                moved: Some(moved.status(bytes::Bytes::new())),
                other: None,
            }));
        }
        (MoveMode::Replace | MoveMode::NoReplace, None) | (MoveMode::Replace | MoveMode::Exchange, _) => {}
    }
    if op.inode != 0 && op.other != other.as_ref().map_or(0, |other| other.id.get()) {
        let found = other.map(|other| other.id);
        return Err(NamesystemError::Conflict { path: dst_path.subject(), meant: InodeId(op.other), found });
    }
    let ends = Ends { src, src_path: &src_path, dst, dst_path: &dst_path };
    ends.check_loops(tables, mode, &moved, other.as_ref())?;
    ends.check_access(context, mode, &moved, other.as_ref())?;

    match other {
        Some(other) if mode == MoveMode::Exchange => ends.exchange(tables, context, moved, other),
        other => {
            if let Some(other) = &other {
                check_replace(tables, &moved, other, &dst_path)?;
            }
            ends.replace(tables, context, moved, other, op.opened)
        }
    }
}

/// A file takes the place of what is no directory, a directory that of an empty one.
fn check_replace(
    tables: &Tables<'_>,
    moved: &Inode,
    other: &Inode,
    path: &Path<'_>,
) -> Result<(), NamesystemError> {
    match (moved.is_directory(), other.is_directory()) {
        (true, false) => Err(NamesystemError::NotADirectory { path: path.subject() }),
        (false, true) => Err(NamesystemError::IsADirectory { path: path.subject() }),
        (true, true) if tables.has_entries(other.id)? => {
            Err(NamesystemError::DirectoryNotEmpty { path: path.subject() })
        }
        (true, true) | (false, false) => Ok(()),
    }
}

/// Both names of a move.
struct Ends<'p, 'a> {
    src: Place<'a>,
    src_path: &'p Path<'a>,
    dst: Place<'a>,
    dst_path: &'p Path<'a>,
}

impl Ends<'_, '_> {
    fn one_directory(&self) -> bool {
        self.src.directory.id == self.dst.directory.id
    }

    /// No directory comes to be below itself.
    fn check_loops(
        &self,
        tables: &Tables<'_>,
        mode: MoveMode,
        moved: &Inode,
        other: Option<&Inode>,
    ) -> Result<(), NamesystemError> {
        if self.one_directory() {
            return Ok(());
        }
        let into_itself = |path: &Path<'_>| Err(check::invalid(path.subject(), InvalidReason::IntoItself));
        if moved.is_directory() && rename::is_below(tables, &self.dst.directory, moved.id)? {
            return into_itself(self.dst_path);
        }
        match other {
            Some(other)
                if mode == MoveMode::Exchange
                    && other.is_directory()
                    && rename::is_below(tables, &self.src.directory, other.id)? =>
            {
                into_itself(self.src_path)
            }
            _ => Ok(()),
        }
    }

    /// The caller may change both directories, may remove what goes from either, and may write to a
    /// directory that gets another parent.
    fn check_access(
        &self,
        context: &Context<'_>,
        mode: MoveMode,
        moved: &Inode,
        other: Option<&Inode>,
    ) -> Result<(), NamesystemError> {
        let caller = context.caller;
        resolve::check_remove(caller, &self.src.directory, moved, self.src_path, Spot::Directory)?;
        let directory = &self.dst.directory;
        match other {
            Some(other) => resolve::check_remove(caller, directory, other, self.dst_path, Spot::Directory)?,
            None => {
                let needed = Access::WRITE_EXECUTE;
                resolve::check_access(caller, directory, needed, self.dst_path, Spot::Directory)?;
            }
        }
        if self.one_directory() {
            return Ok(());
        }
        if moved.is_directory() {
            resolve::check_access(caller, moved, Access::WRITE, self.src_path, Spot::Node)?;
        }
        match other {
            Some(other) if mode == MoveMode::Exchange && other.is_directory() => {
                resolve::check_access(caller, other, Access::WRITE, self.dst_path, Spot::Node)
            }
            _ => Ok(()),
        }
    }

    fn replace(
        self,
        tables: &mut Tables<'_>,
        context: &mut Context<'_>,
        mut moved: Inode,
        replaced: Option<Inode>,
        opened: u64,
    ) -> Result<Reply, NamesystemError> {
        let now_ns = context.now_ns;
        let one_directory = self.one_directory();
        let mut src_directory = self.src.directory;
        tables.unlink(&mut src_directory, self.src.name, &moved, now_ns);
        let mut dst_directory = if one_directory {
            src_directory
        } else {
            tables.put_inode(&src_directory);
            self.dst.directory
        };
        let other = match replaced {
            Some(replaced) => {
                tables.unlink(&mut dst_directory, self.dst.name, &replaced, now_ns);
                Some(tables.drop_name(context, replaced, opened)?)
            }
            None => None,
        };
        tables.link(&mut dst_directory, self.dst.name, &moved, now_ns);
        tables.put_inode(&dst_directory);
        moved.parent = dst_directory.id;
        moved.touch_attributes(now_ns);
        tables.put_inode(&moved);
        Ok(reply(&moved, other.as_ref()))
    }

    fn exchange(
        self,
        tables: &mut Tables<'_>,
        context: &mut Context<'_>,
        mut moved: Inode,
        mut other: Inode,
    ) -> Result<Reply, NamesystemError> {
        let now_ns = context.now_ns;
        let one_directory = self.one_directory();
        let mut src_directory = self.src.directory;
        tables.unlink(&mut src_directory, self.src.name, &moved, now_ns);
        tables.link(&mut src_directory, self.src.name, &other, now_ns);
        let mut dst_directory = if one_directory {
            src_directory
        } else {
            tables.put_inode(&src_directory);
            other.parent = src_directory.id;
            moved.parent = self.dst.directory.id;
            self.dst.directory
        };
        tables.unlink(&mut dst_directory, self.dst.name, &other, now_ns);
        tables.link(&mut dst_directory, self.dst.name, &moved, now_ns);
        tables.put_inode(&dst_directory);
        for node in [&mut moved, &mut other] {
            node.touch_attributes(now_ns);
            tables.put_inode(node);
        }
        Ok(reply(&moved, Some(&other)))
    }
}

fn reply(moved: &Inode, other: Option<&Inode>) -> Reply {
    let status = |node: &Inode| node.status(bytes::Bytes::new());
    Reply::Moved(log::Moved { moved: Some(status(moved)), other: other.map(status) })
}
