//! Files of sessions: making, opening, writing, releasing them.
//!
//! An open file is registered before its lease or its blocks are asked for, so that from then on an unlink keeps it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, InodeId, RpcError};
use tokio::time::{Instant, timeout};

use super::context::{Context, seed};
use super::read_path;
use super::status::{rpc_error, wrong_reply};
use super::touched::Touched;
use super::write_path::{self, choose, choose_or_refuse, shape, storages};
use crate::log::reply::Reply;
use crate::log::{self, command::Op};

/// How long a lease is waited for that another session was asked to give back.
const RECALL_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether a lease is free: leases also end in ways that wake nobody.
const RECALL_PAUSE: Duration = Duration::from_millis(100);

/// Files in one ReleaseFiles or NoteOpens.
const INODES_MAX: usize = 10_000;

/// Makes a node; with a session, a file open for writing and perhaps its first block.
pub async fn make(
    context: &Arc<Context>,
    mut request: MakeNodeRequest,
    writer: Option<IpAddr>,
) -> Result<MakeNodeResponse, RpcError> {
    let (call, session) = (request.context.take(), request.session.clone());
    let op = make_op(context, request, writer)?;
    let reply = context.change(call, Op::MakeNode(op)).await?;
    let made = made(context, reply)?;
    if !session.is_empty()
        && let Some(status) = &made.status
    {
        context.sessions.open(&session, status.inode).await?;
    }
    Ok(made)
}

/// What the reply to a command says that made a node.
pub fn made(context: &Context, reply: log::Reply) -> Result<MakeNodeResponse, RpcError> {
    let log::Reply { reply: Some(Reply::Opened(opened)) } = reply else {
        return Err(wrong_reply("make node"));
    };
    let block = opened.block.map(|spec| context.located(spec));
    Ok(MakeNodeResponse { status: opened.status, block })
}

/// The command that makes a node. A session begins with it, if one opens the node and is not alive.
pub fn make_op(
    context: &Context,
    request: MakeNodeRequest,
    writer: Option<IpAddr>,
) -> Result<log::MakeNodeOp, RpcError> {
    let kind = request.r#type();
    let (mut replication, mut block_size) = (0, 0);
    if kind == FileType::File {
        (replication, block_size) = shape(context, request.replication, request.block_size)?;
    }
    let mut targets = Vec::new();
    if !request.session.is_empty() {
        context.sessions.touch(&context.soft, &request.session)?;
        if request.allocate_block && !request.without_lease && kind == FileType::File {
            targets = storages(&choose(context, writer, replication, block_size, &[], &[]));
        }
    }
    Ok(log::MakeNodeOp {
        node: request.node,
        r#type: request.r#type,
        mode: request.mode,
        umask: request.umask,
        group: request.group,
        rdev: request.rdev,
        symlink: request.symlink.into(),
        holder: if request.without_lease { String::new() } else { request.session },
        replication: u32::from(replication),
        block_size,
        targets,
        inode: 0,
        session: String::new(),
    })
}

/// Opens a file for a session.
pub async fn open(
    context: &Arc<Context>,
    request: OpenFileRequest,
    reader: Option<IpAddr>,
) -> Result<LocatedBlocks, RpcError> {
    context.sessions.touch(&context.soft, &request.session)?;
    let touched = || Touched::name(request.node.clone().unwrap_or_default());
    context.settle(request.context.as_ref(), touched).await?;
    let inode = inode_of(context, &request).await?;
    let is_new = context.sessions.open(&request.session, inode).await?;
    let session = request.session.clone();
    let opened = open_registered(context, request, inode, reader).await;
    if opened.is_err() && is_new {
        context.sessions.release(&context.soft, &session, &[inode]);
    }
    opened
}

/// The inode that is to be opened.
async fn inode_of(context: &Context, request: &OpenFileRequest) -> Result<u64, RpcError> {
    let node = request.node.clone().unwrap_or_default();
    if node.path.is_empty() && node.base != 0 {
        return Ok(node.base);
    }
    let caller = context.caller(request.context.as_ref()).await?;
    Ok(context.snapshot()?.stat(&caller, &node).map_err(|e| rpc_error(&e))?.inode)
}

async fn open_registered(
    context: &Arc<Context>,
    request: OpenFileRequest,
    inode: u64,
    reader: Option<IpAddr>,
) -> Result<LocatedBlocks, RpcError> {
    let caller = match request.reopen {
        true => Context::own_caller(),
        false => context.caller(request.context.as_ref()).await?,
    };
    let node = NodeRef { base: inode, path: Default::default() };
    let (offset, length) = (request.offset, request.length);
    if !request.write {
        let range = OpenRequest { offset, length, ..OpenRequest::default() };
        let located = read_path::open(context, &caller, &range, &node, reader)?;
        if let Some(status) = &located.status {
            read_path::note_access(context, status);
        }
        return Ok(located);
    }
    let truncate = request.truncate;
    let status = acquire_lease(context, request, inode).await?;
    if truncate {
        context.soft.reclaim.notify_one();
    }
    read_path::locate_file(context, &context.snapshot()?, status, offset, length, reader)
}

/// Takes the lease of a file for a session. A session that holds it is asked to give it back and waited for.
async fn acquire_lease(
    context: &Arc<Context>,
    request: OpenFileRequest,
    inode: u64,
) -> Result<FileStatus, RpcError> {
    let node = NodeRef { base: inode, path: Default::default() };
    let deadline = Instant::now() + RECALL_PATIENCE;
    loop {
        let op = log::AcquireLeaseOp {
            node: Some(node.clone()),
            holder: request.session.clone(),
            truncate: request.truncate,
            reopen: request.reopen,
        };
        let error = match context.change(request.context.clone(), Op::AcquireLease(op)).await {
            Ok(log::Reply { reply: Some(Reply::Opened(opened)) }) => {
                return opened.status.ok_or_else(|| wrong_reply("acquire lease"));
            }
            Ok(_) => return Err(wrong_reply("acquire lease")),
            Err(error) => error,
        };
        if error.kind != ErrorKind::LeaseHeldByOther {
            return Err(error);
        }
        if !wait_for_lease(context, inode, deadline).await? {
            let call = request.context.as_ref();
            return Err(write_path::take_over_if_silent(context, call, Some(node), error).await);
        }
    }
}

/// Has the session that holds a lease give it back. True: it was given back; false: it is held by somebody who is no
/// session, or by a session that keeps it.
async fn wait_for_lease(context: &Context, inode: u64, deadline: Instant) -> Result<bool, RpcError> {
    let node = NodeRef { base: inode, path: Default::default() };
    let caller = Context::own_caller();
    loop {
        let released = context.sessions.lease_released.notified();
        tokio::pin!(released);
        released.as_mut().enable();
        let (_, holder) = context.snapshot()?.writer_of(&caller, &node).map_err(|e| rpc_error(&e))?;
        let Some(holder) = holder else { return Ok(true) };
        if Instant::now() >= deadline || !context.sessions.recall(&holder, inode) {
            return Ok(false);
        }
        // Woken or not, the next look tells.
        let _ = timeout(RECALL_PAUSE, released).await;
    }
}

/// Makes a block of a file writable.
pub async fn write_block(
    context: &Arc<Context>,
    request: WriteBlockRequest,
    writer: Option<IpAddr>,
) -> Result<WriteBlockResponse, RpcError> {
    let snapshot = context.snapshot()?;
    let node = NodeRef { base: request.inode, path: Default::default() };
    let status = snapshot.stat(&Context::own_caller(), &node).map_err(|e| rpc_error(&e))?;
    let offset = request.index.saturating_mul(status.block_size);
    let (existing, _) =
        snapshot.file_blocks(InodeId(request.inode), offset, 1, 1).map_err(|e| rpc_error(&e))?;
    let targets = match existing.is_empty() {
        false => Vec::new(),
        true => storages(&choose_or_refuse(context, writer, &status, &request.exclude)?),
    };
    let op =
        log::WriteBlockOp { inode: request.inode, holder: request.session, index: request.index, targets };
    let reply = context.change(request.context, Op::WriteBlock(op)).await?;
    let log::Reply { reply: Some(Reply::Opened(opened)) } = reply else {
        return Err(wrong_reply("write block"));
    };
    let spec = opened.block.ok_or_else(|| wrong_reply("write block"))?;
    let block = match opened.new_generation_stamp {
        0 => locate_new(context, spec, &request.exclude),
        _ => {
            // The replicas get the new stamp now. If the namespace could forget it, none of them would be the block's any more.
            context.sync(None).await?;
            locate_for_writing(context, spec, &request.exclude)?
        }
    };
    Ok(WriteBlockResponse { block: Some(block), new_generation_stamp: opened.new_generation_stamp })
}

/// A block that nothing was written to. If it was allocated before, the writer may have found some of its datanodes bad.
fn locate_new(context: &Context, spec: log::BlockSpec, exclude: &[String]) -> LocatedBlock {
    let mut located = context.located(spec);
    let accepted = |location: &ReplicaLocation| {
        location.datanode.as_ref().is_some_and(|datanode| !exclude.contains(&datanode.uuid))
    };
    if located.locations.iter().any(accepted) {
        located.locations.retain(accepted);
    }
    located
}

/// An existing block with the replicas that can be written to now, without those that the writer found bad.
fn locate_for_writing(
    context: &Context,
    spec: log::BlockSpec,
    exclude: &[String],
) -> Result<LocatedBlock, RpcError> {
    let id = spec.block.unwrap_or_default().block_id();
    let mut located = context.located(spec);
    if let Some(stored) = context.snapshot()?.block(id).map_err(|e| rpc_error(&e))? {
        let found = context.soft.blocks().locate(&stored, None, seed());
        if !found.locations.is_empty() && !found.corrupt {
            located.locations = found.locations;
        }
    }
    located.locations.retain(|location| {
        location.datanode.as_ref().is_some_and(|datanode| {
            datanode.state() != DatanodeState::Dead && !exclude.contains(&datanode.uuid)
        })
    });
    if located.locations.is_empty() {
        let reason = "no living datanode that the writer accepts has it";
        return Err(RpcError::new(
            ErrorKind::Unavailable,
            located.block.unwrap_or_default().to_string(),
            reason,
        ));
    }
    Ok(located)
}

/// Records what was written.
pub async fn commit_blocks(
    context: &Arc<Context>,
    mut request: CommitBlocksRequest,
) -> Result<FileStatus, RpcError> {
    let (call, close) = (request.context.take(), request.close);
    let status = context.change_status(call, Op::CommitBlocks(commit_op(request))).await?;
    if close {
        context.sessions.lease_released.notify_waiters();
    }
    Ok(status)
}

/// The command of a CommitBlocks.
pub fn commit_op(request: CommitBlocksRequest) -> log::CommitBlocksOp {
    log::CommitBlocksOp {
        inode: request.inode,
        holder: request.session,
        blocks: request.blocks,
        size: request.size,
        mtime_ns: request.mtime_ns,
        close: request.close,
    }
}

/// A session has opened files by itself.
pub async fn note_opens(context: &Context, request: &NoteOpensRequest) -> Result<Empty, RpcError> {
    context.caller(request.context.as_ref()).await?;
    check_count(&request.inodes)?;
    context.sessions.touch(&context.soft, &request.session)?;
    context.sessions.note_opens(&request.session, &request.inodes)?;
    Ok(Empty {})
}

fn check_count(inodes: &[u64]) -> Result<(), RpcError> {
    if inodes.len() > INODES_MAX {
        let reason = format!("at most {INODES_MAX} inodes");
        return Err(RpcError::new(ErrorKind::InvalidArgument, "inodes", reason));
    }
    Ok(())
}

/// A session has files open no longer.
pub async fn release(context: &Context, request: &ReleaseFilesRequest) -> Result<Empty, RpcError> {
    context.caller(request.context.as_ref()).await?;
    check_count(&request.inodes)?;
    context.sessions.release(&context.soft, &request.session, &request.inodes);
    Ok(Empty {})
}
