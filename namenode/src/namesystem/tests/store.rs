//! Rows against a map, in all places where rows can be: own changes, layers, redb; and snapshots of every age.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fixture::store_in_memory;
use super::model::Random;
use crate::namesystem::rows::{Row, Rows};
use crate::namesystem::{Snapshot, Store, Table, Tables};

/// Tables that are used: what tables have in common is under test.
const TABLES: [Table; 3] = [Table::Entries, Table::Inodes, Table::Meta];

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Few keys, some of them too long for a place in the row itself, so that they meet.
fn key(random: &mut Random) -> Vec<u8> {
    let mut key = vec![u8::try_from(random.below(40)).expect("small")];
    if random.below(3) == 0 {
        key.extend_from_slice(&[7; 40]);
    }
    key
}

fn bound(random: &mut Random) -> Bound<Vec<u8>> {
    match random.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(key(random)),
        _ => Bound::Excluded(key(random)),
    }
}

fn change(random: &mut Random, tables: &mut Tables<'_>, model: &mut Model) {
    let table = TABLES[usize::try_from(random.below(3)).expect("small")];
    let key = key(random);
    if random.below(3) == 0 {
        tables.remove(table, &key);
        model.remove(&(table, key));
    } else {
        let value = random.below(u64::MAX).to_le_bytes();
        tables.insert(table, &key, &value);
        model.insert((table, key), value.to_vec());
    }
}

fn in_bounds(key: &[u8], (from, to): (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    let after = match from {
        Bound::Unbounded => true,
        Bound::Included(from) => key >= from,
        Bound::Excluded(from) => key > from,
    };
    let before = match to {
        Bound::Unbounded => true,
        Bound::Included(to) => key <= to,
        Bound::Excluded(to) => key < to,
    };
    after && before
}

fn assert_same(random: &mut Random, rows: &impl Rows, model: &Model) {
    for table in TABLES {
        let key = key(random);
        let found = rows.get(table, &key).expect("reads").map(|value| value.value().to_vec());
        assert_eq!(found.as_ref(), model.get(&(table, key)));

        let (from, to) = (bound(random), bound(random));
        let bounds = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let backward = random.below(2) == 0;
        let found: Vec<_> = rows
            .scan(table, bounds, backward)
            .expect("begins")
            .map(|row: Row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
            .collect::<Result<_, _>>()
            .expect("reads");
        let mut expected: Vec<_> = model
            .iter()
            .filter(|((of, key), _)| *of == table && in_bounds(key, bounds))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        if backward {
            expected.reverse();
        }
        assert_eq!(found, expected, "{table:?} {bounds:?} backward {backward}");
    }
}

fn flush(random: &mut Random, store: &Store) {
    match random.below(12) {
        0 => store.flush().expect("flushes"),
        1 => store.checkpoint().expect("flushes"),
        // What a flush by another thread does while transactions go on.
        2 => store.freeze_for_test(),
        _ => {}
    }
}

#[test]
fn rows_are_those_of_a_map_wherever_they_are_and_snapshots_stay() {
    for seed in [1, 20_260, 977] {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let store = store_in_memory();
        let mut model = Model::new();
        let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
        for _ in 0..1_500 {
            let mut tables = Tables::open(&store).expect("opens");
            let mut changed = model.clone();
            for _ in 0..random.below(6) {
                change(&mut random, &mut tables, &mut changed);
            }
            if random.below(2) == 0 {
                flush(&mut random, &store);
            }
            assert_same(&mut random, &tables, &changed);
            assert_same(&mut random, &Snapshot::open(&store), &model);
            if random.below(8) > 0 {
                tables.commit();
                model = changed;
            }
            flush(&mut random, &store);
            assert_same(&mut random, &Snapshot::open(&store), &model);
            if random.below(10) == 0 {
                snapshots.push((Snapshot::open(&store), model.clone()));
            }
            if snapshots.len() > 5 {
                snapshots.swap_remove(usize::try_from(random.below(5)).expect("small"));
            }
            for (snapshot, model) in &snapshots {
                assert_same(&mut random, snapshot, model);
            }
        }
    }
}

#[test]
fn readers_see_whole_transactions_while_a_thread_flushes() {
    const TRANSACTIONS: u64 = 20_000;
    let store = store_in_memory();
    let done = AtomicBool::new(false);
    let last = |rows: &Snapshot, key: u64| {
        let value = rows.get(Table::Inodes, &key.to_be_bytes()).expect("reads");
        value.map_or(0, |value| u64::from_le_bytes(value.value().try_into().expect("eight bytes")))
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.flush().expect("flushes");
                store.checkpoint().expect("flushes");
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut before = 0;
                while !done.load(Ordering::Acquire) {
                    let snapshot = Snapshot::open(&store);
                    let first = last(&snapshot, 0);
                    assert!(first >= before, "{first} after {before}");
                    before = first;
                    let rows = snapshot.range(Table::Inodes, Bound::Unbounded, Bound::Unbounded);
                    let count = rows.expect("begins").count();
                    assert!(first == 0 || count == 2, "{count} rows");
                    assert_eq!(last(&snapshot, 1 + first % 2), first, "of one transaction");
                }
            });
        }
        for number in 1..=TRANSACTIONS {
            let mut tables = Tables::open(&store).expect("opens");
            tables.insert(Table::Inodes, &0_u64.to_be_bytes(), &number.to_le_bytes());
            tables.insert(Table::Inodes, &(1 + number % 2).to_be_bytes(), &number.to_le_bytes());
            tables.remove(Table::Inodes, &(2 - number % 2).to_be_bytes());
            tables.commit();
        }
        done.store(true, Ordering::Release);
    });
}
