//! Fuzzing of the log's files: records, segments, payloads, the vote, and what the store says about the log.

use openraft::EntryPayload;
use prost::Message;

use super::{command, initialize};
use crate::consensus::raft_types::{decode_payload, encode_payload, stored_membership_from_proto};
use crate::consensus::record::{self, Header, Kind};
use crate::consensus::segment::{self, EntryId};
use crate::consensus::terms::Terms;
use crate::consensus::{state_store, vote_file};
use crate::fuzzing::{fuzz, fuzz_from, fuzz_repaired};
use crate::log::command::Op;
use crate::log::{
    CommandBatch, CreateOp, RaftLogId, RaftMembership, RaftNode, RaftStoredMembership, RaftVoters,
};

fn batch() -> Vec<u8> {
    let create = CreateOp {
        node: Some(dfs_proto::v1::NodeRef { base: 1, path: "a/b".into() }),
        mode: 0o644,
        replication: 3,
        ..CreateOp::default()
    };
    CommandBatch { commands: vec![initialize(), command(Op::Create(create))] }.encode_to_vec()
}

fn membership() -> RaftMembership {
    RaftMembership {
        configs: vec![RaftVoters { node_ids: vec![1, 2, 3] }],
        nodes: (1..4).map(|node_id| RaftNode { node_id, address: "10.0.0.1:9820".into() }).collect(),
    }
}

fn encoded(kind: Kind, index: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = Header { kind, index, term: 2, node_id: 1, synced: index };
    record::encode(&mut out, &header, |out| out.extend_from_slice(payload));
    out
}

/// Makes the checksum of the record at the start of `raw` right again.
fn repair_record(raw: &mut [u8]) {
    let Some(length) = raw.get(8..12).and_then(|raw| raw.first_chunk().copied()) else { return };
    let end = record::HEADER_BYTES.saturating_add(u32::from_le_bytes(length) as usize);
    if let Some(body) = raw.get(8..end) {
        let crc = crc32c::crc32c(body);
        raw[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Makes the checksum of a file's header of 48 bytes right again.
fn repair_header(raw: &mut [u8]) {
    if raw.len() >= 48 {
        let crc = crc32c::crc32c(&raw[..40]);
        raw[40..44].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn fuzzed_records() {
    let valid = [
        encoded(Kind::Batch, 7, &batch()),
        encoded(Kind::Blank, 8, b""),
        encoded(Kind::Membership, 9, &membership().encode_to_vec()),
        encoded(Kind::SyncMark, 10, b""),
    ];
    fuzz_repaired(
        "records of the log",
        &valid,
        |raw| repair_record(raw),
        |input| match record::decode(input) {
            Ok(record) => {
                let mut again = Vec::new();
                record::encode(&mut again, &record.header, |out| out.extend_from_slice(record.payload));
                assert_eq!(again, input[..record.size()]);
                true
            }
            Err(_) => false,
        },
    );
}

#[test]
fn fuzzed_segments() {
    let header = segment::Header { previous: Some(EntryId { term: 2, node_id: 1, index: 9 }) };
    let mut valid = header.encode().to_vec();
    valid.extend(encoded(Kind::Batch, 10, &batch()));
    valid.extend(encoded(Kind::Blank, 11, b""));
    valid.extend(encoded(Kind::SyncMark, 12, b""));
    valid.extend(encoded(Kind::Blank, 12, b""));
    let repair = |raw: &mut Vec<u8>| {
        repair_header(raw);
        if let Some(rest) = raw.get_mut(48..) {
            repair_record(rest);
        }
    };
    fuzz_repaired("segments of the log", &[valid], repair, |input| {
        let Ok(header) = segment::Header::decode(input, 10) else { return false };
        match segment::scan(input, &header) {
            Ok(scan) => {
                assert!(scan.end <= input.len() && scan.entries.len() <= input.len());
                scan.tail.is_none()
            }
            Err(refused) => {
                assert!(refused.offset < input.len());
                false
            }
        }
    });
}

#[test]
fn fuzzed_batches() {
    fuzz("batches of the log", &[batch()], |input| match decode_payload(Kind::Batch, input) {
        Ok(payload) => {
            let mut again = Vec::new();
            encode_payload(&payload, &mut again);
            matches!(payload, EntryPayload::Normal(_))
        }
        Err(_) => false,
    });
}

#[test]
fn fuzzed_memberships() {
    fuzz("memberships of the log", &[membership().encode_to_vec()], |input| {
        match decode_payload(Kind::Membership, input) {
            Ok(payload) => {
                let mut again = Vec::new();
                encode_payload(&payload, &mut again);
                true
            }
            Err(_) => false,
        }
    });
}

#[test]
fn fuzzed_stored_memberships() {
    let stored = RaftStoredMembership {
        log_id: Some(RaftLogId { term: 2, node_id: 1, index: 9 }),
        membership: Some(membership()),
    };
    fuzz_from("stored memberships", &[stored.encode_to_vec()], |input| {
        RaftStoredMembership::decode(input).map(stored_membership_from_proto).is_ok()
    });
}

#[test]
fn fuzzed_votes() {
    let vote = openraft::Vote::new_committed(7, 3);
    let valid = vote_file::encode(9, &vote).to_vec();
    fuzz_repaired(
        "vote file",
        &[valid],
        |raw| repair_header(raw),
        |input| match vote_file::decode(input) {
            Ok((node, vote)) => {
                assert_eq!(vote_file::encode(node, &vote)[..], *input);
                true
            }
            Err(_) => false,
        },
    );
}

#[test]
fn fuzzed_terms() {
    let mut terms = Terms::default();
    for term in 1..5 {
        terms.applied(EntryId { term, node_id: term % 3, index: 10 * term });
    }
    fuzz("leaders of the log", &[terms.encode()], |input| match Terms::decode(input) {
        Ok(terms) => {
            assert_eq!(terms.encode(), input);
            true
        }
        Err(_) => false,
    });
}

#[test]
fn fuzzed_position_of_the_store() {
    fuzz_from("position of the store", &[vec![1; 33], vec![1; 9]], |input| {
        let applied = state_store::decode_applied(input).is_ok();
        state_store::decode_membership(input).is_ok() || applied
    });
}
