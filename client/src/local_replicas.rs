//! Replicas on this machine: asks datanodes for the descriptors of their files and keeps those lately used, or for the content of
//! small ones.
//!
//! Invariants: at most [`MAX_REPLICAS`] replicas, with two descriptors each, are kept; a datanode that is not on this
//! machine, or does not answer at once, is left alone for [`AWAY_FOR`]; a replica is known by block id and stamp, so one
//! that was rewritten under another stamp is asked for anew.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::checksum::Checksum;
use dfs_proto::transfer::{ExtendedBlockProto, Status};
use dfs_proto::v1::Block;
use tokio::net::UnixStream;

use crate::TransferFault;
use crate::local_exchange::{Answer, connect, encode_request, exchange, exchange_many, verified};
use crate::local_replica::LocalReplica;

/// Replicas kept: with two descriptors each, half of the 1,024 that a process has by default.
const MAX_REPLICAS: usize = 256;

/// Idle connections kept to one datanode: parallel openings beyond it connect anew.
const MAX_CONNECTIONS: usize = 4;

/// How long a datanode without a socket here, or without an answer, is not asked again.
const AWAY_FOR: Duration = Duration::from_secs(60);

/// Datanodes remembered as away; beyond it, the memory starts anew.
const MAX_AWAY: usize = 4096;

/// Longest wait for an answer: nothing but opening two files.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a datanode on this machine has to give.
#[derive(Debug)]
pub(crate) enum Local {
    /// Open files.
    Replica(Arc<LocalReplica>),
    /// All bytes of a small replica, verified.
    Content(Bytes),
}

/// The replicas.
#[derive(Debug, Default)]
pub(crate) struct LocalReplicas {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By block id and stamp, with the time of the last use in ticks of `clock`.
    replicas: HashMap<(u64, u64), (u64, Arc<LocalReplica>)>,
    clock: u64,
    /// By datanode (uuid).
    idle: HashMap<String, Vec<UnixStream>>,
    away: HashMap<String, Instant>,
}

impl LocalReplicas {
    /// The replica of `block` if it is kept here already.
    fn kept(&self, block: &Block) -> Option<Arc<LocalReplica>> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let (used, replica) = state.replicas.get_mut(&key(block))?;
        *used = now;
        Some(Arc::clone(replica))
    }

    /// The replica of a block on the datanode `uuid`, if that is on this machine and has it finalized.
    pub(crate) async fn get(
        &self,
        uuid: &str,
        block: &Block,
        named: ExtendedBlockProto,
    ) -> Option<Arc<LocalReplica>> {
        match self.get_up_to(uuid, block, named, 0).await? {
            Local::Replica(replica) => Some(replica),
            Local::Content(_) => None,
        }
    }

    /// The same, or the content of a replica of at most `content_up_to` bytes, which is not kept.
    pub(crate) async fn get_up_to(
        &self,
        uuid: &str,
        block: &Block,
        named: ExtendedBlockProto,
        content_up_to: u64,
    ) -> Option<Local> {
        if let Some(kept) = self.kept(block) {
            return Some(Local::Replica(kept));
        }
        if self.is_away(uuid) {
            return None;
        }
        let asked = tokio::time::timeout(PATIENCE, self.ask(uuid, named, content_up_to)).await;
        match asked.unwrap_or(Err(TransferFault::Timeout)) {
            Ok(answer) => {
                if let Some(Local::Replica(replica)) = &answer {
                    self.keep(block, replica);
                }
                answer
            }
            Err(fault) if fault.is_corruption() => {
                tracing::debug!(datanode = uuid, %block, %fault, "local content does not verify");
                None
            }
            Err(fault) => {
                tracing::debug!(datanode = uuid, %fault, "no local reads");
                self.note_away(uuid);
                None
            }
        }
    }

    /// The contents of small replicas on the datanode `uuid`, in one exchange: `came` gets each that there is, with its place among the
    /// blocks. False if the datanode is not here, or left off before all was answered.
    pub(crate) async fn contents(
        &self,
        uuid: &str,
        blocks: &[ExtendedBlockProto],
        came: &mut (dyn FnMut(usize, Bytes) + Send),
    ) -> bool {
        if self.is_away(uuid) {
            return false;
        }
        let idle = self.lock().idle.get_mut(uuid).and_then(Vec::pop);
        let stream = match idle.map_or_else(|| connect(uuid), Ok) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(datanode = uuid, %error, "no local reads");
                self.note_away(uuid);
                return false;
            }
        };
        match exchange_many(stream, blocks, came).await {
            Ok(stream) => {
                self.put_idle(uuid, stream);
                true
            }
            Err(fault) => {
                tracing::debug!(datanode = uuid, %fault, "local contents did not come");
                false
            }
        }
    }

    fn put_idle(&self, uuid: &str, stream: UnixStream) {
        let mut state = self.lock();
        let idle = state.idle.entry(uuid.to_owned()).or_default();
        if idle.len() < MAX_CONNECTIONS {
            idle.push(stream);
        }
    }

    /// Takes a replica out: it could not be read.
    pub(crate) fn forget(&self, block: &Block) {
        self.lock().replicas.remove(&key(block));
    }

    /// `None`: the datanode does not have it, or not finalized.
    async fn ask(
        &self,
        uuid: &str,
        named: ExtendedBlockProto,
        content_up_to: u64,
    ) -> Result<Option<Local>, TransferFault> {
        let request = encode_request(named, content_up_to);
        let idle = self.lock().idle.get_mut(uuid).and_then(Vec::pop);
        let answered = match idle {
            // The datanode closes what is idle for long: then once more on a new connection.
            Some(stream) => exchange(stream, &request).await.ok(),
            None => None,
        };
        let (stream, Answer { response, rest, mut files }) = match answered {
            Some(answered) => answered,
            None => exchange(connect(uuid)?, &request).await?,
        };
        self.put_idle(uuid, stream);
        if response.status() != Status::Success {
            return Ok(None);
        }
        let info = response.read_op_checksum_info.ok_or(TransferFault::Unexpected { field: "response" })?;
        let checksum = Checksum::from_proto(&info.checksum)?;
        if let Some(length) = response.content_length {
            return verified(checksum, length as usize, rest).map(|bytes| Some(Local::Content(bytes)));
        }
        let (Some(meta), Some(data), None) = (files.pop(), files.pop(), files.pop()) else {
            return Err(TransferFault::Unexpected { field: "descriptors" });
        };
        let replica = LocalReplica::new(File::from(data), File::from(meta), checksum);
        Ok(Some(Local::Replica(Arc::new(replica))))
    }

    fn keep(&self, block: &Block, replica: &Arc<LocalReplica>) {
        let mut state = self.lock();
        if state.replicas.len() >= MAX_REPLICAS {
            let oldest = state.replicas.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                state.replicas.remove(&oldest);
            }
        }
        state.clock += 1;
        let now = state.clock;
        state.replicas.insert(key(block), (now, Arc::clone(replica)));
    }

    fn is_away(&self, uuid: &str) -> bool {
        self.lock().away.get(uuid).is_some_and(|since| since.elapsed() < AWAY_FOR)
    }

    fn note_away(&self, uuid: &str) {
        let mut state = self.lock();
        if state.away.len() >= MAX_AWAY {
            state.away.clear();
        }
        state.away.insert(uuid.to_owned(), Instant::now());
        state.idle.remove(uuid);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(block: &Block) -> (u64, u64) {
    (block.id, block.generation_stamp)
}
