//! What can go wrong in consensus.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::namesystem::{NamesystemError, StoreError};

/// Why a namenode cannot start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// Another process uses the directory.
    #[error("{}: in use by another namenode", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory is not a namenode's and not empty: formatting it would mix two things.
    #[error("{}: not empty and not a namenode's directory: it holds {}", dir.display(), name.display())]
    ForeignDirectory {
        /// The directory.
        dir: PathBuf,
        /// Something in it.
        name: OsString,
    },
    /// A file could not be read, written or synced.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel keeps pages that it could not write, and another program keeps it from letting go of them.
    #[error(
        "{}: what the kernel keeps of it from offset {offset} on is not what is on the disk: a write has failed, and another \
         program is using the file; end that program",
        path.display()
    )]
    NotOnDisk {
        /// The file.
        path: PathBuf,
        /// Where the first such page begins.
        offset: u64,
    },
    /// A file holds what this program never wrote.
    #[error("{}: damaged at offset {offset}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the damage in bytes.
        offset: u64,
        /// What is wrong there.
        reason: Damage,
    },
    /// The log lacks entries between the state and its own beginning.
    #[error("{}: begins with entry {log_begins}, but the state has only the entries before {state_ends}", path.display())]
    Gap {
        /// First segment of the log.
        path: PathBuf,
        /// First entry of the log.
        log_begins: u64,
        /// First entry that the state lacks.
        state_ends: u64,
    },
    /// There is a state but no log: what was acknowledged last may be missing.
    #[error("{}: the log is missing, but the state has the entries before {state_ends}", dir.display())]
    LogMissing {
        /// Where it should be.
        dir: PathBuf,
        /// First entry that the state lacks.
        state_ends: u64,
    },
    /// The log of a node that is alone ends before the state: its end is lost, and what was acknowledged after the state
    /// was saved may be missing.
    #[error("{}: ends before entry {log_ends}, but the state has the entries before {state_ends}", path.display())]
    LogEnds {
        /// Last segment of the log.
        path: PathBuf,
        /// First entry that the log lacks.
        log_ends: u64,
        /// First entry that the state lacks.
        state_ends: u64,
    },
    /// There is no namenode's directory.
    #[error("{}: not a namenode's directory", dir.display())]
    NoDirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// openraft appended an entry that does not follow the last one.
    #[error("entry {index} does not follow the last entry of the log")]
    OutOfOrder {
        /// The entry.
        index: u64,
    },
    /// A record of the state that belongs to consensus does not decode.
    #[error("{}: record {key} is damaged: {reason}", path.display())]
    DamagedState {
        /// The store's file.
        path: PathBuf,
        /// Key of the record.
        key: &'static str,
        /// What is wrong with it.
        reason: Damage,
    },
    /// A snapshot does not contain what its sender said.
    #[error("snapshot {snapshot_id} is not what its sender announced")]
    WrongSnapshot {
        /// Name of the snapshot.
        snapshot_id: String,
    },
    /// redb found that the store does not hold together.
    #[error("{}: the store does not hold together", path.display())]
    Unsound {
        /// The store's file.
        path: PathBuf,
    },
    /// The redb store failed.
    #[error("{}: store: {source}", path.display())]
    Store {
        /// The store's file.
        path: PathBuf,
        /// redb's error.
        source: Box<redb::Error>,
    },
    /// The rows of the state cannot be read or written.
    #[error("{}: {source}", path.display())]
    Rows {
        /// The store.
        path: PathBuf,
        /// The namesystem's error.
        source: StoreError,
    },
    /// Applying a command failed for a reason other than a refusal.
    #[error("entry {index}: cannot apply: {source}")]
    Apply {
        /// The entry.
        index: u64,
        /// The namesystem's error.
        source: StoreError,
    },
    /// Raft stopped.
    #[error("raft: {source}")]
    Raft {
        /// openraft's error.
        source: Box<openraft::error::Fatal<u64>>,
    },
    /// The peers in the configuration do not contain this node.
    #[error("node {node_id} is not among the configured peers")]
    NotAPeer {
        /// This node.
        node_id: u64,
    },
    /// The directory belongs to another node id.
    #[error("{}: belongs to node {found}, configured is node {configured}", path.display())]
    OtherNode {
        /// The file that says so.
        path: PathBuf,
        /// Node id in the directory.
        found: u64,
        /// Node id in the configuration.
        configured: u64,
    },
    /// A size or time in the configuration is too small.
    #[error("{field} is {value}, must be at least {min}")]
    Config {
        /// The field.
        field: &'static str,
        /// What it is.
        value: u64,
        /// Least value.
        min: u64,
    },
    /// No leader was found in time.
    #[error("no leader after {waited_ms} ms")]
    NoLeader {
        /// How long was waited.
        waited_ms: u64,
    },
    /// A thread could not be started.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// Name of the thread.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread ended by a panic, which is a defect; the message went to the standard error.
    #[error("thread {thread} panicked")]
    Panicked {
        /// Name of the thread.
        thread: &'static str,
    },
    /// Consensus was shut down.
    #[error("consensus is shut down")]
    Stopped,
}

/// What is wrong with bytes of a file or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The bytes end too early.
    #[error("too short")]
    Short,
    /// Not the expected magic number.
    #[error("wrong magic number")]
    Magic,
    /// Made by a version that this program does not know.
    #[error("unknown layout version {0}")]
    Layout(u32),
    /// The checksum does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// An unknown record kind.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// A reserved byte is not zero.
    #[error("reserved byte is not zero")]
    Reserved,
    /// Longer than anything this program writes.
    #[error("length {0} is too large")]
    Length(u32),
    /// Entries are not consecutive.
    #[error("entry {found} where entry {expected} was expected")]
    Index {
        /// What should be there.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The payload is not the protobuf message it should be.
    #[error("undecodable payload")]
    Payload,
    /// An entry that was acknowledged is damaged: valid records that say so follow it.
    #[error("an acknowledged entry is damaged")]
    Acknowledged,
}

impl ConsensusError {
    /// An I/O error of `action` on `path`.
    pub(super) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.into(), action, source }
    }

    /// Whether this says that there is no room to write `path`.
    pub(super) fn is_no_room(&self, path: &std::path::Path) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { path: at, source, .. }
            if at == path && matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// A redb error of the store at `path`.
    pub(super) fn store(path: impl Into<PathBuf>, source: impl Into<redb::Error>) -> Self {
        Self::Store { path: path.into(), source: Box::new(source.into()) }
    }
}

/// Why a proposal has no reply.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The namespace refuses the command; nothing changed.
    #[error(transparent)]
    Refused(#[from] NamesystemError),
    /// This node does not lead (any more). Whether the command takes effect is unknown; sending it again
    /// with the same client id and call id is safe.
    #[error("this namenode is not the leader")]
    NotLeader {
        /// "host:port" of the leader, if it is known.
        leader: Option<String>,
    },
    /// The command is larger than an entry may be.
    #[error("command of {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The disk of the log has no room for the command. Nothing changed, and the command may be sent again.
    #[error("no room for the log")]
    NoRoom,
    /// Consensus stopped, by request or because the log or the store failed.
    #[error("consensus is stopped")]
    Stopped,
}
