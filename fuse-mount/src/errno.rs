//! What the kernel is told when an operation fails.
//!
//! [`of_kind`] is the only place where error kinds become errno values; its match is exhaustive.

use dfs_client::{DfsError, ErrorKind};
use fuser::Errno;

/// Why an operation of the mount fails.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The cluster refused, or could not be reached.
    #[error(transparent)]
    Cluster(#[from] DfsError),
    /// The kernel named a handle that is not open.
    #[error("no such handle")]
    BadHandle,
    /// A name of more than 255 bytes.
    #[error("name too long")]
    NameTooLong,
    /// Arguments that make no sense together.
    #[error("invalid argument")]
    InvalidArgument,
    /// Not something this file system does.
    #[error("not supported")]
    NotSupported,
    /// A lock is in the way.
    #[error("locked by another")]
    Locked,
    /// The asking process got a signal.
    #[error("interrupted")]
    Interrupted,
    /// The buffer is smaller than the value.
    #[error("buffer too small")]
    BufferTooSmall,
    /// There is no extended attribute of that name.
    #[error("no such attribute")]
    NoAttribute,
    /// Nothing is found from that offset on.
    #[error("offset beyond the end")]
    BeyondEnd,
    /// The node cannot be found by its number.
    #[error("stale handle")]
    Stale,
    /// The file is being executed.
    #[error("text file busy")]
    Executed,
    /// It is open in a way that stands against this.
    #[error("busy")]
    Busy,
    /// The name is taken.
    #[error("file exists")]
    Exists,
}

impl Refusal {
    /// The errno value for the kernel.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Cluster(error) => of_kind(error.kind()),
            Self::BadHandle => Errno::EBADF,
            Self::NameTooLong => Errno::ENAMETOOLONG,
            Self::InvalidArgument => Errno::EINVAL,
            Self::NotSupported => Errno::EOPNOTSUPP,
            Self::Locked => Errno::EAGAIN,
            Self::Interrupted => Errno::EINTR,
            Self::BufferTooSmall => Errno::ERANGE,
            Self::NoAttribute => Errno::ENODATA,
            Self::BeyondEnd => Errno::ENXIO,
            Self::Stale => Errno::ESTALE,
            Self::Busy => Errno::EBUSY,
            Self::Executed => Errno::ETXTBSY,
            Self::Exists => Errno::EEXIST,
        }
    }

    /// Whether people who run the mount should read of it: the cluster failed, not the caller.
    pub fn is_noteworthy(&self) -> bool {
        [libc::EIO, libc::EPROTO, libc::ESTALE].contains(&self.errno().code())
    }
}

/// The errno value of an error kind.
pub fn of_kind(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::NotADirectory => Errno::ENOTDIR,
        ErrorKind::IsADirectory => Errno::EISDIR,
        ErrorKind::DirectoryNotEmpty => Errno::ENOTEMPTY,
        ErrorKind::InvalidPath | ErrorKind::InvalidArgument => Errno::EINVAL,
        ErrorKind::NameTooLong => Errno::ENAMETOOLONG,
        ErrorKind::AccessDenied => Errno::EACCES,
        ErrorKind::NotPermitted => Errno::EPERM,
        ErrorKind::LeaseHeldByOther => Errno::EBUSY,
        ErrorKind::LeaseExpired | ErrorKind::StaleGenerationStamp => Errno::ESTALE,
        ErrorKind::RecoveryInProgress | ErrorKind::NotYetReplicated | ErrorKind::NotLeader => Errno::EAGAIN,
        ErrorKind::SafeMode => Errno::EROFS,
        ErrorKind::NoUsableDatanode | ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::QuotaExceeded => Errno::EDQUOT,
        ErrorKind::ChecksumMismatch | ErrorKind::BlockMissing | ErrorKind::Unavailable => Errno::EIO,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::VersionMismatch | ErrorKind::WrongCluster | ErrorKind::NotRegistered => Errno::EPROTO,
        ErrorKind::TooLarge => Errno::EFBIG,
        ErrorKind::NoAttribute => Errno::ENODATA,
        ErrorKind::TooManyLinks => Errno::EMLINK,
        ErrorKind::Deadlock => Errno::EDEADLK,
        ErrorKind::NoLocks => Errno::ENOLCK,
        ErrorKind::Conflict | ErrorKind::ChangesLost | ErrorKind::Internal | ErrorKind::Unspecified => {
            Errno::EIO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_see_the_errors_that_they_know() {
        for (kind, errno) in [
            (ErrorKind::NotFound, libc::ENOENT),
            (ErrorKind::AccessDenied, libc::EACCES),
            (ErrorKind::NotPermitted, libc::EPERM),
            (ErrorKind::LeaseHeldByOther, libc::EBUSY),
            (ErrorKind::NoUsableDatanode, libc::ENOSPC),
            (ErrorKind::Unavailable, libc::EIO),
            (ErrorKind::NoAttribute, libc::ENODATA),
            (ErrorKind::TooManyLinks, libc::EMLINK),
            (ErrorKind::TooLarge, libc::EFBIG),
        ] {
            assert_eq!(of_kind(kind).code(), errno, "{kind:?}");
        }
    }

    #[test]
    fn only_failures_of_the_cluster_are_logged() {
        assert!(!Refusal::BadHandle.is_noteworthy());
        assert!(!Refusal::Cluster(DfsError::NoUsableDatanode { path: "/f".into() }).is_noteworthy());
        assert!(Refusal::Cluster(DfsError::WriterClosed { path: "/f".into() }).is_noteworthy());
    }
}
