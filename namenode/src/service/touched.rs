//! Which directories a call has to do with: what must not be delegated to somebody else while it is carried out.
//!
//! Too much is harmless, too little is not: see the head of `filesystem.proto` for what a delegation covers. Paths are resolved on a
//! snapshot before the command is proposed. If a directory on a path is replaced by another one in the microseconds
//! between, by path-based renames of others, the command may change one that is delegated; its holder hears of it as of a conflict.

use dfs_proto::v1::NodeRef;
use dfs_proto::{BlockId, InodeId};
use smallvec::{SmallVec, smallvec};

use super::delegation_tables::{Purpose, Tables};
use crate::log::{self, command::Op};
use crate::namesystem::{NamesystemError, Snapshot, trash_of};

/// Of the directories that a path leads through, a change changes the last, and the one before if the last is itself removed or moved.
/// The others are looked at.
const CHANGED_OF_A_PATH: usize = 2;

/// A part of the namespace.
#[derive(Clone, Debug)]
pub enum Touch {
    /// A name is looked up, and what it stands for is looked at or changed.
    Name(NodeRef),
    /// A node is looked at or changed.
    Node(u64),
    /// The node of a block is changed.
    Block(u64),
    /// A node, with everything that is below it.
    Tree(NodeRef),
}

/// What one call has to do with.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Its parts.
    pub touches: SmallVec<[Touch; 2]>,
    /// The caller's own delegations are in its way as well.
    pub also_own: bool,
}

impl Touched {
    fn by(touches: SmallVec<[Touch; 2]>) -> Self {
        Self { touches, also_own: false }
    }

    /// A call that looks one node up and does something with it.
    pub fn name(node: NodeRef) -> Self {
        Self::by(smallvec![Touch::Name(node)])
    }

    /// A call that looks several nodes up.
    pub fn names<'n>(nodes: impl IntoIterator<Item = &'n Option<NodeRef>>) -> Self {
        Self::by(nodes.into_iter().flatten().cloned().map(Touch::Name).collect())
    }

    /// A call about one node.
    pub fn node(inode: u64) -> Self {
        Self::by(smallvec![Touch::Node(inode)])
    }

    /// A call about several nodes.
    pub fn nodes(inodes: impl Iterator<Item = u64>) -> Self {
        Self::by(inodes.map(Touch::Node).collect())
    }

    /// A call about a subtree.
    pub fn tree(node: NodeRef) -> Self {
        Self::by(smallvec![Touch::Tree(node)])
    }

    /// What a command has to do with.
    pub fn of(op: &Op, caller: Option<&log::Caller>) -> Self {
        let name = |node: &Option<NodeRef>| Self::names([node]);
        let names = |a: &Option<NodeRef>, b: &Option<NodeRef>| Self::names([a, b]);
        match op {
            Op::Mkdir(op) => name(&op.node),
            Op::Create(op) => name(&op.node),
            Op::Append(op) => name(&op.node),
            Op::Truncate(op) => name(&op.node),
            Op::RecoverLease(op) => name(&op.node),
            Op::SetPermission(op) => name(&op.node),
            Op::SetOwner(op) => name(&op.node),
            Op::SetReplication(op) => name(&op.node),
            Op::MakeNode(op) => name(&op.node),
            Op::Unlink(op) => name(&op.node),
            Op::SetAttributes(op) => name(&op.node),
            Op::AcquireLease(op) => name(&op.node),
            Op::Rename(op) => names(&op.src, &op.dst),
            Op::Move(op) => names(&op.src, &op.dst),
            // The namenode notes that a file was read: nobody waits for that.
            Op::SetTimes(_) if caller.is_none() => Self::default(),
            Op::SetTimes(op) => name(&op.node),
            Op::AddBlock(op) => Self::node(op.inode),
            Op::AbandonBlock(op) => Self::node(op.inode),
            Op::Complete(op) => Self::node(op.inode),
            Op::Fsync(op) => Self::node(op.inode),
            Op::UpdateBlockForPipeline(op) => Self::node(op.inode),
            Op::UpdatePipeline(op) => Self::node(op.inode),
            Op::SetXattr(op) => Self::node(op.inode),
            Op::RemoveXattr(op) => Self::node(op.inode),
            Op::WriteBlock(op) => Self::node(op.inode),
            Op::CommitBlocks(op) => Self::node(op.inode),
            Op::CommitBlockSynchronization(op) => {
                Self::by(op.block.iter().map(|block| Touch::Block(block.id)).collect())
            }
            Op::AdoptReplicas(op) => Self::by(op.block.iter().map(|block| Touch::Block(block.id)).collect()),
            // What has several names cannot be in a delegated directory.
            Op::Link(op) => Self {
                touches: op.node.iter().cloned().map(Touch::Name).chain([Touch::Node(op.inode)]).collect(),
                also_own: true,
            },
            Op::Delete(op) if op.recursive => Self::by(op.node.iter().cloned().map(Touch::Tree).collect()),
            Op::Delete(op) => name(&op.node),
            Op::MoveToTrash(op) => {
                let trash = caller.map(|caller| trash_of(caller.user.as_bytes()));
                Self::by(op.node.iter().cloned().chain(trash).map(Touch::Tree).collect())
            }
            Op::EmptyTrash(op) => Self::by(op.users.iter().map(|user| Touch::Tree(trash_of(user))).collect()),
            Op::Initialize(_)
            | Op::Reclaim(_)
            | Op::RegisterDatanode(_)
            | Op::UpdateHints(_)
            | Op::ReleaseOrphans(_)
            | Op::SetDatanodeAdmin(_)
            | Op::SetRepairBandwidth(_)
            | Op::RemoveDatanode(_)
            | Op::ForgetRestore(_)
            | Op::ReserveInodes(_)
            | Op::DropReservations(_)
            | Op::PassOver(_) => Self::default(),
        }
    }

    /// Whether it has to do with a whole subtree.
    pub fn is_tree(&self) -> bool {
        self.touches.iter().any(|touch| matches!(touch, Touch::Tree(_)))
    }

    /// Adds the directories that are delegated to others than `client` and in the way of this call. `lock` gives the
    /// tables for a moment.
    pub fn blockers<'t, G: std::ops::Deref<Target = Tables> + 't>(
        &self,
        snapshot: &Snapshot,
        (client, purpose): (Option<&[u8]>, Purpose),
        lock: impl Fn() -> G,
        blockers: &mut Vec<u64>,
    ) -> Result<(), NamesystemError> {
        let client = if self.also_own { None } else { client };
        for touch in &self.touches {
            let directories = match touch {
                Touch::Name(node) | Touch::Tree(node) => snapshot.directories_of(node)?,
                Touch::Node(inode) => snapshot.directory_of(InodeId(*inode))?.into_iter().collect(),
                Touch::Block(block) => snapshot.directory_of_block(BlockId(*block))?.into_iter().collect(),
            };
            {
                let tables = lock();
                let changed_from = directories.len().saturating_sub(CHANGED_OF_A_PATH);
                let purposes = |at: usize| if at < changed_from { Purpose::Look } else { purpose };
                let others = directories.iter().map(|id| id.get()).enumerate();
                let others = others.filter(|(at, id)| tables.is_others(client, *id, purposes(*at)));
                blockers.extend(others.map(|(_, id)| id));
            }
            if let (Touch::Tree(_), Some(root)) = (touch, directories.last()) {
                // Its own lock: walking up takes a while.
                let others = lock().others(client, purpose);
                for id in others {
                    if snapshot.is_within(InodeId(id), *root)? {
                        blockers.push(id);
                    }
                }
            }
        }
        Ok(())
    }
}
