//! The lock table against a table of bytes, and the cases by name.

use super::*;

const TO_END: u64 = i64::MAX as u64;

fn lock(owner: u64, start: u64, end: u64, kind: LockType) -> FileLock {
    FileLock { inode: 9, owner, start, end, r#type: kind.into(), pid: owner as u32, ..FileLock::default() }
}

/// Locks of an owner as the table has them.
fn ranges(table: &LockTable, session: &str, owner: u64) -> Vec<(u64, u64, bool)> {
    let held = table.files.get(&(9, false)).into_iter().flatten();
    let mut ranges: Vec<_> = held
        .filter(|held| held.owner.is(session, owner))
        .map(|held| (held.start, held.end, held.exclusive))
        .collect();
    ranges.sort_unstable();
    ranges
}

use LockType::{Read, Unlock, Write};

#[test]
fn ranges_split_merge_and_change_their_type() {
    let mut table = LockTable::default();
    assert_eq!(table.set("a", &lock(1, 0, 99, Write)), Attempt::Done);
    assert_eq!(table.set("a", &lock(1, 40, 59, Unlock)), Attempt::Done);
    assert_eq!(ranges(&table, "a", 1), [(0, 39, true), (60, 99, true)]);
    assert_eq!(table.set("a", &lock(1, 30, 69, Read)), Attempt::Done);
    assert_eq!(ranges(&table, "a", 1), [(0, 29, true), (30, 69, false), (70, 99, true)]);
    assert_eq!(table.set("a", &lock(1, 30, 69, Write)), Attempt::Done);
    assert_eq!(ranges(&table, "a", 1), [(0, 99, true)], "neighbours of one type are one");
    assert_eq!(table.set("a", &lock(1, 0, TO_END, Unlock)), Attempt::Done);
    assert_eq!(table.len(), 0);
}

#[test]
fn shared_locks_overlap_and_exclusive_ones_do_not() {
    let mut table = LockTable::default();
    assert_eq!(table.set("a", &lock(1, 0, 9, Read)), Attempt::Done);
    assert_eq!(table.set("b", &lock(1, 5, 14, Read)), Attempt::Done, "the same number in another session");
    assert_eq!(table.set("a", &lock(1, 0, 9, Write)), Attempt::Blocked, "an upgrade waits for other readers");
    assert_eq!(ranges(&table, "a", 1), [(0, 9, false)], "and keeps what it had");
    assert_eq!(table.set("a", &lock(1, 0, 4, Write)), Attempt::Done);
    let (found, same_session) = table.blocker("b", &lock(1, 0, TO_END, Write)).expect("in the way");
    assert_eq!((found.start, found.end, found.r#type(), found.pid, same_session), (0, 4, Write, 1, false));
    assert_eq!(table.blocker("b", &lock(1, 10, 20, Write)), None);
    assert_eq!(table.blocker("a", &lock(2, 0, 0, Read)).map(|(_, same)| same), Some(true));
}

#[test]
fn flock_and_ranges_do_not_see_each_other() {
    let mut table = LockTable::default();
    let flock =
        |owner, kind: LockType| FileLock { space: LockSpace::Flock.into(), ..lock(owner, 3, 3, kind) };
    assert_eq!(table.set("a", &flock(1, Write)), Attempt::Done);
    assert_eq!(table.set("a", &lock(2, 0, TO_END, Write)), Attempt::Done);
    assert_eq!(table.set("a", &flock(2, Read)), Attempt::Blocked);
    assert_eq!(table.set("a", &flock(1, Read)), Attempt::Done, "a downgrade");
    assert_eq!(table.set("b", &flock(2, Read)), Attempt::Done);
    assert_eq!(table.set("a", &flock(1, Unlock)), Attempt::Done);
    assert_eq!(table.set("b", &flock(2, Write)), Attempt::Done);
    assert_eq!(table.drop_session("b"), [9]);
    assert!(table.drop_file("a", 9));
    assert!(!table.drop_file("a", 9));
    assert_eq!(table.len(), 0);
}

#[test]
fn waits_in_a_circle_are_found() {
    let mut table = LockTable::default();
    for owner in 1..=3 {
        assert_eq!(table.set("a", &lock(owner, owner * 10, owner * 10, Write)), Attempt::Done);
    }
    let second = table.wait("a", &lock(1, 20, 20, Write)).expect("waits");
    assert!(!table.would_deadlock("a", &lock(2, 30, 30, Write)));
    let third = table.wait("a", &lock(2, 30, 30, Write)).expect("waits");
    assert!(table.would_deadlock("a", &lock(3, 10, 10, Write)));
    assert!(!table.would_deadlock("b", &lock(3, 10, 10, Write)), "another owner waits for no end");
    table.end_wait(second);
    assert!(!table.would_deadlock("a", &lock(3, 10, 10, Write)));
    table.end_wait(third);
    assert!(table.waits.is_empty() && table.waiting.is_empty());
}

#[test]
fn one_file_takes_so_many_locks_and_no_more() {
    let mut table = LockTable::default();
    let taken = (0..2 * LOCKS_PER_FILE_MAX as u64)
        .take_while(|number| table.set("a", &lock(1, number * 2, number * 2, Write)) == Attempt::Done)
        .count();
    assert!((LOCKS_PER_FILE_MAX - 2..=LOCKS_PER_FILE_MAX).contains(&taken), "{taken}");
    assert_eq!(table.set("a", &lock(1, 0, TO_END, Unlock)), Attempt::Done, "locks can always be dropped");
    assert_eq!(table.len(), 0);
}

#[test]
fn nonsense_is_refused() {
    assert_eq!(check(&lock(1, 5, 5, Read)), Ok(()));
    assert_eq!(check(&lock(1, 6, 5, Read)), Err(InvalidLock));
    assert_eq!(check(&FileLock { inode: 0, ..lock(1, 5, 5, Read) }), Err(InvalidLock));
    assert_eq!(check(&FileLock { r#type: 77, ..lock(1, 5, 5, Read) }), Err(InvalidLock));
}

/// Numbers that are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Random locks on 24 bytes, against one cell a byte and owner.
#[test]
fn the_table_agrees_with_a_table_of_bytes() {
    const BYTES: u64 = 24;
    const OWNERS: u64 = 4;
    for seed in 1..=40 {
        let mut numbers = Numbers(seed);
        let mut table = LockTable::default();
        let mut model = vec![[Unlock; BYTES as usize]; OWNERS as usize];
        for step in 0..400 {
            let owner = numbers.below(OWNERS);
            let (a, b) = (numbers.below(BYTES), numbers.below(BYTES));
            let (start, end) = (a.min(b), a.max(b));
            let kind = [Unlock, Read, Write][numbers.below(3) as usize];
            let range = start as usize..=end as usize;
            let blocked = (0..OWNERS).filter(|other| *other != owner).any(|other| {
                model[other as usize][range.clone()]
                    .iter()
                    .any(|held| matches!((held, kind), (Write, Read | Write) | (Read, Write)))
            });
            let got = table.set("a", &lock(owner, start, end, kind));
            let expected = if blocked { Attempt::Blocked } else { Attempt::Done };
            assert_eq!(got, expected, "seed {seed} step {step}");
            if !blocked {
                model[owner as usize][range].fill(kind);
            }
            for owner in 0..OWNERS {
                let mut cells = [Unlock; BYTES as usize];
                let ranges = ranges(&table, "a", owner);
                for (start, end, exclusive) in &ranges {
                    cells[*start as usize..=*end as usize].fill(if *exclusive { Write } else { Read });
                }
                assert_eq!(cells, model[owner as usize], "seed {seed} step {step}");
                let runs = model[owner as usize].chunk_by(|a, b| a == b).filter(|run| run[0] != Unlock);
                assert_eq!(ranges.len(), runs.count(), "seed {seed} step {step}: not merged");
            }
        }
    }
}
