//! From an inode to a name that it has.

use dfs_proto::{InodeId, MAX_PATH_DEPTH};

use super::error::NamesystemError;
use super::rows::Rows;
use super::snapshot::Snapshot;

impl Snapshot {
    /// Block size of a file.
    pub fn block_size_of(&self, inode: InodeId) -> Result<u64, NamesystemError> {
        Ok(self.existing_inode(inode)?.block_size)
    }

    /// A path of an inode; `None`: it has none any more. Looks for the name of each step in its directory, so it is for
    /// questions that people ask. Of a file with several names, one that its recorded parent has.
    pub fn path_of(&self, inode: InodeId) -> Result<Option<Vec<u8>>, NamesystemError> {
        let mut names = Vec::new();
        let mut at = inode;
        while at != InodeId::ROOT && names.len() <= MAX_PATH_DEPTH {
            let Some(node) = self.inode(at)? else { return Ok(None) };
            let mut name = None;
            for row in self.entries_after(node.parent, b"")? {
                let (found, entry) = row?;
                if entry.inode == at {
                    name = Some(found);
                    break;
                }
            }
            let Some(name) = name else { return Ok(None) };
            names.push(name);
            at = node.parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Ok(Some(path))
    }
}
