//! Delegated locks against a table without delegations, and the cases by name.

use dfs_proto::v1::LockType::{Read, Unlock, Write};
use dfs_proto::v1::{LockSpace, LockType};

use super::*;
use crate::service::resting::REST_MS;

const FILE: u64 = 9;

fn lock(owner: u64, start: u64, end: u64, kind: LockType) -> FileLock {
    FileLock { inode: FILE, owner, start, end, r#type: kind.into(), ..FileLock::default() }
}

fn delegated(locks: &mut DelegatedLocks, session: &str) -> LockDelegation {
    let (attempt, number) = locks.set(0, session, &lock(1, 0, 9, Write), true).expect("nobody else");
    assert_eq!(attempt, Attempt::Done);
    assert_ne!(number, 0);
    LockDelegation { inode: FILE, number }
}

#[test]
fn only_who_is_alone_gets_them() {
    let mut locks = DelegatedLocks::new(7);
    let read = lock(1, 0, 0, Read);
    assert_eq!(locks.set(0, "b", &lock(1, 50, 50, Write), false), Ok((Attempt::Done, 0)));
    assert_eq!(locks.set(0, "a", &read, true), Ok((Attempt::Done, 0)), "another session has locks");
    let flock = FileLock { space: LockSpace::Flock.into(), ..lock(1, 0, 0, Read) };
    assert_eq!(locks.set(0, "b", &lock(1, 0, 99, Unlock), false), Ok((Attempt::Done, 0)));
    assert_eq!(locks.set(0, "b", &flock, false), Ok((Attempt::Done, 0)));
    assert_eq!(locks.set(0, "a", &read, true), Ok((Attempt::Done, 0)), "in the other space");
    assert!(locks.drop_file(0, "b", FILE));
    let wait = locks.table.wait("b", &lock(1, 0, 0, Write)).expect("waits");
    assert_eq!(locks.set(0, "a", &read, true), Ok((Attempt::Done, 0)), "somebody waits");
    locks.table.end_wait(wait);
    assert_eq!(locks.set(0, "a", &read, true), Ok((Attempt::Done, 8)));
    assert_eq!(locks.set(0, "a", &read, true), Ok((Attempt::Done, 8)), "it had them");
    assert_eq!(locks.delegated(), 1);
}

#[test]
fn others_wait_until_they_are_back_or_their_holder_is_gone() {
    let mut locks = DelegatedLocks::new(0);
    let delegation = delegated(&mut locks, "a");
    let wanted = lock(1, 5, 5, Write);
    assert_eq!(locks.set(10, "b", &wanted, true), Err(Away { holder: Some("a".into()) }));
    assert_eq!(locks.blocker(20, "b", &wanted), Err(Away { holder: None }), "it was told");
    assert_eq!(locks.take_recalled("a"), (vec![delegation], true));
    assert_eq!(locks.take_recalled("a"), (vec![delegation], false));
    let other = LockDelegation { number: delegation.number + 1, ..delegation };
    assert!(!locks.give_back(30, "a", other, &[]) && !locks.give_back(30, "b", delegation, &[]));
    assert!(locks.give_back(30, "a", delegation, &[lock(3, 5, 6, Read)]));
    assert!(!locks.give_back(30, "a", delegation, &[]), "once only");
    assert_eq!(locks.set(30, "b", &wanted, true), Ok((Attempt::Blocked, 0)));
    assert_eq!(locks.set(30, "b", &lock(1, 0, 4, Write), true), Ok((Attempt::Done, 0)), "others use it");
    assert!(locks.drop_file(30, "a", FILE));
    assert_eq!(locks.set(31, "b", &wanted, true), Ok((Attempt::Done, 0)), "it rests");
    let rested = 30 + REST_MS;
    assert_eq!(locks.set(rested, "b", &wanted, true), Ok((Attempt::Done, 2)));
    assert_eq!(locks.set(rested, "a", &wanted, false), Err(Away { holder: Some("b".into()) }));
    assert_eq!(locks.recall_stands(rested + 99, FILE, 100), Recall::Awaited);
    assert_eq!(locks.recall_stands(rested + 100, FILE, 100), Recall::Overdue);
    assert_eq!(locks.recall_stands(rested + 100, FILE, 100), Recall::Over);
    assert_eq!(locks.set(rested + 100, "a", &wanted, false), Ok((Attempt::Done, 0)));
    assert!(
        !locks.give_back(rested + 100, "b", LockDelegation { inode: FILE, number: 2 }, &[wanted]),
        "too late"
    );
}

#[test]
fn the_end_of_a_session_or_of_a_file_ends_them() {
    let mut locks = DelegatedLocks::new(0);
    let first = delegated(&mut locks, "a");
    assert!(locks.drop_file(0, "a", FILE));
    assert!(!locks.give_back(0, "a", first, &[lock(1, 0, 9, Write)]), "a late return");
    delegated(&mut locks, "b");
    assert_eq!(locks.drop_session("b"), [FILE, FILE]);
    assert_eq!((locks.delegated(), locks.numbers.len(), locks.table.len()), (0, 0, 0));
}

/// xorshift64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What a session does with delegated locks.
#[derive(Default)]
struct Session {
    held: Option<LockDelegation>,
    /// What its owners have locked: all of it while it decides.
    own: LockTable,
}

const SESSIONS: [&str; 2] = ["a", "b"];
const OWNERS: u64 = 3;
const BYTES: u64 = 12;

/// Every lock of a session in the file, byte by byte.
fn told(table: &LockTable, session: &str) -> Vec<FileLock> {
    let mut all = Vec::new();
    for flock in [LockSpace::Posix, LockSpace::Flock] {
        for owner in 0..OWNERS {
            for byte in 0..BYTES {
                let probe = |kind| FileLock { space: flock.into(), ..lock(owner, byte, byte, kind) };
                // A stranger is blocked by the owner's locks only, once the others' are gone.
                let mut alone = table.clone();
                for other in (0..OWNERS).filter(|other| *other != owner) {
                    let everything = FileLock { owner: other, ..lock(other, 0, u64::MAX, Unlock) };
                    alone.set(session, &FileLock { space: flock.into(), ..everything });
                }
                let stranger = |kind| FileLock { owner: OWNERS, ..probe(kind) };
                let kind =
                    match (alone.blocker(session, &stranger(Read)), alone.blocker(session, &stranger(Write)))
                    {
                        (Some(_), _) => Write,
                        (None, Some(_)) => Read,
                        (None, None) => continue,
                    };
                all.push(probe(kind));
            }
        }
    }
    all
}

#[test]
fn two_sessions_hear_what_one_table_would_answer() {
    let mut decided_here = 0;
    for seed in 1..=20 {
        let mut numbers = Numbers(seed);
        let (mut plain, mut locks) = (LockTable::default(), DelegatedLocks::new(seed));
        let mut sessions = [Session::default(), Session::default()];
        let mut now = 0;
        for step in 0..400 {
            // Turns of one session, and some time passing, let delegations come about.
            now += numbers.below(REST_MS / 4);
            let turn = usize::from(step % 80 >= 40);
            let me = turn ^ usize::from(numbers.below(15) == 0);
            if step % 40 == 0 {
                // The other one closes the file.
                let other = 1 - turn;
                plain.drop_file(SESSIONS[other], FILE);
                locks.drop_file(now, SESSIONS[other], FILE);
                sessions[other] = Session::default();
            }
            let (a, b) = (numbers.below(BYTES), numbers.below(BYTES));
            let kind = [Unlock, Read, Write][numbers.below(3) as usize];
            let space = [LockSpace::Posix, LockSpace::Posix, LockSpace::Flock][numbers.below(3) as usize];
            let wanted =
                FileLock { space: space.into(), ..lock(numbers.below(OWNERS), a.min(b), a.max(b), kind) };
            let name = SESSIONS[me];
            let what = format!("seed {seed} step {step} {name} {wanted:?}");
            let expected_blocker = plain.blocker(name, &wanted).is_some();
            let expected = plain.set(name, &wanted);
            if sessions[me].held.is_some() {
                decided_here += 1;
                assert_eq!(sessions[me].own.blocker(name, &wanted).is_some(), expected_blocker, "{what}");
                assert_eq!(sessions[me].own.set(name, &wanted), expected, "{what}");
                continue;
            }
            if let Err(Away { holder }) = locks.blocker(now, name, &wanted) {
                let other = 1 - me;
                assert_eq!(holder.as_deref(), Some(SESSIONS[other]), "{what}");
                let held = sessions[other].held.take().expect("it holds them");
                assert_eq!(locks.take_recalled(SESSIONS[other]), (vec![held], true), "{what}");
                let own = told(&sessions[other].own, SESSIONS[other]);
                assert!(locks.give_back(now, SESSIONS[other], held, &own), "{what}");
            }
            let blocker = locks.blocker(now, name, &wanted).expect("nobody else decides");
            assert_eq!(blocker.is_some(), expected_blocker, "{what}");
            let (attempt, number) = locks.set(now, name, &wanted, true).expect("nobody else decides");
            assert_eq!(attempt, expected, "{what}");
            if number != 0 {
                sessions[me].held = Some(LockDelegation { inode: FILE, number });
                sessions[me].own = locks.table.clone();
            }
        }
    }
    assert!(decided_here > 500, "only {decided_here} of 8,000 were decided without the table");
}
