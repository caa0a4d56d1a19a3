//! The retry cache.

use dfs_proto::ErrorKind;
use log::command::Op;

use super::fixture::*;
use crate::log;
use crate::namesystem::RETRY_AGE_MAX_NS;

fn called(t: &mut Fixture, call_id: u64, op: Op) -> log::Command {
    log::Command { client_id: vec![7; 16], call_id, ..t.command(op) }
}

#[test]
fn a_repeated_call_acts_once() {
    let mut t = Fixture::new();
    let command = called(&mut t, 1, create("/f", "w"));
    let first = t.apply(&command);
    assert!(!first.effects.is_empty());
    let reply = first.outcome.expect("created");
    let mut again = command.clone();
    again.now_ns += 5;
    let before = t.snapshot().digest().expect("reads");
    let second = t.apply(&again);
    assert_eq!(second.outcome.expect("the same"), reply);
    assert!(second.effects.is_empty());
    assert_eq!(t.snapshot().digest().expect("reads"), before);
    // The same call number of another client is another call.
    again.client_id = vec![8; 16];
    assert_eq!(t.apply(&again).outcome.expect_err("exists").kind(), ErrorKind::AlreadyExists);
    t.assert_sound();
}

#[test]
fn refusals_are_not_kept() {
    let mut t = Fixture::new();
    let command = called(&mut t, 1, mkdir("/a/b", false));
    assert!(t.apply(&command).outcome.is_err());
    t.mkdir("/a");
    assert!(t.apply(&command).outcome.is_ok());
}

#[test]
fn misuse_is_refused() {
    let mut t = Fixture::new();
    let command = called(&mut t, 1, mkdir("/a", false));
    t.apply(&command).outcome.expect("made");
    let command = called(&mut t, 1, delete("/a", false));
    assert_eq!(t.apply(&command).outcome.expect_err("reused").kind(), ErrorKind::InvalidArgument);
    let mut command = called(&mut t, 2, delete("/a", false));
    command.client_id.pop();
    assert_eq!(t.apply(&command).outcome.expect_err("15 bytes").kind(), ErrorKind::InvalidArgument);
    let mut command = called(&mut t, 3, delete("/a", false));
    command.op = None;
    assert_eq!(t.apply(&command).outcome.expect_err("no operation").kind(), ErrorKind::InvalidArgument);
}

#[test]
fn old_replies_are_forgotten_a_few_at_a_time() {
    let mut t = Fixture::new();
    for call in 0..6 {
        let command = called(&mut t, call, mkdir("/a", true));
        t.apply(&command).outcome.expect("made");
    }
    t.now_ns += RETRY_AGE_MAX_NS;
    let rows = |t: &Fixture| t.snapshot().digest().expect("reads")[5].rows;
    assert_eq!(rows(&t), 6);
    for (call, left) in [(10, 5), (11, 4), (12, 3), (13, 4), (14, 5)] {
        let command = called(&mut t, call, mkdir("/a", true));
        t.apply(&command).outcome.expect("made");
        assert_eq!(rows(&t), left, "after call {call}");
        t.assert_sound();
    }
}
