//! From paths to nodes, with HDFS's permission rules on the way: search permission on every directory
//! from the base on, the rest by what the operation does to the node it arrives at.
//!
//! Symbolic links are for mounts: the kernel reads them and follows them itself, and so only it knows
//! what an absolute target means (a path on the host, which may lead out of this file system). A path that
//! leads through one is refused as such. A path that ends in one names the link: it can be asked for,
//! moved and deleted, but not opened.

use dfs_proto::InodeId;

use super::entry::Entry;
use super::error::NamesystemError;
use super::inode::{Inode, InodeView};
use super::keys;
use super::path::Path;
use super::permission::{self, Access};
use super::rows::Rows;
use super::tables::Table;
use crate::log;

/// How far a path leads.
pub(super) struct Walk<'p, 'a> {
    /// Deepest directory reached before the last name.
    pub(super) directory: InodeId,
    /// Names from there on: empty only if the path is the base itself; more than one if a directory
    /// on the way does not exist.
    pub(super) rest: &'p [&'a [u8]],
    /// What the last name stands for, if there is just one left.
    pub(super) child: Option<Entry>,
}

/// Where the last name of a path is, or would be.
pub(super) struct Place<'a> {
    /// The directory.
    pub(super) directory: Inode,
    /// The name in it.
    pub(super) name: &'a [u8],
    /// What is there.
    pub(super) child: Option<Entry>,
}

/// Where on a path the node is whose permissions are checked.
#[derive(Clone, Copy)]
pub(super) enum Spot {
    /// The node that the whole path names.
    Node,
    /// The directory of the path's last name.
    Directory,
    /// What the path leads to before its last names, so many.
    Before(usize),
    /// Some directory below the node that the path names.
    Below,
}

impl Spot {
    fn subject(self, path: &Path<'_>) -> String {
        let count = path.names().len();
        match self {
            Self::Node => path.subject(),
            Self::Directory => path.subject_after(count.saturating_sub(1)),
            Self::Before(names) => path.subject_after(count.saturating_sub(names)),
            Self::Below => format!("a directory below {}", path.subject()),
        }
    }
}

/// Whether anything has to be checked for this caller; the namenode itself has no caller.
pub(super) fn unchecked(caller: Option<&log::Caller>) -> bool {
    caller.is_none_or(|c| c.superuser)
}

/// Follows a path as far as it exists.
pub(super) fn walk<'p, 'a>(
    rows: &impl Rows,
    caller: Option<&log::Caller>,
    path: &'p Path<'a>,
) -> Result<Walk<'p, 'a>, NamesystemError> {
    let names = path.names();
    let mut directory = path.base();
    for (at, name) in names.iter().enumerate() {
        // An entry's type was seen below; a base is whatever the caller holds, except for the root.
        if !unchecked(caller) || (at == 0 && directory != InodeId::ROOT) {
            enter(rows, caller, directory, path, Spot::Before(names.len() - at))?;
        }
        let entry = rows.entry(directory, name)?;
        let last = at + 1 == names.len();
        match entry {
            Some(entry) if !last => {
                if entry.kind == dfs_proto::v1::FileType::Symlink {
                    return Err(NamesystemError::SymbolicLink { path: path.subject_after(at + 1) });
                }
                if entry.kind != dfs_proto::v1::FileType::Directory {
                    return Err(NamesystemError::NotADirectory { path: path.subject() });
                }
                directory = entry.inode;
            }
            child => return Ok(Walk { directory, rest: &names[at..], child }),
        }
    }
    Ok(Walk { directory, rest: &[], child: None })
}

/// Checks that `id` is a directory that the caller may search.
fn enter(
    rows: &impl Rows,
    caller: Option<&log::Caller>,
    id: InodeId,
    path: &Path<'_>,
    spot: Spot,
) -> Result<(), NamesystemError> {
    let Some(raw) = rows.get(Table::Inodes, &keys::inode(id))? else {
        return Err(NamesystemError::NotFound { path: path.subject() });
    };
    let view = InodeView::new(id, raw.value())?;
    if view.nlink() == 0 {
        return Err(NamesystemError::NotFound { path: path.subject() });
    }
    if view.kind()? != dfs_proto::v1::FileType::Directory {
        return Err(NamesystemError::NotADirectory { path: path.subject() });
    }
    if let Some(caller) = caller
        && !view.guard()?.permits(caller, Access::EXECUTE.bits())?
    {
        return Err(denied(caller, Access::EXECUTE, path, spot));
    }
    Ok(())
}

/// The node that a path names.
pub(super) fn node(
    rows: &impl Rows,
    caller: Option<&log::Caller>,
    path: &Path<'_>,
) -> Result<Inode, NamesystemError> {
    let walk = walk(rows, caller, path)?;
    let not_found = || NamesystemError::NotFound { path: path.subject() };
    let id = match (walk.rest, walk.child) {
        ([], _) => walk.directory,
        ([_], Some(entry)) => entry.inode,
        _ => return Err(not_found()),
    };
    if walk.rest.is_empty() {
        return rows.live_inode(id)?.ok_or_else(not_found);
    }
    Ok(rows.existing_inode(id)?)
}

/// The place of the last name of a path, whose directory must exist; `None` if the path is the base.
pub(super) fn place<'a>(
    rows: &impl Rows,
    caller: Option<&log::Caller>,
    path: &Path<'a>,
) -> Result<Option<Place<'a>>, NamesystemError> {
    let walk = walk(rows, caller, path)?;
    match walk.rest {
        [] => Ok(None),
        [name] => {
            let directory = directory(rows, walk.directory, path)?;
            Ok(Some(Place { directory, name, child: walk.child }))
        }
        _ => Err(NamesystemError::NotFound { path: path.subject() }),
    }
}

/// The directory a walk ended in. Only a base may be missing or unlinked.
pub(super) fn directory(rows: &impl Rows, id: InodeId, path: &Path<'_>) -> Result<Inode, NamesystemError> {
    match rows.inode(id)? {
        Some(inode) if inode.nlink > 0 => Ok(inode),
        _ => Err(NamesystemError::NotFound { path: path.subject() }),
    }
}

/// Checks permission bits on a node, which is at `spot` of the path.
pub(super) fn check_access(
    caller: Option<&log::Caller>,
    inode: &Inode,
    access: Access,
    path: &Path<'_>,
    spot: Spot,
) -> Result<(), NamesystemError> {
    match caller {
        Some(caller) if !inode.guard().permits(caller, access.bits())? => {
            Err(denied(caller, access, path, spot))
        }
        _ => Ok(()),
    }
}

/// Checks that the caller may remove or replace the entry of `child` in `directory`: write and search
/// permission, and in a sticky directory ownership of either. `spot` is the directory's.
pub(super) fn check_remove(
    caller: Option<&log::Caller>,
    directory: &Inode,
    child: &Inode,
    path: &Path<'_>,
    spot: Spot,
) -> Result<(), NamesystemError> {
    check_access(caller, directory, Access::WRITE_EXECUTE, path, spot)?;
    match caller {
        Some(caller)
            if !caller.superuser
                && directory.mode & permission::STICKY != 0
                && caller.user != directory.owner
                && caller.user != child.owner =>
        {
            Err(NamesystemError::NotPermitted { path: path.subject(), user: caller.user.clone() })
        }
        _ => Ok(()),
    }
}

/// Checks that the caller owns a node.
pub(super) fn check_owner(
    caller: Option<&log::Caller>,
    inode: &Inode,
    path: &Path<'_>,
) -> Result<(), NamesystemError> {
    match caller {
        Some(caller) if !caller.superuser && caller.user != inode.owner => {
            Err(NamesystemError::NotPermitted { path: path.subject(), user: caller.user.clone() })
        }
        _ => Ok(()),
    }
}

fn denied(caller: &log::Caller, needed: Access, path: &Path<'_>, spot: Spot) -> NamesystemError {
    NamesystemError::AccessDenied {
        path: path.subject(),
        user: caller.user.clone(),
        needed,
        refuser: spot.subject(path),
    }
}
