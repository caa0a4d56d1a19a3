//! The inside of a [`FileWriter`](crate::FileWriter): packets on their way from the caller to the streamer.
//!
//! Invariants: packets are handed over in order; one is taken out of `made` only when there is room for it, so that
//! a cancelled call loses nothing; after a failure every call gives the same error.

use std::collections::VecDeque;
use std::sync::Arc;

use dfs_proto::checksum::Checksum;
use dfs_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::dfs_client::Inner;
use crate::lease_renewer::OpenWriter;
use crate::open_block::{OpenBlock, WriteTarget};
use crate::out_packet::{OutPacket, Packetizer};
use crate::streamer::{Command, Streamer};
use crate::unsynced_blocks::UnsyncedBlocks;
use crate::{DfsError, FileStatus};

/// Commands between writer and streamer: what a small file needs (a packet, a last packet and the close). Packets
/// waiting here count to the memory of a writer.
const COMMAND_QUEUE: usize = 3;

/// What a writer is made of.
pub(crate) struct WriterCore {
    pub client: Arc<Inner>,
    pub path: String,
    pub packetizer: Packetizer,
    /// Packets made and not yet taken by the streamer: at most a last packet, the rest of a chunk and one more.
    pub made: VecDeque<OutPacket>,
    commands: mpsc::Sender<Command>,
    pub stage: Stage,
    unsynced: Arc<UnsyncedBlocks>,
    _open: OpenWriter,
}

/// Where a writer stands.
pub(crate) enum Stage {
    /// The streamer was not needed yet.
    Waiting(Box<Streamer>),
    /// It runs.
    Running(JoinHandle<Result<Option<FileStatus>, DfsError>>),
    /// The file is closed.
    Closed(FileStatus),
    /// Writing failed for good.
    Failed(DfsError),
}

impl WriterCore {
    /// A writer at the end of a file: in its `prepared` first block, or in its `reopened` last one; `shown` tells where
    /// it is writing.
    pub(crate) fn new(
        client: Arc<Inner>,
        path: &str,
        status: v1::FileStatus,
        prepared: Option<v1::LocatedBlock>,
        reopened: Option<OpenBlock>,
        shown: watch::Sender<Vec<v1::ReplicaLocation>>,
    ) -> Self {
        let checksum = Checksum::default();
        let unsynced = Arc::new(UnsyncedBlocks::default());
        let target = WriteTarget {
            client: Arc::clone(&client),
            path: path.to_owned(),
            inode: status.inode,
            replication: status.replication as usize,
            checksum,
            random_access: false,
        };
        let (packet_bytes, pool) = (client.config.packet_bytes, Arc::clone(&client.buffers));
        let length = reopened.as_ref().map(|block| block.block.length);
        let packetizer = Packetizer::new(checksum, packet_bytes, status.block_size, length, pool);
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let streamer =
            Box::new(Streamer::new(target, (Arc::clone(&unsynced), shown), prepared, reopened, receiver));
        Self {
            _open: OpenWriter::register(&client),
            client,
            path: path.to_owned(),
            packetizer,
            made: VecDeque::new(),
            commands,
            stage: Stage::Waiting(streamer),
            unsynced,
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), DfsError> {
        match &self.stage {
            Stage::Waiting(_) | Stage::Running(_) => Ok(()),
            Stage::Closed(_) => Err(DfsError::WriterClosed { path: self.path.clone() }),
            Stage::Failed(error) => Err(error.clone()),
        }
    }

    /// Starts the streamer's task, unless it runs.
    fn start(&mut self) {
        let closed = Stage::Failed(DfsError::WriterClosed { path: self.path.clone() });
        self.stage = match std::mem::replace(&mut self.stage, closed) {
            Stage::Waiting(streamer) => Stage::Running(tokio::spawn(streamer.run())),
            other => other,
        };
    }

    /// Gives the streamer the packets that are made.
    pub(crate) async fn hand_over(&mut self) -> Result<(), DfsError> {
        if !self.made.is_empty() {
            self.start();
        }
        // Reserved first: a packet is only taken out when there is room, so cancelling loses nothing.
        while !self.made.is_empty() {
            let Ok(permit) = self.commands.reserve().await else { break };
            if let Some(packet) = self.made.pop_front() {
                permit.send(Command::Packet(packet));
            }
        }
        if self.made.is_empty() { Ok(()) } else { Err(self.failure().await) }
    }

    /// Like [`Self::hand_over`], as far as it goes without waiting. True if all packets are gone.
    pub(crate) fn try_hand_over(&mut self) -> bool {
        if !self.made.is_empty() {
            self.start();
        }
        while !self.made.is_empty() {
            match self.commands.try_reserve() {
                Ok(permit) => {
                    if let Some(packet) = self.made.pop_front() {
                        permit.send(Command::Packet(packet));
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }

    async fn send(&mut self, command: Command) -> Result<(), DfsError> {
        match self.commands.send(command).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Why the streamer ended.
    async fn failure(&mut self) -> DfsError {
        if let Stage::Running(task) = &mut self.stage {
            let error = match task.await {
                Ok(Err(error)) => error,
                // Ended without an error, by a panic or with its runtime: there is nothing more to say.
                Ok(Ok(_)) | Err(_) => DfsError::WriterClosed { path: self.path.clone() },
            };
            self.stage = Stage::Failed(error);
        }
        match &self.stage {
            Stage::Failed(error) => error.clone(),
            Stage::Waiting(_) | Stage::Running(_) | Stage::Closed(_) => {
                DfsError::WriterClosed { path: self.path.clone() }
            }
        }
    }

    pub(crate) async fn flush(&mut self, sync: bool) -> Result<(), DfsError> {
        self.check_open()?;
        self.packetizer.flush(sync, &mut self.made);
        self.hand_over().await?;
        if matches!(self.stage, Stage::Waiting(_)) {
            // Nothing was ever written.
            return Ok(());
        }
        let (done, answered) = oneshot::channel();
        self.send(Command::Barrier { sync, done }).await?;
        if answered.await.is_err() {
            return Err(self.failure().await);
        }
        if sync {
            // Here and not in the streamer, which has to keep the open block's pipeline alive meanwhile.
            self.unsynced.sync_all(&self.client, &self.path).await?;
        }
        Ok(())
    }

    pub(crate) async fn close(&mut self) -> Result<FileStatus, DfsError> {
        match &self.stage {
            Stage::Closed(status) => return Ok(status.clone()),
            Stage::Failed(error) => return Err(error.clone()),
            Stage::Waiting(_) | Stage::Running(_) => {}
        }
        self.packetizer.finish(&mut self.made);
        let small = matches!(self.stage, Stage::Waiting(_)) && self.made.len() < COMMAND_QUEUE;
        if !small {
            self.start();
            self.hand_over().await?;
        }
        while let Some(packet) = self.made.pop_front() {
            self.send(Command::Packet(packet)).await?;
        }
        self.send(Command::Close).await?;
        let gone = Stage::Failed(DfsError::WriterClosed { path: self.path.clone() });
        let outcome = match std::mem::replace(&mut self.stage, gone) {
            Stage::Waiting(streamer) => streamer.run().await,
            Stage::Running(task) => match task.await {
                Ok(outcome) => outcome,
                Err(_) => Err(DfsError::WriterClosed { path: self.path.clone() }),
            },
            Stage::Closed(status) => Ok(Some(status)),
            Stage::Failed(error) => Err(error),
        };
        let outcome = outcome
            .and_then(|status| status.ok_or_else(|| DfsError::WriterClosed { path: self.path.clone() }));
        self.stage = match &outcome {
            Ok(status) => Stage::Closed(status.clone()),
            Err(error) => Stage::Failed(error.clone()),
        };
        outcome
    }
}
