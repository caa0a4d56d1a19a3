//! Batches of changes that a session has answered already.
//!
//! Each goes through the commands of the single calls. All of a batch are proposed at once, so that they share an entry of the
//! log and a transaction. What soft state has to know before a command is applied is told it before the batch is proposed:
//! that the session has a new file open, that a name is going, that a new directory is delegated.

use std::net::IpAddr;
use std::sync::Arc;

use dfs_proto::v1::change::Change as Kind;
use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, InodeId, RpcError};
use prost::Message;

use super::context::{Context, client_id, wall_clock_ns};
use super::delegation_table::ClientId;
use super::sessions::Unlinking;
use super::status::{rpc_error, wrong_reply};
use super::touched::Touched;
use super::{session_files, session_names};
use crate::log::reply::Reply;
use crate::log::{self, Caller, Command, command::Op};

/// Changes in one batch: some ms of apply time.
const CHANGES_MAX: usize = 256;

/// Bytes of one batch.
const BYTES_MAX: usize = 1 << 20;

/// How old the time of a change may be. What is older was kept back by something that clients do not see, such as a
/// namenode that was away; its time is that of its arrival.
const AGE_MAX_NS: i64 = 5_000_000_000;

/// Carries out a batch.
pub async fn apply(
    context: &Arc<Context>,
    request: ApplyChangesRequest,
    writer: Option<IpAddr>,
) -> Result<ApplyChangesResponse, RpcError> {
    context.caller(request.context.as_ref()).await?;
    if request.changes.len() > CHANGES_MAX || request.encoded_len() > BYTES_MAX {
        let reason = format!("at most {CHANGES_MAX} in {BYTES_MAX} bytes");
        return Err(RpcError::new(ErrorKind::InvalidArgument, "changes", reason));
    }
    let call = request.context;
    let client = client_id(call.as_ref().unwrap_or(&CallContext::default()))?;
    let epoch = context.sessions.touch(&context.soft, &request.session)?;
    // Whoever else has something of it, after a lost delegation, tells what is open there before it is looked at.
    let begun =
        context.begin_changes(Some(&client), || request.changes.iter().map(touched).collect()).await?;
    let mut batch =
        Batch { context, session: &request.session, client, writer, now_ns: wall_clock_ns(), caller: None };
    let mut commands = Vec::with_capacity(request.changes.len());
    let mut prepared = Vec::with_capacity(request.changes.len());
    for change in request.changes {
        prepared.push(match batch.prepare(change).await {
            Ok((command, prepared)) => {
                commands.push(command);
                Ok(prepared)
            }
            // What cannot be tried now is no answer to one change.
            Err(error) if error.kind.is_retriable() => return Err(error),
            Err(error) => Err(error),
        });
    }
    let mut outcomes = context.change_all_begun(&begun, commands).await?.into_iter();
    let mut results = Vec::with_capacity(prepared.len());
    for prepared in prepared {
        let result = match prepared {
            Ok(prepared) => {
                let outcome = outcomes.next().ok_or_else(|| wrong_reply("changes"))?;
                prepared.finish(context, &request.session, outcome)
            }
            Err(error) => Err(error),
        };
        results.push(
            result.unwrap_or_else(|error| ChangeResult {
                error: Some(error.detail()),
                ..ChangeResult::default()
            }),
        );
    }
    if !request.more {
        context.sessions.grace.carried_out(&request.session);
    }
    Ok(ApplyChangesResponse { results, epoch })
}

/// What a change has to do with.
fn touched(change: &Change) -> Touched {
    match &change.change {
        Some(Kind::Make(request)) => Touched::names([&request.node]),
        Some(Kind::Unlink(request)) => Touched::names([&request.node]),
        Some(Kind::Move(request)) => Touched::names([&request.src, &request.dst]),
        Some(Kind::Set(request)) => Touched::names([&request.node]),
        Some(Kind::Commit(_)) => Touched::node(change.inode),
        None => Touched::default(),
    }
}

/// The command of a SetAttributes.
pub fn set_op(request: SetAttributesRequest) -> log::SetAttributesOp {
    log::SetAttributesOp {
        node: request.node,
        mode: request.mode,
        owner: request.owner,
        group: request.group,
        size: request.size,
        atime_ns: request.atime_ns,
        mtime_ns: request.mtime_ns,
        atime_now: request.atime_now,
        mtime_now: request.mtime_now,
        holder: request.session,
        kill_privileges: request.kill_privileges,
        opened: request.opened,
        inode: 0,
    }
}

/// What the changes of a batch have in common.
struct Batch<'a> {
    context: &'a Arc<Context>,
    session: &'a str,
    client: ClientId,
    writer: Option<IpAddr>,
    now_ns: i64,
    /// Of the change before: most changes of a batch are one user's.
    caller: Option<(CallContext, Caller)>,
}

/// What is left to do when a change is decided.
enum Prepared<'a> {
    Make { opened: Option<u64>, delegated: Option<Delegating> },
    Unlink { unlinking: Option<Unlinking<'a>> },
    Move { unlinking: Option<Unlinking<'a>>, replaces: bool },
    Set { cuts: bool },
    Commit { closes: bool },
}

/// A new directory that is to be delegated.
#[derive(Clone, Copy)]
struct Delegating {
    inode: u64,
    /// Since an earlier time that the batch was sent.
    known: bool,
}

impl<'a> Batch<'a> {
    async fn prepare(&mut self, change: Change) -> Result<(Command, Prepared<'a>), RpcError> {
        let Change { context: call, now_ns, change, inode, other_inode, delegate } = change;
        let call = call.unwrap_or_default();
        if client_id(&call)? != self.client {
            let reason = "a change of another client's than the batch";
            return Err(RpcError::new(ErrorKind::InvalidArgument, "client id", reason));
        }
        let caller = self.caller(&call).await?;
        let age = self.now_ns.saturating_sub(now_ns);
        let now_ns = if (0..=AGE_MAX_NS).contains(&age) { now_ns } else { self.now_ns };
        let (op, prepared) = match change {
            Some(Kind::Make(request)) => self.make(request, inode, delegate).await?,
            Some(Kind::Unlink(UnlinkRequest { node, directory, .. })) => {
                let unlinking = self.unlinking(&call, node.as_ref(), inode, directory).await?;
                let opened = session_names::opened(unlinking.as_ref());
                (Op::Unlink(log::UnlinkOp { node, directory, opened, inode }), Prepared::Unlink { unlinking })
            }
            Some(Kind::Move(MoveRequest { src, dst, mode, .. })) => {
                let replaces = mode == i32::from(MoveMode::Replace);
                // With an expected node, nothing else than `other_inode` is replaced.
                let is_free = inode != 0 && other_inode == 0;
                let unlinking =
                    self.unlinking(&call, dst.as_ref(), other_inode, is_free || !replaces).await?;
                let opened = session_names::opened(unlinking.as_ref());
                let op = log::MoveOp { src, dst, mode, opened, inode, other: other_inode };
                (Op::Move(op), Prepared::Move { unlinking, replaces })
            }
            Some(Kind::Set(request)) => {
                let cuts = request.size.is_some();
                let op = log::SetAttributesOp { inode, ..set_op(request) };
                (Op::SetAttributes(op), Prepared::Set { cuts })
            }
            Some(Kind::Commit(request)) => {
                let closes = request.close;
                let session = self.session.to_owned();
                let op = session_files::commit_op(CommitBlocksRequest { inode, session, ..request });
                (Op::CommitBlocks(op), Prepared::Commit { closes })
            }
            None => return Err(RpcError::new(ErrorKind::InvalidArgument, "change", "missing")),
        };
        let client_id = call.client_id.to_vec();
        let command =
            Command { now_ns, caller: Some(caller), client_id, call_id: call.call_id, op: Some(op) };
        Ok((command, prepared))
    }

    async fn caller(&mut self, call: &CallContext) -> Result<Caller, RpcError> {
        if let Some((last, caller)) = &self.caller
            && last.user == call.user
            && last.groups == call.groups
        {
            return Ok(caller.clone());
        }
        let caller = self.context.caller(Some(call)).await?;
        self.caller = Some((call.clone(), caller.clone()));
        Ok(caller)
    }

    async fn make(
        &self,
        request: MakeNodeRequest,
        inode: u64,
        delegate: bool,
    ) -> Result<(Op, Prepared<'a>), RpcError> {
        let is_directory = request.r#type() == FileType::Directory;
        let opener = request.session.clone();
        if !opener.is_empty() && opener != self.session {
            let reason = "another one than the batch's";
            return Err(RpcError::new(ErrorKind::InvalidArgument, "session", reason));
        }
        let op = session_files::make_op(self.context, request, self.writer)?;
        let op = log::MakeNodeOp { inode, session: self.session.to_owned(), ..op };
        let mut opened = None;
        if inode != 0 && !opener.is_empty() && self.context.sessions.open(self.session, inode).await? {
            opened = Some(inode);
        }
        let delegated = if is_directory && delegate && inode != 0 { self.delegate(inode)? } else { None };
        Ok((Op::MakeNode(op), Prepared::Make { opened, delegated }))
    }

    /// Delegates a directory that does not exist yet, so that nobody can come before its maker.
    fn delegate(&self, inode: u64) -> Result<Option<Delegating>, RpcError> {
        let delegations = &self.context.sessions.delegations;
        let exists = self.context.snapshot()?.directory_of(InodeId(inode)).map_err(|e| rpc_error(&e))?;
        if exists.is_some() {
            // Made when the batch was sent for the first time; others may have seen it since.
            return Ok(delegations
                .has_alone(self.session, inode)
                .then_some(Delegating { inode, known: true }));
        }
        let given = delegations.give(&self.context.soft, self.session, self.client, (inode, false));
        Ok(given.and_then(|giving| giving.keep().then_some(Delegating { inode, known: false })))
    }

    /// Announces that a node may lose its name.
    async fn unlinking(
        &self,
        call: &CallContext,
        node: Option<&NodeRef>,
        inode: u64,
        loses_none: bool,
    ) -> Result<Option<Unlinking<'a>>, RpcError> {
        match (loses_none, inode) {
            (true, _) => Ok(None),
            (false, 0) => session_names::unlinking(self.context, Some(call), node).await,
            (false, inode) => Ok(Some(self.context.sessions.unlinking(inode))),
        }
    }
}

impl Prepared<'_> {
    /// Tells soft state what became of the change, and makes its answer.
    fn finish(
        self,
        context: &Context,
        session: &str,
        outcome: Result<log::Reply, RpcError>,
    ) -> Result<ChangeResult, RpcError> {
        match self {
            Self::Make { opened, delegated } => {
                let made = outcome.and_then(|reply| session_files::made(context, reply));
                if let (Err(_), Some(inode)) = (&made, opened) {
                    context.sessions.release(&context.soft, session, &[inode]);
                }
                let is_kept = keep_or_withdraw(context, session, made.as_ref().ok(), delegated);
                let MakeNodeResponse { status, block } = made?;
                Ok(ChangeResult { status, block, delegated: is_kept, ..ChangeResult::default() })
            }
            Self::Unlink { unlinking } => {
                let status = status_of(outcome?)?;
                session_names::lost_name(context, session_names::opened(unlinking.as_ref()), &status);
                Ok(ChangeResult { status: Some(status), ..ChangeResult::default() })
            }
            Self::Move { unlinking, replaces } => {
                let log::Reply { reply: Some(Reply::Moved(moved)) } = outcome? else {
                    return Err(wrong_reply("move"));
                };
                if let (true, Some(other)) = (replaces, &moved.other) {
                    session_names::lost_name(context, session_names::opened(unlinking.as_ref()), other);
                }
                Ok(ChangeResult { status: moved.moved, other: moved.other, ..ChangeResult::default() })
            }
            Self::Set { cuts } => {
                let status = status_of(outcome?)?;
                if cuts {
                    context.soft.reclaim.notify_one();
                }
                Ok(ChangeResult { status: Some(status), ..ChangeResult::default() })
            }
            Self::Commit { closes } => {
                let status = status_of(outcome?)?;
                if closes {
                    context.sessions.lease_released.notify_waiters();
                }
                Ok(ChangeResult { status: Some(status), ..ChangeResult::default() })
            }
        }
    }
}

/// Whether a new directory stays delegated. One that hands something down to what is made in it does not.
fn keep_or_withdraw(
    context: &Context,
    session: &str,
    made: Option<&MakeNodeResponse>,
    delegated: Option<Delegating>,
) -> bool {
    let Some(Delegating { inode, known }) = delegated else { return false };
    let is_delegable = || {
        let snapshot = context.snapshot()?;
        snapshot.is_delegable(InodeId(inode)).map_err(|e| rpc_error(&e))
    };
    let delegations = &context.sessions.delegations;
    if made.is_some() && (known || is_delegable().unwrap_or(false)) {
        return delegations.has_alone(session, inode);
    }
    delegations.give_back(&context.soft, session, &[inode]);
    false
}

fn status_of(reply: log::Reply) -> Result<FileStatus, RpcError> {
    match reply {
        log::Reply { reply: Some(Reply::Status(status)) } => Ok(status),
        _ => Err(wrong_reply("change")),
    }
}
