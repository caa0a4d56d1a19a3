//! Finds pipeline members that have fallen silent, early enough that a stopped datanode costs a few seconds.
//!
//! Waiting longer would not tell who is to blame: the member we talk to is silent too when one behind it is. So
//! after [`SUSPECT_AFTER`] without progress every member is asked a simple question on its control port; who does not answer
//! is out. If all answer, the pipeline is merely slow and gets its full time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::ErrorKind;
use dfs_proto::v1::{Block, ReplicaLocation};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::dfs_client::Inner;
use crate::pipeline::{Pipeline, PipelineSetup, SetupFailure};
use crate::{TransferFault, datanode};

/// Silence after which members are asked whether they live.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_secs(2);

/// Time in which a member must answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Indexes of the members that do not answer.
pub(crate) async fn silent_members(
    client: &Arc<Inner>,
    block: Block,
    members: &[ReplicaLocation],
) -> Vec<usize> {
    let mut probes = JoinSet::new();
    for (index, member) in members.iter().cloned().enumerate() {
        let client = Arc::clone(client);
        probes.spawn(async move {
            let asked = datanode::visible_length(&member, block, &client.config, PROBE_TIMEOUT);
            // A refusal is an answer: the member lives.
            let lives = match asked.await {
                Ok(_) => true,
                Err(TransferFault::Control(error)) => error.kind != ErrorKind::Unavailable,
                Err(_) => false,
            };
            (index, lives)
        });
    }
    let mut silent = Vec::new();
    while let Some(probe) = probes.join_next().await {
        if let Ok((index, false)) = probe {
            silent.push(index);
        }
    }
    silent
}

/// Sets up a pipeline, and finds out who is to blame if that takes too long.
pub(crate) async fn open_watched(
    client: &Arc<Inner>,
    setup: &PipelineSetup<'_>,
    eager: Vec<Bytes>,
) -> Result<Pipeline, SetupFailure> {
    let mut opening = std::pin::pin!(Pipeline::open(setup, eager));
    loop {
        if let Ok(outcome) = timeout(SUSPECT_AFTER, &mut opening).await {
            return outcome;
        }
        let silent = silent_members(client, setup.block, setup.members).await;
        if !silent.is_empty() {
            return Err(SetupFailure { bad: silent, fault: TransferFault::Timeout });
        }
    }
}
