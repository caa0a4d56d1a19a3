//! `BackupProtocol`: the whole namespace as a stream, while the namenode serves.

use std::pin::Pin;
use std::sync::Arc;

use dfs_proto::{ErrorKind, RpcError};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::context::{Context, wall_clock_ns};
use crate::log::backup_protocol_server::BackupProtocol;
use crate::log::{BackupChunk, BackupRequest};
use crate::maintenance::{BackupHeader, FrameEncoder};

/// The service.
pub struct BackupService {
    context: Arc<Context>,
}

impl BackupService {
    /// Serves from `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl BackupProtocol for BackupService {
    type BackupStream = Pin<Box<dyn Stream<Item = Result<BackupChunk, Status>> + Send>>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let caller =
            self.context.caller(request.get_ref().context.as_ref()).await.map_err(|e| e.to_status())?;
        if !caller.superuser {
            return Err(RpcError::new(ErrorKind::NotPermitted, "backup", "superuser only").to_status());
        }
        // What a backup holds is on disk here too.
        self.context.sync(None).await.map_err(|e| e.to_status())?;
        let consensus = self.context.consensus.clone();
        let begun = tokio::task::spawn_blocking(move || {
            let (txn, position) = consensus.begin_backup()?;
            Ok::<_, crate::consensus::ConsensusError>((position, consensus.stream_rows(txn)?))
        });
        let failed = |reason: String| RpcError::new(ErrorKind::Internal, "backup", reason).to_status();
        let (position, parts) = begun
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(dfs_proto::error::one_line(&error)))?;
        let header = BackupHeader::of(&position, wall_clock_ns());
        tracing::info!(user = caller.user, index = header.index, "backup begins");
        let mut encoder = FrameEncoder::new(&header);
        let first = BackupChunk { data: header.encode().to_vec().into() };
        let frames =
            ReceiverStream::new(parts).map(move |part| Ok(BackupChunk { data: encoder.frame(&part).into() }));
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(frames))))
    }
}
