//! A whole file that is one replica on this machine: a mount hands its descriptor to the kernel, which then reads without asking.
//!
//! What is read that way is not verified again, so that every byte is verified before the descriptor is given.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::OpenFile;
use super::open_file::FileCore;
use crate::TransferFault;
use crate::local_replica::LocalReplica;

/// Bytes verified at once: a few times what a disk gives at a time.
const VERIFIED_PIECE_BYTES: u64 = 1 << 20;
/// Datanodes asked for a certain replica: few have more than one on a machine.
const MAX_REPLICAS_TRIED: usize = 8;

/// The replica's data file.
#[derive(Clone, Debug)]
pub struct LocalFile {
    replica: Arc<LocalReplica>,
    identity: (u64, u64),
}

impl LocalFile {
    /// Which file it is, among all of this machine (device and inode) that anybody has open.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }
}

impl AsFd for LocalFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.replica.data().as_fd()
    }
}

impl OpenFile {
    /// The file as a file of this machine, if it is settled, its only block has a replica here with exactly the file's bytes, at most
    /// `most_bytes`, and all of them verify. Verifying reads the replica once; while it is kept open, not again. Of
    /// several replicas here, the one whose identity is `rather` is preferred.
    pub async fn local_file(&self, most_bytes: u64, rather: Option<(u64, u64)>) -> Option<LocalFile> {
        let found = self.core().local_file(most_bytes, 0).await?;
        let mut nth = 1;
        while let Some(rather) = rather.filter(|rather| *rather != found.identity) {
            // Asked for anew, at the next datanode.
            match self.core().local_file(most_bytes, nth).await {
                Some(other) if other.identity == rather => return Some(other),
                Some(_) if nth < MAX_REPLICAS_TRIED => nth += 1,
                Some(_) | None => break,
            }
        }
        Some(found)
    }
}

impl FileCore {
    /// At the `nth` datanode that has it.
    async fn local_file(&self, most_bytes: u64, nth: usize) -> Option<LocalFile> {
        let size = self.state().size;
        if size == 0 || size > most_bytes.min(self.block_size) {
            return None;
        }
        let (block, replica) = self.local_replica(&(0..size), nth).await?;
        let task = tokio::task::spawn_blocking(move || whole(&replica, size).map(|data| (replica, data)));
        match task.await.unwrap_or_else(|error| Err(io::Error::other(error).into())) {
            Ok((replica, Some(data))) => Some(LocalFile { replica, identity: (data.dev(), data.ino()) }),
            Ok((_, None)) => {
                // Longer than the file, or deleted since it was opened: another may have taken its place.
                self.fs.client.local.forget(&block);
                None
            }
            Err(fault) => {
                self.not_local(&block, &fault);
                None
            }
        }
    }
}

/// Verifies all `size` bytes of a block, unless that was done before. `None`: the replica is not, or no longer, that block's file.
fn whole(replica: &LocalReplica, size: u64) -> Result<Option<Metadata>, TransferFault> {
    let data = replica.data().metadata().map_err(|error| TransferFault::Io(error.into()))?;
    if data.len() != size || data.nlink() == 0 {
        return Ok(None);
    }
    if !replica.is_verified() {
        let (mut buffer, mut sums) = (Vec::new(), Vec::new());
        for offset in (0..size).step_by(VERIFIED_PIECE_BYTES as usize) {
            buffer.resize((size - offset).min(VERIFIED_PIECE_BYTES) as usize, 0);
            replica.read_chunks(&mut buffer, offset, &mut sums)?;
        }
        replica.set_verified();
    }
    Ok(Some(data))
}
