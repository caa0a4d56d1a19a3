//! What there is to do in users' trash.

use std::collections::HashSet;
use std::ops::Bound;

use dfs_proto::InodeId;
use dfs_proto::v1::FileType;

use super::error::{NamesystemError, StoreError};
use super::keys;
use super::rows::Rows;
use super::snapshot::Snapshot;
use super::tables::Table;
use super::trash::{self, CURRENT, HOMES, TrashClock};

/// What the emptier has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrashWork {
    /// There is something in somebody's trash that gets older.
    pub is_ageing: bool,
    /// Time by the trash clock since checkpoints were made for everybody.
    pub since_round_ms: u64,
    /// Users who have something that is in no checkpoint yet.
    pub to_checkpoint: Vec<Vec<u8>>,
    /// Users who have checkpoints that are old enough, or that are not known yet.
    pub to_delete: Vec<Vec<u8>>,
    /// Checkpoints that are known but in nobody's trash any longer.
    pub to_forget: Vec<u64>,
}

impl Snapshot {
    /// Goes through the trash of all users. Checkpoints are old enough at `keep_ms`, `elapsed_ms` from now by the trash
    /// clock.
    pub fn trash_work(&self, keep_ms: u64, elapsed_ms: u64) -> Result<TrashWork, NamesystemError> {
        let clock = TrashClock::read(self)?;
        let now_ms = clock.now_ms.saturating_add(elapsed_ms);
        let mut work =
            TrashWork { since_round_ms: now_ms.saturating_sub(clock.round_ms), ..TrashWork::default() };
        let mut known = HashSet::new();
        let homes = self.entry(InodeId::ROOT, HOMES)?.filter(|entry| entry.kind == FileType::Directory);
        if let Some(homes) = homes {
            for home in self.entries_after(homes.inode, b"")? {
                let (user, _) = home?;
                self.user_trash(user, (now_ms, keep_ms), &mut work, &mut known)?;
            }
        }
        for row in self.range(Table::Trash, Bound::Unbounded, Bound::Unbounded)? {
            let id = keys::trailing_u64(Table::Trash, row?.0.value())?;
            if !known.contains(&id) {
                work.to_forget.push(id);
            }
        }
        Ok(work)
    }

    fn user_trash(
        &self,
        user: Vec<u8>,
        (now_ms, keep_ms): (u64, u64),
        work: &mut TrashWork,
        known: &mut HashSet<u64>,
    ) -> Result<(), StoreError> {
        let Some(directory) = trash::directory(self, &user)? else { return Ok(()) };
        let mut is_due = false;
        for entry in self.entries_after(directory.id, b"")? {
            let (name, entry) = entry?;
            if entry.kind != FileType::Directory {
                continue;
            }
            if name == CURRENT && self.has_entries(entry.inode)? {
                work.is_ageing = true;
                work.to_checkpoint.push(user.clone());
            }
            if trash::is_checkpoint(&name) {
                work.is_ageing = true;
                let born = trash::born(self, entry.inode)?;
                is_due |= born.is_none_or(|born| now_ms.saturating_sub(born) >= keep_ms);
                known.insert(entry.inode.get());
            }
        }
        if is_due {
            work.to_delete.push(user);
        }
        Ok(())
    }
}
