//! Error kinds and how they cross boundaries.
//!
//! A server answers a failed call with a gRPC status whose details hold one [`ErrorDetail`]; a client
//! turns it back with [`RpcError::from_status`] and decides by [`ErrorKind`], never by text.
//!
//! | kind                         | gRPC code           | errno        | retry                      |
//! |------------------------------|---------------------|--------------|----------------------------|
//! | NotFound                     | NOT_FOUND           | ENOENT       | no                         |
//! | AlreadyExists                | ALREADY_EXISTS      | EEXIST       | no                         |
//! | NotADirectory                | FAILED_PRECONDITION | ENOTDIR      | no                         |
//! | IsADirectory                 | FAILED_PRECONDITION | EISDIR       | no                         |
//! | DirectoryNotEmpty            | FAILED_PRECONDITION | ENOTEMPTY    | no                         |
//! | InvalidPath                  | INVALID_ARGUMENT    | EINVAL       | no                         |
//! | NameTooLong                  | INVALID_ARGUMENT    | ENAMETOOLONG | no                         |
//! | AccessDenied                 | PERMISSION_DENIED   | EACCES       | no                         |
//! | NotPermitted                 | PERMISSION_DENIED   | EPERM        | no                         |
//! | InvalidArgument              | INVALID_ARGUMENT    | EINVAL       | no                         |
//! | LeaseHeldByOther             | FAILED_PRECONDITION | EBUSY        | no, the caller decides     |
//! | LeaseExpired                 | ABORTED             | ESTALE       | no                         |
//! | RecoveryInProgress           | UNAVAILABLE         | EAGAIN       | yes                        |
//! | StaleGenerationStamp         | ABORTED             | ESTALE       | no, after fetching again   |
//! | NotYetReplicated             | UNAVAILABLE         | EAGAIN       | yes                        |
//! | SafeMode                     | FAILED_PRECONDITION | EROFS        | no, an administrator's will |
//! | NoUsableDatanode             | RESOURCE_EXHAUSTED  | ENOSPC       | no                         |
//! | NoSpace                      | RESOURCE_EXHAUSTED  | ENOSPC       | no                         |
//! | QuotaExceeded                | RESOURCE_EXHAUSTED  | EDQUOT       | no                         |
//! | ChecksumMismatch             | DATA_LOSS           | EIO          | no, other replica          |
//! | BlockMissing                 | DATA_LOSS           | EIO          | no                         |
//! | Unsupported                  | UNIMPLEMENTED       | EOPNOTSUPP   | no                         |
//! | VersionMismatch              | FAILED_PRECONDITION | EPROTO       | no                         |
//! | WrongCluster                 | FAILED_PRECONDITION | EPROTO       | no                         |
//! | NotRegistered                | FAILED_PRECONDITION | EPROTO       | no, register first         |
//! | NotLeader                    | UNAVAILABLE         | EAGAIN       | yes, at another namenode   |
//! | Unavailable                  | UNAVAILABLE         | EIO          | yes                        |
//! | TooLarge                     | OUT_OF_RANGE        | EFBIG        | no                         |
//! | NoAttribute                  | NOT_FOUND           | ENODATA      | no                         |
//! | TooManyLinks                 | FAILED_PRECONDITION | EMLINK       | no                         |
//! | Deadlock                     | FAILED_PRECONDITION | EDEADLK      | no                         |
//! | NoLocks                      | RESOURCE_EXHAUSTED  | ENOLCK       | no                         |
//! | Conflict                     | ABORTED             | EIO          | no                         |
//! | ChangesLost                  | DATA_LOSS           | EIO          | no                         |
//! | Internal, Unspecified        | INTERNAL            | EIO          | no                         |

use std::fmt;

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

pub use crate::v1::{ErrorDetail, ErrorKind};

impl ErrorKind {
    /// The gRPC code that carries this kind.
    pub const fn code(self) -> Code {
        match self {
            Self::NotFound | Self::NoAttribute => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::NotADirectory
            | Self::IsADirectory
            | Self::DirectoryNotEmpty
            | Self::LeaseHeldByOther
            | Self::VersionMismatch
            | Self::SafeMode
            | Self::WrongCluster
            | Self::NotRegistered
            | Self::TooManyLinks
            | Self::Deadlock => Code::FailedPrecondition,
            Self::InvalidPath | Self::NameTooLong | Self::InvalidArgument => Code::InvalidArgument,
            Self::AccessDenied | Self::NotPermitted => Code::PermissionDenied,
            Self::LeaseExpired | Self::StaleGenerationStamp | Self::Conflict => Code::Aborted,
            Self::RecoveryInProgress | Self::NotYetReplicated | Self::NotLeader | Self::Unavailable => {
                Code::Unavailable
            }
            Self::NoUsableDatanode | Self::NoSpace | Self::QuotaExceeded | Self::NoLocks => {
                Code::ResourceExhausted
            }
            Self::ChecksumMismatch | Self::BlockMissing | Self::ChangesLost => Code::DataLoss,
            Self::Unsupported => Code::Unimplemented,
            Self::TooLarge => Code::OutOfRange,
            Self::Internal | Self::Unspecified => Code::Internal,
        }
    }

    /// Whether the same call may succeed if it is simply sent again after a while.
    pub const fn is_retriable(self) -> bool {
        matches!(self.code(), Code::Unavailable)
    }

    /// What people read; follows the C library's wording where an errno has one.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotFound => "No such file or directory",
            Self::AlreadyExists => "File exists",
            Self::NotADirectory => "Not a directory",
            Self::IsADirectory => "Is a directory",
            Self::DirectoryNotEmpty => "Directory not empty",
            Self::InvalidPath => "Invalid path",
            Self::NameTooLong => "File name too long",
            Self::AccessDenied => "Permission denied",
            Self::NotPermitted => "Operation not permitted",
            Self::InvalidArgument => "Invalid argument",
            Self::LeaseHeldByOther => "File is being written by another client",
            Self::LeaseExpired => "Lease lost: the file is no longer open for writing by this client",
            Self::RecoveryInProgress => "Recovery in progress",
            Self::StaleGenerationStamp => "Stale generation stamp",
            Self::NotYetReplicated => "Not replicated yet",
            Self::SafeMode => "Namenode is in safe mode",
            Self::NoUsableDatanode => "No datanode can take the block",
            Self::NoSpace => "No space left",
            Self::QuotaExceeded => "Quota exceeded",
            Self::ChecksumMismatch => "Checksum mismatch",
            Self::BlockMissing => "No replica of the block can be read",
            Self::Unsupported => "Not supported",
            Self::VersionMismatch => "Version mismatch",
            Self::WrongCluster => "Wrong cluster",
            Self::NotRegistered => "Datanode is not registered",
            Self::NotLeader => "This namenode is not the leader",
            Self::Unavailable => "Server unavailable",
            Self::TooLarge => "Too large",
            Self::NoAttribute => "No data available",
            Self::TooManyLinks => "Too many links",
            Self::Deadlock => "Resource deadlock avoided",
            Self::NoLocks => "No locks available",
            Self::Conflict => "Changed by somebody else meanwhile",
            Self::ChangesLost => "Changes were lost before they were on disk",
            Self::Internal | Self::Unspecified => "Internal error",
        }
    }
}

/// A failed call, as it crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Path, block, datanode or argument it is about; may be empty.
    pub subject: String,
    /// More for people; may be empty.
    pub reason: String,
}

impl RpcError {
    /// An error about `subject`.
    pub fn new(kind: ErrorKind, subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), reason: reason.into() }
    }

    /// The message that carries this error, in a status or in an answer to one of many changes.
    pub fn detail(&self) -> ErrorDetail {
        ErrorDetail { kind: self.kind.into(), subject: self.subject.clone(), reason: self.reason.clone() }
    }

    /// The error that a message carries.
    pub fn from_detail(detail: ErrorDetail) -> Self {
        Self { kind: detail.kind(), subject: detail.subject, reason: detail.reason }
    }

    /// The status that carries this error.
    pub fn to_status(&self) -> Status {
        let detail = self.detail();
        Status::with_details(self.kind.code(), self.to_string(), Bytes::from(detail.encode_to_vec()))
    }

    /// Recovers the error from a status. A status without our detail (a proxy's, tonic's own, or from
    /// a server of another kind) becomes the nearest kind by its code.
    pub fn from_status(status: &Status) -> Self {
        if let Ok(detail) = ErrorDetail::decode(status.details())
            && !status.details().is_empty()
        {
            return Self::from_detail(detail);
        }
        let kind = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ErrorKind::Unavailable,
            Code::Unimplemented => ErrorKind::Unsupported,
            Code::OutOfRange => ErrorKind::TooLarge,
            Code::ResourceExhausted => ErrorKind::Unavailable,
            Code::PermissionDenied | Code::Unauthenticated => ErrorKind::AccessDenied,
            Code::NotFound => ErrorKind::NotFound,
            Code::AlreadyExists => ErrorKind::AlreadyExists,
            Code::InvalidArgument => ErrorKind::InvalidArgument,
            Code::DataLoss => ErrorKind::ChecksumMismatch,
            Code::Ok | Code::Unknown | Code::FailedPrecondition | Code::Aborted | Code::Internal => {
                ErrorKind::Internal
            }
        };
        Self { kind, subject: String::new(), reason: status.message().to_owned() }
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(self.kind.text())?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for RpcError {}

/// An error and its causes as one line for people. A cause that the text names already is not said again, and
/// line ends become spaces.
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for raw in 0..=35 {
            let kind = ErrorKind::try_from(raw).expect("a kind");
            let error = RpcError::new(kind, "/a/b", "because");
            let status = error.to_status();
            assert_eq!(status.code(), kind.code());
            assert_eq!(RpcError::from_status(&status), error);
        }
        assert!(ErrorKind::try_from(36).is_err(), "extend this test with the new kind");
    }

    #[test]
    fn a_foreign_status_is_mapped_by_its_code() {
        let error = RpcError::from_status(&Status::unavailable("connection refused"));
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.kind.is_retriable());
        assert_eq!(error.reason, "connection refused");
    }

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Layer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn an_error_and_its_causes_are_one_line() {
        let disk = Layer("No space left", None);
        let file = Layer("f: No space left", Some(Box::new(disk)));
        let outer = Layer("cannot\n  start", Some(Box::new(file)));
        assert_eq!(one_line(&outer), "cannot start: f: No space left");
    }

    #[test]
    fn the_text_names_subject_and_cause() {
        let error = RpcError::new(ErrorKind::NotFound, "/x", "");
        assert_eq!(error.to_string(), "/x: No such file or directory");
    }
}
