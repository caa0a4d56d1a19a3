//! `FileSystemProtocol`: one method a call, in the order of `filesystem.proto`. Files of sessions are in
//! `session_files`, names in `session_names`, soft state in `sessions` and `locks`.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::v1::file_system_protocol_server::FileSystemProtocol;
use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, InodeId, RpcError};
use tonic::{Request, Response, Status};

use super::client_protocol::peer_ip;
use super::context::Context;
use super::status::rpc_error;
use super::touched::Touched;
use super::{acl_numbers, changes, delegating, read_path, session_files, session_names};
use crate::log::{self, command::Op};
use crate::monitor;

/// Longest wait for a lock in one call.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// The service.
pub struct FileSystemService {
    context: Arc<Context>,
}

impl FileSystemService {
    /// Serves from `context`.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// What every method returns.
type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, RpcError>) -> Answer<T> {
    result.map(Response::new).map_err(|e| e.to_status())
}

/// A lock that a request must name.
fn named(lock: Option<FileLock>) -> Result<FileLock, RpcError> {
    lock.ok_or_else(|| RpcError::new(ErrorKind::InvalidArgument, "lock", "missing"))
}

#[tonic::async_trait]
impl FileSystemProtocol for FileSystemService {
    async fn keep_session(&self, request: Request<KeepSessionRequest>) -> Answer<KeepSessionResponse> {
        let request = request.into_inner();
        let result = async {
            self.context.caller(request.context.as_ref()).await?;
            self.context.sessions.keep(&self.context.soft, request).await
        };
        answer(result.await)
    }

    async fn close_session(&self, request: Request<CloseSessionRequest>) -> Answer<Empty> {
        let request = request.into_inner();
        let result = async {
            self.context.caller(request.context.as_ref()).await?;
            monitor::close_session(&self.context, &request.session).await;
            Ok(Empty {})
        };
        answer(result.await)
    }

    async fn make_node(&self, request: Request<MakeNodeRequest>) -> Answer<MakeNodeResponse> {
        let writer = peer_ip(&request);
        answer(session_files::make(&self.context, request.into_inner(), writer).await)
    }

    async fn link(&self, request: Request<LinkRequest>) -> Answer<FileStatus> {
        let LinkRequest { context, inode, node } = request.into_inner();
        answer(self.context.change_status(context, Op::Link(log::LinkOp { inode, node })).await)
    }

    async fn unlink(&self, request: Request<UnlinkRequest>) -> Answer<UnlinkResponse> {
        answer(session_names::unlink(&self.context, request.into_inner()).await)
    }

    async fn r#move(&self, request: Request<MoveRequest>) -> Answer<MoveResponse> {
        answer(session_names::rename(&self.context, request.into_inner()).await)
    }

    async fn set_attributes(&self, request: Request<SetAttributesRequest>) -> Answer<FileStatus> {
        let mut request = request.into_inner();
        let (call, cuts) = (request.context.take(), request.size.is_some());
        let op = changes::set_op(request);
        let result = self.context.change_status(call, Op::SetAttributes(op)).await;
        if cuts {
            self.context.soft.reclaim.notify_one();
        }
        answer(result)
    }

    async fn get_xattr(&self, request: Request<GetXattrRequest>) -> Answer<GetXattrResponse> {
        let GetXattrRequest { context, inode, name } = request.into_inner();
        let result = async {
            self.context.settle(context.as_ref(), || Touched::node(inode)).await?;
            let caller = self.context.caller(context.as_ref()).await?;
            let value = self.context.snapshot()?.get_xattr(&caller, InodeId(inode), &name);
            let value = acl_numbers::to_mount(&name, value.map_err(|e| rpc_error(&e))?).await?;
            Ok(GetXattrResponse { value: value.into() })
        };
        answer(result.await)
    }

    async fn list_xattrs(&self, request: Request<ListXattrsRequest>) -> Answer<ListXattrsResponse> {
        let ListXattrsRequest { context, inode } = request.into_inner();
        let result = async {
            self.context.settle(context.as_ref(), || Touched::node(inode)).await?;
            let caller = self.context.caller(context.as_ref()).await?;
            let names = self.context.snapshot()?.list_xattrs(&caller, InodeId(inode));
            let names = names.map_err(|e| rpc_error(&e))?;
            Ok(ListXattrsResponse { names: names.into_iter().map(Into::into).collect() })
        };
        answer(result.await)
    }

    async fn set_xattr(&self, request: Request<SetXattrRequest>) -> Answer<FileStatus> {
        let SetXattrRequest { context, inode, name, value, mode } = request.into_inner();
        let result = async {
            let value = acl_numbers::from_mount(&name, value.into()).await?;
            let op = log::SetXattrOp { inode, name: name.into(), value, mode };
            self.context.change_status(context, Op::SetXattr(op)).await
        };
        answer(result.await)
    }

    async fn remove_xattr(&self, request: Request<RemoveXattrRequest>) -> Answer<FileStatus> {
        let RemoveXattrRequest { context, inode, name } = request.into_inner();
        let op = log::RemoveXattrOp { inode, name: name.into() };
        answer(self.context.change_status(context, Op::RemoveXattr(op)).await)
    }

    async fn open_file(&self, request: Request<OpenFileRequest>) -> Answer<LocatedBlocks> {
        let reader = peer_ip(&request);
        answer(session_files::open(&self.context, request.into_inner(), reader).await)
    }

    async fn locate_files(&self, request: Request<LocateFilesRequest>) -> Answer<LocateFilesResponse> {
        let reader = peer_ip(&request);
        let request = request.into_inner();
        let result = async {
            let caller = self.context.caller(request.context.as_ref()).await?;
            read_path::locate_files(&self.context, &caller, &request.inodes, reader)
        };
        answer(result.await)
    }

    async fn note_opens(&self, request: Request<NoteOpensRequest>) -> Answer<Empty> {
        answer(session_files::note_opens(&self.context, request.get_ref()).await)
    }

    async fn release_files(&self, request: Request<ReleaseFilesRequest>) -> Answer<Empty> {
        answer(session_files::release(&self.context, request.get_ref()).await)
    }

    async fn write_block(&self, request: Request<WriteBlockRequest>) -> Answer<WriteBlockResponse> {
        let writer = peer_ip(&request);
        answer(session_files::write_block(&self.context, request.into_inner(), writer).await)
    }

    async fn commit_blocks(&self, request: Request<CommitBlocksRequest>) -> Answer<FileStatus> {
        answer(session_files::commit_blocks(&self.context, request.into_inner()).await)
    }

    async fn set_lock(&self, request: Request<SetLockRequest>) -> Answer<SetLockResponse> {
        let SetLockRequest { context, session, lock, wait_ms, delegate } = request.into_inner();
        let result = async {
            self.context.caller(context.as_ref()).await?;
            let sessions = &self.context.sessions;
            sessions.touch(&self.context.soft, &session)?;
            delegating::record(&self.context, &session).await?;
            sessions.grace.wait_for_locks(&session).await;
            let patience = Duration::from_millis(u64::from(wait_ms)).min(LOCK_WAIT_MAX);
            let asker = sessions.asker(&self.context.soft, None);
            sessions.locks.set(&asker, &session, &named(lock)?, patience, delegate).await
        };
        answer(result.await)
    }

    async fn get_lock(&self, request: Request<GetLockRequest>) -> Answer<GetLockResponse> {
        let GetLockRequest { context, session, lock } = request.into_inner();
        let result = async {
            self.context.caller(context.as_ref()).await?;
            let sessions = &self.context.sessions;
            sessions.grace.wait_for_locks(&session).await;
            let asker = sessions.asker(&self.context.soft, None);
            sessions.locks.get(&asker, &session, &named(lock)?).await
        };
        answer(result.await)
    }

    async fn return_locks(&self, request: Request<ReturnLocksRequest>) -> Answer<Empty> {
        let ReturnLocksRequest { context, session, delegation, locks } = request.into_inner();
        let result = async {
            self.context.caller(context.as_ref()).await?;
            let sessions = &self.context.sessions;
            let asker = sessions.asker(&self.context.soft, None);
            sessions.locks.give_back(&asker, &session, delegation.unwrap_or_default(), &locks)?;
            Ok(Empty {})
        };
        answer(result.await)
    }

    async fn sync_namespace(&self, request: Request<SyncNamespaceRequest>) -> Answer<Empty> {
        let result = async {
            self.context.caller(request.get_ref().context.as_ref()).await?;
            self.context.sync(request.get_ref().context.as_ref()).await.map(|()| Empty {})
        };
        answer(result.await)
    }

    async fn delegate_directory(
        &self,
        request: Request<DelegateDirectoryRequest>,
    ) -> Answer<DelegateDirectoryResponse> {
        answer(delegating::delegate(&self.context, request.into_inner()).await)
    }

    async fn return_directories(&self, request: Request<ReturnDirectoriesRequest>) -> Answer<Empty> {
        answer(delegating::give_back(&self.context, request.get_ref()).await)
    }

    async fn reserve_inodes(&self, request: Request<ReserveInodesRequest>) -> Answer<ReserveInodesResponse> {
        answer(delegating::reserve(&self.context, request.into_inner()).await)
    }

    async fn apply_changes(&self, request: Request<ApplyChangesRequest>) -> Answer<ApplyChangesResponse> {
        let writer = peer_ip(&request);
        answer(changes::apply(&self.context, request.into_inner(), writer).await)
    }
}
