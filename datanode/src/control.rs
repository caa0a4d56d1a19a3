//! `DatanodeControl`: what clients, tools and other datanodes ask over gRPC. Disk work goes to the disk workers, syncs to
//! workers of their own: they take long, and nobody who asks for a sign of life may wait behind them.

use std::sync::{Arc, Weak};

use dfs_proto::GenerationStamp;
use dfs_proto::v1::datanode_control_server::DatanodeControl;
use dfs_proto::v1::{
    BalanceDisksAction, BalanceDisksRequest, BalanceDisksStatus, Block, DescribeReplicaRequest, Empty,
    Extent, InitReplicaRecoveryRequest, InitReplicaRecoveryResponse, PipelineProgress, ReplicaDescription,
    ReplicaExtentsRequest, ReplicaExtentsResponse, ReplicaVisibleLengthRequest, ReplicaVisibleLengthResponse,
    ScrubProgress, ScrubRequest, SyncReplicaRequest, TriggerBlockReportRequest,
    UpdateReplicaUnderRecoveryRequest, UpdateReplicaUnderRecoveryResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::dataset::Dataset;
use crate::disk_balancer::DiskBalancer;
use crate::error::DatanodeError;
use crate::namenode_link::changes::ChangeQueue;
use crate::namenode_link::superusers::Superusers;
use crate::replica::{BlockRef, ReplicaState};
use crate::scrub::Scrubber;
use crate::workers::Workers;

/// Messages of scrubs that wait for the network: one a volume, and some.
const PROGRESS_QUEUE: usize = 1_100;
/// Least bandwidth that can be asked for: below, one large replica takes hours.
const BANDWIDTH_MIN: u64 = 64 << 10;

/// The service. It does not own the dataset: connections may outlive the datanode for as long as their peers
/// keep them.
#[derive(Clone, Debug)]
pub struct ControlService {
    dataset: Weak<Dataset>,
    changes: Arc<ChangeQueue>,
    disk_workers: Arc<Workers>,
    sync_workers: Arc<Workers>,
    scrubber: Weak<Scrubber>,
    disk_balancer: Weak<DiskBalancer>,
    superusers: Superusers,
}

impl ControlService {
    /// Serves a dataset.
    pub fn new(
        dataset: &Arc<Dataset>,
        changes: Arc<ChangeQueue>,
        disk_workers: Arc<Workers>,
        sync_workers: Arc<Workers>,
        scrubber: &Arc<Scrubber>,
        disk_balancer: &Arc<DiskBalancer>,
        superusers: Superusers,
    ) -> Self {
        let (dataset, scrubber) = (Arc::downgrade(dataset), Arc::downgrade(scrubber));
        let disk_balancer = Arc::downgrade(disk_balancer);
        Self { dataset, changes, disk_workers, sync_workers, scrubber, disk_balancer, superusers }
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Dataset) -> Result<T, DatanodeError> + Send + 'static,
    ) -> Result<T, Status> {
        self.call_on(&self.disk_workers, work).await
    }

    async fn call_on<T: Send + 'static>(
        &self,
        workers: &Workers,
        work: impl FnOnce(&Dataset) -> Result<T, DatanodeError> + Send + 'static,
    ) -> Result<T, Status> {
        let dataset = self.dataset.upgrade().ok_or_else(|| DatanodeError::Stopping.to_status())?;
        workers.call(move || work(&dataset)).await.map_err(|error| {
            tracing::info!(%error, "control call refused");
            error.to_status()
        })
    }
}

fn named(block: Option<&Block>) -> Result<BlockRef, Status> {
    block.map(BlockRef::from).ok_or_else(|| DatanodeError::Field("block").to_status())
}

#[tonic::async_trait]
impl DatanodeControl for ControlService {
    async fn get_replica_visible_length(
        &self,
        request: Request<ReplicaVisibleLengthRequest>,
    ) -> Result<Response<ReplicaVisibleLengthResponse>, Status> {
        let block = named(request.into_inner().block.as_ref())?;
        let asked = self.call(move |dataset| dataset.visible_length_and_progress(block));
        let (length, progress) = asked.await?;
        let progress = progress.map(|(received, stored)| PipelineProgress { received, stored });
        Ok(Response::new(ReplicaVisibleLengthResponse { length, progress }))
    }

    async fn init_replica_recovery(
        &self,
        request: Request<InitReplicaRecoveryRequest>,
    ) -> Result<Response<InitReplicaRecoveryResponse>, Status> {
        let request = request.into_inner();
        let block = named(request.block.as_ref())?;
        let id = GenerationStamp(request.new_generation_stamp);
        let found = self.call(move |dataset| dataset.begin_recovery(block, id)).await?;
        Ok(Response::new(match found {
            None => InitReplicaRecoveryResponse {
                exists: false,
                block: None,
                original_state: ReplicaState::Rwr.to_proto().into(),
                storage_id: String::new(),
                damaged: false,
            },
            Some(found) => InitReplicaRecoveryResponse {
                exists: true,
                block: Some(found.block.to_proto(found.length)),
                original_state: found.original_state.to_proto().into(),
                storage_id: found.storage_id,
                damaged: found.damaged,
            },
        }))
    }

    async fn update_replica_under_recovery(
        &self,
        request: Request<UpdateReplicaUnderRecoveryRequest>,
    ) -> Result<Response<UpdateReplicaUnderRecoveryResponse>, Status> {
        let request = request.into_inner();
        let block = named(request.block.as_ref())?;
        let id = GenerationStamp(request.new_generation_stamp);
        let storage_id =
            self.call(move |dataset| dataset.finish_recovery(block, id, request.new_length)).await?;
        Ok(Response::new(UpdateReplicaUnderRecoveryResponse { storage_id }))
    }

    async fn sync_replica(&self, request: Request<SyncReplicaRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let block = named(request.block.as_ref())?;
        let length = request.block.map_or(0, |b| b.length);
        let synced = self.call_on(&self.sync_workers, move |dataset| dataset.sync_replica(block, length));
        synced.await?;
        Ok(Response::new(Empty {}))
    }

    async fn replica_extents(
        &self,
        request: Request<ReplicaExtentsRequest>,
    ) -> Result<Response<ReplicaExtentsResponse>, Status> {
        let request = request.into_inner();
        let block = named(request.block.as_ref())?;
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let found = self.call(move |dataset| dataset.extents(block, request.offset, limit)).await?;
        let extents = found.data.iter().map(|(offset, length)| Extent { offset: *offset, length: *length });
        let (extents, end, length) = (extents.collect(), found.end, found.length);
        Ok(Response::new(ReplicaExtentsResponse { extents, end, length }))
    }

    type ScrubStream = ReceiverStream<Result<ScrubProgress, Status>>;

    async fn scrub(&self, request: Request<ScrubRequest>) -> Result<Response<Self::ScrubStream>, Status> {
        self.superusers.check(request.into_inner().context, "scrub").await?;
        let scrubber = self.scrubber.upgrade().ok_or_else(|| DatanodeError::Stopping.to_status())?;
        let (progress, mut told) = mpsc::channel(PROGRESS_QUEUE);
        let mut running = scrubber.scrub_now(&progress);
        // Told of the end of each volume by messages; what is left of the queue ends with its last sender.
        drop(progress);
        let (messages, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            while running > 0
                && let Some(message) = told.recv().await
            {
                running -= usize::from(message.done);
                if messages.send(Ok(message)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn describe_replica(
        &self,
        request: Request<DescribeReplicaRequest>,
    ) -> Result<Response<ReplicaDescription>, Status> {
        let request = request.into_inner();
        let id = named(request.block.as_ref())?.id;
        // Verifying takes long; describing does not.
        let workers = if request.verify { &self.sync_workers } else { &self.disk_workers };
        let described = self.call_on(workers, move |dataset| Ok(dataset.describe(id, request.verify)));
        Ok(Response::new(described.await?))
    }

    async fn balance_disks(
        &self,
        request: Request<BalanceDisksRequest>,
    ) -> Result<Response<BalanceDisksStatus>, Status> {
        let mut request = request.into_inner();
        match request.action() {
            BalanceDisksAction::Get => {}
            BalanceDisksAction::Start | BalanceDisksAction::Stop => {
                self.superusers.check(request.context.take(), "balancing of disks").await?;
            }
        }
        if request.bandwidth.is_some_and(|bandwidth| bandwidth < BANDWIDTH_MIN) {
            return Err(DatanodeError::Field("bandwidth").to_status());
        }
        let balancer = self.disk_balancer.upgrade().ok_or_else(|| DatanodeError::Stopping.to_status())?;
        match request.action() {
            BalanceDisksAction::Get => {}
            BalanceDisksAction::Start => balancer.order(request.bandwidth),
            BalanceDisksAction::Stop => balancer.cancel(),
        }
        let progress = self.call(move |_| Ok(balancer.progress())).await?;
        Ok(Response::new(BalanceDisksStatus {
            running: progress.running,
            replicas_moved: progress.replicas_moved,
            bytes_moved: progress.bytes_moved,
            failures: progress.failures,
            difference: progress.difference,
        }))
    }

    async fn trigger_block_report(
        &self,
        _request: Request<TriggerBlockReportRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.changes.want_full_report();
        Ok(Response::new(Empty {}))
    }
}
