//! Leases and their recovery.

use dfs_proto::{ErrorKind, InodeId};
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;
use crate::namesystem::{Effect, NAMENODE_HOLDER};

#[test]
fn the_last_close_releases_the_holder() {
    let mut t = Fixture::new();
    let a = t.create("/a", "w");
    let b = t.create("/b", "w");
    t.create("/c", "w2");
    assert_eq!(t.snapshot().leases_of("w").expect("reads"), [InodeId(a.inode), InodeId(b.inode)]);
    assert_eq!(t.snapshot().leases().expect("reads").len(), 3);
    t.ok(complete(a.inode, "w", None));
    assert!(!t.effects.iter().any(|e| matches!(e, Effect::LeaseReleased { .. })));
    t.ok(delete("/b", false));
    assert!(t.effects.contains(&Effect::LeaseReleased { holder: "w".to_owned() }));
    assert!(t.snapshot().leases_of("w").expect("reads").is_empty());
    let (_, holder) = t.snapshot().writer_of(&t.caller, &node("/c")).expect("exists");
    assert_eq!(holder.as_deref(), Some("w2"));
    t.assert_sound();
}

#[test]
fn recovery_of_a_file_without_open_block_closes_it() {
    let mut t = Fixture::new();
    let mut op = create_op("/f", "w");
    op.targets.clear();
    t.ok(Op::Create(op));
    let reply = t.ok(recover_lease("/f"));
    assert!(matches!(&reply, Reply::Recovery(r) if r.closed), "{reply:?}");
    assert_eq!(t.effects, [Effect::LeaseReleased { holder: "w".to_owned() }]);
    assert!(matches!(t.ok(recover_lease("/f")), Reply::Recovery(r) if r.closed));
    t.assert_sound();
}

#[test]
fn recovery_fences_the_writer_and_the_latest_counts() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    let first = opened.block.expect("a block");
    let Reply::Recovery(one) = t.ok(recover_lease("/f")) else { panic!("no recovery") };
    assert!(!one.closed);
    assert_eq!(one.block.as_ref().expect("a block").storage_ids, ["s1", "s2", "s3"]);
    let kinds: Vec<_> = t.effects.iter().collect();
    assert!(
        matches!(&kinds[..], [Effect::LeaseReleased { holder: old }, Effect::LeaseTaken { holder: new },
            Effect::RecoveryStarted { truncate_length: None, .. }] if old == "w" && new == NAMENODE_HOLDER),
        "{kinds:?}"
    );
    let done = committed(block(first.id, first.generation_stamp, 5), &["s1"]);
    t.refused(complete(opened.inode, "w", Some(done.clone())), ErrorKind::LeaseExpired);
    t.refused(complete(opened.inode, NAMENODE_HOLDER, Some(done)), ErrorKind::LeaseExpired);
    t.refused(append("/f", "v"), ErrorKind::RecoveryInProgress);

    let Reply::Recovery(two) = t.ok(recover_lease("/f")) else { panic!("no recovery") };
    assert!(two.new_generation_stamp > one.new_generation_stamp);
    let sync = |stamp| synchronized(first.id, stamp, 33, &["s1", "s4"]);
    t.refused(sync(one.new_generation_stamp), ErrorKind::StaleGenerationStamp);
    t.ok(sync(two.new_generation_stamp));
    assert!(matches!(&t.effects[..], [Effect::BlockCommitted { block, .. }, Effect::LeaseReleased { .. }]
        if block.length == 33 && block.stamp.get() == two.new_generation_stamp));
    t.ok(sync(two.new_generation_stamp));
    assert!(t.effects.is_empty(), "told twice");
    assert_eq!(t.stat("/f").size, 33);
    assert_eq!(t.blocks_of(opened.inode)[0].hints, ["s1", "s4"], "datanodes may name new storages");
    t.refused(synchronized(1, 2, 3, &["s1"]), ErrorKind::NotFound);
    t.assert_sound();
}

#[test]
fn a_block_that_nobody_has_goes_unless_data_was_promised() {
    let mut t = Fixture::new();
    let opened = t.create("/f", "w");
    let first = opened.block.expect("a block");
    let Reply::Recovery(recovery) = t.ok(recover_lease("/f")) else { panic!("no recovery") };
    t.ok(synchronized(first.id, recovery.new_generation_stamp, 0, &[]));
    assert!(t.blocks_of(opened.inode).is_empty());
    assert_eq!(t.stat("/f").size, 0);
    assert!(!t.stat("/f").under_construction);

    let opened = t.create("/g", "w");
    let first = opened.block.expect("a block");
    let synced = block(first.id, first.generation_stamp, 5);
    t.ok(Op::Fsync(log::FsyncOp { inode: opened.inode, holder: "w".to_owned(), block: Some(synced) }));
    let Reply::Recovery(recovery) = t.ok(recover_lease("/g")) else { panic!("no recovery") };
    t.refused(synchronized(first.id, recovery.new_generation_stamp, 0, &[]), ErrorKind::NotYetReplicated);
    t.assert_sound();
}

#[test]
fn recovery_needs_write_permission() {
    let mut t = Fixture::new();
    t.create("/f", "w");
    t.become_user("ann", &["staff"]);
    t.refused(recover_lease("/f"), ErrorKind::AccessDenied);
}
