//! Calls on files being written: storages are chosen here, by block management, before the command is
//! proposed; the lease of a silent writer is taken here, because only soft state knows who is silent.

use std::net::IpAddr;
use std::sync::Arc;

use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, InodeId, RpcError};

use super::context::{Context, seed};
use super::status::{rpc_error, wrong_reply};
use super::touched::Touched;
use crate::block_management::PlacementRequest;
use crate::config::MAX_REPLICATION;
use crate::log::reply::Reply;
use crate::log::{self, command::Op};

/// Block sizes are multiples of this, so that a block always holds whole checksum chunks.
const BLOCK_SIZE_UNIT: u64 = dfs_proto::checksum::DEFAULT_BYTES_PER_CHECKSUM as u64;

/// Creates a file, and its first block if asked for and if a datanode can take it.
pub async fn create(
    context: &Arc<Context>,
    request: CreateRequest,
    writer: Option<IpAddr>,
) -> Result<CreateResponse, RpcError> {
    let (replication, block_size) = shape(context, request.replication, request.block_size)?;
    let targets = if request.allocate_block {
        storages(&choose(context, writer, replication, block_size, &[], &[]))
    } else {
        Vec::new()
    };
    let node = request.node.clone();
    let op = Op::Create(log::CreateOp {
        node: request.node,
        mode: request.mode,
        holder: request.holder,
        overwrite: request.overwrite,
        create_parents: request.create_parents,
        replication: u32::from(replication),
        block_size,
        targets,
    });
    match context.change(request.context.clone(), op).await {
        Ok(log::Reply { reply: Some(Reply::Opened(opened)) }) => {
            if request.overwrite {
                context.soft.reclaim.notify_one();
            }
            let block = opened.block.map(|spec| context.located(spec));
            Ok(CreateResponse { status: opened.status, block })
        }
        Ok(_) => Err(wrong_reply("create")),
        Err(error) => Err(take_over_if_silent(context, request.context.as_ref(), node, error).await),
    }
}

/// Replication and block size of a new file, within their bounds.
pub fn shape(context: &Context, replication: u32, block_size: u64) -> Result<(u16, u64), RpcError> {
    let config = &context.config;
    let replication = match replication {
        0 => config.default_replication,
        asked => u16::try_from(asked)
            .ok()
            .filter(|asked| *asked <= MAX_REPLICATION)
            .ok_or_else(|| RpcError::new(ErrorKind::InvalidArgument, "replication", "must be 1 to 512"))?,
    };
    let block_size = match block_size {
        0 => config.default_block_size,
        asked => asked,
    };
    let bounds = config.min_block_size..=config.max_block_size;
    if !bounds.contains(&block_size) || block_size % BLOCK_SIZE_UNIT != 0 {
        let reason = format!(
            "{block_size} bytes: must be a multiple of {BLOCK_SIZE_UNIT} from {} to {}",
            config.min_block_size, config.max_block_size
        );
        return Err(RpcError::new(ErrorKind::InvalidArgument, "block size", reason));
    }
    Ok((replication, block_size))
}

/// Reopens a file at its end.
pub async fn append(context: &Arc<Context>, request: AppendRequest) -> Result<AppendResponse, RpcError> {
    let node = request.node.clone();
    let op = Op::Append(log::AppendOp { node: request.node, holder: request.holder });
    match context.change(request.context.clone(), op).await {
        Ok(log::Reply { reply: Some(Reply::Opened(opened)) }) => Ok(AppendResponse {
            status: opened.status,
            last_block: opened.block.map(|spec| locate_for_append(context, spec)).transpose()?,
            new_generation_stamp: opened.new_generation_stamp,
        }),
        Ok(_) => Err(wrong_reply("append")),
        Err(error) => Err(take_over_if_silent(context, request.context.as_ref(), node, error).await),
    }
}

/// The last block of a file being appended to, with the replicas that exist now.
fn locate_for_append(context: &Context, spec: log::BlockSpec) -> Result<LocatedBlock, RpcError> {
    let mut located = context.located(spec);
    if let Some(block) = &located.block
        && let Some(stored) = context.snapshot()?.block(block.block_id()).map_err(|e| rpc_error(&e))?
    {
        let found = context.soft.blocks().locate(&stored, None, seed());
        if !found.locations.is_empty() {
            located.locations = found.locations;
        }
    }
    Ok(located)
}

/// Allocates the next block of a file.
pub async fn add_block(
    context: &Arc<Context>,
    request: AddBlockRequest,
    writer: Option<IpAddr>,
) -> Result<LocatedBlock, RpcError> {
    let status = file(context, request.inode)?;
    let chosen = choose_or_refuse(context, writer, &status, &request.exclude)?;
    let op = Op::AddBlock(log::AddBlockOp {
        inode: request.inode,
        holder: request.holder,
        previous: request.previous,
        targets: storages(&chosen),
    });
    match context.change(request.context, op).await? {
        log::Reply { reply: Some(Reply::Block(spec)) } => Ok(context.located(spec)),
        _ => Err(wrong_reply("add block")),
    }
}

/// Storages for a new block of a file; at least one.
pub fn choose_or_refuse(
    context: &Context,
    writer: Option<IpAddr>,
    status: &FileStatus,
    exclude: &[String],
) -> Result<Vec<ReplicaLocation>, RpcError> {
    let replication = u16::try_from(status.replication).unwrap_or(MAX_REPLICATION);
    let chosen = choose(context, writer, replication, status.block_size, exclude, &[]);
    if chosen.is_empty() && context.soft.blocks().is_starting() {
        return Err(RpcError::new(ErrorKind::Unavailable, "", "datanodes are still registering"));
    }
    if chosen.is_empty() {
        let stats = context.soft.blocks().stats(context.soft.now_ms());
        let reason = format!(
            "{} live datanodes, {} excluded by the writer, {} bytes free",
            stats.live_datanodes,
            exclude.len(),
            stats.remaining
        );
        return Err(RpcError::new(ErrorKind::NoUsableDatanode, "", reason));
    }
    Ok(chosen)
}

/// More members for a pipeline; nothing is recorded until the pipeline is.
pub fn additional_datanodes(
    context: &Context,
    request: &GetAdditionalDatanodesRequest,
    writer: Option<IpAddr>,
) -> Result<GetAdditionalDatanodesResponse, RpcError> {
    let status = file(context, request.inode)?;
    let wanted = request.existing.len().saturating_add(request.count as usize);
    let replication = u16::try_from(wanted).unwrap_or(MAX_REPLICATION).min(MAX_REPLICATION);
    let mut locations =
        choose(context, writer, replication, status.block_size, &request.exclude, &request.existing);
    locations.truncate(request.count as usize);
    Ok(GetAdditionalDatanodesResponse { locations })
}

/// Cuts a file; done at once at a block edge, else by block recovery.
pub async fn truncate(
    context: &Arc<Context>,
    request: TruncateRequest,
) -> Result<TruncateResponse, RpcError> {
    let node = request.node.clone();
    let op = log::TruncateOp { node: request.node, length: request.length, holder: request.holder };
    match context.change(request.context.clone(), Op::Truncate(op)).await {
        Ok(log::Reply { reply: Some(Reply::Recovery(recovery)) }) => {
            Ok(TruncateResponse { done: recovery.closed })
        }
        Ok(_) => Err(wrong_reply("truncate")),
        Err(error) => Err(take_over_if_silent(context, request.context.as_ref(), node, error).await),
    }
}

/// Takes a file from its writer; a recovery that is under way goes on, however often clients ask.
pub async fn recover_lease(
    context: &Context,
    request: RecoverLeaseRequest,
) -> Result<RecoverLeaseResponse, RpcError> {
    let caller = context.caller(request.context.as_ref()).await?;
    let node = request.node.unwrap_or_default();
    context.settle(request.context.as_ref(), || Touched::name(node.clone())).await?;
    let (status, holder) = context.snapshot()?.writer_of(&caller, &node).map_err(|e| rpc_error(&e))?;
    let now = context.soft.now_ms();
    if holder.is_some() && context.soft.blocks().recovers(now, InodeId(status.inode)) {
        return Ok(RecoverLeaseResponse { closed: false });
    }
    let op = Op::RecoverLease(log::RecoverLeaseOp { node: Some(node) });
    match context.change(request.context, op).await? {
        log::Reply { reply: Some(Reply::Recovery(recovery)) } => {
            Ok(RecoverLeaseResponse { closed: recovery.closed })
        }
        _ => Err(wrong_reply("recover lease")),
    }
}

/// A file by inode, as the namenode itself sees it.
fn file(context: &Context, inode: u64) -> Result<FileStatus, RpcError> {
    let caller = Context::own_caller();
    let node = NodeRef { base: inode, path: Default::default() };
    context.snapshot()?.stat(&caller, &node).map_err(|e| rpc_error(&e))
}

/// Storages for replicas of one block; fewer than asked for if no more can take it.
pub fn choose(
    context: &Context,
    writer_ip: Option<IpAddr>,
    replication: u16,
    block_size: u64,
    exclude: &[String],
    existing: &[String],
) -> Vec<ReplicaLocation> {
    context.soft.blocks().choose_targets(&PlacementRequest {
        writer_ip,
        replication: usize::from(replication),
        block_size,
        exclude,
        existing,
        seed: seed(),
    })
}

/// Storages of locations.
pub fn storages(locations: &[ReplicaLocation]) -> Vec<String> {
    locations.iter().map(|location| location.storage_id.clone()).collect()
}

/// If `error` says that another client writes the file and that client has been silent for longer than
/// the soft limit, starts recovery of the lease and asks the caller to try again.
pub async fn take_over_if_silent(
    context: &Context,
    call: Option<&CallContext>,
    node: Option<NodeRef>,
    error: RpcError,
) -> RpcError {
    if error.kind != ErrorKind::LeaseHeldByOther {
        return error;
    }
    let takes_over = async {
        let caller = context.caller(call).await?;
        let node = node.unwrap_or_default();
        let (status, holder) = context.snapshot()?.writer_of(&caller, &node).map_err(|e| rpc_error(&e))?;
        let now = context.soft.now_ms();
        if !holder.is_some_and(|holder| context.soft.leases().soft_expired(now, &holder)) {
            return Ok(false);
        }
        let node = Some(NodeRef { base: status.inode, path: Default::default() });
        context.own_change(Op::RecoverLease(log::RecoverLeaseOp { node })).await?;
        Ok::<_, RpcError>(true)
    };
    match takes_over.await {
        Ok(true) => {
            RpcError::new(ErrorKind::RecoveryInProgress, error.subject, "its silent writer lost the lease")
        }
        Ok(false) => error,
        Err(other) => other,
    }
}
