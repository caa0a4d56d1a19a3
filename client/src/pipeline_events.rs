//! What a pipeline tells its writer, whichever kind of writer that is, and what its silence means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::transfer::PipelineAckProto;

use crate::TransferFault;
use crate::dfs_client::Inner;
use crate::open_block::OpenBlock;
use crate::out_packet::heartbeat;
use crate::pipeline::Pipeline;
use crate::pipeline_watch::Findings;

/// Silence after which an idle pipeline gets a heartbeat: well below the datanodes' read timeouts.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// What happened first.
pub(crate) enum PipelineEvent {
    /// An acknowledgement came, or bytes went out.
    Ack(Option<PipelineAckProto>),
    Fault(TransferFault),
    /// Who is to blame for little progress.
    Found(Findings),
    /// Nothing to do for a while.
    Idle,
}

impl OpenBlock {
    /// Waits for what the pipeline does next. When nothing is acknowledged for a while, the members are asked how they get on.
    /// `busy`: packets are on their way; otherwise `idle_until` is when the writer wants to know at the latest. Cancelling it loses
    /// nothing.
    pub(crate) async fn next_event(
        &mut self,
        client: &Arc<Inner>,
        busy: bool,
        idle_until: Option<Instant>,
    ) -> PipelineEvent {
        loop {
            let Self { block, members, pipeline: Some(pipeline), watch, .. } = self else {
                return PipelineEvent::Fault(TransferFault::Unexpected { field: "pipeline" });
            };
            let lost = pipeline.moved + client.config.datanode_timeout;
            let heartbeat_at = pipeline.moved + HEARTBEAT_INTERVAL;
            let next = match busy {
                false => idle_until.map_or(heartbeat_at, |until| until.min(heartbeat_at)),
                true if watch.inquires() => lost,
                true => lost.min(watch.suspicious_at()),
            };
            let deadline = tokio::time::Instant::from_std(next);
            tokio::select! {
                biased;
                progress = pipeline.progress() => return match progress {
                    Ok(ack) => PipelineEvent::Ack(ack),
                    Err(fault) => PipelineEvent::Fault(fault),
                },
                found = watch.findings() => return PipelineEvent::Found(found),
                () = tokio::time::sleep_until(deadline) => match busy {
                    false => return PipelineEvent::Idle,
                    true if next == lost => return PipelineEvent::Fault(TransferFault::Timeout),
                    true => {
                        let star = pipeline.is_star();
                        watch.start(client, (*block, members), star);
                    }
                },
            }
        }
    }

    /// Shows the datanodes of an idle pipeline that its writer lives.
    pub(crate) fn queue_heartbeat(&mut self) {
        if let Some(pipeline) = &mut self.pipeline {
            pipeline.queue_heartbeat(heartbeat());
        }
    }

    /// Whether packets go to every member at once.
    pub(crate) fn is_star(&self) -> bool {
        self.pipeline.as_ref().is_some_and(Pipeline::is_star)
    }
}
