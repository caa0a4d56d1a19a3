//! Checks of a whole namespace, for tests and for people who ask whether a store is sound.
//!
//! Reads every row and keeps a few words an inode in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use dfs_proto::{BlockId, InodeId, v1::FileType};

use super::block_record::BlockRecord;
use super::counters::Counters;
use super::entry::Entry;
use super::error::StoreError;
use super::inode::Inode;
use super::keys;
use super::reservation::Reservation;
use super::rows::Rows;
use super::snapshot::Snapshot;
use super::stored_block::BlockState;
use super::tables::Table;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An entry's directory is missing or is none.
    #[error("entry {name:?} in {parent}, which is no directory")]
    EntryOutsideDirectory {
        /// Directory of the entry.
        parent: InodeId,
        /// Its name.
        name: String,
    },
    /// An entry names an inode that does not exist, has another type or another parent.
    #[error("entry {name:?} in {parent} does not fit {inode}")]
    EntryMismatch {
        /// Directory of the entry.
        parent: InodeId,
        /// Its name.
        name: String,
        /// What it names.
        inode: InodeId,
    },
    /// The link count is not what the entries say.
    #[error("{inode} has link count {recorded}, counted {counted}")]
    LinkCount {
        /// Inode.
        inode: InodeId,
        /// In its record.
        recorded: u32,
        /// By its entries.
        counted: u32,
    },
    /// Unlinked but neither waiting for reclaim nor an orphan, or both, or with a name and one of them.
    #[error("{inode}: link count, reclaim and orphans do not fit")]
    Unlinked {
        /// Inode.
        inode: InodeId,
    },
    /// A block and the block list of its file disagree.
    #[error("{block} is not where the block list of {inode} says")]
    BlockList {
        /// Block.
        block: BlockId,
        /// File.
        inode: InodeId,
    },
    /// A block's state or length is impossible at its place in the file.
    #[error("{block} has a state or length that its place in {inode} forbids")]
    BlockInFile {
        /// Block.
        block: BlockId,
        /// File.
        inode: InodeId,
    },
    /// A block has another replication than its file.
    #[error("{block} has another replication than {inode}")]
    Replication {
        /// Block.
        block: BlockId,
        /// File.
        inode: InodeId,
    },
    /// A block reaches behind the end of the file.
    #[error("{inode} has size {recorded}, its blocks end at {counted}")]
    Size {
        /// File.
        inode: InodeId,
        /// In its record.
        recorded: u64,
        /// By its blocks.
        counted: u64,
    },
    /// The bytes in a file's rows are not what its record says.
    #[error("{inode} has {recorded} bytes allocated, counted {counted}")]
    Allocated {
        /// File.
        inode: InodeId,
        /// In its record.
        recorded: u64,
        /// By its blocks.
        counted: u64,
    },
    /// More blocks are open than a file's record says, or it says that some are open in a closed file.
    #[error("{inode} has {recorded} open blocks, counted {counted}")]
    OpenBlocks {
        /// File.
        inode: InodeId,
        /// In its record.
        recorded: u32,
        /// By its blocks.
        counted: u32,
    },
    /// Leases table and lease holder disagree.
    #[error("{inode} and the leases table disagree about its holder")]
    Lease {
        /// File.
        inode: InodeId,
    },
    /// A counter does not count what is there.
    #[error("counter of {what} is {recorded}, counted {counted}")]
    Counter {
        /// What it counts.
        what: &'static str,
        /// In its record.
        recorded: u64,
        /// By the tables.
        counted: u64,
    },
    /// A range of reserved inode numbers that were not all given to the session, or of which one is in use.
    #[error("{session} has inode numbers from {first} on reserved that are not its own alone")]
    Reservation {
        /// Session.
        session: String,
        /// First number of the range.
        first: u64,
    },
    /// An id or stamp in use was not given yet.
    #[error("{what} {number} is in use but was never given")]
    NotGiven {
        /// Which kind of id.
        what: &'static str,
        /// The id.
        number: u64,
    },
}

/// Content of one table in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableDigest {
    /// Table.
    pub table: Table,
    /// Rows.
    pub rows: u64,
    /// CRC-32C over lengths, keys and values in key order.
    pub checksum: u32,
}

impl Snapshot {
    /// Digests of all tables: equal for equal states.
    pub fn digest(&self) -> Result<Vec<TableDigest>, StoreError> {
        let mut digests = Vec::new();
        for table in Table::ALL {
            let mut digest = TableDigest { table, rows: 0, checksum: 0 };
            self.each_row(table, |key, value| {
                digest.rows += 1;
                for part in [key, value] {
                    digest.checksum =
                        crc32c::crc32c_append(digest.checksum, &(part.len() as u64).to_le_bytes());
                    digest.checksum = crc32c::crc32c_append(digest.checksum, part);
                }
                Ok(())
            })?;
            digests.push(digest);
        }
        Ok(digests)
    }

    /// Checks the invariants in the head of [`super`]. A sound namespace has no violations.
    pub fn check_invariants(&self) -> Result<Vec<Violation>, StoreError> {
        let mut violations = Vec::new();
        let counters = match self.get(Table::Meta, Counters::KEY.as_bytes())? {
            Some(raw) => Counters::decode(raw.value())?,
            None => Counters::default(),
        };
        let links = self.check_entries(&mut violations)?;
        let inodes = self.check_inodes(&counters, &links, &mut violations)?;
        let blocks = self.check_blocks(&counters, &mut violations)?;
        self.check_leases(&mut violations)?;
        self.check_reservations(&counters, &mut violations)?;
        let mut retries = 0;
        self.each_row(Table::Retries, |_, _| {
            retries += 1;
            Ok(())
        })?;
        let mut order = 0;
        self.each_row(Table::RetryOrder, |_, _| {
            order += 1;
            Ok(())
        })?;
        for (what, recorded, counted) in [
            ("inodes", counters.inodes, inodes),
            ("blocks", counters.blocks, blocks),
            ("replies", counters.retries, retries),
            ("replies in order", counters.retries, order),
        ] {
            if recorded != counted {
                violations.push(Violation::Counter { what, recorded, counted });
            }
        }
        Ok(violations)
    }

    /// Answers entries and subdirectory entries: (times named, subdirectories) by inode.
    fn check_entries(
        &self,
        violations: &mut Vec<Violation>,
    ) -> Result<BTreeMap<InodeId, (u32, u32)>, StoreError> {
        let mut links: BTreeMap<InodeId, (u32, u32)> = BTreeMap::new();
        self.each_row(Table::Entries, |key, value| {
            let entry = Entry::decode(key, value)?;
            let parent = InodeId(keys::leading_u64(Table::Entries, key)?);
            let name = || String::from_utf8_lossy(&key[8..]).into_owned();
            if !self.inode(parent)?.is_some_and(|p| p.is_directory()) {
                violations.push(Violation::EntryOutsideDirectory { parent, name: name() });
            }
            let fits = self.inode(entry.inode)?.is_some_and(|child| {
                child.kind == entry.kind && (child.parent == parent || !child.is_directory())
            });
            if !fits {
                violations.push(Violation::EntryMismatch { parent, name: name(), inode: entry.inode });
            }
            links.entry(entry.inode).or_default().0 += 1;
            if entry.kind == FileType::Directory {
                links.entry(parent).or_default().1 += 1;
            }
            Ok(())
        })?;
        Ok(links)
    }

    /// Answers how many inodes there are.
    fn check_inodes(
        &self,
        counters: &Counters,
        links: &BTreeMap<InodeId, (u32, u32)>,
        violations: &mut Vec<Violation>,
    ) -> Result<u64, StoreError> {
        let mut inodes = 0;
        self.each_row(Table::Inodes, |key, value| {
            inodes += 1;
            let id = InodeId(keys::trailing_u64(Table::Inodes, key)?);
            let inode = Inode::decode(id, value)?;
            if id != InodeId::ROOT && !counters.gave_inode(id) {
                violations.push(Violation::NotGiven { what: "inode", number: id.get() });
            }
            let (named, subdirectories) = links.get(&id).copied().unwrap_or_default();
            let orphan = self.is_orphan(id)?;
            let waits = self.get(Table::Reclaim, &keys::inode(id))?.is_some();
            if u32::from(waits) + u32::from(orphan) != u32::from(inode.nlink == 0) {
                violations.push(Violation::Unlinked { inode: id });
            }
            let counted = match (id == InodeId::ROOT, inode.is_directory()) {
                (true, _) => 2 + subdirectories,
                (false, true) if named == 1 => 2 + subdirectories,
                // An unlinked directory keeps its entries until reclaim has come to them.
                (false, _) => named,
            };
            if inode.nlink != counted {
                violations.push(Violation::LinkCount { inode: id, recorded: inode.nlink, counted });
            }
            if let Some(holder) = &inode.holder
                && self.get(Table::Leases, &keys::lease(holder, id))?.is_none()
            {
                violations.push(Violation::Lease { inode: id });
            }
            if inode.is_file() && (inode.nlink > 0 || orphan) {
                self.check_file(&inode, violations)?;
            }
            Ok(())
        })?;
        Ok(inodes)
    }

    fn check_file(&self, file: &Inode, violations: &mut Vec<Violation>) -> Result<(), StoreError> {
        let (mut end, mut allocated, mut open) = (0, 0, 0);
        for row in self.file_blocks_from(file.id, 0)? {
            let (index, id) = row?;
            let Some(record) = self.block_record(id)? else {
                violations.push(Violation::BlockList { block: id, inode: file.id });
                continue;
            };
            let fits = match record.state {
                BlockState::Complete => (1..=file.block_size).contains(&record.length),
                BlockState::UnderConstruction | BlockState::UnderRecovery => {
                    file.holder.is_some() && record.length <= file.block_size
                }
            };
            if !fits {
                violations.push(Violation::BlockInFile { block: id, inode: file.id });
            }
            if record.replication != file.replication {
                violations.push(Violation::Replication { block: id, inode: file.id });
            }
            if record.covered() > 0 {
                end = index * file.block_size + record.covered();
            }
            allocated += record.covered();
            open += u32::from(record.is_open());
        }
        if end > file.size {
            violations.push(Violation::Size { inode: file.id, recorded: file.size, counted: end });
        }
        if allocated != file.allocated {
            let recorded = file.allocated;
            violations.push(Violation::Allocated { inode: file.id, recorded, counted: allocated });
        }
        if open > file.open_blocks || (file.holder.is_none() && file.open_blocks > 0) {
            let recorded = file.open_blocks;
            violations.push(Violation::OpenBlocks { inode: file.id, recorded, counted: open });
        }
        Ok(())
    }

    /// Answers how many blocks there are.
    fn check_blocks(&self, counters: &Counters, violations: &mut Vec<Violation>) -> Result<u64, StoreError> {
        let mut blocks = 0;
        let mut listed = BTreeSet::new();
        self.each_row(Table::FileBlocks, |key, _| {
            listed.insert((
                keys::leading_u64(Table::FileBlocks, key)?,
                keys::trailing_u64(Table::FileBlocks, key)?,
            ));
            Ok(())
        })?;
        self.each_row(Table::Blocks, |key, value| {
            blocks += 1;
            let id = BlockId(keys::trailing_u64(Table::Blocks, key)?);
            let record = BlockRecord::decode(id, value)?;
            if !counters.gave_block(id) {
                violations.push(Violation::NotGiven { what: "block", number: id.get() });
            }
            if !counters.gave_stamp(record.issued) || record.stamp > record.issued {
                violations.push(Violation::NotGiven { what: "stamp", number: record.issued.get() });
            }
            let same = self
                .file_blocks_from(record.inode, record.index)?
                .next()
                .transpose()?
                .is_some_and(|(index, listed)| index == record.index && listed == id);
            if !same || !listed.remove(&(record.inode.get(), record.index)) {
                violations.push(Violation::BlockList { block: id, inode: record.inode });
            }
            self.stored_block(&record)?;
            Ok(())
        })?;
        for (inode, _) in listed {
            violations.push(Violation::BlockList { block: BlockId(0), inode: InodeId(inode) });
        }
        Ok(blocks)
    }

    fn check_leases(&self, violations: &mut Vec<Violation>) -> Result<(), StoreError> {
        self.each_row(Table::Leases, |key, _| {
            let (holder, inode) = keys::parse_lease(key)?;
            if self.inode(inode)?.and_then(|file| file.holder) != Some(holder) {
                violations.push(Violation::Lease { inode });
            }
            Ok(())
        })
    }

    fn check_reservations(
        &self,
        counters: &Counters,
        violations: &mut Vec<Violation>,
    ) -> Result<(), StoreError> {
        let mut ranges = Vec::new();
        self.each_row(Table::Reservations, |key, value| {
            let (session, _) = keys::parse_holder(Table::Reservations, key)?;
            ranges.push((Reservation::decode(key, value)?, session));
            Ok(())
        })?;
        ranges.sort_unstable_by_key(|(range, _)| range.first);
        let mut free_from = 0;
        for (range, session) in ranges {
            let given = counters.gave_inode(InodeId(range.end - 1));
            let (from, to) = (keys::inode(InodeId(range.next)), keys::inode(InodeId(range.end)));
            let mut used = self.range(Table::Inodes, Bound::Included(&from), Bound::Excluded(&to))?;
            if !given || range.first < free_from || used.next().transpose()?.is_some() {
                violations.push(Violation::Reservation { session, first: range.first });
            }
            free_from = range.end;
        }
        Ok(())
    }

    fn each_row(
        &self,
        table: Table,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for row in self.range(table, Bound::Unbounded, Bound::Unbounded)? {
            let (key, value) = row?;
            each(key.value(), value.value())?;
        }
        Ok(())
    }
}
