//! The replicas of one block, packed: 4 bytes a replica, up to three of them without an allocation.
//!
//! A block map entry holds one of these for each of millions of blocks, so its size (16 bytes) decides
//! the memory of the namenode. `SmallVec<[u32; 3]>` would take 32.

use super::datanode_manager::StorageIndex;

/// What is known about a replica beside its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// Finalized, or whole and about to be, with the stamp and length of the block.
    Good,
    /// Part of the pipeline of a block under construction.
    Writing,
    /// Reported corrupt, or with a length or stamp that does not fit the complete block.
    Corrupt,
    /// Left over from an earlier stamp of a block that is being written again.
    Outdated,
}

/// A storage and a mark in one integer: two bits of mark above 30 bits of storage index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Replica(u32);

const MARK_SHIFT: u32 = 30;

impl Replica {
    pub(super) fn new(storage: StorageIndex, mark: Mark) -> Self {
        debug_assert!(storage.raw() < 1 << MARK_SHIFT);
        let bits = match mark {
            Mark::Good => 0,
            Mark::Writing => 1,
            Mark::Corrupt => 2,
            Mark::Outdated => 3,
        };
        Self(storage.raw() | bits << MARK_SHIFT)
    }

    pub(super) fn storage(self) -> StorageIndex {
        StorageIndex::from_raw(self.0 & ((1 << MARK_SHIFT) - 1))
    }

    pub(super) fn mark(self) -> Mark {
        match self.0 >> MARK_SHIFT {
            0 => Mark::Good,
            1 => Mark::Writing,
            2 => Mark::Corrupt,
            _ => Mark::Outdated,
        }
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}@{}", self.mark(), self.storage().raw())
    }
}

/// Replicas in the order in which they became known; each storage at most once.
#[derive(Clone)]
pub(super) enum ReplicaSet {
    /// The first `len` of `slots` are in use.
    Inline { len: u8, slots: [Replica; INLINE] },
    /// Boxed so that the enum stays at 16 bytes.
    #[allow(clippy::box_collection)]
    Heap(Box<Vec<Replica>>),
}

const INLINE: usize = 3;
const UNUSED: Replica = Replica(0);

impl Default for ReplicaSet {
    fn default() -> Self {
        Self::Inline { len: 0, slots: [UNUSED; INLINE] }
    }
}

impl ReplicaSet {
    pub(super) fn as_slice(&self) -> &[Replica] {
        match self {
            Self::Inline { len, slots } => &slots[..usize::from(*len)],
            Self::Heap(replicas) => replicas,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Replica> + '_ {
        self.as_slice().iter().copied()
    }

    /// Mark of the replica on `storage`.
    pub(super) fn mark_on(&self, storage: StorageIndex) -> Option<Mark> {
        self.iter().find(|replica| replica.storage() == storage).map(Replica::mark)
    }

    /// Adds the replica on `storage`, or changes its mark; answers the mark it had.
    pub(super) fn set(&mut self, storage: StorageIndex, mark: Mark) -> Option<Mark> {
        let replica = Replica::new(storage, mark);
        if let Some(known) = self.as_mut_slice().iter_mut().find(|known| known.storage() == storage) {
            return Some(std::mem::replace(known, replica).mark());
        }
        match self {
            Self::Inline { len, slots } if usize::from(*len) < INLINE => {
                slots[usize::from(*len)] = replica;
                *len += 1;
            }
            Self::Inline { slots, .. } => {
                let mut replicas = slots.to_vec();
                replicas.push(replica);
                *self = Self::Heap(Box::new(replicas));
            }
            Self::Heap(replicas) => replicas.push(replica),
        }
        None
    }

    /// Forgets the replica on `storage`; answers the mark it had.
    pub(super) fn remove(&mut self, storage: StorageIndex) -> Option<Mark> {
        let position = self.iter().position(|replica| replica.storage() == storage)?;
        let mark = self.as_slice()[position].mark();
        match self {
            Self::Inline { len, slots } => {
                slots.copy_within(position + 1.., position);
                *len -= 1;
            }
            Self::Heap(replicas) => {
                replicas.remove(position);
                if let [a, b, c] = replicas[..] {
                    *self = Self::Inline { len: 3, slots: [a, b, c] };
                }
            }
        }
        Some(mark)
    }

    fn as_mut_slice(&mut self) -> &mut [Replica] {
        match self {
            Self::Inline { len, slots } => &mut slots[..usize::from(*len)],
            Self::Heap(replicas) => replicas,
        }
    }
}

impl std::fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_takes_sixteen_bytes() {
        assert_eq!(size_of::<ReplicaSet>(), 16);
    }

    #[test]
    fn replicas_move_between_inline_and_heap() {
        let mut set = ReplicaSet::default();
        let mut model: Vec<(u32, Mark)> = Vec::new();
        let mut random = super::super::random::Random::new(11);
        for step in 0..5_000 {
            let raw = u32::try_from(random.index(7)).expect("below 7");
            let storage = StorageIndex::from_raw(raw);
            let known = model.iter().position(|(s, _)| *s == raw);
            if random.index(2) == 0 {
                let mark = [Mark::Good, Mark::Writing, Mark::Corrupt, Mark::Outdated][random.index(4)];
                let before = set.set(storage, mark);
                assert_eq!(before, known.map(|at| model[at].1), "step {step}");
                match known {
                    Some(at) => model[at].1 = mark,
                    None => model.push((raw, mark)),
                }
            } else {
                assert_eq!(set.remove(storage), known.map(|at| model.remove(at).1), "step {step}");
            }
            let held: Vec<_> = set.iter().map(|r| (r.storage().raw(), r.mark())).collect();
            assert_eq!(held, model, "step {step}");
        }
    }
}
