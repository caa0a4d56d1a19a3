//! Fuzzing of the store's rows, and of commands: whatever is asked, `apply` answers or refuses, and the namespace stays whole.

use std::cell::RefCell;

use dfs_proto::{BlockId, GenerationStamp, InodeId, v1::FileType};
use log::command::Op;
use prost::Message;
use smallvec::smallvec;

use super::fixture::*;
use crate::fuzzing::{fuzz, fuzz_from, uncounted};
use crate::log;
use crate::namesystem::acl::Acl;
use crate::namesystem::block_record::BlockRecord;
use crate::namesystem::counters::Counters;
use crate::namesystem::entry::Entry;
use crate::namesystem::inode::{Inode, InodeView};
use crate::namesystem::reservation::Reservation;
use crate::namesystem::xattrs::Xattrs;
use crate::namesystem::{BlockState, keys};

/// Commands after which a namespace that was fuzzed is thrown away.
const COMMANDS_PER_NAMESPACE: u64 = 300;

#[test]
fn fuzzed_inodes() {
    let inode = |kind, holder: Option<&str>| Inode {
        id: InodeId(9),
        kind,
        mode: 0o644,
        nlink: 1,
        parent: InodeId(2),
        rdev: 3,
        size: 4,
        atime_ns: 5,
        mtime_ns: 6,
        ctime_ns: 7,
        btime_ns: -1,
        block_size: 8,
        change: 9,
        replication: 10,
        owner: "ann".to_owned(),
        group: "dev".to_owned(),
        holder: holder.map(str::to_owned),
        symlink: b"t".to_vec(),
        xattrs: vec![0xee, 0xff],
        allocated: 11,
        open_blocks: 12,
    };
    let valid = [
        inode(FileType::File, Some("h")).encode(),
        inode(FileType::Directory, None).encode(),
        inode(FileType::Symlink, None).encode(),
    ];
    fuzz("inodes", &valid, |input| {
        if let Ok(view) = InodeView::new(InodeId(9), input) {
            let _ = (view.kind(), view.nlink());
        }
        match Inode::decode(InodeId(9), input) {
            Ok(inode) => {
                // An older version is written as the newest.
                assert!(Inode::decode(InodeId(9), &inode.encode()).is_ok_and(|again| again == inode));
                true
            }
            Err(_) => false,
        }
    });
}

#[test]
fn fuzzed_block_rows() {
    let record = |state, hints| BlockRecord {
        id: BlockId(1),
        state,
        replication: 3,
        stamp: GenerationStamp(1_001),
        length: 77,
        inode: InodeId(9),
        index: 2,
        issued: GenerationStamp(1_001),
        settled_length: None,
        hints,
    };
    let valid = [
        record(BlockState::Complete, smallvec![1, 2, 3]).encode().to_vec(),
        record(BlockState::UnderRecovery, smallvec![]).encode().to_vec(),
    ];
    fuzz("rows of blocks", &valid, |input| match BlockRecord::decode(BlockId(1), input) {
        Ok(record) => {
            assert_eq!(record.encode()[..], *input);
            true
        }
        Err(_) => false,
    });
}

#[test]
fn fuzzed_entries() {
    let entry = Entry { inode: InodeId(7), kind: FileType::Directory }.encode().to_vec();
    fuzz("entries", &[entry], |input| {
        Entry::decode(b"k", input).is_ok_and(|entry| entry.encode()[..] == *input)
    });
}

#[test]
fn fuzzed_extended_attributes() {
    let xattrs = [&[1, 6, 2, 0, 0, 0][..], b"user.a", b"vv", &[6, 0, 0, 0, 0], b"user.b"].concat();
    fuzz("extended attributes", &[xattrs], |input| match Xattrs::decode(InodeId(1), input) {
        Ok(xattrs) => {
            let _ = xattrs.encode();
            true
        }
        Err(_) => false,
    });
}

#[test]
fn fuzzed_access_lists() {
    let acl = [&[1, 1, 6, 0, 2, 4, 3][..], b"ann", &[3, 4, 0, 5, 7, 0, 6, 0, 0]].concat();
    fuzz("access lists", &[acl], |input| match Acl::decode(input) {
        Some(acl) => {
            assert_eq!(Acl::decode(&acl.encode()), Some(acl));
            true
        }
        None => false,
    });
}

#[test]
fn fuzzed_counters() {
    let mut counters = vec![0; 64];
    counters[0] = 1;
    fuzz("counters", &[counters], |input| {
        Counters::decode(input).is_ok_and(|counters| counters.encode()[..] == *input)
    });
}

#[test]
fn fuzzed_reservations() {
    let reserved = Reservation { first: 7, next: 8, end: 9 }.encode().to_vec();
    let key = keys::reservation("s", 7);
    fuzz("reserved numbers", &[reserved], |input| {
        Reservation::decode(&key, input).is_ok_and(|range| range.encode()[..] == *input)
    });
}

#[test]
fn fuzzed_keys_of_leases() {
    fuzz("keys of leases", &[keys::lease("client-1", InodeId(7))], |input| keys::parse_lease(input).is_ok());
}

/// Commands of many kinds.
fn commands(fixture: &mut Fixture) -> Vec<Vec<u8>> {
    let path = |path| Some(node(path));
    let create = log::CreateOp {
        node: path("/f"),
        mode: 0o644,
        replication: 3,
        block_size: BLOCK,
        holder: "h".to_owned(),
        ..log::CreateOp::default()
    };
    let ops = vec![
        Op::Mkdir(log::MkdirOp { node: path("/d"), mode: 0o755, ..log::MkdirOp::default() }),
        Op::Create(create),
        Op::Append(log::AppendOp { node: path("/f"), holder: "h".to_owned() }),
        add_block(3, "h", None),
        complete(3, "h", Some(committed(block(1, 1, 5), &["DS-1"]))),
        Op::Truncate(log::TruncateOp { node: path("/f"), length: 5, ..log::TruncateOp::default() }),
        Op::RecoverLease(log::RecoverLeaseOp { node: path("/f") }),
        Op::Delete(log::DeleteOp { node: path("/f"), ..log::DeleteOp::default() }),
        Op::SetReplication(log::SetReplicationOp { node: path("/f"), ..log::SetReplicationOp::default() }),
        Op::UpdateHints(log::UpdateHintsOp::default()),
        Op::MakeNode(log::MakeNodeOp::default()),
        Op::Link(log::LinkOp::default()),
        Op::Unlink(log::UnlinkOp::default()),
        Op::Move(log::MoveOp::default()),
        Op::SetAttributes(log::SetAttributesOp::default()),
        Op::SetXattr(log::SetXattrOp { inode: 1, name: b"user.a".to_vec(), ..log::SetXattrOp::default() }),
        Op::AcquireLease(log::AcquireLeaseOp::default()),
        Op::WriteBlock(log::WriteBlockOp::default()),
        Op::CommitBlocks(log::CommitBlocksOp::default()),
        Op::ReleaseOrphans(log::ReleaseOrphansOp::default()),
        Op::Reclaim(log::ReclaimOp::default()),
        Op::ReserveInodes(log::ReserveInodesOp { session: "s".to_owned(), count: 4 }),
        Op::MakeNode(log::MakeNodeOp { inode: 16_387, session: "s".to_owned(), ..file_op("/r") }),
        Op::Unlink(log::UnlinkOp { node: path("/r"), inode: 16_387, ..log::UnlinkOp::default() }),
        Op::DropReservations(log::DropReservationsOp { session: "s".to_owned() }),
        Op::RegisterDatanode(log::RegisterDatanodeOp::default()),
    ];
    ops.into_iter().map(|op| fixture.command(op).encode_to_vec()).collect()
}

#[test]
fn fuzzed_commands() {
    let valid = commands(&mut Fixture::new());
    let namespace = RefCell::new((Fixture::new(), 0));
    fuzz_from("commands", &valid, |input| {
        let Ok(command) = log::Command::decode(input) else { return false };
        uncounted(|| {
            let mut namespace = namespace.borrow_mut();
            if namespace.1 == COMMANDS_PER_NAMESPACE {
                *namespace = (Fixture::new(), 0);
            }
            namespace.1 += 1;
            let carried_out = namespace.0.apply(&command).outcome.is_ok();
            if namespace.1 == COMMANDS_PER_NAMESPACE {
                namespace.0.assert_sound();
            }
            carried_out
        })
    });
}
