//! Format of the file that holds this node's vote, and which node this is.
//!
//! The file `vote` is replaced as a whole (see [`super::durable_file`]), so nothing of it can be torn.
//! Little endian.
//!
//! | offset | size | field     | rule                                        |
//! |--------|------|-----------|---------------------------------------------|
//! | 0      | 8    | magic     | "dfs-vote"                                  |
//! | 8      | 4    | layout    | 1                                           |
//! | 12     | 4    | committed | 0 or 1: a quorum granted the vote           |
//! | 16     | 8    | this node | node id that the directory belongs to       |
//! | 24     | 8    | term      |                                             |
//! | 32     | 8    | node id   | node voted for                              |
//! | 40     | 4    | crc       | CRC-32C of bytes 0..40                      |
//! | 44     | 4    | reserved  | zero                                        |

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::dir_lock;
use super::durable_file;
use super::error::{ConsensusError, Damage};
use super::raft_types::Vote;
use super::record::{u32_at, u64_at};

const MAGIC: &[u8; 8] = b"dfs-vote";
const LAYOUT: u32 = 1;
const BYTES: usize = 48;

/// Name of the vote file.
const FILE_NAME: &str = "vote";

/// What may be in a directory that has no vote yet: traces of a first start that did not get so far, and what a new
/// file system brings.
const BEFORE_THE_VOTE: [&str; 3] = [dir_lock::FILE_NAME, "vote.tmp", "lost+found"];

/// Where the vote of `dir` is.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

/// Refuses a directory that is neither empty nor has a vote: it is somebody else's, or has lost its vote.
pub fn check_directory(dir: &Path) -> Result<(), ConsensusError> {
    let failed = |error| ConsensusError::io(dir, "read", error);
    if path(dir).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !BEFORE_THE_VOTE.iter().any(|known| name == *known) {
            return Err(ConsensusError::ForeignDirectory { dir: dir.to_owned(), name });
        }
    }
    Ok(())
}

/// The vote file of a directory.
#[derive(Debug)]
pub struct VoteFile {
    path: PathBuf,
    node_id: u64,
}

/// Which node the directory `dir` belongs to, and its vote.
pub fn read(dir: &Path) -> Result<(u64, Vote), ConsensusError> {
    let path = path(dir);
    match fs::read(&path) {
        Ok(bytes) => decode(&bytes).map_err(|reason| ConsensusError::Damaged { path, offset: 0, reason }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(ConsensusError::NoDirectory { dir: dir.to_owned() })
        }
        Err(error) => Err(ConsensusError::io(path, "read", error)),
    }
}

impl VoteFile {
    /// Opens the vote file of `dir` and reads the vote. A new file is made for `node_id`; the file of
    /// another node is refused, since two nodes with one id would vote twice.
    pub fn open(dir: &Path, node_id: u64) -> Result<(Self, Vote), ConsensusError> {
        let file = Self { path: path(dir), node_id };
        match fs::read(&file.path) {
            Ok(bytes) => {
                let damaged = |reason| ConsensusError::Damaged { path: file.path.clone(), offset: 0, reason };
                let (found, vote) = decode(&bytes).map_err(damaged)?;
                if found != node_id {
                    return Err(ConsensusError::OtherNode { path: file.path, found, configured: node_id });
                }
                Ok((file, vote))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let vote = Vote::default();
                file.save(&vote)?;
                Ok((file, vote))
            }
            Err(error) => Err(ConsensusError::io(file.path, "read", error)),
        }
    }

    /// Replaces the vote; durable on return.
    pub fn save(&self, vote: &Vote) -> Result<(), ConsensusError> {
        durable_file::replace(&self.path, &encode(self.node_id, vote)).map(drop)
    }
}

pub(super) fn encode(this_node: u64, vote: &Vote) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[0..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::from(vote.committed).to_le_bytes());
    bytes[16..24].copy_from_slice(&this_node.to_le_bytes());
    bytes[24..32].copy_from_slice(&vote.leader_id.term.to_le_bytes());
    bytes[32..40].copy_from_slice(&vote.leader_id.node_id.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..40]);
    bytes[40..44].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Which node the file belongs to, and its vote.
pub(super) fn decode(bytes: &[u8]) -> Result<(u64, Vote), Damage> {
    if bytes.len() != BYTES {
        return Err(Damage::Short);
    }
    if &bytes[0..8] != MAGIC {
        return Err(Damage::Magic);
    }
    if u32_at(bytes, 8) != LAYOUT {
        return Err(Damage::Layout(u32_at(bytes, 8)));
    }
    if crc32c::crc32c(&bytes[..40]) != u32_at(bytes, 40) {
        return Err(Damage::Checksum);
    }
    if u32_at(bytes, 44) != 0 {
        return Err(Damage::Reserved);
    }
    let (term, node_id) = (u64_at(bytes, 24), u64_at(bytes, 32));
    let vote = match u32_at(bytes, 12) {
        0 => Vote::new(term, node_id),
        1 => Vote::new_committed(term, node_id),
        _ => return Err(Damage::Reserved),
    };
    Ok((u64_at(bytes, 16), vote))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let bytes = encode(9, &Vote::new_committed(7, 3));
        let mut expected = Vec::new();
        expected.extend_from_slice(b"dfs-vote"); // magic
        expected.extend_from_slice(&[1, 0, 0, 0]); // layout
        expected.extend_from_slice(&[1, 0, 0, 0]); // committed
        expected.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0]); // this node
        expected.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]); // term
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]); // node voted for
        expected.extend_from_slice(&crc32c::crc32c(&expected).to_le_bytes());
        expected.extend_from_slice(&[0; 4]); // reserved
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!(decode(&bytes), Ok((9, Vote::new_committed(7, 3))));
    }

    #[test]
    fn damage_is_refused() {
        let bytes = encode(1, &Vote::new(7, 3));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Err(Damage::Short), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_vote_is_found_again_and_belongs_to_one_node() {
        let dir = tempfile::tempdir().expect("directory");
        let (file, vote) = VoteFile::open(dir.path(), 1).expect("new");
        assert_eq!(vote, Vote::default());
        file.save(&Vote::new(4, 2)).expect("saved");
        assert_eq!(VoteFile::open(dir.path(), 1).expect("again").1, Vote::new(4, 2));
        assert!(matches!(
            VoteFile::open(dir.path(), 2),
            Err(ConsensusError::OtherNode { found: 1, configured: 2, .. })
        ));
    }
}
