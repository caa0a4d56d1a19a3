//! The types with which openraft is used here, and their encoding in log and messages.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::v1::LogPosition;
use openraft::{BasicNode, CommittedLeaderId, EntryPayload, RaftTypeConfig};
use prost::Message;

use super::batch::{Batch, BatchResponder};
use super::error::Damage;
use super::record::Kind;
use super::segment::EntryId;
use super::snapshot::SnapshotSource;
use crate::log;

openraft::declare_raft_types!(
    /// Types of our Raft: entries hold batches of commands; replies travel beside openraft (see
    /// [`Batch`]), because the state machine answers before or after openraft learns of it.
    pub TypeConfig:
        D = Batch,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotSource,
        Responder = BatchResponder,
        AsyncRuntime = openraft::TokioRuntime,
);

/// A log entry.
pub type Entry = <TypeConfig as RaftTypeConfig>::Entry;
/// Identity of a log entry.
pub type LogId = openraft::LogId<u64>;
/// A vote.
pub type Vote = openraft::Vote<u64>;
/// A set of namenodes.
pub type Membership = openraft::Membership<u64, BasicNode>;
/// A membership and the entry that set it.
pub type StoredMembership = openraft::StoredMembership<u64, BasicNode>;
/// Identity of a snapshot.
pub type SnapshotMeta = openraft::SnapshotMeta<u64, BasicNode>;
/// A failure of storage, as openraft wants it.
pub type StorageError = openraft::StorageError<u64>;

/// The log id of an entry found in the log.
pub fn log_id(id: EntryId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.node_id), id.index)
}

/// The reverse of [`log_id`].
pub fn entry_id(id: &LogId) -> EntryId {
    EntryId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

/// Where an entry is, as clients are told.
pub const fn position(id: &LogId) -> LogPosition {
    LogPosition { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

/// The record kind of a payload.
pub const fn payload_kind(payload: &EntryPayload<TypeConfig>) -> Kind {
    match payload {
        EntryPayload::Blank => Kind::Blank,
        EntryPayload::Normal(_) => Kind::Batch,
        EntryPayload::Membership(_) => Kind::Membership,
    }
}

/// Appends the encoded payload to `out`.
pub fn encode_payload(payload: &EntryPayload<TypeConfig>, out: &mut Vec<u8>) {
    match payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(batch) => batch.encode(out),
        EntryPayload::Membership(membership) => {
            out.extend_from_slice(&membership_to_proto(membership).encode_to_vec());
        }
    }
}

/// Decodes a payload; a sync mark is no payload.
pub fn decode_payload(kind: Kind, bytes: &[u8]) -> Result<EntryPayload<TypeConfig>, Damage> {
    match kind {
        Kind::Blank if bytes.is_empty() => Ok(EntryPayload::Blank),
        Kind::Blank => Err(Damage::Payload),
        Kind::Batch => {
            let message = log::CommandBatch::decode(bytes).map_err(|_| Damage::Payload)?;
            Ok(EntryPayload::Normal(Batch::stored(message)))
        }
        Kind::Membership => {
            let message = log::RaftMembership::decode(bytes).map_err(|_| Damage::Payload)?;
            Ok(EntryPayload::Membership(membership_from_proto(message)))
        }
        Kind::SyncMark => Err(Damage::Kind(kind as u8)),
    }
}

/// About how many bytes an entry takes in memory and in the log.
pub fn entry_bytes(entry: &Entry) -> usize {
    super::record::HEADER_BYTES
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(batch) => batch.encoded_bytes(),
            EntryPayload::Membership(membership) => membership_to_proto(membership).encoded_len(),
        }
}

/// A log id on the wire.
pub const fn log_id_to_proto(id: &LogId) -> log::RaftLogId {
    log::RaftLogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

/// A log id from the wire.
pub fn log_id_from_proto(id: log::RaftLogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.node_id), id.index)
}

/// A vote on the wire.
pub const fn vote_to_proto(vote: &Vote) -> log::RaftVote {
    log::RaftVote { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
}

/// A vote from the wire.
pub fn vote_from_proto(vote: log::RaftVote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    }
}

/// A membership as it is stored and sent.
pub fn membership_to_proto(membership: &Membership) -> log::RaftMembership {
    log::RaftMembership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| log::RaftVoters { node_ids: voters.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| log::RaftNode { node_id: *id, address: node.addr.clone() })
            .collect(),
    }
}

/// The reverse of [`membership_to_proto`].
pub fn membership_from_proto(message: log::RaftMembership) -> Membership {
    let configs: Vec<BTreeSet<u64>> =
        message.configs.into_iter().map(|voters| voters.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, BasicNode> =
        message.nodes.into_iter().map(|node| (node.node_id, BasicNode::new(node.address))).collect();
    Membership::new(configs, nodes)
}

/// A membership with its entry, as it is stored and sent.
pub fn stored_membership_to_proto(stored: &StoredMembership) -> log::RaftStoredMembership {
    log::RaftStoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

/// The reverse of [`stored_membership_to_proto`].
pub fn stored_membership_from_proto(message: log::RaftStoredMembership) -> StoredMembership {
    StoredMembership::new(
        message.log_id.map(log_id_from_proto),
        membership_from_proto(message.membership.unwrap_or_default()),
    )
}

/// Whether nobody but `node_id` holds or follows the log under `membership`. Only then may the leader
/// count an entry as stored before it is on disk: nobody else can act on it.
pub fn is_alone(membership: &Membership, node_id: u64) -> bool {
    membership.voter_ids().eq([node_id]) && membership.nodes().all(|(id, _)| *id == node_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(voters: &[u64], learners: &[u64]) -> Membership {
        let nodes = voters.iter().chain(learners);
        let nodes: BTreeMap<u64, BasicNode> =
            nodes.map(|id| (*id, BasicNode::new(format!("host{id}:1")))).collect();
        Membership::new(vec![voters.iter().copied().collect()], nodes)
    }

    #[test]
    fn memberships_survive_the_round_trip() {
        let original = membership(&[1, 2, 3], &[7]);
        let mut bytes = Vec::new();
        encode_payload(&EntryPayload::Membership(original.clone()), &mut bytes);
        match decode_payload(Kind::Membership, &bytes) {
            Ok(EntryPayload::Membership(decoded)) => assert_eq!(decoded, original),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn undecodable_payloads_are_refused() {
        assert_eq!(decode_payload(Kind::Blank, b"x").err(), Some(Damage::Payload));
        assert_eq!(decode_payload(Kind::Batch, b"\xff").err(), Some(Damage::Payload));
        assert_eq!(decode_payload(Kind::SyncMark, b"").err(), Some(Damage::Kind(3)));
    }

    #[test]
    fn only_a_sole_voter_without_learners_is_alone() {
        assert!(is_alone(&membership(&[1], &[]), 1));
        assert!(!is_alone(&membership(&[1], &[]), 2));
        assert!(!is_alone(&membership(&[1], &[2]), 1));
        assert!(!is_alone(&membership(&[1, 2], &[]), 1));
    }
}
