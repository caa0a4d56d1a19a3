//! The same commands give the same state, however they are cut into transactions.

use log::command::Op;

use super::fixture::*;
use super::model::Random;
use crate::log;
use crate::namesystem::{Snapshot, Store, Tables, apply};

/// Commands that meet, succeed and fail, with and without retry keys.
fn commands(seed: u64, count: usize) -> Vec<log::Command> {
    let mut random = Random::new(seed);
    let mut t = Fixture::new();
    let mut commands = vec![];
    let mut open: Vec<(u64, dfs_proto::v1::Block)> = vec![];
    while commands.len() < count {
        let path = format!("/{}/{}", random.below(4), random.below(6));
        let op = match random.below(11) {
            9 => Op::ReserveInodes(log::ReserveInodesOp { session: "s".to_owned(), count: 3 }),
            10 => {
                let inode = 16_385 + random.below(count as u64);
                Op::MakeNode(log::MakeNodeOp { inode, session: "s".to_owned(), ..file_op(&path) })
            }
            0 => mkdir(&path, true),
            1..=3 => create(&path, "w"),
            4 | 5 if !open.is_empty() => {
                let (inode, mut block) = open.swap_remove(0);
                block.length = random.below(BLOCK + 1);
                complete(inode, "w", Some(committed(block, &["s1", "s2"])))
            }
            6 => delete(&path, random.below(2) == 0),
            7 => rename(&path, &format!("/{}", random.below(5)), true),
            _ => chmod(&path, 0o700),
        };
        let mut command = t.command(op);
        if random.below(2) == 0 {
            command.client_id = vec![1; 16];
            command.call_id = random.below(count as u64 * 4);
        }
        let applied = t.apply(&command);
        if let Ok(log::Reply { reply: Some(log::reply::Reply::Opened(opened)) }) = applied.outcome {
            let opened = Opened::new(opened);
            open.extend(opened.block.map(|block| (opened.inode, block)));
        }
        commands.push(command);
    }
    commands
}

fn replay(commands: &[log::Command], batch: usize) -> (Vec<String>, Fixture) {
    let mut t = Fixture::new();
    let mut outcomes = vec![];
    for part in commands.chunks(batch) {
        let mut tables = Tables::open(&t.store).expect("opens");
        for command in part {
            t.log_index += 1;
            let applied = apply(&mut tables, t.log_index, command).expect("the store works");
            outcomes.push(format!("{applied:?}"));
        }
        tables.commit();
    }
    (outcomes, t)
}

#[test]
fn replay_gives_the_same_digest_and_replies() {
    for seed in [3, 4_711] {
        println!("seed {seed}");
        let commands = commands(seed, 600);
        let (outcomes, one) = replay(&commands, 1);
        let successes = outcomes.iter().filter(|o| o.starts_with("Applied { outcome: Ok")).count();
        assert!(successes > 100 && successes < 590, "{successes} of 600 succeeded");
        one.assert_sound();
        for batch in [7, 600] {
            let (again, other) = replay(&commands, batch);
            assert_eq!(again, outcomes);
            assert_eq!(other.snapshot().digest().expect("reads"), one.snapshot().digest().expect("reads"));
        }
    }
}

#[test]
fn a_store_copied_row_by_row_is_the_same() {
    let (_, t) = replay(&commands(5, 300), 50);
    let copy = redb::Database::builder()
        .create_with_backend(redb::backends::InMemoryBackend::new())
        .expect("a store");
    let from = t.store.begin_read().expect("begins");
    let to = copy.begin_write().expect("begins");
    for table in crate::namesystem::Table::ALL {
        let mut target = to.open_table(table.definition()).expect("opens");
        let Ok(source) = from.open_table(table.definition()) else { continue };
        for row in redb::ReadableTable::iter(&source).expect("reads") {
            let (key, value) = row.expect("reads");
            target.insert(key.value(), value.value()).expect("writes");
        }
    }
    to.commit().expect("commits");
    let digest = Snapshot::open(&Store::new(copy, LAYER_BYTES).expect("opens")).digest().expect("reads");
    assert_eq!(digest, t.snapshot().digest().expect("reads"));
}
