//! Typed ids. Each is one integer with no arithmetic but what means something.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The raw integer, for messages and file formats.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl From<u64> for $name {
            fn from(raw: u64) -> Self {
                Self(raw)
            }
        }
    };
}

id! {
    /// Names a node of the namespace for its life; never used again.
    InodeId
}

id! {
    /// Names a block for its life; never used again.
    BlockId
}

id! {
    /// Orders the incarnations of a block: raised on append and on recovery, so that a replica with
    /// an older stamp is known to be stale.
    GenerationStamp
}

impl InodeId {
    /// The root directory.
    pub const ROOT: InodeId = InodeId(1);
}

impl GenerationStamp {
    /// The stamp after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for InodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode {}", self.0)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blk_{}", self.0)
    }
}

impl fmt::Display for GenerationStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// HDFS's spelling of a block with its stamp: `blk_<id>_<stamp>`.
pub fn block_name(id: BlockId, stamp: GenerationStamp) -> String {
    format!("{id}_{stamp}")
}

impl crate::v1::Block {
    /// Typed block id.
    pub const fn block_id(&self) -> BlockId {
        BlockId(self.id)
    }

    /// Typed generation stamp.
    pub const fn stamp(&self) -> GenerationStamp {
        GenerationStamp(self.generation_stamp)
    }
}

impl fmt::Display for crate::v1::Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blk_{}_{}", self.id, self.generation_stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_spelled_as_in_hdfs() {
        assert_eq!(block_name(BlockId(7), GenerationStamp(1001)), "blk_7_1001");
        assert_eq!(GenerationStamp(1001).next(), GenerationStamp(1002));
    }
}
