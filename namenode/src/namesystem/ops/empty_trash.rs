//! Checkpoints of users' trash: making them, and deleting those that are old enough.

use dfs_proto::InodeId;
use dfs_proto::v1::FileType;

use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::entry::Entry;
use crate::namesystem::error::{NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::keys;
use crate::namesystem::permission::Access;
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::{Table, Tables};
use crate::namesystem::trash::{self, CURRENT, TrashClock};

/// Entries of one user's trash that one command looks at: the rest is left to the next one.
const ENTRIES_MAX: usize = 1_000;

/// Names that are tried for a checkpoint, as in HDFS.
const ATTEMPTS_MAX: usize = 1_000;

/// Checkpoints begin with a digit: names after this one may be some.
const BEFORE_DIGITS: &[u8] = b"/";

/// Moves the trash clock on and goes through the trash of the users named.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::EmptyTrashOp,
) -> Result<Reply, NamesystemError> {
    let mut trashes = Vec::with_capacity(op.users.len());
    for user in &op.users {
        let Some(directory) = trash::directory(tables, user)? else { continue };
        if let Some(caller) = context.caller
            && !directory.guard().permits(caller, Access::WRITE_EXECUTE.bits())?
        {
            let path = String::from_utf8_lossy(&trash::path(user, [])).into_owned();
            let (user, needed) = (caller.user.clone(), Access::WRITE_EXECUTE);
            return Err(NamesystemError::AccessDenied { refuser: path.clone(), path, user, needed });
        }
        trashes.push((user.as_ref(), directory.id));
    }

    let mut clock = TrashClock::read(tables)?;
    clock.now_ms = clock.now_ms.saturating_add(op.elapsed_ms);
    if op.round {
        clock.round_ms = clock.now_ms;
    }
    clock.write(tables);
    for id in &op.forget {
        tables.remove(Table::Trash, &keys::inode(InodeId(*id)));
    }
    let mut emptied = log::TrashEmptied::default();
    for (user, id) in trashes {
        let mut directory = tables.existing_inode(id)?;
        if op.checkpoint
            && let Some(name) = make(tables, context, clock, &mut directory)?
        {
            emptied.made.push(trash::path(user, [name.as_bytes()]).into());
        }
        delete_old(tables, context, (clock, op.keep_ms), &mut directory, user, &mut emptied)?;
    }
    Ok(Reply::TrashEmptied(emptied))
}

/// Makes a checkpoint of Current, unless there is nothing in it. Answers its name.
fn make(
    tables: &mut Tables<'_>,
    context: &Context<'_>,
    clock: TrashClock,
    directory: &mut Inode,
) -> Result<Option<String>, StoreError> {
    let current = match tables.entry(directory.id, CURRENT)? {
        Some(Entry { inode, kind: FileType::Directory }) if tables.has_entries(inode)? => inode,
        _ => return Ok(None),
    };
    let Some(name) = free_name(tables, directory.id, context.now_ns)? else { return Ok(None) };
    let mut current = tables.existing_inode(current)?;
    tables.unlink(directory, CURRENT, &current, context.now_ns);
    tables.link(directory, name.as_bytes(), &current, context.now_ns);
    tables.put_inode(directory);
    current.touch_attributes(context.now_ns);
    tables.put_inode(&current);
    tables.insert(Table::Trash, &keys::inode(current.id), &trash::encode_born(clock.now_ms));
    Ok(Some(name))
}

fn free_name(tables: &Tables<'_>, directory: InodeId, now_ns: i64) -> Result<Option<String>, StoreError> {
    let time = trash::checkpoint_name(now_ns);
    for attempt in 0..ATTEMPTS_MAX {
        let name = if attempt == 0 { time.clone() } else { format!("{time}-{attempt}") };
        if tables.entry(directory, name.as_bytes())?.is_none() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Deletes checkpoints of the age given. Those that nobody knew (a client of another kind made them, or a `mv`)
/// are as old as this command.
fn delete_old(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    (clock, keep_ms): (TrashClock, u64),
    directory: &mut Inode,
    user: &[u8],
    emptied: &mut log::TrashEmptied,
) -> Result<(), StoreError> {
    let entries: Vec<(Vec<u8>, Entry)> = tables
        .entries_after(directory.id, BEFORE_DIGITS)?
        .take(ENTRIES_MAX)
        .collect::<Result<_, StoreError>>()?;
    let looked_at = entries.len();
    let before = emptied.deleted.len();
    for (name, entry) in entries {
        if entry.kind != FileType::Directory || !trash::is_checkpoint(&name) {
            continue;
        }
        let born = match trash::born(tables, entry.inode)? {
            Some(born) => born,
            None => {
                tables.insert(Table::Trash, &keys::inode(entry.inode), &trash::encode_born(clock.now_ms));
                clock.now_ms
            }
        };
        if clock.now_ms.saturating_sub(born) < keep_ms {
            continue;
        }
        let checkpoint = tables.existing_inode(entry.inode)?;
        tables.unlink(directory, &name, &checkpoint, context.now_ns);
        tables.put_inode(directory);
        tables.remove(Table::Trash, &keys::inode(entry.inode));
        tables.drop_link(context, checkpoint)?;
        emptied.deleted.push(trash::path(user, [name.as_slice()]).into());
    }
    emptied.more |= looked_at == ENTRIES_MAX && emptied.deleted.len() > before;
    Ok(())
}
