//! The client: namespace calls, and the way to readers and writers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::v1::{
    self, ClusterStats, ContentSummary, DatanodeReport, LocatedBlock, RestoredResponse, SafeModeAction,
    ServerDefaults,
};
use dfs_proto::{CLIENT_PROTOCOL_VERSION, ErrorKind};
use uuid::Uuid;

use crate::block_reader::READ_PIECE_BYTES;
use crate::buffer_pool::BufferPool;
use crate::config::{ClientBuilder, ClientConfig};
use crate::lease_renewer::LeaseRenewer;
use crate::local_replicas::LocalReplicas;
use crate::namenode::Namenode;
use crate::options::{CreateOptions, MkdirOptions, RenameOptions};
use crate::peer_cache::PeerCache;
use crate::read_times::{HedgeCounts, ReadKind, ReadTimes};
use crate::retry::RetryPolicy;
use crate::slow_nodes::SlowNodes;
use crate::status::{FileStatus, ListPage, LocatedStatus, to_ns};
use crate::{DfsError, FileChecksum, FileReader, FileWriter, path};

/// Entries asked for in one listing call, the most the namenode gives.
pub const LIST_PAGE_ENTRIES: usize = 1000;

/// Names asked for in one listing of nothing else, the most the namenode gives.
pub const LIST_PAGE_NAMES: usize = 4096;

/// A connection to a cluster. Cloning is cheap and shares everything; use it from any number of tasks.
///
/// Calls that change something are retried until the deadline of the
/// [`RetryPolicy`], and act once however often they are sent.
#[derive(Clone)]
pub struct DfsClient {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones of a client, its readers and its writers share.
pub(crate) struct Inner {
    pub config: ClientConfig,
    pub namenode: Namenode,
    pub defaults: ServerDefaults,
    /// Lease holder and data transfer client name.
    pub holder: String,
    /// Idle connections to datanodes.
    pub peers: PeerCache,
    /// Replicas on this machine.
    pub local: LocalReplicas,
    /// Datanodes to ask last.
    pub slow: SlowNodes,
    pub times: ReadTimes,
    /// Packet buffers of all writers.
    pub buffers: Arc<BufferPool>,
    /// Buffers of all readers.
    pub read_buffers: Arc<BufferPool>,
    /// Lease renewal of all writers.
    pub leases: LeaseRenewer,
}

impl std::fmt::Debug for DfsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DfsClient")
            .field("namenode", &self.inner.namenode.address())
            .field("user", &self.inner.namenode.user())
            .finish_non_exhaustive()
    }
}

impl DfsClient {
    /// Connects to the namenode at `host:port` with default settings.
    pub async fn connect(namenode: impl Into<String>) -> Result<Self, DfsError> {
        Self::builder().namenode(namenode).connect().await
    }

    /// A builder, for settings other than the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) async fn connect_with(config: ClientConfig) -> Result<Self, DfsError> {
        let id = Uuid::new_v4();
        let user = config.user.clone().unwrap_or_else(os_user);
        let namenode = Namenode::new(&config, user, id).await?;
        let request = v1::GetServerDefaultsRequest { protocol_version: CLIENT_PROTOCOL_VERSION };
        let policy = RetryPolicy { deadline: config.connect_deadline, ..config.retry };
        let defaults: ServerDefaults = namenode
            .call_with(policy, "", request, |mut stub, request| async move {
                stub.get_server_defaults(request).await
            })
            .await?;
        if defaults.protocol_version != CLIENT_PROTOCOL_VERSION {
            return Err(DfsError::VersionMismatch {
                address: namenode.address().to_owned(),
                ours: CLIENT_PROTOCOL_VERSION,
                theirs: defaults.protocol_version,
            });
        }
        let holder = config.holder.clone().unwrap_or_else(|| format!("dfs_client_{}", id.simple()));
        let buffers = BufferPool::new(config.packet_bytes);
        let read_buffers = BufferPool::new(READ_PIECE_BYTES);
        let peers = PeerCache::default();
        let (leases, slow) = (LeaseRenewer::default(), SlowNodes::default());
        let (local, times) = (LocalReplicas::default(), ReadTimes::default());
        let inner = Inner {
            config,
            namenode,
            defaults,
            holder,
            peers,
            local,
            slow,
            times,
            buffers,
            read_buffers,
            leases,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Defaults and identity of the cluster, as of connecting.
    pub fn server_defaults(&self) -> &ServerDefaults {
        &self.inner.defaults
    }

    /// User in whose name calls are made.
    pub fn user(&self) -> &str {
        self.inner.namenode.user()
    }

    /// Address of the namenode in use.
    pub fn namenode(&self) -> &str {
        self.inner.namenode.address()
    }

    /// Second questions of its readers, to datanodes that were asked because another one was late.
    pub fn hedge_counts(&self) -> HedgeCounts {
        self.inner.times.hedges()
    }

    /// Opens a file for reading.
    pub async fn open(&self, path: &str) -> Result<FileReader, DfsError> {
        FileReader::open(Arc::clone(&self.inner), path).await
    }

    /// Creates a file and opens it for writing. The file exists at once; what is written is kept once the writer is
    /// closed ([`FileWriter::close`]).
    pub async fn create(&self, path: &str, options: CreateOptions) -> Result<FileWriter, DfsError> {
        FileWriter::create(Arc::clone(&self.inner), path, options).await
    }

    /// Opens an existing file for writing at its end.
    pub async fn append(&self, path: &str) -> Result<FileWriter, DfsError> {
        FileWriter::append(Arc::clone(&self.inner), path).await
    }

    /// Makes a directory and tells its attributes.
    pub async fn mkdir(&self, path: &str, options: MkdirOptions) -> Result<FileStatus, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::MkdirRequest {
            context: nn.context(),
            node: Some(path::node(path)?),
            mode: options.mode,
            create_parents: options.parents,
        };
        let status = nn.call(path, request, |mut s, r| async move { s.mkdir(r).await }).await?;
        Ok(FileStatus::of_path(path, status))
    }

    /// Attributes of a node.
    pub async fn stat(&self, path: &str) -> Result<FileStatus, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::StatRequest { context: nn.context(), node: Some(path::node(path)?) };
        let status = nn.call(path, request, |mut s, r| async move { s.stat(r).await }).await?;
        Ok(FileStatus::of_path(path, status))
    }

    /// Whether a node exists.
    pub async fn exists(&self, path: &str) -> Result<bool, DfsError> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All entries of a directory, sorted bytewise by name; a file lists itself. For directories that may be huge use
    /// [`Self::list_page`], which holds one page at a time.
    pub async fn list(&self, path: &str) -> Result<Vec<FileStatus>, DfsError> {
        let mut page = self.list_page(path, &[], LIST_PAGE_ENTRIES).await?;
        let mut entries = std::mem::take(&mut page.entries);
        while page.has_more {
            let Some(last) = entries.last() else { break };
            page = self.list_page(path, &last.raw_name, LIST_PAGE_ENTRIES).await?;
            if page.entries.is_empty() {
                break;
            }
            entries.append(&mut page.entries);
        }
        Ok(entries)
    }

    /// The entries of a directory after the name `start_after` (empty: from the start), at most `limit` and
    /// at most [`LIST_PAGE_ENTRIES`]. Stable while entries come and go.
    pub async fn list_page(
        &self,
        path: &str,
        start_after: &[u8],
        limit: usize,
    ) -> Result<ListPage, DfsError> {
        let answer = self.list_call(path, start_after, limit, false).await?;
        let entries = answer.entries.into_iter().map(|entry| FileStatus::of_entry(path, entry)).collect();
        Ok(ListPage { entries, has_more: answer.has_more })
    }

    /// Like [`Self::list_page`], with the blocks of files; the flag tells whether more entries follow.
    pub async fn list_located(
        &self,
        path: &str,
        start_after: &[u8],
        limit: usize,
    ) -> Result<(Vec<LocatedStatus>, bool), DfsError> {
        let answer = self.list_call(path, start_after, limit, true).await?;
        let located = answer.locations.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        let entries = answer.entries.into_iter().zip(located).map(|(entry, located)| {
            let (blocks, complete) = located.map_or((Vec::new(), true), |l| (l.blocks, l.complete));
            LocatedStatus { status: FileStatus::of_entry(path, entry), blocks, complete }
        });
        Ok((entries.collect(), answer.has_more))
    }

    async fn list_call(
        &self,
        path: &str,
        start_after: &[u8],
        limit: usize,
        need_locations: bool,
    ) -> Result<v1::ListResponse, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::ListRequest {
            context: nn.context(),
            node: Some(path::node(path)?),
            start_after: Bytes::copy_from_slice(start_after),
            limit: limit.clamp(1, LIST_PAGE_ENTRIES) as u32,
            need_locations,
            names_only: false,
            names_max: 0,
        };
        nn.call(path, request, |mut s, r| async move { s.list(r).await }).await
    }

    /// All blocks of a file that overlap `length` bytes from `offset`, and where their replicas are.
    pub async fn locate(&self, path: &str, offset: u64, length: u64) -> Result<Vec<LocatedBlock>, DfsError> {
        let end = offset.saturating_add(length);
        let node = path::node(path)?;
        let mut blocks: Vec<LocatedBlock> = Vec::new();
        let mut from = offset;
        loop {
            let mut page = self.inner.located_blocks(path, node.clone(), from, end - from).await?;
            let next =
                page.blocks.last().map(|b| b.offset + b.block.as_ref().map_or(0, |block| block.length));
            blocks.append(&mut page.blocks);
            match next {
                Some(next) if !page.complete && next > from && next < end => from = next,
                _ => return Ok(blocks),
            }
        }
    }

    /// Moves a file or a whole directory in one step. The target is the new name, also if a directory exists there.
    pub async fn rename(&self, src: &str, dst: &str, options: RenameOptions) -> Result<(), DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::RenameRequest {
            context: nn.context(),
            src: Some(path::node(src)?),
            dst: Some(path::node(dst)?),
            overwrite: options.overwrite,
        };
        nn.call(src, request, |mut s, r| async move { s.rename(r).await }).await.map(drop)
    }

    /// Removes a file, or a directory (with everything below it if `recursive`). False if there was nothing to
    /// remove. Space is freed in the background. This is final: [`Self::move_to_trash`] can be taken back.
    pub async fn delete(&self, path: &str, recursive: bool) -> Result<bool, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::DeleteRequest { context: nn.context(), node: Some(path::node(path)?), recursive };
        Ok(nn.call(path, request, |mut s, r| async move { s.delete(r).await }).await?.deleted)
    }

    /// Sets the permission bits (07777).
    pub async fn set_permission(&self, path: &str, mode: u32) -> Result<(), DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::SetPermissionRequest { context: nn.context(), node: Some(path::node(path)?), mode };
        nn.call(path, request, |mut s, r| async move { s.set_permission(r).await }).await.map(drop)
    }

    /// Sets owner, group, or both; `None` leaves it.
    pub async fn set_owner(
        &self,
        path: &str,
        owner: Option<&str>,
        group: Option<&str>,
    ) -> Result<(), DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::SetOwnerRequest {
            context: nn.context(),
            node: Some(path::node(path)?),
            owner: owner.unwrap_or_default().to_owned(),
            group: group.unwrap_or_default().to_owned(),
        };
        nn.call(path, request, |mut s, r| async move { s.set_owner(r).await }).await.map(drop)
    }

    /// Sets access time, modification time, or both; `None` leaves it.
    pub async fn set_times(
        &self,
        path: &str,
        accessed: Option<std::time::SystemTime>,
        modified: Option<std::time::SystemTime>,
    ) -> Result<(), DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::SetTimesRequest {
            context: nn.context(),
            node: Some(path::node(path)?),
            atime_ns: accessed.map(to_ns),
            mtime_ns: modified.map(to_ns),
        };
        nn.call(path, request, |mut s, r| async move { s.set_times(r).await }).await.map(drop)
    }

    /// Sets the replication of a file; copies are made or removed in the background.
    pub async fn set_replication(&self, path: &str, replication: u16) -> Result<(), DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::SetReplicationRequest {
            context: nn.context(),
            node: Some(path::node(path)?),
            replication: u32::from(replication),
        };
        nn.call(path, request, |mut s, r| async move { s.set_replication(r).await }).await.map(drop)
    }

    /// Cuts a closed file to `length` bytes, at most its present length. True: done. False: the last block is
    /// being cut; the file is closed (see [`FileStatus::under_construction`]) when that ends.
    pub async fn truncate(&self, path: &str, length: u64) -> Result<bool, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::TruncateRequest {
            context: nn.context(),
            node: Some(path::node(path)?),
            length,
            holder: self.inner.holder.clone(),
        };
        Ok(nn.call(path, request, |mut s, r| async move { s.truncate(r).await }).await?.done)
    }

    /// Takes a file from a writer that is gone. True: it is closed. False: recovery has begun; ask again.
    pub async fn recover_lease(&self, path: &str) -> Result<bool, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::RecoverLeaseRequest { context: nn.context(), node: Some(path::node(path)?) };
        Ok(nn.call(path, request, |mut s, r| async move { s.recover_lease(r).await }).await?.closed)
    }

    /// Totals of a subtree.
    pub async fn content_summary(&self, path: &str) -> Result<ContentSummary, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::ContentSummaryRequest { context: nn.context(), node: Some(path::node(path)?) };
        nn.call(path, request, |mut s, r| async move { s.get_content_summary(r).await }).await
    }

    /// Checksum of a file's content, computed by the datanodes from their stored checksums. Equal for equal
    /// content, whatever the block size and replication.
    pub async fn checksum(&self, path: &str) -> Result<FileChecksum, DfsError> {
        FileChecksum::compute(&self.inner, path).await
    }

    /// Capacity and health of the cluster.
    pub async fn stats(&self) -> Result<ClusterStats, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::GetStatsRequest { context: nn.context() };
        nn.call("", request, |mut s, r| async move { s.get_stats(r).await }).await
    }

    /// The datanodes, one row each.
    pub async fn datanodes(&self) -> Result<Vec<DatanodeReport>, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::DatanodeReportRequest { context: nn.context() };
        Ok(nn.call("", request, |mut s, r| async move { s.get_datanode_report(r).await }).await?.datanodes)
    }

    /// Tells whether the namespace was restored from a backup; with `finish` ends that, so that replicas which the
    /// namespace does not know may be deleted (superuser).
    pub async fn restored(&self, finish: bool) -> Result<RestoredResponse, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::RestoredRequest { context: nn.context(), finish, ..Default::default() };
        nn.call("", request, |mut s, r| async move { s.restored(r).await }).await
    }

    /// Lets a restored namespace take over blocks as their newer replicas are. Some at a time: the answer says how many.
    pub async fn adopt_newer_replicas(&self) -> Result<RestoredResponse, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::RestoredRequest { context: nn.context(), adopt: true, ..Default::default() };
        nn.call("", request, |mut s, r| async move { s.restored(r).await }).await
    }

    /// Like [`DfsClient::restored`] with `finish`; newer replicas of blocks that it knows are deleted, too.
    pub async fn discard_newer_replicas(&self) -> Result<RestoredResponse, DfsError> {
        let nn = &self.inner.namenode;
        let request =
            v1::RestoredRequest { context: nn.context(), finish: true, discard: true, ..Default::default() };
        nn.call("", request, |mut s, r| async move { s.restored(r).await }).await
    }

    /// Whether the namenode takes no changes as its disk is full.
    pub async fn is_disk_full(&self) -> Result<bool, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::SafeModeRequest { context: nn.context(), action: SafeModeAction::Get.into() };
        Ok(nn.call("", request, |mut s, r| async move { s.safe_mode(r).await }).await?.disk_full)
    }

    /// Reads or changes safe mode; tells whether it is on afterwards.
    pub async fn safe_mode(&self, action: SafeModeAction) -> Result<bool, DfsError> {
        let nn = &self.inner.namenode;
        let request = v1::SafeModeRequest { context: nn.context(), action: action.into() };
        Ok(nn.call("", request, |mut s, r| async move { s.safe_mode(r).await }).await?.safe_mode)
    }
}

impl Inner {
    /// Remembers how long a read took at a datanode; one that is slower than others is asked after them.
    pub(crate) fn note_read(&self, uuid: &str, kind: ReadKind, took: Duration) {
        if self.times.note(uuid, kind, took) {
            self.slow.note_slower(uuid);
        }
    }

    /// A datanode was late, and another one that was asked for the same bytes then was first.
    pub(crate) fn note_lost(&self, uuid: &str) {
        self.times.forget(uuid);
        self.slow.note_slower(uuid);
    }

    /// One answer of located blocks; `path` is for errors.
    pub(crate) async fn located_blocks(
        &self,
        path: &str,
        node: v1::NodeRef,
        offset: u64,
        length: u64,
    ) -> Result<v1::LocatedBlocks, DfsError> {
        let context = self.namenode.context();
        let request = v1::OpenRequest { context, node: Some(node), offset, length };
        self.namenode.call(path, request, |mut s, r| async move { s.open(r).await }).await
    }
}

/// Name of the user who runs the process; its number if it has no name.
fn os_user() -> String {
    let uid = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}
