//! Moving what a user removes to the user's trash, in one step.
//!
//! The rules are those of HDFS's clients. What is missing of `/user/NAME/.Trash/Current/..` is made: the home directory too,
//! by the namenode's own right, so that a user whom nobody gave one can remove all the same. A name that is taken gets the
//! time behind it, be it of the node itself or of a directory on its way.

use dfs_proto::v1::FileType;
use dfs_proto::{InodeId, MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH};

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::edit::FreshInode;
use crate::namesystem::error::{InvalidReason, NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;
use crate::namesystem::trash::{CURRENT, HOMES, TRASH};

/// Names of the way to Current: `user`, the user's, `.Trash` and `Current`.
const WAY_NAMES: usize = 4;

/// Mode of the directory of home directories.
const HOMES_MODE: u16 = 0o755;

/// Mode of what belongs to the user alone.
const PRIVATE_MODE: u16 = 0o700;

/// Milliseconds that are tried behind a name that is taken.
const SUFFIXES_MAX: i64 = 1_000;

/// Where a node goes.
struct Target {
    /// Deepest directory on the way that exists.
    directory: Inode,
    /// How many names lead to it.
    depth: usize,
    /// All names, with times behind those that were taken; the last one is the node's.
    names: Vec<Vec<u8>>,
}

/// Moves a node to the caller's trash. What lies in it already is left where it is.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::MoveToTrashOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let Some(caller) = context.caller else {
        return Err(check::invalid(path.subject(), InvalidReason::Incomplete));
    };
    let names = path.names();
    if path.base() != InodeId::ROOT || names.is_empty() {
        return Err(check::invalid(path.subject(), InvalidReason::BaseItself));
    }
    let user = home_name(&caller.user)?;
    let trash = [HOMES, user, TRASH];
    if names.starts_with(&trash) {
        return Ok(Reply::Trashed(log::Trashed::default()));
    }
    if trash.starts_with(names) {
        return Err(check::invalid(path.subject(), InvalidReason::ContainsTrash));
    }
    let not_found = || NamesystemError::NotFound { path: path.subject() };
    let place = resolve::place(tables, context.caller, &path)?.ok_or_else(not_found)?;
    let moved = tables.existing_inode(place.child.ok_or_else(not_found)?.inode)?;
    if moved.is_directory() && !op.recursive {
        return Err(NamesystemError::IsADirectory { path: path.subject() });
    }
    resolve::check_remove(context.caller, &place.directory, &moved, &path, Spot::Directory)?;
    let target = find_target(tables, context, caller, user, &path)?;

    let now_ns = context.now_ns;
    let mut from = place.directory;
    tables.unlink(&mut from, place.name, &moved, now_ns);
    tables.put_inode(&from);
    put(tables, context, caller, target, moved).map_err(NamesystemError::from)
}

/// A user's name as that of a home directory.
fn home_name(user: &str) -> Result<&[u8], NamesystemError> {
    check::principal(user)?;
    let bytes = user.as_bytes();
    if matches!(bytes, b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(check::invalid(user, InvalidReason::Principal));
    }
    Ok(bytes)
}

fn find_target(
    tables: &Tables<'_>,
    context: &Context<'_>,
    caller: &log::Caller,
    user: &[u8],
    path: &Path<'_>,
) -> Result<Target, NamesystemError> {
    let way = [HOMES, user, TRASH, CURRENT];
    let mut names: Vec<Vec<u8>> = way.iter().chain(path.names()).map(|name| name.to_vec()).collect();
    let mut directory = tables.existing_inode(InodeId::ROOT)?;
    let mut depth = 0;
    for at in 0..names.len() {
        let Some(entry) = tables.entry(directory.id, &names[at])? else { break };
        let is_last = at + 1 == names.len();
        if !is_last && entry.kind == FileType::Directory {
            directory = tables.existing_inode(entry.inode)?;
            depth += 1;
        } else if at < WAY_NAMES {
            return Err(NamesystemError::NotADirectory { path: text(&names[..=at]) });
        } else {
            names[at] = free_name(tables, directory.id, &names[at], context.now_ns)?
                .ok_or_else(|| NamesystemError::AlreadyExists { path: text(&names) })?;
            break;
        }
    }
    // `/user` and the home directory are the namenode's to make.
    let needed = Access::WRITE_EXECUTE;
    if depth >= 2 && !directory.guard().permits(caller, needed.bits())? {
        return Err(NamesystemError::AccessDenied {
            path: path.subject(),
            user: caller.user.clone(),
            needed,
            refuser: text(&names[..depth]),
        });
    }
    let bytes: usize = names.iter().map(|name| name.len() + 1).sum();
    if bytes > MAX_PATH_BYTES || names.len() > MAX_PATH_DEPTH {
        return Err(NamesystemError::NameTooLong { path: path.subject() });
    }
    Ok(Target { directory, depth, names })
}

/// A name that is not taken: the given one with the time in ms behind it.
pub(super) fn free_name(
    tables: &Tables<'_>,
    directory: InodeId,
    name: &[u8],
    now_ns: i64,
) -> Result<Option<Vec<u8>>, StoreError> {
    let now_ms = now_ns / 1_000_000;
    for ms in now_ms..now_ms + SUFFIXES_MAX {
        let suffix = ms.to_string();
        let kept = name.len().min(MAX_NAME_BYTES - suffix.len());
        let candidate = [&name[..kept], suffix.as_bytes()].concat();
        if tables.entry(directory, &candidate)?.is_none() {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Makes the directories that are missing, and enters the node.
fn put(
    tables: &mut Tables<'_>,
    context: &Context<'_>,
    caller: &log::Caller,
    target: Target,
    mut moved: Inode,
) -> Result<Reply, StoreError> {
    let now_ns = context.now_ns;
    let Target { directory, depth, names } = target;
    // It may be the one that the node was taken from.
    let mut directory = tables.existing_inode(directory.id)?;
    let parents = names.len() - 1;
    for (at, name) in names.iter().enumerate().take(parents).skip(depth) {
        let is_homes = at == 0;
        let (owner, group) = (directory.owner.clone(), directory.group.clone());
        let made = tables.new_inode(FreshInode {
            reserved: None,
            kind: FileType::Directory,
            mode: if is_homes { HOMES_MODE } else { PRIVATE_MODE },
            parent: directory.id,
            owner: if is_homes { &owner } else { &caller.user },
            group: &group,
            now_ns,
        });
        tables.link(&mut directory, name, &made, now_ns);
        tables.put_inode(&directory);
        directory = made;
    }
    tables.link(&mut directory, &names[parents], &moved, now_ns);
    tables.put_inode(&directory);
    moved.parent = directory.id;
    moved.touch_attributes(now_ns);
    tables.put_inode(&moved);
    Ok(Reply::Trashed(log::Trashed { path: joined(&names).into() }))
}

fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| [b"/", name.as_slice()].concat()).collect()
}

fn text(names: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&joined(names)).into_owned()
}
