//! Changes that several operations share. None of them checks anything: operations check everything
//! before they write.

use std::ops::Bound;

use dfs_proto::{InodeId, v1::FileType};

use super::acl;
use super::apply::Context;
use super::effect::Effect;
use super::entry::Entry;
use super::error::StoreError;
use super::inode::Inode;
use super::keys;
use super::rows::Rows;
use super::tables::{Table, Tables};
use super::xattrs::Xattrs;

/// A deleted file with at most so many blocks is freed by the deletion itself; a larger one in the
/// background, so that no command takes long.
const FREE_AT_ONCE_BLOCKS: usize = 64;

impl Tables<'_> {
    /// Writes an inode.
    pub(super) fn put_inode(&mut self, inode: &Inode) {
        self.insert(Table::Inodes, &keys::inode(inode.id), &inode.encode());
    }

    /// Enters `child` into `directory`, which the caller writes afterwards.
    pub(super) fn link(&mut self, directory: &mut Inode, name: &[u8], child: &Inode, now_ns: i64) {
        let entry = Entry { inode: child.id, kind: child.kind };
        self.insert(Table::Entries, &keys::entry(directory.id, name), &entry.encode());
        if child.is_directory() {
            directory.nlink += 1;
        }
        directory.touch_content(now_ns);
    }

    /// Removes the entry of `child` from `directory`, which the caller writes afterwards.
    pub(super) fn unlink(&mut self, directory: &mut Inode, name: &[u8], child: &Inode, now_ns: i64) {
        self.remove(Table::Entries, &keys::entry(directory.id, name));
        if child.is_directory() {
            directory.nlink = directory.nlink.saturating_sub(1);
        }
        directory.touch_content(now_ns);
    }

    /// Drops one link of an inode whose entry is gone. The last one frees the inode, see [`Self::free`].
    /// Answers how many rows of inodes and blocks it took.
    pub(super) fn drop_link(
        &mut self,
        context: &mut Context<'_>,
        mut inode: Inode,
    ) -> Result<usize, StoreError> {
        if !inode.is_directory() && inode.nlink > 1 {
            inode.nlink -= 1;
            inode.touch_attributes(context.now_ns);
            self.put_inode(&inode);
            return Ok(1);
        }
        self.free(context, inode)
    }

    /// As [`Self::drop_link`], but an inode that is `opened` somewhere becomes an orphan. Answers the inode
    /// as it is afterwards.
    pub(super) fn drop_name(
        &mut self,
        context: &mut Context<'_>,
        mut inode: Inode,
        opened: u64,
    ) -> Result<Inode, StoreError> {
        inode.nlink = if inode.is_directory() { 0 } else { inode.nlink.saturating_sub(1) };
        inode.touch_attributes(context.now_ns);
        if inode.nlink > 0 {
            self.put_inode(&inode);
        } else if inode.id.get() == opened {
            self.put_inode(&inode);
            self.insert(Table::Orphans, &keys::inode(inode.id), &[]);
        } else {
            self.free(context, inode.clone())?;
        }
        Ok(inode)
    }

    /// Frees an inode without names: at once if that is little work, else it is left to reclaim. Answers how
    /// many rows of inodes and blocks it took.
    pub(super) fn free(&mut self, context: &mut Context<'_>, mut inode: Inode) -> Result<usize, StoreError> {
        self.release_lease(context, &mut inode)?;
        let (freed, all) = if inode.is_directory() {
            (0, !self.has_entries(inode.id)?)
        } else {
            self.remove_blocks(context, &mut inode, 0, FREE_AT_ONCE_BLOCKS)?
        };
        if all {
            self.remove_inode(inode.id);
        } else {
            inode.nlink = 0;
            inode.touch_attributes(context.now_ns);
            self.put_inode(&inode);
            self.leave_to_reclaim(inode.id);
        }
        Ok(freed + 1)
    }

    /// Removes an inode that has neither entries nor blocks.
    pub(super) fn remove_inode(&mut self, id: InodeId) {
        self.remove(Table::Inodes, &keys::inode(id));
        self.counters.inodes = self.counters.inodes.saturating_sub(1);
    }

    /// First inode that waits for reclaim.
    pub(super) fn first_to_reclaim(&mut self) -> Result<Option<InodeId>, StoreError> {
        let from = keys::inode(InodeId(self.hints.reclaim_from));
        let first =
            self.range(Table::Reclaim, Bound::Included(&from), Bound::Unbounded)?.next().transpose()?;
        let first = first.map(|(key, _)| keys::trailing_u64(Table::Reclaim, key.value())).transpose()?;
        self.hints.reclaim_from = first.unwrap_or(u64::MAX);
        Ok(first.map(InodeId))
    }

    fn leave_to_reclaim(&mut self, id: InodeId) {
        self.insert(Table::Reclaim, &keys::inode(id), &[]);
        self.hints.reclaim_from = self.hints.reclaim_from.min(id.get());
    }

    /// Files that a holder has open for writing.
    fn lease_count(&self, holder: &str) -> Result<u64, StoreError> {
        match self.hints.leases(holder) {
            Some(leases) => Ok(leases),
            None => self.count_leases(holder),
        }
    }

    /// Gives the lease of a file to `holder`; the caller writes the inode afterwards.
    pub(super) fn take_lease(
        &mut self,
        context: &mut Context<'_>,
        inode: &mut Inode,
        holder: &str,
    ) -> Result<(), StoreError> {
        self.release_lease(context, inode)?;
        let leases = self.lease_count(holder)? + 1;
        self.insert(Table::Leases, &keys::lease(holder, inode.id), &[]);
        self.hints.note_leases(holder, leases);
        inode.holder = Some(holder.to_owned());
        context.effects.push(Effect::LeaseTaken { holder: holder.to_owned() });
        Ok(())
    }

    /// Ends the lease of a file that has no open block left; the caller writes the inode afterwards.
    pub(super) fn close(&mut self, context: &mut Context<'_>, file: &mut Inode) -> Result<(), StoreError> {
        file.open_blocks = 0;
        self.release_lease(context, file)
    }

    /// Ends the lease of a file, if there is one; the caller writes the inode afterwards.
    pub(super) fn release_lease(
        &mut self,
        context: &mut Context<'_>,
        inode: &mut Inode,
    ) -> Result<(), StoreError> {
        if let Some(holder) = inode.holder.take() {
            let leases = self.lease_count(&holder)?.saturating_sub(1);
            self.remove(Table::Leases, &keys::lease(&holder, inode.id));
            self.hints.note_leases(&holder, leases);
            if leases == 0 {
                context.effects.push(Effect::LeaseReleased { holder });
            }
        }
        Ok(())
    }

    /// Sets the mode of a node, which the caller writes afterwards, and makes its list agree.
    pub(super) fn set_mode(&self, node: &mut Inode, mode: u16) -> Result<(), StoreError> {
        node.mode = mode;
        if let Some(mut list) = acl::stored(node.id, &node.xattrs, acl::ACCESS)? {
            list.set_mode_bits(mode);
            let mut xattrs = Xattrs::decode(node.id, &node.xattrs)?;
            xattrs.set(acl::ACCESS, &list.encode());
            node.xattrs = xattrs.encode();
        }
        Ok(())
    }

    /// A new inode, counted but not written.
    pub(super) fn new_inode(&mut self, fresh: FreshInode<'_>) -> Inode {
        self.counters.inodes += 1;
        Inode {
            id: fresh.reserved.unwrap_or_else(|| self.counters.take_inode()),
            kind: fresh.kind,
            mode: fresh.mode,
            nlink: if fresh.kind == FileType::Directory { 2 } else { 1 },
            parent: fresh.parent,
            rdev: 0,
            size: 0,
            atime_ns: fresh.now_ns,
            mtime_ns: fresh.now_ns,
            ctime_ns: fresh.now_ns,
            btime_ns: fresh.now_ns,
            block_size: 0,
            change: 1,
            replication: 0,
            owner: fresh.owner.to_owned(),
            group: fresh.group.to_owned(),
            holder: None,
            symlink: Vec::new(),
            xattrs: Vec::new(),
            allocated: 0,
            open_blocks: 0,
        }
    }
}

/// What a new inode starts with.
pub(super) struct FreshInode<'a> {
    /// Its number, if that was reserved; otherwise it gets the next one.
    pub(super) reserved: Option<InodeId>,
    pub(super) kind: FileType,
    pub(super) mode: u16,
    pub(super) parent: InodeId,
    pub(super) owner: &'a str,
    pub(super) group: &'a str,
    pub(super) now_ns: i64,
}
