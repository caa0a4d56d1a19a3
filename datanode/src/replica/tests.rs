//! Transitions of replicas, as tables.

use super::*;

const BLOCK: BlockRef = BlockRef::new(7, 10);

fn stamp(raw: u64) -> GenerationStamp {
    GenerationStamp(raw)
}

fn in_state(state: ReplicaState) -> Replica {
    let mut replica = match state {
        ReplicaState::Finalized => Replica::finalized(BLOCK, 100),
        ReplicaState::Rbw => Replica::create(BLOCK),
        ReplicaState::Rwr => Replica::found_unfinished(BLOCK, 100),
        ReplicaState::Temporary => Replica::create_temporary(BLOCK),
        ReplicaState::Rur => {
            let mut replica = Replica::found_unfinished(BLOCK, 100);
            replica.begin_recovery(stamp(10), stamp(11)).expect("legal");
            replica
        }
    };
    replica.received(100);
    replica.acknowledged(100);
    replica
}

const ALL: [ReplicaState; 5] = [
    ReplicaState::Finalized,
    ReplicaState::Rbw,
    ReplicaState::Rwr,
    ReplicaState::Rur,
    ReplicaState::Temporary,
];

type Event = fn(&mut Replica) -> Result<(), TransitionError>;

#[test]
fn the_table_of_transitions_is_what_the_code_does() {
    use ReplicaState::{Finalized, Rbw, Rur, Rwr, Temporary};
    let table: [(&str, Event, &[ReplicaState], ReplicaState); 11] = [
        ("finalize", Replica::finalize, &[Rbw, Temporary], Finalized),
        ("become_rbw", Replica::become_rbw, &[Temporary], Rbw),
        ("append", |r| r.append(stamp(11), 100).map(drop), &[Finalized], Rbw),
        ("recover_append", |r| r.recover_append(stamp(10), stamp(11), 100).map(drop), &[Finalized, Rbw], Rbw),
        ("recover_rbw", |r| r.recover_rbw(stamp(10), stamp(11), 50, 100).map(drop), &[Rbw], Rbw),
        ("recover_random", |r| r.recover_random(stamp(10), stamp(11), 50).map(drop), &[Rbw], Rbw),
        (
            "recover_close_random",
            |r| r.recover_close_random(stamp(10), stamp(11), 90),
            &[Finalized, Rbw],
            Finalized,
        ),
        ("recover_close", |r| r.recover_close(stamp(10), stamp(11), 100), &[Finalized, Rbw], Finalized),
        ("close_found", |r| r.close_found(stamp(10), 100), &[Finalized, Rwr], Finalized),
        ("begin_recovery", |r| r.begin_recovery(stamp(10), stamp(11)), &[Finalized, Rbw, Rwr, Rur], Rur),
        ("finish_recovery", |r| r.finish_recovery(stamp(11), 90), &[Rur], Finalized),
    ];
    for (name, event, legal, to) in table {
        for from in ALL {
            let mut replica = in_state(from);
            let before = replica.clone();
            let outcome = event(&mut replica);
            if legal.contains(&from) {
                assert_eq!((outcome, replica.state()), (Ok(()), to), "{name} from {from:?}");
            } else {
                let refused = Err(TransitionError::State { block: BLOCK, state: from });
                assert_eq!((outcome, &replica), (refused, &before), "{name} from {from:?}");
            }
        }
    }
}

#[test]
fn visible_length_is_what_was_acknowledged() {
    let mut replica = Replica::create(BLOCK);
    replica.received(100);
    assert_eq!((replica.length(), replica.visible_length()), (100, 0));
    replica.acknowledged(60);
    assert_eq!(replica.visible_length(), 60);
    replica.acknowledged(40);
    assert_eq!(replica.visible_length(), 60, "an acknowledged byte stays acknowledged");
    replica.acknowledged(1000);
    assert_eq!(replica.visible_length(), 100, "nothing is acknowledged before it is on disk");
}

#[test]
fn recovering_a_pipeline_drops_what_was_not_acknowledged() {
    let mut replica = Replica::create(BLOCK);
    replica.received(100);
    replica.acknowledged(60);
    assert!(matches!(
        replica.clone().recover_rbw(stamp(10), stamp(11), 61, 100),
        Err(TransitionError::Length { .. })
    ));
    assert!(matches!(
        replica.clone().recover_rbw(stamp(10), stamp(11), 0, 59),
        Err(TransitionError::Length { .. })
    ));
    assert_eq!(replica.recover_rbw(stamp(10), stamp(11), 50, 80), Ok(60));
    assert_eq!((replica.length(), replica.block().stamp), (60, stamp(11)));
}

#[test]
fn stamps_fence() {
    let finalized = in_state(ReplicaState::Finalized);
    let refused = |outcome| matches!(outcome, Err(TransitionError::Stamp { .. }));
    assert!(refused(finalized.clone().append(stamp(10), 100).map(drop)), "append needs a higher stamp");
    assert!(refused(finalized.clone().recover_close(stamp(11), stamp(12), 100)), "replica is stale");
    assert!(refused(finalized.clone().recover_close(stamp(8), stamp(9), 100)), "caller is stale");
    assert!(refused(finalized.clone().begin_recovery(stamp(10), stamp(10))), "recovery raises the stamp");
    assert!(refused(finalized.clone().begin_recovery(stamp(11), stamp(12))), "replica is stale");
}

#[test]
fn the_higher_recovery_wins() {
    let mut replica = in_state(ReplicaState::Rbw);
    replica.begin_recovery(stamp(10), stamp(12)).expect("legal");
    let lower = replica.begin_recovery(stamp(10), stamp(11));
    assert_eq!(lower, Err(TransitionError::RecoveryRuns { block: BLOCK, running: stamp(12) }));
    replica.begin_recovery(stamp(10), stamp(12)).expect("a repeat is legal");
    replica.begin_recovery(stamp(10), stamp(13)).expect("a higher one takes over");
    assert_eq!(replica.original_state(), ReplicaState::Rbw);
    assert!(replica.finish_recovery(stamp(12), 100).is_err());
    assert!(replica.clone().finish_recovery(stamp(13), 101).is_err(), "a replica cannot grow");
    replica.finish_recovery(stamp(13), 70).expect("legal");
    assert_eq!(replica, Replica::finalized(BlockRef::new(7, 13), 70));
}

#[test]
fn a_writer_at_any_offset_goes_on_with_what_the_datanode_found_intact() {
    let found = || Replica::found_intact(BLOCK, 100);
    let mut replica = found();
    assert_eq!(replica.recover_random(stamp(10), stamp(11), 100), Ok(100));
    assert_eq!((replica.state(), replica.visible_length()), (ReplicaState::Rbw, 100));
    assert_eq!(found().recover_append(stamp(10), stamp(11), 70), Ok(70));
    assert_eq!(found().recover_close_random(stamp(10), stamp(11), 100), Ok(()));
    let mut short = found();
    assert!(matches!(short.recover_random(stamp(10), stamp(11), 101), Err(TransitionError::Length { .. })));
    assert_eq!(short, found(), "a refused transition changes nothing");
    // One that a recovery has seen, and one of a machine that stopped, are not intact.
    let mut seen = found();
    seen.begin_recovery(stamp(10), stamp(11)).expect("legal");
    assert!(seen.recover_random(stamp(10), stamp(12), 0).is_err());
    assert!(Replica::found_unfinished(BLOCK, 100).recover_random(stamp(10), stamp(11), 0).is_err());
}

#[test]
fn a_replica_longer_than_its_block_is_cut_when_it_is_reopened() {
    let mut replica = in_state(ReplicaState::Finalized);
    assert_eq!(replica.append(stamp(11), 40), Ok(40));
    assert_eq!((replica.length(), replica.visible_length()), (40, 40));
    assert!(in_state(ReplicaState::Finalized).append(stamp(11), 101).is_err());
}

#[test]
fn a_writer_resumes_what_the_end_of_the_datanode_alone_left() {
    type Resume = fn(&mut Replica) -> Result<(), TransitionError>;
    let stages: [(&str, Resume, ReplicaState); 5] = [
        ("recover_rbw", |r| r.recover_rbw(stamp(10), stamp(11), 90, 110).map(drop), ReplicaState::Rbw),
        ("recover_random", |r| r.recover_random(stamp(10), stamp(11), 90).map(drop), ReplicaState::Rbw),
        ("recover_append", |r| r.recover_append(stamp(10), stamp(11), 90).map(drop), ReplicaState::Rbw),
        ("recover_close", |r| r.recover_close(stamp(10), stamp(11), 100), ReplicaState::Finalized),
        (
            "recover_close_random",
            |r| r.recover_close_random(stamp(10), stamp(11), 100),
            ReplicaState::Finalized,
        ),
    ];
    for (name, resume, to) in stages {
        for mut replica in [Replica::found_intact(BLOCK, 100), Replica::found_resumable(BLOCK, 100)] {
            assert_eq!(resume(&mut replica).map(|()| replica.state()), Ok(to), "{name}");
            assert!(resume(&mut Replica::found_unfinished(BLOCK, 100)).is_err(), "{name}");
        }
    }
    // Its end is not what was acknowledged.
    let mut cut = Replica::found_resumable(BLOCK, 100);
    assert!(matches!(cut.recover_rbw(stamp(10), stamp(11), 101, 200), Err(TransitionError::Length { .. })));
    // In a block recovery it decides nothing beside one that is being written.
    cut.begin_recovery(stamp(10), stamp(12)).expect("begins");
    assert_eq!(cut.original_state(), ReplicaState::Rwr);
}
