//! Giving directories to sessions, taking them back, and reserving inode numbers.

use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, InodeId, RpcError};
use metrics::counter;

use super::context::{Context, client_id, wall_clock_ns};
use super::status::{rpc_error, wrong_reply};
use crate::log::reply::Reply;
use crate::log::{self, command::Op};

/// Entries of a delegated directory: its holder keeps them all in memory, and they come in one answer of about 1 MB.
const ENTRIES_MAX: usize = 4_096;

/// Directories in one ReturnDirectories: all that a session can have.
const RETURNS_MAX: usize = 4_096;

/// Delegates a directory to a session, alone or for reading, if nothing is in the way.
///
/// First everybody else is kept out (of changing it), then changes that began before are waited for, then the directory is read: what the
/// session gets is what is there until it is recalled.
pub async fn delegate(
    context: &Context,
    request: DelegateDirectoryRequest,
) -> Result<DelegateDirectoryResponse, RpcError> {
    let caller = context.caller(request.context.as_ref()).await?;
    let client = client_id(&request.context.unwrap_or_default())?;
    let session = request.session.as_str();
    let epoch = context.sessions.touch(&context.soft, session)?;
    let refused = || DelegateDirectoryResponse { now_ns: wall_clock_ns(), epoch, ..Default::default() };
    let entries_max = match request.entries_max as usize {
        0 => ENTRIES_MAX,
        wanted => wanted.min(ENTRIES_MAX),
    };
    let read = || {
        let read = context.snapshot()?.delegable(
            &caller,
            session,
            InodeId(request.inode),
            (request.shared, entries_max),
        );
        read.map_err(|e| rpc_error(&e))
    };
    record(context, session).await?;
    context.sessions.grace.wait_for_changes(&context.soft, &client).await;
    let delegations = &context.sessions.delegations;
    // Whether it is worth while to keep everybody else out for a moment.
    if read()?.is_none() {
        counter!("dfs_delegations_refused_total").increment(1);
        return Ok(refused());
    }
    let place = (request.inode, request.shared);
    let Some(giving) = delegations.give(&context.soft, session, client, place) else {
        counter!("dfs_delegations_refused_total").increment(1);
        return Ok(refused());
    };
    if !delegations.drain().await {
        return Ok(refused());
    }
    let Some((directory, entries)) = read()? else { return Ok(refused()) };
    let shared = giving.is_shared();
    if !context.sessions.is_alive(session, epoch) || !giving.keep() {
        return Ok(refused());
    }
    counter!("dfs_delegations_granted_total").increment(1);
    Ok(DelegateDirectoryResponse {
        granted: true,
        directory: Some(directory),
        entries,
        now_ns: wall_clock_ns(),
        epoch,
        shared,
    })
}

/// A session gives directories back.
pub async fn give_back(context: &Context, request: &ReturnDirectoriesRequest) -> Result<Empty, RpcError> {
    context.caller(request.context.as_ref()).await?;
    if request.inodes.len() > RETURNS_MAX {
        let reason = format!("at most {RETURNS_MAX} directories");
        return Err(RpcError::new(ErrorKind::InvalidArgument, "inodes", reason));
    }
    context.sessions.delegations.give_back(&context.soft, &request.session, &request.inodes);
    Ok(Empty {})
}

/// Has the log know of a session before it gets something that others have to wait for after a restart, by a number that is reserved
/// for it.
pub async fn record(context: &Context, session: &str) -> Result<(), RpcError> {
    let known = context.snapshot()?.has_reservations(session).map_err(|e| rpc_error(&e))?;
    if known {
        return Ok(());
    }
    let op = log::ReserveInodesOp { session: session.to_owned(), count: 1 };
    context.own_change(Op::ReserveInodes(op)).await.map(drop)
}

/// Reserves inode numbers for a session.
pub async fn reserve(
    context: &Context,
    request: ReserveInodesRequest,
) -> Result<ReserveInodesResponse, RpcError> {
    context.sessions.touch(&context.soft, &request.session)?;
    let op = log::ReserveInodesOp { session: request.session, count: request.count };
    // Nothing is lost with numbers that a crash takes back before anybody has used them.
    match context.change(request.context, Op::ReserveInodes(op)).await? {
        log::Reply { reply: Some(Reply::Reserved(reserved)) } => {
            Ok(ReserveInodesResponse { first: reserved.first, count: reserved.count })
        }
        _ => Err(wrong_reply("reserve inodes")),
    }
}
