//! Steps on the contents of files: sizes, blocks, leases.

use dfs_proto::ErrorKind;
use log::command::Op;
use log::reply::Reply;

use super::super::fixture::*;
use super::World;
use super::nodes::{Model, Node, Outcome, Row, index_of};
use super::steps::anything;
use crate::log;
use crate::namesystem::{Effect, NAMENODE_HOLDER};

const HOLDERS: [&str; 2] = ["m", "n"];

/// Blocks of a file that are met.
const INDEXES: u64 = 4;

pub(super) fn step(world: &mut World) {
    match world.below(9) {
        0 => acquire(world),
        1..=3 => write(world),
        4 | 5 => commit(world),
        6 => resize(world),
        7 => {
            if world.below(4) == 0 {
                recover(world);
            }
            synchronize(world);
        }
        _ => append(world),
    }
}

/// A file mostly, an open one often.
fn file(world: &mut World) -> u64 {
    let open = world.below(4) > 0;
    let of = |open: bool| {
        let ids = world.model.nodes.iter().filter(move |(_, n)| n.is_file() && (!open || n.holder.is_some()));
        ids.map(|(id, _)| *id).collect::<Vec<u64>>()
    };
    let (open_files, files) = (of(true), of(false));
    if open && !open_files.is_empty() {
        return *world.random.pick(&open_files);
    }
    if files.is_empty() || world.below(20) == 0 { anything(world) } else { *world.random.pick(&files) }
}

fn holder(world: &mut World, id: u64) -> String {
    let of = world.model.nodes[&id].holder.clone().filter(|h| h != NAMENODE_HOLDER);
    match of {
        Some(holder) if world.below(8) > 0 => holder,
        _ => (*world.random.pick(&HOLDERS)).to_owned(),
    }
}

fn regular(node: &Node) -> Outcome<()> {
    use dfs_proto::v1::FileType;
    match node.kind {
        FileType::File => Ok(()),
        FileType::Directory => Err(ErrorKind::IsADirectory),
        FileType::Symlink => Err(ErrorKind::Unsupported),
        _ => Err(ErrorKind::InvalidArgument),
    }
}

fn free_for(node: &Node, holder: &str) -> Outcome<()> {
    match node.holder.as_deref() {
        None => Ok(()),
        Some(NAMENODE_HOLDER) => Err(ErrorKind::RecoveryInProgress),
        Some(other) if other != holder => Err(ErrorKind::LeaseHeldByOther),
        Some(_) => Ok(()),
    }
}

fn written_by(node: &Node, holder: &str) -> Outcome<()> {
    if !node.is_file() {
        Err(ErrorKind::NotFound)
    } else if node.holder.as_deref() == Some(holder) {
        Ok(())
    } else {
        Err(ErrorKind::LeaseExpired)
    }
}

/// The file gets this size.
fn cut(node: &mut Node, size: u64) {
    node.rows.retain(|index, _| *index < size.div_ceil(BLOCK));
    if size < node.size
        && !size.is_multiple_of(BLOCK)
        && let Some(row) = node.rows.get_mut(&index_of(size))
    {
        row.length = row.length.min(size % BLOCK);
    }
    node.size = size;
}

fn acquire(world: &mut World) {
    let id = file(world);
    let (holder, truncate, reopen) = (holder(world, id), world.below(3) == 0, world.flag());
    let caller = world.t.caller.clone();
    let node = &world.model.nodes[&id];
    let expected = (|| {
        regular(node)?;
        if !reopen {
            Model::need(&caller, node, 2)?;
        }
        free_for(node, &holder)
    })();
    let op = log::AcquireLeaseOp { node: Some(below(id, "")), holder: holder.clone(), truncate, reopen };
    if world.agree(Op::AcquireLease(op), expected).is_some() {
        let now_ns = world.t.now_ns;
        let node = world.model.nodes.get_mut(&id).expect("picked");
        node.holder = Some(holder);
        if truncate {
            cut(node, 0);
            node.touch(now_ns);
            if !caller.superuser {
                node.lose_set_id(false);
            }
        }
    }
}

fn write(world: &mut World) {
    let id = file(world);
    let (holder, index) = (holder(world, id), world.below(INDEXES));
    let expected = written_by(&world.model.nodes[&id], &holder);
    let Some(Reply::Opened(opened)) = world.agree(write_block(id, &holder, index), expected) else { return };
    let spec = opened.block.expect("a block");
    assert_eq!(spec.offset, index * BLOCK);
    let (block, stamp) = (spec.block.expect("a block"), opened.new_generation_stamp);
    let rows = &mut world.model.nodes.get_mut(&id).expect("picked").rows;
    match rows.get_mut(&index) {
        None => {
            assert_eq!((stamp, block.length), (0, 0));
            let given = block.generation_stamp;
            let row = Row { id: block.id, stamp: given, issued: given, length: 0, open: true, settled: None };
            rows.insert(index, row);
        }
        Some(row) => {
            assert_eq!((block.id, block.generation_stamp, block.length), (row.id, row.stamp, row.length));
            let untouched = row.open && row.length == 0 && row.stamp == row.issued;
            assert_eq!(stamp == 0, untouched);
            if !row.open {
                row.settled = Some(row.length);
            }
            row.open = true;
            row.issued = row.issued.max(stamp);
        }
    }
}

fn commit(world: &mut World) {
    let id = file(world);
    let (holder, close) = (holder(world, id), world.below(3) == 0);
    let size = (world.below(3) == 0).then(|| world.random.below(INDEXES * BLOCK));
    let before = world.model.nodes[&id].clone();
    let mut after = before.clone();
    let (mut blocks, mut changed, mut unfinished) = (Vec::new(), false, false);
    after.size = before.size.max(size.unwrap_or_default());
    for (index, row) in before.rows.iter().filter(|(_, row)| row.open) {
        if world.flag() && !close || world.below(6) == 0 {
            continue;
        }
        let length = row.length + world.below(BLOCK - row.length + 1);
        let finished = close || world.flag();
        blocks.push(written(row.named(length), &["s1"], finished));
        if length > 0 {
            after.size = after.size.max(index * BLOCK + length);
        }
        let advanced = length != row.length || row.issued != row.stamp;
        changed |= finished || advanced;
        let row = after.rows.get_mut(index).expect("the same rows");
        if advanced && !finished {
            unfinished = true;
        }
        (row.length, row.open) = (length, !finished);
        if row.issued != row.stamp || finished {
            row.settled = None;
        }
        row.stamp = row.issued;
        if finished && length == 0 {
            after.rows.remove(index);
        }
    }
    changed |= after.size != before.size;
    let expected = written_by(&before, &holder).and_then(|()| {
        let blocked = unfinished || after.rows.values().any(|row| row.open && row.length > 0);
        if close && blocked { Err(ErrorKind::InvalidArgument) } else { Ok(()) }
    });
    if world.agree(commit_blocks(id, &holder, &blocks, size, close), expected).is_some() {
        if changed {
            after.touch(world.t.now_ns);
        }
        if close {
            after.holder = None;
            after.rows.retain(|_, row| !row.open);
        }
        world.model.nodes.insert(id, after);
    }
}

fn resize(world: &mut World) {
    let id = file(world);
    let (holder, size, opened) = (holder(world, id), world.random.below(INDEXES * BLOCK), world.flag());
    let caller = world.t.caller.clone();
    let node = &world.model.nodes[&id];
    let expected = (|| {
        regular(node)?;
        if !opened {
            Model::need(&caller, node, 2)?;
        }
        free_for(node, &holder)?;
        let through = node.rows.get(&index_of(size)).filter(|_| size < node.size && size % BLOCK != 0);
        match through {
            Some(row) if row.open && row.length > size % BLOCK => Err(ErrorKind::InvalidArgument),
            _ => Ok(()),
        }
    })();
    let op = log::SetAttributesOp {
        node: Some(below(id, "")),
        size: Some(size),
        holder,
        opened,
        ..Default::default()
    };
    if world.agree(Op::SetAttributes(op), expected).is_some() {
        let now_ns = world.t.now_ns;
        let node = world.model.nodes.get_mut(&id).expect("picked");
        cut(node, size);
        node.touch(now_ns);
        if !caller.superuser {
            node.lose_set_id(!caller.groups.contains(&node.group));
        }
    }
}

fn recover(world: &mut World) {
    let id = file(world);
    world.t.become_user("root", &["root"]);
    let expected = regular(&world.model.nodes[&id]);
    let op = Op::RecoverLease(log::RecoverLeaseOp { node: Some(below(id, "")) });
    if world.agree(op, expected).is_none() {
        return;
    }
    let started: Vec<(u64, u64)> = world
        .effects
        .iter()
        .filter_map(|e| match e {
            Effect::RecoveryStarted { block, new_stamp, .. } => Some((block.index, new_stamp.get())),
            _ => None,
        })
        .collect();
    let now_ns = world.t.now_ns;
    let node = world.model.nodes.get_mut(&id).expect("picked");
    let open: Vec<u64> = node.rows.iter().filter(|(_, row)| row.open).map(|(index, _)| *index).collect();
    assert_eq!(started.iter().map(|(index, _)| *index).collect::<Vec<_>>(), open);
    for (index, stamp) in started {
        node.rows.get_mut(&index).expect("an open one").issued = stamp;
    }
    if node.holder.is_none() {
        return;
    }
    if open.is_empty() {
        node.holder = None;
        node.touch(now_ns);
    } else if node.holder.replace(NAMENODE_HOLDER.to_owned()).as_deref() != Some(NAMENODE_HOLDER) {
        node.ctime_ns = now_ns;
    }
}

/// Some blocks under recovery are settled.
fn synchronize(world: &mut World) {
    let recovering = world.model.nodes.iter().filter(|(_, n)| n.holder.as_deref() == Some(NAMENODE_HOLDER));
    let ids: Vec<u64> = recovering.map(|(id, _)| *id).collect();
    for id in ids {
        let open: Vec<(u64, Row)> = world.model.nodes[&id]
            .rows
            .iter()
            .filter(|(_, r)| r.open)
            .map(|(i, r)| (*i, r.clone()))
            .collect();
        for (index, row) in open {
            if world.below(3) == 0 {
                continue;
            }
            let length = row.settled.unwrap_or(row.length + world.random.below(BLOCK - row.length + 1));
            let on: &[&str] = if length == 0 { &[] } else { &["s2"] };
            world.agree(synchronized(row.id, row.issued, length, on), Ok(()));
            let now_ns = world.t.now_ns;
            let node = world.model.nodes.get_mut(&id).expect("picked");
            let start = index * BLOCK;
            if length == 0 {
                node.rows.remove(&index);
            } else {
                let last = node.size == start + row.settled.unwrap_or(row.length);
                node.size = if last { start + length } else { node.size.max(start + length) };
                let (stamp, open, settled) = (row.issued, false, None);
                node.rows.insert(index, Row { stamp, length, open, settled, ..row });
            }
            if !node.rows.values().any(|row| row.open) {
                node.holder = None;
            }
            node.touch(now_ns);
        }
    }
}

/// A path client appends, if the file ends with data, and closes.
fn append(world: &mut World) {
    let id = file(world);
    let caller = world.t.caller.clone();
    let node = world.model.nodes[&id].clone();
    let (end, last) = (node.size % BLOCK, node.rows.get(&index_of(node.size)));
    let expected = (|| {
        regular(&node)?;
        Model::need(&caller, &node, 2)?;
        free_for(&node, "")?;
        if end != 0 && last.is_none_or(|row| row.length != end) {
            return Err(ErrorKind::InvalidArgument);
        }
        Ok(())
    })();
    let op = Op::Append(log::AppendOp { node: Some(below(id, "")), holder: "w".to_owned() });
    let Some(Reply::Opened(opened)) = world.agree(op, expected) else { return };
    let (index, at_least, block) = match Opened::new(opened) {
        Opened { block: Some(old), new_stamp, .. } => (index_of(node.size), end, block(old.id, new_stamp, 0)),
        Opened { .. } => {
            let Some(Reply::Block(spec)) = world.agree(add_block(id, "w", None), Ok(())) else {
                panic!("no block")
            };
            assert_eq!(spec.offset, node.size);
            (index_of(node.size), 1, spec.block.expect("a block"))
        }
    };
    let length = at_least + world.below(BLOCK - at_least + 1);
    let done = dfs_proto::v1::Block { length, ..block };
    world.agree(complete(id, "w", Some(committed(done, &["s1"]))), Ok(()));
    let now_ns = world.t.now_ns;
    let node = world.model.nodes.get_mut(&id).expect("picked");
    let stamp = block.generation_stamp;
    let row = Row { id: block.id, stamp, issued: stamp, length, open: false, settled: None };
    node.rows.insert(index, row);
    node.size = index * BLOCK + length;
    node.touch(now_ns);
}
