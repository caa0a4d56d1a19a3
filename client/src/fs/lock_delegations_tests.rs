//! What becomes of the locks of a file, step by step.

use super::*;

const FILE: u64 = 7;
const CALL: Next = Next::Call { asks: false };
const ASK: Next = Next::Call { asks: true };

const TIMEOUT: Duration = Duration::from_secs(30);

fn delegation(number: u64) -> LockDelegation {
    LockDelegation { inode: FILE, number }
}

/// A table that lives from `at` on and is about to ask for the locks of the file.
fn ready(at: Instant) -> LockDelegations {
    let mut table = LockDelegations::default();
    table.lives_since(at, TIMEOUT);
    call_until_asking(&mut table, at);
    table
}

fn call_until_asking(table: &mut LockDelegations, at: Instant) {
    for _ in 1..CALLS {
        assert_eq!(table.set(FILE, at), CALL);
        assert_eq!(table.granted(FILE, 0, at), None);
        table.ended(FILE, false);
    }
}

/// A table that has the locks of the file under number 5.
fn holding(at: Instant) -> LockDelegations {
    let mut table = ready(at);
    assert_eq!(table.set(FILE, at), ASK);
    assert_eq!(table.granted(FILE, 5, at), None);
    table.ended(FILE, true);
    assert!(table.has(FILE, at));
    table
}

#[test]
fn the_third_call_in_a_second_asks_alone() {
    let at = Instant::now();
    let mut table = ready(at);
    assert_eq!(table.set(FILE, at + 2 * WINDOW), CALL, "too slow");
    table.ended(FILE, false);
    let mut table = ready(at);
    table.doubt();
    assert_eq!(table.set(FILE, at), CALL, "the session may have ended");
    table.lives_since(at, TIMEOUT);
    assert_eq!(table.set(FILE, at), CALL, "another call is under way");
    table.ended(FILE, false);
    table.ended(FILE, false);
    assert_eq!(table.set(FILE, at), ASK);
    assert_eq!((table.set(FILE, at), table.get(FILE, at)), (Next::Wait, CALL));
    assert_eq!(table.granted(FILE, 0, at), None, "refused");
    table.ended(FILE, true);
    assert_eq!(table.set(FILE, at), CALL, "counted anew");
}

#[test]
fn what_is_held_is_answered_here_while_the_session_surely_lives() {
    let at = Instant::now();
    let mut table = holding(at);
    assert_eq!(table.get(FILE, at), Next::Here);
    let late = at + TIMEOUT - TIMEOUT / MARGIN;
    assert!(table.has(FILE, late - Duration::from_millis(1)) && !table.has(FILE, late));
    assert_eq!(table.set(FILE, late), Next::Return(delegation(5)));
    assert_eq!((table.set(FILE, at), table.get(FILE, at)), (Next::Wait, Next::Wait));
    table.returned(FILE);
    assert_eq!(table.set(FILE, at), CALL);

    let mut table = holding(at);
    table.doubt();
    assert_eq!(table.get(FILE, at), Next::Return(delegation(5)));

    let mut table = holding(at);
    assert_eq!(table.set(FILE, at), Next::Return(delegation(5)), "it has to wait for another owner");
    table.returned(FILE);
    call_until_asking(&mut table, at);
    assert_eq!(table.set(FILE, at), CALL, "it rests");

    let mut table = holding(at);
    table.forget();
    assert_eq!((table.set(FILE, at), table.counts().files), (CALL, 0));

    let mut table = holding(at);
    table.drop_files(&[FILE]);
    assert!(table.files.is_empty());
}

#[test]
fn recalls_end_a_delegation_whatever_goes_on() {
    let at = Instant::now();
    let mut table = holding(at);
    assert!(!table.recalled(delegation(4), at), "an older one");
    assert!(table.recalled(delegation(5), at) && !table.recalled(delegation(5), at));
    assert_eq!(table.set(FILE, at), Next::Wait);
    table.returned(FILE);
    call_until_asking(&mut table, at);
    assert_eq!(table.set(FILE, at), CALL, "it rests");
    table.ended(FILE, false);
    assert!(table.is_quiet(FILE));

    let mut table = ready(at);
    assert_eq!(table.set(FILE, at), ASK);
    assert!(!table.recalled(delegation(5), at));
    assert_eq!(table.granted(FILE, 5, at), Some(delegation(5)), "it was asked for in vain");
    table.ended(FILE, true);
    assert_eq!(table.set(FILE, at), Next::Wait);

    let mut table = ready(at);
    assert_eq!(table.set(FILE, at), ASK);
    table.abandoned(FILE, at);
    table.ended(FILE, true);
    assert_eq!(table.set(FILE, at), Next::Wait);

    // Nobody here has heard of it.
    let mut table = LockDelegations::default();
    assert_eq!(table.set(FILE, at), CALL);
    assert!(table.recalled(delegation(5), at) && !table.is_quiet(FILE));
    table.ended(FILE, false);
    assert!(table.is_quiet(FILE));
    assert_eq!(table.set(FILE, at), Next::Wait);
}

#[test]
fn what_is_remembered_is_bounded() {
    let at = Instant::now();
    let mut table = holding(at);
    for inode in 0..4 * MAX_REMEMBERED as u64 {
        let inode = inode + 100;
        assert_eq!(table.set(inode, at), CALL);
        assert_eq!(table.granted(inode, 0, at), None);
        table.ended(inode, false);
    }
    assert!(table.files.len() <= MAX_REMEMBERED && table.has(FILE, at));
}
