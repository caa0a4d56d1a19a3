//! Deleting names, and freeing what they stood for.
//!
//! Deleting unlinks one entry, however much hangs below it. What is not freed with it waits in the
//! reclaim table, one row an unlinked inode; each Reclaim command frees a bounded part.

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::keys;
use crate::namesystem::path::Path;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::{Table, Tables};

/// Inodes, entries and blocks that one Reclaim frees at most, whatever it asks for: about 100 ms.
const RECLAIM_BUDGET_MAX: usize = 10_000;

/// Removes a name. What does not exist is answered with `false`, as in HDFS. The caller's rights below
/// a directory were checked before the command was proposed, see `Snapshot::check_delete`.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::DeleteOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let place = match resolve::place(tables, context.caller, &path) {
        Ok(place) => place,
        Err(NamesystemError::NotFound { .. }) => return Ok(Reply::Deleted(false)),
        Err(error) => return Err(error),
    };
    let mut place = place.ok_or_else(|| check::invalid(path.subject(), InvalidReason::BaseItself))?;
    let Some(entry) = place.child else {
        return Ok(Reply::Deleted(false));
    };
    let inode = tables.existing_inode(entry.inode)?;
    resolve::check_remove(context.caller, &place.directory, &inode, &path, Spot::Directory)?;
    if inode.is_directory() && !op.recursive && tables.has_entries(inode.id)? {
        return Err(NamesystemError::DirectoryNotEmpty { path: path.subject() });
    }

    tables.unlink(&mut place.directory, place.name, &inode, context.now_ns);
    tables.put_inode(&place.directory);
    tables.drop_link(context, inode)?;
    Ok(Reply::Deleted(true))
}

/// Frees a part of what deletions left. Answers whether there is more.
pub(super) fn reclaim(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::ReclaimOp,
) -> Result<Reply, NamesystemError> {
    let mut left = usize::try_from(op.budget).unwrap_or(usize::MAX).clamp(1, RECLAIM_BUDGET_MAX);
    while left > 0 {
        let Some(id) = tables.first_to_reclaim()? else {
            return Ok(Reply::More(false));
        };
        let mut inode = tables.existing_inode(id)?;
        let spent = if inode.is_directory() {
            reclaim_directory(tables, context, &inode, left)?
        } else {
            reclaim_file(tables, context, &mut inode, left)?
        };
        left = left.saturating_sub(spent);
    }
    Ok(Reply::More(tables.first_to_reclaim()?.is_some()))
}

fn reclaim_file(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    file: &mut Inode,
    budget: usize,
) -> Result<usize, StoreError> {
    let (freed, all) = tables.remove_blocks(context, file, 0, budget)?;
    if all {
        forget(tables, file);
    } else {
        tables.put_inode(file);
    }
    Ok(freed + 1)
}

fn reclaim_directory(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    directory: &Inode,
    budget: usize,
) -> Result<usize, StoreError> {
    let mut freed = match tables.hints.freed_up_to.take() {
        Some((id, name)) if id == directory.id => name,
        _ => Vec::new(),
    };
    let children =
        tables.entries_after(directory.id, &freed)?.take(budget).collect::<Result<Vec<_>, StoreError>>()?;
    let mut spent = 1;
    for (name, entry) in children {
        tables.remove(Table::Entries, &keys::entry(directory.id, &name));
        freed = name;
        let child = tables.existing_inode(entry.inode)?;
        spent += tables.drop_link(context, child)?;
        if spent >= budget {
            break;
        }
    }
    let is_empty = tables.entries_after(directory.id, &freed)?.next().transpose()?.is_none();
    tables.hints.freed_up_to = Some((directory.id, freed));
    if is_empty {
        forget(tables, directory);
    }
    Ok(spent)
}

fn forget(tables: &mut Tables<'_>, inode: &Inode) {
    tables.remove(Table::Reclaim, &keys::inode(inode.id));
    tables.remove_inode(inode.id);
}
