//! A namespace in memory, with short ways to say commands.

use dfs_proto::{ErrorKind, InodeId, v1};
use log::command::Op;
use log::reply::Reply;
use redb::backends::InMemoryBackend;

use super::model::Random;
use crate::log;
use crate::namesystem::{Applied, Effect, NamesystemError, Snapshot, Store, Tables, apply};

/// Block size of test files: small numbers read better.
pub(super) const BLOCK: u64 = 100;

/// Layers of test stores are flushed when the tests say so.
pub(super) const LAYER_BYTES: usize = 8 << 20;

pub(super) struct Fixture {
    pub(super) store: Store,
    pub(super) log_index: u64,
    pub(super) now_ns: i64,
    pub(super) caller: log::Caller,
    /// When changes are flushed.
    pub(super) flushes: Random,
    /// Effects of the last command.
    pub(super) effects: Vec<Effect>,
}

pub(super) fn store_in_memory() -> Store {
    let db = redb::Database::builder().create_with_backend(InMemoryBackend::new());
    Store::new(db.expect("a database in memory"), LAYER_BYTES).expect("a store")
}

pub(super) fn caller(user: &str, groups: &[&str]) -> log::Caller {
    log::Caller {
        user: user.to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        superuser: user == "root",
    }
}

pub(super) fn node(path: &str) -> v1::NodeRef {
    v1::NodeRef { base: 0, path: bytes::Bytes::copy_from_slice(path.as_bytes()) }
}

pub(super) fn below(base: u64, path: &str) -> v1::NodeRef {
    v1::NodeRef { base, ..node(path) }
}

pub(super) fn storages(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

pub(super) fn block(id: u64, generation_stamp: u64, length: u64) -> v1::Block {
    v1::Block { id, generation_stamp, length }
}

pub(super) fn committed(block: v1::Block, storage_ids: &[&str]) -> v1::CommittedBlock {
    v1::CommittedBlock { block: Some(block), storage_ids: storages(storage_ids) }
}

impl Fixture {
    /// An initialised namespace; the caller is the superuser.
    pub(super) fn new() -> Self {
        let mut fixture = Self {
            store: store_in_memory(),
            log_index: 0,
            flushes: Random::new(1),
            now_ns: 1_000,
            caller: caller("root", &["supergroup"]),
            effects: vec![],
        };
        fixture.ok(Op::Initialize(log::InitializeOp {
            cluster_id: "CID-1".to_owned(),
            block_pool_id: "BP-1".to_owned(),
            superuser: "root".to_owned(),
            supergroup: "supergroup".to_owned(),
        }));
        fixture
    }

    pub(super) fn become_user(&mut self, user: &str, groups: &[&str]) {
        self.caller = caller(user, groups);
    }

    /// A command of the namenode itself or of a client without a retry key.
    pub(super) fn command(&mut self, op: Op) -> log::Command {
        self.now_ns += 10;
        log::Command {
            now_ns: self.now_ns,
            caller: Some(self.caller.clone()),
            client_id: Vec::new(),
            call_id: 0,
            op: Some(op),
        }
    }

    /// Applies a command in a transaction of its own.
    pub(super) fn apply(&mut self, command: &log::Command) -> Applied {
        self.log_index += 1;
        let mut tables = Tables::open(&self.store).expect("opens");
        let applied = apply(&mut tables, self.log_index, command).expect("the store works");
        tables.commit();
        self.flush_perhaps();
        applied
    }

    /// Has rows of all ages be in all places, and hints be forgotten as by a restart.
    fn flush_perhaps(&mut self) {
        match self.flushes.below(20) {
            0 => self.store.flush().expect("the store works"),
            1 => self.store.checkpoint().expect("the store works"),
            2 => drop(self.store.take_hints()),
            _ => {}
        }
    }

    pub(super) fn run(&mut self, op: Op) -> Result<Reply, NamesystemError> {
        let command = self.command(op);
        let applied = self.apply(&command);
        self.effects = applied.effects;
        applied.outcome.map(|reply| reply.reply.expect("a reply"))
    }

    #[track_caller]
    pub(super) fn ok(&mut self, op: Op) -> Reply {
        self.run(op).expect("carried out")
    }

    /// Carries out what answers with an opened file.
    #[track_caller]
    pub(super) fn ok_opened(&mut self, op: Op) -> Opened {
        match self.ok(op) {
            Reply::Opened(opened) => Opened::new(opened),
            other => panic!("{other:?}"),
        }
    }

    /// Expects a refusal that changes nothing.
    #[track_caller]
    pub(super) fn refused(&mut self, op: Op, kind: ErrorKind) -> NamesystemError {
        let before = self.snapshot().digest().expect("reads");
        match self.run(op) {
            Ok(reply) => panic!("expected {kind:?}, got {reply:?}"),
            Err(error) => {
                assert_eq!(error.kind(), kind, "{error}");
                assert_eq!(self.snapshot().digest().expect("reads"), before, "{error} left a trace");
                assert!(self.effects.is_empty());
                error
            }
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot::open(&self.store)
    }

    #[track_caller]
    pub(super) fn stat(&self, path: &str) -> v1::FileStatus {
        self.snapshot().stat(&self.caller, &node(path)).expect("exists")
    }

    #[track_caller]
    pub(super) fn assert_missing(&self, path: &str) {
        let error = self.snapshot().stat(&self.caller, &node(path)).expect_err("does not exist");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }

    #[track_caller]
    pub(super) fn assert_sound(&self) {
        let violations = self.snapshot().check_invariants().expect("reads");
        assert!(violations.is_empty(), "{violations:?}");
    }

    #[track_caller]
    pub(super) fn mkdir(&mut self, path: &str) {
        self.ok(mkdir(path, true));
    }

    /// Creates a file with one allocated block.
    #[track_caller]
    pub(super) fn create(&mut self, path: &str, holder: &str) -> Opened {
        match self.ok(create(path, holder)) {
            Reply::Opened(opened) => Opened::new(opened),
            other => panic!("{other:?}"),
        }
    }

    /// A closed file of so many bytes.
    #[track_caller]
    pub(super) fn write_file(&mut self, path: &str, size: u64) -> u64 {
        let opened = self.create(path, "writer");
        let mut block = opened.block.expect("a block");
        let mut left = size;
        while left > BLOCK {
            block.length = BLOCK;
            let reply = self.ok(add_block(opened.inode, "writer", Some(committed(block, &["s1"]))));
            let Reply::Block(spec) = reply else { panic!("{reply:?}") };
            block = spec.block.expect("a block");
            left -= BLOCK;
        }
        block.length = left;
        let last = (left > 0).then(|| committed(block, &["s1"]));
        self.ok(complete(opened.inode, "writer", last));
        assert_eq!(self.stat(path).size, size);
        opened.inode
    }

    pub(super) fn blocks_of(&self, inode: u64) -> Vec<crate::namesystem::StoredBlock> {
        let (blocks, complete) =
            self.snapshot().file_blocks(InodeId(inode), 0, u64::MAX, 1_000).expect("a file");
        assert!(complete);
        blocks.into_iter().map(|(_, block)| block).collect()
    }

    /// Frees everything that deletions left.
    #[track_caller]
    pub(super) fn reclaim_all(&mut self, budget: u32) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            let more = self.ok(Op::Reclaim(log::ReclaimOp { budget }));
            effects.append(&mut self.effects);
            match more {
                Reply::More(true) => {}
                Reply::More(false) => return effects,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// What Create and Append answered.
pub(super) struct Opened {
    pub(super) inode: u64,
    pub(super) block: Option<v1::Block>,
    pub(super) new_stamp: u64,
}

impl Opened {
    pub(super) fn new(opened: log::OpenedForWrite) -> Self {
        Self {
            inode: opened.status.expect("a status").inode,
            block: opened.block.and_then(|spec| spec.block),
            new_stamp: opened.new_generation_stamp,
        }
    }
}

pub(super) fn mkdir(path: &str, create_parents: bool) -> Op {
    Op::Mkdir(log::MkdirOp { node: Some(node(path)), mode: 0o755, create_parents })
}

pub(super) fn create(path: &str, holder: &str) -> Op {
    Op::Create(create_op(path, holder))
}

pub(super) fn create_op(path: &str, holder: &str) -> log::CreateOp {
    log::CreateOp {
        node: Some(node(path)),
        mode: 0o644,
        holder: holder.to_owned(),
        overwrite: false,
        create_parents: false,
        replication: 3,
        block_size: BLOCK,
        targets: storages(&["s1", "s2", "s3"]),
    }
}

pub(super) fn append(path: &str, holder: &str) -> Op {
    Op::Append(log::AppendOp { node: Some(node(path)), holder: holder.to_owned() })
}

pub(super) fn add_block(inode: u64, holder: &str, previous: Option<v1::CommittedBlock>) -> Op {
    let targets = storages(&["s1", "s2", "s3"]);
    Op::AddBlock(log::AddBlockOp { inode, holder: holder.to_owned(), previous, targets })
}

pub(super) fn abandon(inode: u64, holder: &str, block: v1::Block) -> Op {
    Op::AbandonBlock(log::AbandonBlockOp { inode, holder: holder.to_owned(), block: Some(block) })
}

pub(super) fn complete(inode: u64, holder: &str, last: Option<v1::CommittedBlock>) -> Op {
    Op::Complete(log::CompleteOp { inode, holder: holder.to_owned(), last })
}

pub(super) fn truncate(path: &str, length: u64) -> Op {
    Op::Truncate(log::TruncateOp { node: Some(node(path)), length, holder: "cutter".to_owned() })
}

pub(super) fn recover_lease(path: &str) -> Op {
    Op::RecoverLease(log::RecoverLeaseOp { node: Some(node(path)) })
}

pub(super) fn synchronized(id: u64, new_stamp: u64, new_length: u64, storage_ids: &[&str]) -> Op {
    Op::CommitBlockSynchronization(log::CommitBlockSynchronizationOp {
        block: Some(block(id, 0, 0)),
        new_generation_stamp: new_stamp,
        new_length,
        delete_block: new_length == 0,
        storage_ids: storages(storage_ids),
    })
}

pub(super) fn rename(src: &str, dst: &str, overwrite: bool) -> Op {
    Op::Rename(log::RenameOp { src: Some(node(src)), dst: Some(node(dst)), overwrite })
}

pub(super) fn delete(path: &str, recursive: bool) -> Op {
    Op::Delete(log::DeleteOp { node: Some(node(path)), recursive })
}

pub(super) fn chmod(path: &str, mode: u32) -> Op {
    Op::SetPermission(log::SetPermissionOp { node: Some(node(path)), mode })
}

pub(super) fn chown(path: &str, owner: &str, group: &str) -> Op {
    Op::SetOwner(log::SetOwnerOp { node: Some(node(path)), owner: owner.to_owned(), group: group.to_owned() })
}

pub(super) fn set_replication(path: &str, replication: u32) -> Op {
    Op::SetReplication(log::SetReplicationOp { node: Some(node(path)), replication })
}

pub(super) fn make_node(op: log::MakeNodeOp) -> Op {
    Op::MakeNode(op)
}

/// A file that nobody opens.
pub(super) fn file_op(path: &str) -> log::MakeNodeOp {
    log::MakeNodeOp {
        node: Some(node(path)),
        r#type: v1::FileType::File.into(),
        mode: 0o644,
        replication: 3,
        block_size: BLOCK,
        ..Default::default()
    }
}

pub(super) fn acquire_lease(path: &str, holder: &str, truncate: bool) -> Op {
    let holder = holder.to_owned();
    Op::AcquireLease(log::AcquireLeaseOp { node: Some(node(path)), holder, truncate, reopen: false })
}

pub(super) fn write_block(inode: u64, holder: &str, index: u64) -> Op {
    let targets = storages(&["s1", "s2", "s3"]);
    Op::WriteBlock(log::WriteBlockOp { inode, holder: holder.to_owned(), index, targets })
}

pub(super) fn written(block: v1::Block, storage_ids: &[&str], finished: bool) -> v1::WrittenBlock {
    v1::WrittenBlock { block: Some(block), storage_ids: storages(storage_ids), finished }
}

pub(super) fn commit_blocks(
    inode: u64,
    holder: &str,
    blocks: &[v1::WrittenBlock],
    size: Option<u64>,
    close: bool,
) -> Op {
    let (holder, blocks) = (holder.to_owned(), blocks.to_vec());
    Op::CommitBlocks(log::CommitBlocksOp { inode, holder, blocks, size, mtime_ns: None, close })
}

pub(super) fn set_size(path: &str, size: u64) -> Op {
    Op::SetAttributes(log::SetAttributesOp { node: Some(node(path)), size: Some(size), ..Default::default() })
}

pub(super) fn unlink(path: &str, opened: u64) -> Op {
    Op::Unlink(log::UnlinkOp { node: Some(node(path)), directory: false, opened, inode: 0 })
}
