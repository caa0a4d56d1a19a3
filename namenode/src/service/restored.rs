//! A namespace that was restored from a backup: what it keeps, and what becomes of that.

use std::sync::Arc;

use dfs_proto::v1::*;
use dfs_proto::{BlockId, ErrorKind, RpcError};

use super::administration::superuser;
use super::context::Context;
use super::status::rpc_error;
use crate::log::{self, command::Op};
use crate::namesystem::NamesystemError;

/// Blocks adopted in one call: some seconds of a slow disk.
const ADOPTED_MAX: usize = 1_000;

/// Blocks told of in one answer: more than anybody reads.
const TOLD_MAX: usize = 100;

/// Answers how it stands, after doing what the request says.
pub async fn restored(
    context: &Arc<Context>,
    request: RestoredRequest,
) -> Result<RestoredResponse, RpcError> {
    let RestoredRequest { context: call, finish, adopt, discard } = request;
    let mut adopted = 0;
    if adopt {
        let user = superuser(context, call.as_ref(), "restored").await?;
        adopted = adopt_newer(context).await?;
        tracing::info!(user, adopted, "blocks taken over as their newer replicas are");
    }
    if finish {
        let user = superuser(context, call.as_ref(), "restored").await?;
        let newer = context.soft.blocks().newer_blocks();
        if newer > 0 && !discard {
            let reason = format!(
                "{newer} blocks have replicas that are newer than the namespace knows, and would lose them; adopt them first, or discard them"
            );
            return Err(RpcError::new(ErrorKind::InvalidArgument, "restored", reason));
        }
        context.change(call, Op::ForgetRestore(log::ForgetRestoreOp {})).await?;
        context.soft.blocks().keep_unknown(false);
        tracing::info!(user, newer, "replicas that the namespace does not know may be deleted");
    }
    let backup = context.snapshot()?.restored_from().map_err(|e| rpc_error(&e.into()))?;
    let (kept_blocks, newer_blocks, newest) = {
        let blocks = context.soft.blocks();
        let newest = blocks.newer_replicas(BlockId(0), TOLD_MAX);
        (blocks.kept_blocks().unwrap_or(0), blocks.newer_blocks() as u64, newest)
    };
    Ok(RestoredResponse {
        restored: backup.is_some(),
        backup_ns: backup.unwrap_or(0),
        kept_blocks,
        newer_blocks,
        adopted,
        newer: described(context, newest).await?,
    })
}

/// Has the namespace take over blocks. One that was written or deleted meanwhile is left alone.
async fn adopt_newer(context: &Arc<Context>) -> Result<u64, RpcError> {
    let newer = context.soft.blocks().newer_replicas(BlockId(0), ADOPTED_MAX);
    let mut adopted = 0;
    for (block, storage_ids) in newer {
        let op = log::AdoptReplicasOp { block: Some(block), storage_ids };
        match context.own_change(Op::AdoptReplicas(op)).await {
            Ok(_) => adopted += 1,
            Err(error) => tracing::warn!(%block, %error, "newer replicas cannot be taken over"),
        }
    }
    Ok(adopted)
}

/// With what the namespace knows of each.
async fn described(
    context: &Context,
    newest: Vec<(Block, Vec<String>)>,
) -> Result<Vec<NewerBlock>, RpcError> {
    if newest.is_empty() {
        return Ok(Vec::new());
    }
    let looked_up = context.scan(move |snapshot| {
        let mut told = Vec::with_capacity(newest.len());
        for (found, storages) in newest {
            let Some(stored) = snapshot.block(found.block_id())? else { continue };
            let path = snapshot.path_of(stored.inode)?.unwrap_or_default();
            told.push(NewerBlock {
                known: Some(stored.to_proto()),
                found: Some(found),
                path: path.into(),
                replicas: u32::try_from(storages.len()).unwrap_or(u32::MAX),
            });
        }
        Ok::<_, NamesystemError>(told)
    });
    looked_up.await
}
