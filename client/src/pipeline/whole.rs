//! A small block goes to every member at once.
//!
//! In a chain its bytes wait for a thread of each member in turn, and so do the acknowledgements. A block of a few packets' size
//! costs the writer's network little three times, and each member has one message to take and one to send.

use bytes::Bytes;
use dfs_proto::transfer::{PipelineAckProto, Status};
use dfs_proto::v1::ReplicaLocation;
use futures::future::join_all;

use super::{Pipeline, PipelineSetup, SetupFailure, refusal};
use crate::TransferFault;

/// Packets of such a block: its data, and the one that ends it.
const PACKETS: usize = 2;

impl Pipeline {
    /// Sends the block to all members and waits for all their acknowledgements, which [`Pipeline::progress`] gives out.
    pub(super) async fn send_whole(
        setup: &PipelineSetup<'_>,
        packets: &[Bytes],
    ) -> Result<Self, SetupFailure> {
        let sends = setup.members.iter().map(|member| send(setup, member, packets));
        let mut done = Vec::with_capacity(setup.members.len());
        let mut failure: Option<SetupFailure> = None;
        for (index, outcome) in join_all(sends).await.into_iter().enumerate() {
            match outcome {
                Ok(sent) => done.push(sent),
                Err(fault) => {
                    failure.get_or_insert(SetupFailure { bad: Vec::new(), fault }).bad.push(index);
                }
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        let mut done = done.into_iter();
        let Some((mut pipeline, acks)) = done.next() else {
            let fault = TransferFault::Unexpected { field: "empty pipeline" };
            return Err(SetupFailure { bad: vec![0], fault });
        };
        for mut ack in acks {
            ack.reply = vec![Status::Success.into(); setup.members.len()];
            pipeline.early.push_back(ack);
        }
        pipeline.others = done.map(|(other, _)| other.connection).collect();
        Ok(pipeline)
    }
}

/// Sends the block to one member and waits for its acknowledgements.
async fn send(
    setup: &PipelineSetup<'_>,
    member: &ReplicaLocation,
    packets: &[Bytes],
) -> Result<(Pipeline, Vec<PipelineAckProto>), TransferFault> {
    let (mut pipeline, response) = Pipeline::start(setup, member, &[], packets).await?;
    if response.status() != Status::Success {
        return Err(refusal(&response));
    }
    let mut acks = Vec::with_capacity(PACKETS);
    while acks.len() < PACKETS {
        let ack: PipelineAckProto = pipeline.connection.read_message().await?;
        if let Some(status) = ack.reply.iter().find(|status| **status != i32::from(Status::Success)) {
            return Err(TransferFault::BadAck { status: *status });
        }
        acks.push(ack);
    }
    Ok((pipeline, acks))
}
