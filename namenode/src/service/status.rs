//! The one place where the namenode's errors become what crosses the wire.

use dfs_proto::{ErrorKind, RpcError};

use crate::consensus::ProposeError;
use crate::namesystem::NamesystemError;

/// What clients are told while the disk is full.
pub const NO_ROOM: &str = "the namenode's disk is full; nothing is changed until it has room";

/// A refusal of the namespace.
pub fn rpc_error(error: &NamesystemError) -> RpcError {
    RpcError::new(error.kind(), error.subject(), error.reason())
}

/// A proposal that failed.
pub fn rpc_error_of_proposal(error: &ProposeError) -> RpcError {
    match error {
        ProposeError::Refused(refusal) => rpc_error(refusal),
        ProposeError::NotLeader { leader } => {
            RpcError::new(ErrorKind::NotLeader, "", leader.clone().unwrap_or_default())
        }
        ProposeError::TooLarge { .. } => RpcError::new(ErrorKind::TooLarge, "", error.to_string()),
        ProposeError::NoRoom => RpcError::new(ErrorKind::NoSpace, "", NO_ROOM),
        ProposeError::Stopped => RpcError::new(ErrorKind::Unavailable, "", "the namenode is stopping"),
    }
}

/// A reply of another shape than its command's: a defect.
pub fn wrong_reply(op: &'static str) -> RpcError {
    RpcError::new(ErrorKind::Internal, op, "unexpected reply")
}
