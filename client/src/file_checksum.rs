//! Checksum of a whole file.

use std::fmt;

use dfs_proto::ErrorKind;
use dfs_proto::RpcError;
use dfs_proto::checksum::ChecksumKind;

use crate::DfsError;
use crate::dfs_client::Inner;

/// Checksum of a file's content: the CRC of all its bytes, so that equal content has equal checksums whatever the block
/// size, the chunk size and the replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChecksum {
    /// Algorithm: CRC-32 or CRC-32C.
    pub kind: ChecksumKind,
    /// The CRC.
    pub crc: u32,
    /// Bytes it covers.
    pub length: u64,
}

impl FileChecksum {
    pub(crate) async fn compute(_inner: &Inner, path: &str) -> Result<Self, DfsError> {
        Err(DfsError::refused(path, RpcError::new(ErrorKind::Unsupported, "", "")))
    }

    /// Name of the algorithm as HDFS writes it.
    pub fn algorithm(&self) -> &'static str {
        match self.kind {
            ChecksumKind::Null => "NULL",
            ChecksumKind::Crc32 => "COMPOSITE-CRC32",
            ChecksumKind::Crc32c => "COMPOSITE-CRC32C",
        }
    }
}

impl fmt::Display for FileChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.crc)
    }
}
