//! Removing and replacing names of nodes that sessions may have open.
//!
//! The log command says whether the node that loses a name is open, because only soft state knows. The name is looked
//! up before the command is proposed, when nobody has its directory delegated any longer and has told what is open there; if it comes to stand for another node in between, that node is freed even if it
//! is open (kernels serialise changes of one directory, so this takes two mounts).

use std::sync::Arc;

use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, RpcError};

use super::context::Context;
use super::sessions::Unlinking;
use super::status::wrong_reply;
use super::touched::Touched;
use crate::log::reply::Reply;
use crate::log::{self, command::Op};

/// Removes a name.
pub async fn unlink(context: &Arc<Context>, request: UnlinkRequest) -> Result<UnlinkResponse, RpcError> {
    let UnlinkRequest { context: call, node, directory } = request;
    let touched = || vec![Touched::names([&node])];
    let begun = context.begin(call.as_ref(), touched).await?;
    let unlinking = match directory {
        true => None,
        false => unlinking(context, call.as_ref(), node.as_ref()).await?,
    };
    let opened = opened(unlinking.as_ref());
    let op = Op::Unlink(log::UnlinkOp { node, directory, opened, inode: 0 });
    let log::Reply { reply: Some(Reply::Status(status)) } = context.change_begun(&begun, call, op).await?
    else {
        return Err(wrong_reply("unlink"));
    };
    lost_name(context, opened, &status);
    Ok(UnlinkResponse { status: Some(status) })
}

/// Moves a node, or exchanges two.
pub async fn rename(context: &Arc<Context>, request: MoveRequest) -> Result<MoveResponse, RpcError> {
    let mode = request.mode();
    let MoveRequest { context: call, src, dst, .. } = request;
    let touched = || vec![Touched::names([&src, &dst])];
    let begun = context.begin(call.as_ref(), touched).await?;
    let unlinking = match mode {
        MoveMode::Replace => unlinking(context, call.as_ref(), dst.as_ref()).await?,
        MoveMode::NoReplace | MoveMode::Exchange => None,
    };
    let opened = opened(unlinking.as_ref());
    let op = Op::Move(log::MoveOp { src, dst, mode: mode.into(), opened, inode: 0, other: 0 });
    let log::Reply { reply: Some(Reply::Moved(moved)) } = context.change_begun(&begun, call, op).await?
    else {
        return Err(wrong_reply("move"));
    };
    if mode == MoveMode::Replace
        && let Some(other) = &moved.other
    {
        lost_name(context, opened, other);
    }
    Ok(MoveResponse { moved: moved.moved, other: moved.other })
}

/// Announces that the node of this name may lose it, in a change that was begun. Nothing if there is no such node, which is the
/// command's to say.
pub async fn unlinking<'a>(
    context: &'a Context,
    call: Option<&CallContext>,
    node: Option<&NodeRef>,
) -> Result<Option<Unlinking<'a>>, RpcError> {
    let Some(node) = node else { return Ok(None) };
    let caller = context.caller(call).await?;
    Ok(match context.snapshot()?.stat(&caller, node) {
        Ok(status) if status.r#type() != FileType::Directory => {
            Some(context.sessions.unlinking(status.inode))
        }
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::Internal => return Err(super::rpc_error(&error)),
        Err(_) => None,
    })
}

/// What the log command says.
pub fn opened(unlinking: Option<&Unlinking<'_>>) -> u64 {
    unlinking.filter(|unlinking| unlinking.opened).map_or(0, |unlinking| unlinking.inode)
}

/// A node lost a name: it is an orphan now, or waits to be freed, or has other names.
pub fn lost_name(context: &Context, opened: u64, status: &FileStatus) {
    if status.r#type() == FileType::Directory {
        context.sessions.delegations.forget(&context.soft, status.inode);
    } else if status.nlink > 0 {
        return;
    }
    if status.inode == opened {
        context.sessions.orphaned(opened);
    } else if status.size > status.block_size {
        // What has a block at most is freed by the command itself.
        context.soft.reclaim.notify_one();
    }
}
