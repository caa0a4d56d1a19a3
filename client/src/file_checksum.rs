//! Checksum of a whole file.
//!
//! Each block's datanode composes the block's CRC from the stored chunk checksums (no data is read); the client composes
//! the file's CRC from those. A CRC of a whole is a function of the CRCs and lengths of its parts, so the result does
//! not depend on how the file is cut.

use std::fmt;
use std::sync::Arc;

use dfs_proto::checksum::ChecksumKind;
use dfs_proto::data_transfer::{Op, encode_op};
use dfs_proto::transfer::{
    BaseHeaderProto, BlockOpResponseProto, ChecksumTypeProto, OpBlockChecksumProto, Status,
};
use futures::{StreamExt, TryStreamExt};

use crate::block_map::{BlockMap, Extent};
use crate::connection::DataConnection;
use crate::dfs_client::Inner;
use crate::replica_reads::{Attempts, Choice, patience};
use crate::{DfsError, TransferFault, datanode};

/// Blocks asked about at the same time: hides the round trips without crowding the datanodes.
const PARALLEL_BLOCKS: usize = 8;

/// Checksum of a file's content: the CRC of all its bytes, so that equal content has equal checksums whatever the block
/// size, the chunk size and the replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileChecksum {
    /// Algorithm: CRC-32 (the default of this client) or CRC-32C.
    pub kind: ChecksumKind,
    /// The CRC.
    pub crc: u32,
    /// Bytes it covers.
    pub length: u64,
}

impl FileChecksum {
    pub(crate) async fn compute(client: &Arc<Inner>, path: &str) -> Result<Self, DfsError> {
        let (map, status) = BlockMap::open(Arc::clone(client), path).await?;
        if status.under_construction {
            return Err(DfsError::BeingWritten { path: path.to_owned() });
        }
        let block_size = status.block_size.max(1);
        let starts = (0..status.size.div_ceil(block_size)).map(|index| index * block_size);
        let parts = futures::stream::iter(starts)
            .map(|start| range_checksum(&map, start, (start + block_size).min(status.size)));
        let whole = parts
            .buffered(PARALLEL_BLOCKS)
            .try_fold(Part::Zeros(0), |whole, part| async move {
                whole.join(part).ok_or_else(|| DfsError::MixedChecksums { path: path.to_owned() })
            })
            .await?;
        Ok(match whole {
            Part::Data(checksum) => checksum,
            Part::Zeros(length) => Self::of_zeros(ChecksumKind::Crc32, length),
        })
    }

    /// Checksum of `length` zeros, joined from pieces that double in length.
    fn of_zeros(kind: ChecksumKind, length: u64) -> Self {
        let mut whole = Self { kind, crc: 0, length: 0 };
        let crc = match kind {
            ChecksumKind::Null => 0,
            ChecksumKind::Crc32 => crc32fast::hash(&[0]),
            ChecksumKind::Crc32c => crc32c::crc32c(&[0]),
        };
        let (mut piece, mut left) = (Self { kind, crc, length: 1 }, length);
        while left > 0 {
            if left & 1 == 1 {
                whole = whole.followed_by(piece);
            }
            left >>= 1;
            if left > 0 {
                piece = piece.followed_by(piece);
            }
        }
        whole
    }

    /// Checksum of `self` followed by `next`, if both are of one kind.
    fn join(self, next: Self) -> Option<Self> {
        (self.kind == next.kind).then(|| self.followed_by(next))
    }

    /// Checksum of `self` followed by `next`, which is of the same kind.
    fn followed_by(self, next: Self) -> Self {
        let crc = match self.kind {
            ChecksumKind::Null => 0,
            ChecksumKind::Crc32 => {
                let mut hasher = crc32fast::Hasher::new_with_initial_len(self.crc, self.length);
                hasher.combine(&crc32fast::Hasher::new_with_initial_len(next.crc, next.length));
                hasher.finalize()
            }
            // No machine whose addresses are shorter holds a file of ours.
            ChecksumKind::Crc32c => crc32c::crc32c_combine(self.crc, next.crc, next.length as usize),
        };
        Self { kind: self.kind, crc, length: self.length + next.length }
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

/// Part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Bytes of blocks.
    Data(FileChecksum),
    /// A hole of this length: its checksum depends on the kind of its neighbours'.
    Zeros(u64),
}

impl Part {
    /// `self` followed by `next`, if their checksums are of one kind.
    fn join(self, next: Self) -> Option<Self> {
        Some(match (self, next) {
            (Self::Zeros(before), Self::Zeros(behind)) => Self::Zeros(before + behind),
            (Self::Data(before), Self::Data(behind)) => Self::Data(before.join(behind)?),
            (Self::Zeros(length), Self::Data(data)) => {
                Self::Data(FileChecksum::of_zeros(data.kind, length).followed_by(data))
            }
            (Self::Data(data), Self::Zeros(length)) => {
                Self::Data(data.followed_by(FileChecksum::of_zeros(data.kind, length)))
            }
        })
    }
}

/// Checksum of a range of the file that starts with a block, if there is one.
async fn range_checksum(map: &BlockMap, start: u64, end: u64) -> Result<Part, DfsError> {
    let (mut whole, mut at) = (Part::Zeros(0), start);
    while at < end {
        let part = match map.extent_at(at).await? {
            Extent::Hole { end: hole_end } => Part::Zeros(hole_end.min(end) - at),
            Extent::Block(_) => Part::Data(block_checksum(map, at).await?),
        };
        at += match part {
            Part::Data(checksum) => checksum.length.max(1),
            Part::Zeros(length) => length,
        };
        whole = whole.join(part).ok_or_else(|| DfsError::MixedChecksums { path: map.path().to_owned() })?;
    }
    Ok(whole)
}

/// Asks the replicas of the block at `offset` of the file until one answers.
async fn block_checksum(map: &BlockMap, offset: u64) -> Result<FileChecksum, DfsError> {
    let mut attempts = Attempts::default();
    loop {
        let choice = map.choose_replica(offset, "", &mut attempts).await?;
        match ask(map.client(), &choice).await {
            Ok(checksum) => return Ok(checksum),
            Err(fault) => map.give_up(&choice, fault, &mut attempts),
        }
    }
}

async fn ask(client: &Inner, choice: &Choice) -> Result<FileChecksum, TransferFault> {
    let config = &client.config;
    let patience = patience(config, choice.hurried);
    let connect_timeout = config.datanode_connect_timeout.min(patience);
    let block = choice.block.block.ok_or(TransferFault::Unexpected { field: "block" })?;
    let address = datanode::address(&choice.location)?;
    let mut connection = DataConnection::connect(address, connect_timeout, patience).await?;
    let header =
        BaseHeaderProto { block: datanode::extended(&client.defaults.block_pool_id, block), token: None };
    connection.send(&encode_op(Op::BlockChecksum, &OpBlockChecksumProto { header, verify: None })).await?;
    let response: BlockOpResponseProto = connection.read_message().await?;
    if response.status() != Status::Success {
        return Err(TransferFault::Refused {
            status: response.status,
            message: response.message.unwrap_or_default(),
        });
    }
    let answer = response.checksum_response.ok_or(TransferFault::Unexpected { field: "response" })?;
    let kind = match answer.crc_type() {
        ChecksumTypeProto::ChecksumNull => ChecksumKind::Null,
        ChecksumTypeProto::ChecksumCrc32 => ChecksumKind::Crc32,
        ChecksumTypeProto::ChecksumCrc32c => ChecksumKind::Crc32c,
    };
    let crc: [u8; 4] = answer
        .block_checksum
        .as_ref()
        .try_into()
        .map_err(|_| TransferFault::Unexpected { field: "block checksum" })?;
    Ok(FileChecksum { kind, crc: u32::from_be_bytes(crc), length: block.length })
}

impl fmt::Display for FileChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::checksum::Checksum;

    fn of(kind: ChecksumKind, data: &[u8]) -> FileChecksum {
        let crc = Checksum::new(kind, 512).expect("valid").of(data);
        FileChecksum { kind, crc, length: data.len() as u64 }
    }

    #[test]
    fn the_checksum_of_the_whole_follows_from_the_parts() {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c] {
            for cut in [1, 4096, 65_536, 99_999] {
                let (head, tail) = data.split_at(cut);
                assert_eq!(of(kind, head).join(of(kind, tail)), Some(of(kind, &data)));
            }
        }
        for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c] {
            for length in [0, 1, 2, 4095, 100_000] {
                let zeros = vec![0; length];
                assert_eq!(FileChecksum::of_zeros(kind, length as u64), of(kind, &zeros));
                let with_data = [&zeros[..], b"data", &zeros[..]].concat();
                let parts =
                    [Part::Zeros(length as u64), Part::Data(of(kind, b"data")), Part::Zeros(length as u64)];
                let whole = parts.into_iter().try_fold(Part::Zeros(0), Part::join);
                assert_eq!(whole, Some(Part::Data(of(kind, &with_data))));
            }
        }
        assert_eq!(of(ChecksumKind::Crc32, b"a").join(of(ChecksumKind::Crc32c, b"b")), None);
    }
}
