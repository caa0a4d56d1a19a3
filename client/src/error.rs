//! The one error type of this crate.
//!
//! [`DfsError::kind`] maps every error to a [`dfs_proto::ErrorKind`], and [`std::io::Error`] is made from it by an exhaustive
//! match, so that callers decide by kind and never by text. The text is one line that names the
//! path (or address) and the cause.

use std::io;
use std::sync::Arc;

use dfs_proto::checksum::{ChecksumMismatch, InvalidChecksum};
use dfs_proto::data_transfer::TransferError;
use dfs_proto::packet::PacketError;
use dfs_proto::transfer::Status;
use dfs_proto::{ErrorKind, RpcError};

/// What can go wrong when using a cluster.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DfsError {
    /// A server refused the call, or could not be reached until the deadline.
    #[error("{}", refusal(subject, error))]
    Refused {
        /// What the call was about: a path or an address.
        subject: String,
        /// The server's answer.
        error: RpcError,
    },
    /// The path is not absolute, or has '.', '..', empty parts or NUL.
    #[error("{path}: {}: {rule}", ErrorKind::InvalidPath.text())]
    InvalidPath {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// A name of the path has more than 255 bytes, or the path is too long or too deep.
    #[error("{path}: {}", ErrorKind::NameTooLong.text())]
    NameTooLong {
        /// The path as given.
        path: String,
    },
    /// Not `host:port`.
    #[error("{address}: not an address of the form host:port")]
    InvalidAddress {
        /// The address as given.
        address: String,
    },
    /// A setting is out of range.
    #[error("{setting}: {value} is out of range")]
    InvalidSetting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        value: u64,
    },
    /// The host name does not resolve.
    #[error("{address}: cannot resolve the host name: {source}")]
    UnknownHost {
        /// The address as given.
        address: String,
        /// Cause.
        source: Arc<io::Error>,
    },
    /// Client and namenode speak different versions of the client protocol.
    #[error("{address}: protocol version {theirs}, this client speaks {ours}")]
    VersionMismatch {
        /// The namenode.
        address: String,
        /// Our version.
        ours: u32,
        /// Its version.
        theirs: u32,
    },
    /// What listens at the address has never answered the way a dfs namenode does.
    #[error("{}", not_a_namenode(address, error))]
    NotANamenode {
        /// The address as given.
        address: String,
        /// What came instead of an answer.
        error: RpcError,
    },
    /// A server's answer lacks a part it must have.
    #[error("{subject}: the server's answer has no {field}")]
    Incomplete {
        /// What the call was about.
        subject: String,
        /// The missing part.
        field: &'static str,
    },
    /// No replica of a block could be read.
    #[error("{path}: {}: {block}, {}", ErrorKind::BlockMissing.text(), last_fault(last))]
    BlockMissing {
        /// File.
        path: String,
        /// Block, in HDFS's spelling.
        block: String,
        /// What the last replica tried said, if any was tried.
        last: Option<Box<ReplicaFault>>,
    },
    /// A block could not be written: too many attempts failed.
    #[error("{path}: cannot write {block}: {last}")]
    PipelineFailed {
        /// File.
        path: String,
        /// Block, in HDFS's spelling.
        block: String,
        /// What the last attempt met.
        last: Box<ReplicaFault>,
    },
    /// None of a finished block's replicas could be put on disk.
    #[error("{path}: cannot sync {block}: {last}")]
    NotSynced {
        /// File.
        path: String,
        /// Block, in HDFS's spelling.
        block: String,
        /// What one of its datanodes said.
        last: Box<ReplicaFault>,
    },
    /// The namenode knows no datanode that can take the block.
    #[error("{path}: {}", ErrorKind::NoUsableDatanode.text())]
    NoUsableDatanode {
        /// File.
        path: String,
    },
    /// The writer was closed, or failed before and cannot go on.
    #[error("{path}: the writer is closed")]
    WriterClosed {
        /// File.
        path: String,
    },
    /// The file shrank or was replaced while it was being read.
    #[error("{path}: ends at {available}, {wanted} was expected")]
    FileChanged {
        /// File.
        path: String,
        /// Offset at which its blocks end.
        available: u64,
        /// Offset that was asked for.
        wanted: u64,
    },
    /// The file is open for writing: its content is not settled.
    #[error("{path}: {}", ErrorKind::LeaseHeldByOther.text())]
    BeingWritten {
        /// File.
        path: String,
    },
    /// Replicas or blocks are checksummed in different ways, so that no file checksum can be composed.
    #[error("{path}: blocks have different kinds of checksums")]
    MixedChecksums {
        /// File.
        path: String,
    },
}

/// What one datanode did wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[error("datanode {datanode}: {fault}")]
pub struct ReplicaFault {
    /// `ip:port` of the datanode.
    pub datanode: String,
    /// What happened.
    pub fault: TransferFault,
}

/// A failed data transfer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferFault {
    /// The connection failed.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// Nothing came for too long.
    #[error("timed out")]
    Timeout,
    /// The datanode refused the operation.
    #[error("refused with status {status}: {message}")]
    Refused {
        /// Status of the data transfer protocol.
        status: i32,
        /// Its explanation.
        message: String,
    },
    /// A pipeline member reported a failure.
    #[error("{}", bad_ack(*status))]
    BadAck {
        /// Status of the data transfer protocol.
        status: i32,
    },
    /// A message did not decode.
    #[error(transparent)]
    Message(Arc<TransferError>),
    /// A packet did not decode.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The datanode's checksum description makes no sense.
    #[error(transparent)]
    InvalidChecksum(#[from] InvalidChecksum),
    /// Data does not match its checksums.
    #[error(transparent)]
    Checksum(#[from] ChecksumMismatch),
    /// A field of a message contradicts what was asked for.
    #[error("unexpected {field} from the datanode")]
    Unexpected {
        /// Name of the field.
        field: &'static str,
    },
    /// The datanode's control service refused or could not be reached.
    #[error(transparent)]
    Control(RpcError),
}

impl From<io::Error> for TransferFault {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<TransferError> for TransferFault {
    fn from(error: TransferError) -> Self {
        Self::Message(Arc::new(error))
    }
}

impl TransferFault {
    /// The replica itself is bad, not the way to it.
    pub(crate) fn is_corruption(&self) -> bool {
        matches!(self, Self::Checksum(_))
    }

    /// The datanode's disks are full.
    fn is_no_space(&self) -> bool {
        matches!(self, Self::BadAck { status } | Self::Refused { status, .. } if *status == Status::ErrorNoSpace as i32)
    }
}

impl DfsError {
    /// The kind, by which callers decide.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { error, .. } | Self::NotANamenode { error, .. } => error.kind,
            Self::InvalidPath { .. } => ErrorKind::InvalidPath,
            Self::NameTooLong { .. } => ErrorKind::NameTooLong,
            Self::InvalidAddress { .. } | Self::InvalidSetting { .. } => ErrorKind::InvalidArgument,
            Self::UnknownHost { .. } => ErrorKind::Unavailable,
            Self::VersionMismatch { .. } => ErrorKind::VersionMismatch,
            Self::Incomplete { .. } => ErrorKind::Internal,
            Self::BlockMissing { .. } | Self::FileChanged { .. } => ErrorKind::BlockMissing,
            Self::PipelineFailed { last, .. } if last.fault.is_no_space() => ErrorKind::NoSpace,
            Self::PipelineFailed { .. } | Self::NotSynced { .. } => ErrorKind::Unavailable,
            Self::NoUsableDatanode { .. } => ErrorKind::NoUsableDatanode,
            Self::WriterClosed { .. } => ErrorKind::LeaseExpired,
            Self::BeingWritten { .. } => ErrorKind::LeaseHeldByOther,
            Self::MixedChecksums { .. } => ErrorKind::Unsupported,
        }
    }

    pub(crate) fn refused(subject: &str, error: RpcError) -> Self {
        Self::Refused { subject: subject.to_owned(), error }
    }

    pub(crate) fn incomplete(subject: &str, field: &'static str) -> Self {
        Self::Incomplete { subject: subject.to_owned(), field }
    }
}

/// One line: subject, cause, explanation; the server's subject wins if it has one.
fn refusal(subject: &str, error: &RpcError) -> String {
    if error.subject.is_empty() && !subject.is_empty() {
        format!("{subject}: {error}")
    } else {
        error.to_string()
    }
}

fn not_a_namenode(address: &str, error: &RpcError) -> String {
    let text = format!("{address}: not a dfs namenode");
    if error.reason.is_empty() { text } else { format!("{text}: {}", error.reason) }
}

/// What a pipeline member's status says.
fn bad_ack(status: i32) -> String {
    match Status::try_from(status) {
        Ok(Status::ErrorNoSpace) => "no space left on its disks".to_owned(),
        Ok(Status::ErrorChecksum) => "data did not match its checksums when it arrived".to_owned(),
        Ok(other) => format!("acknowledged with {}", other.as_str_name()),
        Err(_) => format!("acknowledged with status {status}"),
    }
}

fn last_fault(last: &Option<Box<ReplicaFault>>) -> String {
    match last {
        Some(fault) => fault.to_string(),
        None => "no datanode is known to have it".to_owned(),
    }
}

impl From<DfsError> for io::Error {
    fn from(error: DfsError) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::NotADirectory => io::ErrorKind::NotADirectory,
            ErrorKind::IsADirectory => io::ErrorKind::IsADirectory,
            ErrorKind::DirectoryNotEmpty => io::ErrorKind::DirectoryNotEmpty,
            ErrorKind::InvalidPath | ErrorKind::InvalidArgument => io::ErrorKind::InvalidInput,
            ErrorKind::NameTooLong => io::ErrorKind::InvalidFilename,
            ErrorKind::AccessDenied | ErrorKind::NotPermitted => io::ErrorKind::PermissionDenied,
            ErrorKind::LeaseHeldByOther => io::ErrorKind::ResourceBusy,
            ErrorKind::LeaseExpired | ErrorKind::StaleGenerationStamp => {
                io::ErrorKind::StaleNetworkFileHandle
            }
            ErrorKind::RecoveryInProgress | ErrorKind::NotYetReplicated | ErrorKind::NotLeader => {
                io::ErrorKind::WouldBlock
            }
            ErrorKind::SafeMode => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::NoUsableDatanode | ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded => io::ErrorKind::QuotaExceeded,
            ErrorKind::ChecksumMismatch | ErrorKind::BlockMissing => io::ErrorKind::InvalidData,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Unavailable => io::ErrorKind::HostUnreachable,
            ErrorKind::TooLarge => io::ErrorKind::FileTooLarge,
            ErrorKind::TooManyLinks => io::ErrorKind::TooManyLinks,
            ErrorKind::Deadlock => io::ErrorKind::Deadlock,
            ErrorKind::VersionMismatch
            | ErrorKind::WrongCluster
            | ErrorKind::NotRegistered
            | ErrorKind::NoAttribute
            | ErrorKind::NoLocks
            | ErrorKind::Conflict
            | ErrorKind::ChangesLost
            | ErrorKind::Internal
            | ErrorKind::Unspecified => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_one_line_with_subject_and_cause() {
        let error = DfsError::refused("/a", RpcError::new(ErrorKind::NotFound, "", ""));
        assert_eq!(error.to_string(), "/a: No such file or directory");
        let error = DfsError::refused("/a", RpcError::new(ErrorKind::NotFound, "/a/b", ""));
        assert_eq!(error.to_string(), "/a/b: No such file or directory");
        let error = DfsError::BlockMissing { path: "/f".into(), block: "blk_1_2".into(), last: None };
        assert_eq!(
            error.to_string(),
            "/f: No replica of the block can be read: blk_1_2, no datanode is known to have it"
        );
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidData);
    }
}
