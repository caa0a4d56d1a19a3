//! What can go wrong in a datanode, and what peers are told of it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use dfs_proto::checksum::InvalidChecksum;
use dfs_proto::data_transfer::TransferError;
use dfs_proto::packet::PacketError;
use dfs_proto::transfer::Status;
use dfs_proto::{BlockId, ErrorKind, RpcError};
use nix::errno::Errno;

use crate::dataset::health::VolumeFault;
use crate::dataset::meta_file::MetaError;
use crate::dataset::version_file::VersionError;
use crate::replica::{BlockRef, TransitionError};

/// A failure in a datanode.
#[derive(Debug, thiserror::Error)]
pub enum DatanodeError {
    /// A setting is out of range.
    #[error("setting {setting}: {value} is not {rule}")]
    Config {
        /// Setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A file or directory of a volume cannot be used.
    #[error("{}: {source}", path.display())]
    Disk {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A volume did not pass its trial.
    #[error("{}: {source}", path.display())]
    VolumeFault {
        /// Directory.
        path: PathBuf,
        /// What is wrong.
        source: Box<VolumeFault>,
    },
    /// Another datanode uses the volume.
    #[error("{}: the volume is in use by another datanode", path.display())]
    VolumeInUse {
        /// Lock file.
        path: PathBuf,
    },
    /// A `VERSION` file does not make sense.
    #[error("{}: {source}", path.display())]
    Version {
        /// File.
        path: PathBuf,
        /// Cause.
        source: VersionError,
    },
    /// Two volumes or a volume and the namenode disagree on their identity.
    #[error("{}: belongs to {field} {found}, not to {expected}", path.display())]
    WrongCluster {
        /// `VERSION` file.
        path: PathBuf,
        /// Which identity differs.
        field: &'static str,
        /// Identity of the volume.
        found: String,
        /// Identity expected.
        expected: String,
    },
    /// The namenode speaks another version.
    #[error("namenode {namenode} speaks protocol version {theirs}, this datanode {ours}")]
    ProtocolVersion {
        /// Namenode.
        namenode: String,
        /// Its version.
        theirs: u32,
        /// Our version.
        ours: u32,
    },
    /// A port cannot be opened.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// Address.
        addr: SocketAddr,
        /// Cause.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A call to another server failed.
    #[error("{peer}: {error}")]
    Rpc {
        /// Server.
        peer: String,
        /// Its answer.
        error: RpcError,
    },
    /// An address that is none.
    #[error("{0} is not an address")]
    Address(String),
    /// The datanode has not been told its cluster yet.
    #[error("datanode is not registered with a namenode yet")]
    NotRegistered,
    /// A request names another block pool.
    #[error("block pool {asked} is not {ours}")]
    WrongPool {
        /// In the request.
        asked: String,
        /// Ours.
        ours: String,
    },
    /// No such replica here.
    #[error("{block}: no such replica")]
    ReplicaNotFound {
        /// Replica asked for.
        block: BlockRef,
    },
    /// A replica of the block exists.
    #[error("{block}: a replica exists already")]
    ReplicaExists {
        /// Replica present.
        block: BlockRef,
    },
    /// The replica here has an older stamp than asked for.
    #[error("{block}: the replica here has generation stamp {here}")]
    StaleReplica {
        /// Replica asked for.
        block: BlockRef,
        /// Stamp present.
        here: dfs_proto::GenerationStamp,
    },
    /// A state change that is not legal.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// Another writer holds the replica and does not stop.
    #[error("{block}: its writer does not stop")]
    WriterBusy {
        /// Replica.
        block: BlockRef,
    },
    /// This writer was stopped in favour of another or of a recovery.
    #[error("{block}: this writer was stopped")]
    WriterStopped {
        /// Replica.
        block: BlockRef,
    },
    /// A range outside of the replica.
    #[error("{block}: bytes {offset}..{end} are outside of its {length} bytes")]
    Range {
        /// Replica.
        block: BlockRef,
        /// First byte.
        offset: u64,
        /// End.
        end: u64,
        /// Length of the replica.
        length: u64,
    },
    /// No volume has room.
    #[error("{id}: no space left on the datanode's volumes ({needed} bytes and the reserve are needed)")]
    NoSpace {
        /// Block.
        id: BlockId,
        /// Bytes wanted.
        needed: u64,
    },
    /// A `.meta` file does not make sense.
    #[error("{}: {source}", path.display())]
    Meta {
        /// File.
        path: PathBuf,
        /// Cause.
        source: MetaError,
    },
    /// Data does not match its checksums.
    #[error("{block}: checksum mismatch at byte {offset}")]
    Checksum {
        /// Replica.
        block: BlockRef,
        /// First byte of the chunk.
        offset: u64,
    },
    /// A chunk of a replica that a writer changes in part does not match its checksum as it stands.
    #[error("{block}: damaged at byte {offset}, which a writer was about to change")]
    Damaged {
        /// Replica.
        block: BlockRef,
        /// First byte of the chunk.
        offset: u64,
    },
    /// A file of a replica does not have the length that it must have.
    #[error("{}: has {found} bytes, not {expected}", path.display())]
    FileLength {
        /// File.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What it must be.
        expected: u64,
    },
    /// Something else is where a file of a replica should be.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// Path.
        path: PathBuf,
    },
    /// Checksum parameters that cannot be used.
    #[error(transparent)]
    ChecksumParameters(#[from] InvalidChecksum),
    /// A writer's checksum differs from the replica's.
    #[error("{block}: its checksums are {here}, the writer's {asked}")]
    ChecksumDiffers {
        /// Replica.
        block: BlockRef,
        /// Of the replica.
        here: String,
        /// Of the writer.
        asked: String,
    },
    /// A message of the data transfer protocol cannot be read.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A packet that is not one.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A packet at an impossible place.
    #[error(
        "{block}: packet at {offset} with {data_len} bytes and {checksums_len} bytes of checksums does not fit a replica of {length} bytes"
    )]
    PacketPlace {
        /// Replica.
        block: BlockRef,
        /// Offset of the packet.
        offset: u64,
        /// Its data bytes.
        data_len: u32,
        /// Its checksum bytes.
        checksums_len: usize,
        /// Length of the replica.
        length: u64,
    },
    /// A field of a request is missing or makes no sense.
    #[error("request field {0} makes no sense")]
    Field(&'static str),
    /// Offered by HDFS, not by us.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A peer of the data transfer protocol failed.
    #[error("{peer}: {source}")]
    Peer {
        /// Peer.
        peer: SocketAddr,
        /// Cause.
        source: io::Error,
    },
    /// A peer answered with a failure.
    #[error("{peer}: answered {status:?}: {message}")]
    PeerStatus {
        /// Peer.
        peer: SocketAddr,
        /// Answer.
        status: Status,
        /// Its cause, for people.
        message: String,
    },
    /// Acknowledgements that do not follow the packets sent.
    #[error("acknowledgement of packet {found}, expected {expected}")]
    AckOrder {
        /// In the acknowledgement.
        found: i64,
        /// Oldest packet not acknowledged.
        expected: i64,
    },
    /// More packets without acknowledgement than a sane writer sends.
    #[error("more than {0} packets without acknowledgement")]
    TooManyPackets(usize),
    /// No replica agrees with the others.
    #[error("{block}: finalized replicas of {first} and {second} bytes")]
    ReplicasDiffer {
        /// Block.
        block: BlockRef,
        /// One length.
        first: u64,
        /// Another length.
        second: u64,
    },
    /// No replica has all of a block.
    #[error("{block}: replicas of {longest} bytes at most, {needed} are needed")]
    ReplicasShort {
        /// Block.
        block: BlockRef,
        /// Bytes of the longest one.
        longest: u64,
        /// Bytes of the block.
        needed: u64,
    },
    /// No datanode could take part in a recovery.
    #[error("{block}: no datanode could take part in its recovery")]
    NothingToRecover {
        /// Block.
        block: BlockRef,
    },
    /// A member of a recovery was not waited for any longer: enough others had answered.
    #[error("{block}: no answer to its recovery in time")]
    Late {
        /// Block.
        block: BlockRef,
    },
    /// The server stops.
    #[error("datanode is shutting down")]
    Stopping,
}

/// Adds the file's name to an I/O error.
pub(crate) fn disk<'a>(path: &'a std::path::Path) -> impl FnOnce(io::Error) -> DatanodeError + 'a {
    move |source| DatanodeError::Disk { path: path.to_owned(), source }
}

impl From<io::Error> for DatanodeError {
    /// For sockets: errors of disks carry their file's name.
    fn from(source: io::Error) -> Self {
        Self::Transfer(TransferError::Io(source))
    }
}

impl DatanodeError {
    /// Kind of this error in gRPC answers.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. } | Self::Address(_) | Self::Field(_) => ErrorKind::InvalidArgument,
            Self::Disk { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                _ => ErrorKind::Internal,
            },
            Self::VolumeInUse { .. }
            | Self::VolumeFault { .. }
            | Self::Version { .. }
            | Self::Bind { .. }
            | Self::Thread(_)
            | Self::AckOrder { .. }
            | Self::TooManyPackets(_) => ErrorKind::Internal,
            Self::WrongCluster { .. } | Self::WrongPool { .. } => ErrorKind::WrongCluster,
            Self::ProtocolVersion { .. } => ErrorKind::VersionMismatch,
            Self::Rpc { error, .. } => error.kind,
            Self::NotRegistered => ErrorKind::NotRegistered,
            Self::ReplicaNotFound { .. } => ErrorKind::BlockMissing,
            Self::ReplicaExists { .. } => ErrorKind::AlreadyExists,
            Self::StaleReplica { .. } => ErrorKind::StaleGenerationStamp,
            Self::Transition(TransitionError::Stamp { .. }) => ErrorKind::StaleGenerationStamp,
            Self::Transition(TransitionError::RecoveryRuns { .. }) => ErrorKind::RecoveryInProgress,
            Self::Transition(TransitionError::State { .. } | TransitionError::Length { .. }) => {
                ErrorKind::InvalidArgument
            }
            Self::WriterBusy { .. } | Self::WriterStopped { .. } => ErrorKind::RecoveryInProgress,
            Self::Range { .. } | Self::PacketPlace { .. } => ErrorKind::InvalidArgument,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Meta { .. }
            | Self::Checksum { .. }
            | Self::Damaged { .. }
            | Self::FileLength { .. }
            | Self::NotAFile { .. } => ErrorKind::ChecksumMismatch,
            Self::ChecksumParameters(_) | Self::ChecksumDiffers { .. } => ErrorKind::InvalidArgument,
            Self::Transfer(_) | Self::Packet(_) => ErrorKind::InvalidArgument,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Peer { .. } | Self::PeerStatus { .. } => ErrorKind::Unavailable,
            Self::ReplicasDiffer { .. } | Self::ReplicasShort { .. } => ErrorKind::ChecksumMismatch,
            Self::NothingToRecover { .. } | Self::Late { .. } | Self::Stopping => ErrorKind::Unavailable,
        }
    }

    /// Status of this error in answers of the data transfer protocol.
    pub fn transfer_status(&self) -> Status {
        match self {
            Self::Checksum { .. } | Self::Meta { .. } | Self::FileLength { .. } | Self::NotAFile { .. } => {
                Status::ErrorChecksum
            }
            Self::ReplicaExists { .. } => Status::ErrorExists,
            Self::Unsupported(_) => Status::ErrorUnsupported,
            Self::Range { .. }
            | Self::PacketPlace { .. }
            | Self::Field(_)
            | Self::Address(_)
            | Self::Packet(_)
            | Self::ChecksumParameters(_) => Status::ErrorInvalid,
            Self::NoSpace { .. } => Status::ErrorNoSpace,
            Self::Disk { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Status::ErrorNoSpace,
                _ => Status::Error,
            },
            Self::Config { .. }
            | Self::VolumeInUse { .. }
            | Self::VolumeFault { .. }
            | Self::Version { .. }
            | Self::WrongCluster { .. }
            | Self::ProtocolVersion { .. }
            | Self::Bind { .. }
            | Self::Thread(_)
            | Self::Rpc { .. }
            | Self::NotRegistered
            | Self::WrongPool { .. }
            | Self::Damaged { .. }
            | Self::ReplicaNotFound { .. }
            | Self::StaleReplica { .. }
            | Self::Transition(_)
            | Self::WriterBusy { .. }
            | Self::WriterStopped { .. }
            | Self::ChecksumDiffers { .. }
            | Self::Transfer(_)
            | Self::Peer { .. }
            | Self::PeerStatus { .. }
            | Self::AckOrder { .. }
            | Self::TooManyPackets(_)
            | Self::ReplicasDiffer { .. }
            | Self::ReplicasShort { .. }
            | Self::NothingToRecover { .. }
            | Self::Late { .. }
            | Self::Stopping => Status::Error,
        }
    }

    /// The gRPC status that carries this error.
    pub fn to_status(&self) -> tonic::Status {
        RpcError::new(self.kind(), "", self.to_string()).to_status()
    }

    /// Whether a failure to read a closed replica says that the replica is damaged: its content is wrong, or the disk cannot
    /// give it.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Checksum { .. } | Self::Meta { .. } | Self::FileLength { .. } | Self::NotAFile { .. } => {
                true
            }
            Self::Disk { source, .. } => matches!(
                source.raw_os_error().map(Errno::from_raw),
                Some(
                    Errno::EIO
                        | Errno::ENOENT
                        | Errno::EISDIR
                        | Errno::ENOTDIR
                        | Errno::ELOOP
                        | Errno::EUCLEAN
                        | Errno::EBADMSG
                        | Errno::ENODATA
                        | Errno::EREMOTEIO
                )
            ),
            _ => false,
        }
    }

    /// What happened to a connection, if that is the error.
    pub fn socket_error(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Transfer(TransferError::Io(source)) | Self::Peer { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// Whether the connection ended.
    pub fn is_hang_up(&self) -> bool {
        matches!(
            self.socket_error(),
            Some(
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::NotConnected
            )
        )
    }

    /// Whether another datanode is the reason: it cannot be reached, or it refuses.
    pub fn is_of_peer(&self) -> bool {
        matches!(self, Self::Peer { .. } | Self::PeerStatus { .. } | Self::Address(_))
    }

    /// Whether the connection being served ended or stayed silent, which is no news. Failures of connections to
    /// other datanodes are `Peer` errors.
    pub fn is_disconnect(&self) -> bool {
        matches!(self, Self::Transfer(TransferError::Io(_)))
            && (self.is_hang_up() || self.socket_error() == Some(io::ErrorKind::TimedOut))
    }
}
