//! Reads that answer with locations: opening a file and listing a directory.

use std::net::IpAddr;
use std::sync::Arc;

use dfs_proto::v1::*;
use dfs_proto::{BlockId, ErrorKind, InodeId, RpcError};

use super::context::{Context, seed, wall_clock_ns};
use super::status::rpc_error;
use super::touched::Touched;
use crate::log::{self, Caller, command::Op};
use crate::namesystem::{BlockState, NamesystemError, Snapshot, StoredBlock};

/// Blocks answered by one Open or for one file of a located listing.
const OPEN_BLOCKS_MAX: usize = 1_000;

/// Entries of one listing page, HDFS's default.
const LIST_ENTRIES_MAX: usize = 1_000;

/// Blocks in one located listing page; with three locations each they take about 3 MB.
const LIST_BLOCKS_MAX: usize = 5_000;

/// How often a page is read again because directories in it were delegated to others. They rest after a recall.
const LIST_ROUNDS_MAX: usize = 10;

/// Files in one LocateFiles; with three locations each they take about 50 kB.
const LOCATED_FILES_MAX: usize = 64;

/// How far an access time may lag behind (HDFS's default precision): 1 h.
const ACCESS_TIME_PRECISION_NS: i64 = 3_600 * 1_000_000_000;

/// Locates stored blocks, given with their file offsets, for a reader.
fn locate(context: &Context, stored: &[(u64, StoredBlock)], reader: Option<IpAddr>) -> Vec<LocatedBlock> {
    let seed = seed();
    let blocks = context.soft.blocks();
    stored
        .iter()
        .map(|(offset, stored)| {
            let found = blocks.locate(stored, reader, seed);
            LocatedBlock {
                block: Some(stored.to_proto()),
                offset: *offset,
                locations: found.locations,
                corrupt: found.corrupt,
                under_construction: stored.state != BlockState::Complete,
                corrupt_replicas: found.corrupt_replicas,
            }
        })
        .collect()
}

/// Status and located blocks of a range of a file.
pub fn open(
    context: &Context,
    caller: &Caller,
    request: &OpenRequest,
    node: &NodeRef,
    reader: Option<IpAddr>,
) -> Result<LocatedBlocks, RpcError> {
    let snapshot = context.snapshot()?;
    let status = snapshot.open_file(caller, node).map_err(|e| rpc_error(&e))?;
    locate_file(context, &snapshot, status, request.offset, request.length, reader)
}

/// Located blocks of a range of a file whose status is `status`.
pub fn locate_file(
    context: &Context,
    snapshot: &Snapshot,
    status: FileStatus,
    offset: u64,
    length: u64,
    reader: Option<IpAddr>,
) -> Result<LocatedBlocks, RpcError> {
    let (stored, complete) = snapshot
        .file_blocks(InodeId(status.inode), offset, length, OPEN_BLOCKS_MAX)
        .map_err(|e| rpc_error(&e))?;
    Ok(LocatedBlocks { blocks: locate(context, &stored, reader), status: Some(status), complete })
}

/// Where those of several files are that have one block, may be read by the caller and are not being written.
pub fn locate_files(
    context: &Context,
    caller: &Caller,
    inodes: &[u64],
    reader: Option<IpAddr>,
) -> Result<LocateFilesResponse, RpcError> {
    if inodes.len() > LOCATED_FILES_MAX {
        let reason = format!("at most {LOCATED_FILES_MAX}");
        return Err(RpcError::new(ErrorKind::InvalidArgument, "inodes", reason));
    }
    let snapshot = context.snapshot()?;
    let mut files = Vec::with_capacity(inodes.len());
    for inode in inodes {
        let node = NodeRef { base: *inode, path: Default::default() };
        // What is gone meanwhile or must not be read will be told when it is opened.
        let Ok(status) = snapshot.open_file(caller, &node) else { continue };
        if status.under_construction || status.size == 0 {
            continue;
        }
        let (stored, complete) =
            snapshot.file_blocks(InodeId(*inode), 0, u64::MAX, 2).map_err(|e| rpc_error(&e))?;
        if stored.len() == 1 && complete {
            let blocks = locate(context, &stored, reader);
            files.push(LocatedBlocks { blocks, status: Some(status), complete });
        }
    }
    Ok(LocateFilesResponse { files })
}

/// Records an access in the background if the recorded one is old; the reader does not wait.
pub fn note_access(context: &Arc<Context>, status: &FileStatus) {
    let now = wall_clock_ns();
    if now.saturating_sub(status.atime_ns) <= ACCESS_TIME_PRECISION_NS {
        return;
    }
    let node = Some(NodeRef { base: status.inode, path: Default::default() });
    let op = log::SetTimesOp { node, atime_ns: Some(now), mtime_ns: None };
    let context = context.clone();
    tokio::spawn(async move {
        if let Err(error) = context.own_change(Op::SetTimes(op)).await {
            tracing::debug!(%error, "access time not recorded");
        }
    });
}

/// One page of a directory that nobody else has delegated. If attributes are asked for, neither is any of the
/// directories in it.
pub async fn list_settled(
    context: &Arc<Context>,
    caller: Caller,
    request: ListRequest,
    node: NodeRef,
    reader: Option<IpAddr>,
) -> Result<ListResponse, RpcError> {
    let (caller, request, node) = (Arc::new(caller), Arc::new(request), Arc::new(node));
    for _ in 0..LIST_ROUNDS_MAX {
        let call = request.context.as_ref();
        context.settle(call, || Touched::name(node.as_ref().clone())).await?;
        let listed = {
            let (context, snapshot) = (context.clone(), context.snapshot()?);
            let (caller, request, node) = (caller.clone(), request.clone(), node.clone());
            let listing = move || list(&context, &snapshot, &caller, &request, &node, reader);
            let listing = tokio::task::spawn_blocking(listing).await;
            listing.map_err(|e| RpcError::new(ErrorKind::Internal, "list", e.to_string()))??
        };
        if request.names_only || !context.settle_directories(call, &listed.entries).await? {
            return Ok(listed);
        }
    }
    let reason = "other sessions go on having delegated what is in it";
    Err(RpcError::new(ErrorKind::Unavailable, String::from_utf8_lossy(&node.path), reason))
}

/// One page of a directory, with the blocks of its files if asked for. A scan.
fn list(
    context: &Context,
    snapshot: &Snapshot,
    caller: &Caller,
    request: &ListRequest,
    node: &NodeRef,
    reader: Option<IpAddr>,
) -> Result<ListResponse, RpcError> {
    let limit = match request.limit as usize {
        0 => LIST_ENTRIES_MAX,
        wanted => wanted.min(LIST_ENTRIES_MAX),
    };
    if request.names_only {
        let limit = if request.names_max == 0 { limit } else { request.names_max as usize };
        let listed = snapshot.list_names(caller, node, &request.start_after, limit);
        let (names, has_more) = listed.map_err(|e| rpc_error(&e))?;
        if request.names_max > 0 {
            return Ok(ListResponse { names, has_more, ..ListResponse::default() });
        }
        let bare =
            |ListedName { name, inode, r#type }| FileStatus { name, inode, r#type, ..Default::default() };
        let entries = names.into_iter().map(bare).collect();
        return Ok(ListResponse { entries, has_more, ..ListResponse::default() });
    }
    let (mut entries, mut has_more) =
        snapshot.list(caller, node, &request.start_after, limit).map_err(|e| rpc_error(&e))?;
    let mut locations = Vec::new();
    if request.need_locations {
        let mut total = 0;
        for entry in &entries {
            let mut located = LocatedBlocks { complete: true, ..LocatedBlocks::default() };
            if entry.r#type() == FileType::File {
                let (stored, complete) = snapshot
                    .file_blocks(InodeId(entry.inode), 0, u64::MAX, OPEN_BLOCKS_MAX)
                    .map_err(|e| rpc_error(&e))?;
                total += stored.len();
                located = LocatedBlocks { status: None, blocks: locate(context, &stored, reader), complete };
            }
            locations.push(located);
            if total >= LIST_BLOCKS_MAX {
                break;
            }
        }
        has_more |= locations.len() < entries.len();
        entries.truncate(locations.len());
    }
    Ok(ListResponse { entries, has_more, locations, names: Vec::new() })
}

/// A block by its id, with its file and every replica known.
pub async fn describe_block(
    context: &Context,
    request: &DescribeBlockRequest,
) -> Result<BlockDescription, RpcError> {
    let caller = context.caller(request.context.as_ref()).await?;
    let id = BlockId(request.block_id);
    if !caller.superuser {
        return Err(RpcError::new(ErrorKind::NotPermitted, id.to_string(), "superuser only"));
    }
    let found = context.scan(move |snapshot| {
        let stored = snapshot.block(id)?.ok_or(NamesystemError::BlockNotFound { block: id })?;
        let path = snapshot.path_of(stored.inode)?;
        let block_size = snapshot.block_size_of(stored.inode)?;
        Ok((stored, path, block_size))
    });
    let (stored, path, block_size) = found.await?;
    let condition = match stored.state {
        BlockState::Complete => BlockCondition::Complete,
        BlockState::UnderConstruction => BlockCondition::UnderConstruction,
        BlockState::UnderRecovery => BlockCondition::UnderRecovery,
    };
    Ok(BlockDescription {
        block: Some(stored.to_proto()),
        condition: condition.into(),
        path: path.unwrap_or_default().into(),
        inode: stored.inode.get(),
        offset: stored.index.saturating_mul(block_size),
        replication: u32::from(stored.replication),
        replicas: context.soft.blocks().describe(&stored),
    })
}
