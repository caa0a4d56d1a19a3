//! Why a command or a query was refused, and how the store can fail.
//!
//! A refusal is a fact about the namespace and part of normal operation: it goes to the caller. A
//! [`StoreError`] is a failed disk or a defect: the namenode stops serving, since its state may no longer
//! follow the log.

use std::sync::Arc;

use dfs_proto::{BlockId, ErrorKind, GenerationStamp, InodeId};

/// The store failed or holds what this version cannot read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// redb reported an error.
    #[error("namespace store: {0}")]
    Redb(Arc<redb::Error>),
    /// A record does not decode.
    #[error("namespace store: table {table}, key {key:02x?}: {fault}")]
    Corrupt {
        /// Table of the record.
        table: &'static str,
        /// Its key.
        key: Vec<u8>,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// A record that another record refers to does not exist.
    #[error("namespace store: table {table}, key {key:02x?}: referred to but missing")]
    Dangling {
        /// Table that should hold the record.
        table: &'static str,
        /// Its key.
        key: Vec<u8>,
    },
}

/// Why a record does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Written by a version that this one does not know.
    #[error("record version {0}")]
    Version(u8),
    /// Shorter or longer than its own lengths say.
    #[error("record length {0}")]
    Length(usize),
    /// A field holds a value outside its range.
    #[error("field {0} out of range")]
    Field(&'static str),
}

macro_rules! from_redb {
    ($($source:ty),*) => {
        $(impl From<$source> for StoreError {
            fn from(error: $source) -> Self {
                Self::Redb(Arc::new(error.into()))
            }
        })*
    };
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::Error);

/// What made an argument unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReason {
    /// The command holds no operation, or misses a part that it needs.
    #[error("incomplete request")]
    Incomplete,
    /// The call number was used before, for an operation of another kind.
    #[error("call id used twice")]
    CallIdReused,
    /// The client id is not 16 bytes.
    #[error("client id is not 16 bytes")]
    ClientId,
    /// Lease holder empty, too long, or the namenode's own.
    #[error("lease holder is not valid")]
    Holder,
    /// A number of inode numbers that is 0 or too large.
    #[error("1 to 4,096 numbers can be reserved at once")]
    ReservedCount,
    /// Mode has bits outside 07777.
    #[error("mode has bits outside 07777")]
    Mode,
    /// Replication outside 1 to 512.
    #[error("replication must be 1 to 512")]
    Replication,
    /// Block size zero or over the limit.
    #[error("block size is out of range")]
    BlockSize,
    /// User or group name empty or longer than 255 bytes.
    #[error("user or group name is not valid")]
    Principal,
    /// The operation works on regular files only.
    #[error("not a regular file")]
    NotARegularFile,
    /// A directory was to be moved into itself or below.
    #[error("cannot move a directory into itself")]
    IntoItself,
    /// What was to be moved to the trash has the trash in it.
    #[error("it contains the trash; -skipTrash removes it for good")]
    ContainsTrash,
    /// The path names its own base, which has no name to change.
    #[error("the root has no name to remove or change")]
    BaseItself,
    /// A truncate was to make the file longer.
    #[error("cannot truncate to a larger length")]
    LongerThanFile,
    /// Append goes on where the data of the last block ends, and that is not the end of the file.
    #[error("the file ends in a hole: only a mount can append to it")]
    EndsInHole,
    /// The block belongs to another file.
    #[error("not a block of the file")]
    NotInFile,
    /// A block is being written that must be finished first.
    #[error("a block is under construction")]
    BlockOpen,
    /// A request names a block twice.
    #[error("block is named twice")]
    BlockTwice,
    /// The name of an extended attribute is empty or holds NUL.
    #[error("name of an extended attribute is not valid")]
    XattrName,
    /// An access control list does not have the entries that it must have.
    #[error("access control list is not valid")]
    AccessControlList,
    /// The target of a symbolic link is empty or holds NUL.
    #[error("target of a symbolic link is not valid")]
    SymlinkTarget,
    /// Not the last block of the file.
    #[error("not the last block of the file")]
    NotLastBlock,
    /// A block that is not the last one must be exactly as long as the block size.
    #[error("block is not full")]
    BlockNotFull,
    /// The length is over the block size, or below what was recorded before.
    #[error("block length is out of range")]
    BlockLength,
    /// The block holds data that the namenode knows of.
    #[error("block holds data")]
    BlockHoldsData,
    /// The last block is complete.
    #[error("block is complete")]
    BlockComplete,
    /// The namespace exists and belongs to another cluster.
    #[error("the namespace belongs to another cluster")]
    OtherCluster,
    /// A datanode or storage id is empty or too long, or there are too many.
    #[error("datanode or storage id is not valid")]
    StorageId,
}

/// A refused command or query. Paths are as the caller wrote them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NamesystemError {
    /// Nothing has this name.
    #[error("{path}: no such file or directory")]
    NotFound {
        /// Path.
        path: String,
    },
    /// No inode has this id (any more).
    #[error("{inode}: no such file")]
    InodeNotFound {
        /// Inode.
        inode: InodeId,
    },
    /// No block has this id (any more).
    #[error("{block}: no such block")]
    BlockNotFound {
        /// Block.
        block: BlockId,
    },
    /// No datanode with this identity ever registered.
    #[error("{uuid}: no such datanode")]
    DatanodeNotFound {
        /// Identity.
        uuid: String,
    },
    /// The name is taken.
    #[error("{path}: exists")]
    AlreadyExists {
        /// Path.
        path: String,
    },
    /// A part of the path, or the node itself, is not a directory.
    #[error("{path}: not a directory")]
    NotADirectory {
        /// Path.
        path: String,
    },
    /// A file was needed.
    #[error("{path}: is a directory")]
    IsADirectory {
        /// Path.
        path: String,
    },
    /// The directory has entries.
    #[error("{path}: directory not empty")]
    DirectoryNotEmpty {
        /// Path.
        path: String,
    },
    /// The path has a name that is empty, `.`, `..` or holds NUL.
    #[error("{path}: invalid path")]
    InvalidPath {
        /// Path.
        path: String,
    },
    /// A name or the path is too long or too deep.
    #[error("{path}: name too long")]
    NameTooLong {
        /// Path, cut.
        path: String,
    },
    /// Permission bits forbid it.
    #[error("{path}: user {user} needs {needed} permission on {refuser}")]
    AccessDenied {
        /// Path.
        path: String,
        /// Caller.
        user: String,
        /// Permission bits missed, such as `-wx`.
        needed: super::permission::Access,
        /// Path of the node that refused: the one asked for, a directory on the way, or one below.
        refuser: String,
    },
    /// Only the owner, a group member or the superuser may.
    #[error("{path}: not permitted to user {user}")]
    NotPermitted {
        /// Path.
        path: String,
        /// Caller.
        user: String,
    },
    /// An argument is unusable.
    #[error("{subject}: {reason}")]
    InvalidArgument {
        /// What the call is about.
        subject: String,
        /// What is wrong.
        reason: InvalidReason,
    },
    /// A path leads through a symbolic link, or a link was named where a file is needed.
    #[error("{path}: is a symbolic link, which only mounts follow")]
    SymbolicLink {
        /// Path of the link.
        path: String,
    },
    /// The node has as many names as it can have.
    #[error("{path}: too many links")]
    TooManyLinks {
        /// The name it was to have.
        path: String,
    },
    /// The node has no such extended attribute, or none that the caller may know of.
    #[error("{inode}: no attribute {name}")]
    NoAttribute {
        /// Node.
        inode: InodeId,
        /// Name of the attribute.
        name: String,
    },
    /// Extended attributes of this namespace are not supported.
    #[error("{name}: attributes of this namespace are not supported")]
    XattrNamespace {
        /// Name of the attribute, cut.
        name: String,
    },
    /// The extended attributes of a node would take too many bytes.
    #[error("{inode}: no room for more attributes")]
    XattrSpace {
        /// Node.
        inode: InodeId,
    },
    /// Another client (or another stream of the same) writes the file.
    #[error("{path}: being written by {holder}")]
    LeaseHeldByOther {
        /// Path.
        path: String,
        /// Who writes.
        holder: String,
    },
    /// The caller does not hold the lease of the file.
    #[error("{inode}: lease is not held by {holder}")]
    LeaseExpired {
        /// File.
        inode: InodeId,
        /// Caller's holder name.
        holder: String,
    },
    /// The namenode is recovering the file's last block.
    #[error("{path}: recovery in progress")]
    RecoveryInProgress {
        /// Path.
        path: String,
    },
    /// The stamp is not the one that counts now.
    #[error("{block}: generation stamp {given}, recorded {recorded}")]
    StaleGenerationStamp {
        /// Block.
        block: BlockId,
        /// Stamp in the request.
        given: GenerationStamp,
        /// Stamp in the namespace.
        recorded: GenerationStamp,
    },
    /// No storage holds all of the block.
    #[error("{block}: no storage acknowledged the block")]
    NotYetReplicated {
        /// Block.
        block: BlockId,
    },
    /// No storage was offered for a new block.
    #[error("{inode}: no datanode can take a block")]
    NoUsableDatanode {
        /// File.
        inode: InodeId,
    },
    /// Another node is there than the caller means.
    #[error("{path}: not {meant}")]
    Conflict {
        /// Path.
        path: String,
        /// The node that is meant; number 0: none.
        meant: InodeId,
        /// What is there.
        found: Option<InodeId>,
    },
    /// The number of a new node is none that the session may give (any more).
    #[error("{inode} is not reserved for {session}")]
    NotReserved {
        /// Number.
        inode: InodeId,
        /// Session.
        session: String,
    },
    /// The file has as many blocks, or the file system as many names, as it can have.
    #[error("{subject}: too large")]
    TooLarge {
        /// File or path.
        subject: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NamesystemError {
    /// The kind that crosses the wire.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::InodeNotFound { .. } | Self::BlockNotFound { .. } => {
                ErrorKind::NotFound
            }
            Self::DatanodeNotFound { .. } => ErrorKind::InvalidArgument,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::NotADirectory { .. } => ErrorKind::NotADirectory,
            Self::IsADirectory { .. } => ErrorKind::IsADirectory,
            Self::DirectoryNotEmpty { .. } => ErrorKind::DirectoryNotEmpty,
            Self::InvalidPath { .. } => ErrorKind::InvalidPath,
            Self::NameTooLong { .. } => ErrorKind::NameTooLong,
            Self::AccessDenied { .. } => ErrorKind::AccessDenied,
            Self::NotPermitted { .. } => ErrorKind::NotPermitted,
            Self::InvalidArgument { .. } => ErrorKind::InvalidArgument,
            Self::LeaseHeldByOther { .. } => ErrorKind::LeaseHeldByOther,
            Self::LeaseExpired { .. } => ErrorKind::LeaseExpired,
            Self::RecoveryInProgress { .. } => ErrorKind::RecoveryInProgress,
            Self::StaleGenerationStamp { .. } => ErrorKind::StaleGenerationStamp,
            Self::NotYetReplicated { .. } => ErrorKind::NotYetReplicated,
            Self::NoUsableDatanode { .. } => ErrorKind::NoUsableDatanode,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::SymbolicLink { .. } | Self::XattrNamespace { .. } => ErrorKind::Unsupported,
            Self::NoAttribute { .. } => ErrorKind::NoAttribute,
            Self::XattrSpace { .. } => ErrorKind::NoSpace,
            Self::TooManyLinks { .. } => ErrorKind::TooManyLinks,
            Self::Conflict { .. } | Self::NotReserved { .. } => ErrorKind::Conflict,
            Self::Store(_) => ErrorKind::Internal,
        }
    }

    /// Path, inode or block that the refusal is about; empty for a failed store.
    pub fn subject(&self) -> String {
        match self {
            Self::NotFound { path }
            | Self::AlreadyExists { path }
            | Self::NotADirectory { path }
            | Self::IsADirectory { path }
            | Self::DirectoryNotEmpty { path }
            | Self::InvalidPath { path }
            | Self::NameTooLong { path }
            | Self::AccessDenied { path, .. }
            | Self::NotPermitted { path, .. }
            | Self::SymbolicLink { path }
            | Self::TooManyLinks { path }
            | Self::LeaseHeldByOther { path, .. }
            | Self::RecoveryInProgress { path }
            | Self::Conflict { path, .. } => path.clone(),
            Self::InvalidArgument { subject, .. } | Self::TooLarge { subject } => subject.clone(),
            Self::XattrNamespace { name } => name.clone(),
            Self::DatanodeNotFound { uuid } => uuid.clone(),
            Self::InodeNotFound { inode }
            | Self::NoAttribute { inode, .. }
            | Self::XattrSpace { inode }
            | Self::LeaseExpired { inode, .. }
            | Self::NotReserved { inode, .. }
            | Self::NoUsableDatanode { inode } => inode.to_string(),
            Self::BlockNotFound { block } | Self::NotYetReplicated { block } => block.to_string(),
            Self::StaleGenerationStamp { block, given, .. } => dfs_proto::ids::block_name(*block, *given),
            Self::Store(_) => String::new(),
        }
    }

    /// More for people, beyond kind and subject; may be empty.
    pub fn reason(&self) -> String {
        match self {
            Self::NotFound { .. }
            | Self::InodeNotFound { .. }
            | Self::BlockNotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::NotADirectory { .. }
            | Self::IsADirectory { .. }
            | Self::DirectoryNotEmpty { .. }
            | Self::InvalidPath { .. }
            | Self::NameTooLong { .. }
            | Self::RecoveryInProgress { .. }
            | Self::NotYetReplicated { .. }
            | Self::NoUsableDatanode { .. }
            | Self::TooManyLinks { .. }
            | Self::TooLarge { .. } => String::new(),
            Self::NoAttribute { name, .. } => name.clone(),
            Self::DatanodeNotFound { .. } => "no such datanode".to_owned(),
            Self::XattrNamespace { .. } => "attributes of this namespace are not supported".to_owned(),
            Self::XattrSpace { .. } => "no room for more attributes".to_owned(),
            Self::SymbolicLink { .. } => "is a symbolic link, which only mounts follow".to_owned(),
            Self::AccessDenied { user, needed, refuser, .. } => {
                format!("user {user} needs {needed} on {refuser}")
            }
            Self::NotPermitted { user, .. } => format!("user {user}"),
            Self::InvalidArgument { reason, .. } => reason.to_string(),
            Self::LeaseHeldByOther { holder, .. } => format!("writer {holder}"),
            Self::LeaseExpired { holder, .. } => format!("holder {holder}"),
            Self::StaleGenerationStamp { recorded, .. } => format!("recorded stamp {recorded}"),
            Self::Conflict { meant, found, .. } => match found {
                Some(found) => format!("{found} is there, meant was {meant}"),
                None => format!("nothing is there, meant was {meant}"),
            },
            Self::NotReserved { session, .. } => format!("not reserved for {session}"),
            Self::Store(error) => error.to_string(),
        }
    }
}
