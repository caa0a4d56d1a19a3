//! Steps on names and attributes.

use dfs_proto::ErrorKind;
use dfs_proto::v1::{FileType, MoveMode, XattrMode};
use log::command::Op;
use log::reply::Reply;

use super::super::fixture::*;
use super::nodes::{Model, Outcome};
use super::{World, files, reserved};
use crate::log;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

pub(super) fn step(world: &mut World) {
    world.become_anybody();
    match world.below(24) {
        0..=3 => make(world),
        4 => link(world),
        5 | 6 => unlink(world),
        7..=9 => rename(world),
        10 | 11 => attributes(world),
        12 => xattrs(world),
        13 => release(world),
        14 => delete(world),
        15 => reserved::step(world),
        _ => files::step(world),
    }
}

/// A directory mostly, some other node sometimes, or one that is gone.
fn directory(world: &mut World) -> u64 {
    let any = world.below(10) == 0;
    let of = world.model.nodes.iter().filter(|(_, n)| any || n.is_directory());
    let mut ids: Vec<u64> = of.map(|(id, _)| *id).collect();
    if world.below(30) == 0 {
        ids = vec![999_999];
    }
    *world.random.pick(&ids)
}

pub(super) fn anything(world: &mut World) -> u64 {
    let ids: Vec<u64> = world.model.nodes.keys().copied().collect();
    *world.random.pick(&ids)
}

fn name(world: &mut World) -> &'static str {
    world.random.pick::<&'static str>(&NAMES)
}

fn make(world: &mut World) {
    let (parent, name) = (directory(world), name(world));
    let (session, number) = reserved::choose(world);
    let kinds = [
        FileType::File,
        FileType::File,
        FileType::File,
        FileType::Directory,
        FileType::Directory,
        FileType::Symlink,
        FileType::Fifo,
        FileType::BlockDevice,
    ];
    let kind = *world.random.pick(&kinds);
    let mode = *world.random.pick(&[0o777, 0o1777, 0o2777, 0o666, 0o2775, 0o6755, 0o700]);
    let umask = *world.random.pick(&[0, 0o022, 0o077]);
    let caller = world.t.caller.clone();
    let own_group = caller.groups[0].clone();
    let group = (*world.random.pick(&["", own_group.as_str(), "team"])).to_owned();
    let mut expect = || {
        if world.model.look_up(&caller, parent, name)?.is_some() {
            return Err(ErrorKind::AlreadyExists);
        }
        let above = world.model.live(parent)?;
        Model::need(&caller, above, 3)?;
        if kind == FileType::BlockDevice && !caller.superuser {
            return Err(ErrorKind::NotPermitted);
        }
        let inherits = group.is_empty() || above.mode & 0o2000 != 0;
        let group = if inherits { above.group.clone() } else { group.clone() };
        let member = caller.superuser || caller.groups.contains(&group);
        if !inherits && !member {
            return Err(ErrorKind::NotPermitted);
        }
        if number != 0 && !world.reserved.take(session, number) {
            return Err(ErrorKind::Conflict);
        }
        let mut bits = mode & !umask;
        if kind == FileType::Directory {
            bits |= above.mode & 0o2000;
        } else if kind == FileType::Symlink {
            bits = 0o777;
        } else if !member && bits & 0o2010 == 0o2010 {
            bits &= !0o2000;
        }
        Ok((bits, group))
    };
    let expected = expect();
    let op = log::MakeNodeOp {
        node: Some(below(parent, name)),
        r#type: kind.into(),
        mode,
        umask,
        group,
        symlink: if kind == FileType::Symlink { b"t".to_vec() } else { vec![] },
        inode: number,
        session: session.to_owned(),
        ..file_op("")
    };
    let wanted = expected.as_ref().map(|_| ()).map_err(|kind| *kind);
    if let Some(Reply::Opened(opened)) = world.agree(make_node(op), wanted)
        && let (Ok((bits, group)), Some(status)) = (expected, opened.status)
    {
        assert!(number == 0 || status.inode == number);
        assert_eq!((status.mode, &status.group, &status.owner), (bits, &group, &caller.user));
        let now_ns = world.t.now_ns;
        assert_eq!((status.mtime_ns, status.ctime_ns), (now_ns, now_ns));
        world.model.take(&status);
        world.model.enter(parent, name, status.inode, now_ns);
    }
}

fn link(world: &mut World) {
    let (id, parent, name) = (anything(world), directory(world), name(world));
    let caller = world.t.caller.clone();
    let expected = (|| {
        if world.model.live(id)?.nlink == 0 {
            return Err(ErrorKind::NotFound);
        }
        if world.model.look_up(&caller, parent, name)?.is_some() {
            return Err(ErrorKind::AlreadyExists);
        }
        Model::need(&caller, world.model.live(parent)?, 3)?;
        if world.model.nodes[&id].is_directory() { Err(ErrorKind::NotPermitted) } else { Ok(()) }
    })();
    let op = Op::Link(log::LinkOp { inode: id, node: Some(below(parent, name)) });
    if world.agree(op, expected).is_some() {
        let now_ns = world.t.now_ns;
        world.model.enter(parent, name, id, now_ns);
        let node = world.model.nodes.get_mut(&id).expect("looked up");
        node.nlink += 1;
        node.ctime_ns = now_ns;
    }
}

/// The node that a command says it means: mostly it does not say.
fn meant(world: &mut World) -> u64 {
    if world.below(3) == 0 { anything(world) } else { 0 }
}

fn is_meant(meant: u64, found: u64) -> Outcome<()> {
    if meant == 0 || meant == found { Ok(()) } else { Err(ErrorKind::Conflict) }
}

fn unlink(world: &mut World) {
    let (parent, name, directory, open) = (directory(world), name(world), world.flag(), world.flag());
    let inode = meant(world);
    let caller = world.t.caller.clone();
    let expected = (|| {
        let child = world.model.look_up(&caller, parent, name)?.ok_or(ErrorKind::NotFound)?;
        is_meant(inode, child)?;
        world.model.may_remove(&caller, parent, child)?;
        match (directory, world.model.nodes[&child].is_directory()) {
            (true, false) => Err(ErrorKind::NotADirectory),
            (false, true) => Err(ErrorKind::IsADirectory),
            (true, true) if world.model.has_entries(child) => Err(ErrorKind::DirectoryNotEmpty),
            _ => Ok(child),
        }
    })();
    let opened = expected.as_ref().copied().ok().filter(|_| open).unwrap_or_default();
    let op = Op::Unlink(log::UnlinkOp { node: Some(below(parent, name)), directory, opened, inode });
    if world.agree(op, expected.map(|_| ())).is_some()
        && let Ok(child) = expected
    {
        let now_ns = world.t.now_ns;
        world.model.leave(parent, name, now_ns);
        world.model.drop_name(child, open, now_ns);
    }
}

fn rename(world: &mut World) {
    let (src, src_name) = (directory(world), name(world));
    let dst = if world.flag() { src } else { directory(world) };
    let (dst_name, open) = (name(world), world.flag());
    let mode = *world.random.pick(&[MoveMode::Replace, MoveMode::NoReplace, MoveMode::Exchange]);
    let inode = meant(world);
    let said = if world.flag() { 0 } else { anything(world) };
    let expected = expected_move(world, (src, src_name), (dst, dst_name), mode, (inode, said));
    let other = expected.ok().and_then(|(_, other)| other);
    let opened = other.filter(|_| open).unwrap_or_default();
    let (from, to) = (Some(below(src, src_name)), Some(below(dst, dst_name)));
    let op = Op::Move(log::MoveOp { src: from, dst: to, mode: mode.into(), opened, inode, other: said });
    let done = world.agree(op, expected.map(|_| ())).is_some();
    let Ok((moved, other)) = expected else { return };
    if !done || other == Some(moved) {
        return;
    }
    let now_ns = world.t.now_ns;
    let model = &mut world.model;
    model.leave(src, src_name, now_ns);
    if let Some(other) = other {
        model.leave(dst, dst_name, now_ns);
        if mode == MoveMode::Exchange {
            model.enter(src, src_name, other, now_ns);
            model.nodes.get_mut(&other).expect("it is there").ctime_ns = now_ns;
        } else {
            model.drop_name(other, open, now_ns);
        }
    }
    model.enter(dst, dst_name, moved, now_ns);
    model.nodes.get_mut(&moved).expect("it is there").ctime_ns = now_ns;
}

/// What moves, and what was there.
fn expected_move(
    world: &World,
    (src, src_name): (u64, &str),
    (dst, dst_name): (u64, &str),
    mode: MoveMode,
    (inode, said): (u64, u64),
) -> Outcome<(u64, Option<u64>)> {
    let (model, caller) = (&world.model, &world.t.caller);
    let moved = model.look_up(caller, src, src_name)?;
    let other = model.look_up(caller, dst, dst_name)?;
    let moved = moved.ok_or(ErrorKind::NotFound)?;
    is_meant(inode, moved)?;
    match (mode, other) {
        (MoveMode::NoReplace, Some(_)) => return Err(ErrorKind::AlreadyExists),
        (MoveMode::Exchange, None) => return Err(ErrorKind::NotFound),
        (_, Some(other)) if other == moved => return Ok((moved, Some(moved))),
        _ if inode != 0 && other.unwrap_or(0) != said => return Err(ErrorKind::Conflict),
        _ => {}
    }
    let is_directory = |id: u64| model.nodes[&id].is_directory();
    let exchanged = other.filter(|_| mode == MoveMode::Exchange);
    if src != dst {
        let loops = is_directory(moved) && model.is_below(dst, moved);
        if loops || exchanged.is_some_and(|other| is_directory(other) && model.is_below(src, other)) {
            return Err(ErrorKind::InvalidArgument);
        }
    }
    model.may_remove(caller, src, moved)?;
    match other {
        Some(other) => model.may_remove(caller, dst, other)?,
        None => Model::need(caller, model.live(dst)?, 3)?,
    }
    for directory in [Some(moved), exchanged].into_iter().flatten().filter(|id| is_directory(*id)) {
        if src != dst {
            Model::need(caller, &model.nodes[&directory], 2)?;
        }
    }
    match other {
        Some(other) if mode == MoveMode::Replace => match (is_directory(moved), is_directory(other)) {
            (true, false) => Err(ErrorKind::NotADirectory),
            (false, true) => Err(ErrorKind::IsADirectory),
            (true, true) if model.has_entries(other) => Err(ErrorKind::DirectoryNotEmpty),
            _ => Ok((moved, Some(other))),
        },
        _ => Ok((moved, other)),
    }
}

fn attributes(world: &mut World) {
    let id = anything(world);
    let caller = world.t.caller.clone();
    let inode = meant(world);
    let mut op = log::SetAttributesOp { node: Some(below(id, "")), inode, ..Default::default() };
    match world.below(4) {
        0 => op.mode = Some(*world.random.pick(&[0o777, 0o700, 0o6775, 0o6767, 0o1777, 0o055])),
        1 => op.owner = Some((*world.random.pick(&["ann", "bob"])).to_owned()),
        2 => op.group = Some((*world.random.pick(&["ann", "bob", "team"])).to_owned()),
        _ => (op.mtime_now, op.atime_now) = (world.flag(), world.flag()),
    }
    op.kill_privileges = world.below(8) == 0;
    let node = &world.model.nodes[&id];
    let expected = (|| {
        is_meant(inode, id)?;
        if op.mode.is_some() && node.kind == FileType::Symlink {
            return Err(ErrorKind::Unsupported);
        }
        let owner = Model::owned(&caller, node);
        if op.mode.is_some() || op.owner.is_some() || op.group.is_some() {
            owner?;
        }
        let gives_away = op.owner.as_ref().is_some_and(|owner| *owner != node.owner);
        let foreign = op.group.as_ref().is_some_and(|g| *g != node.group && !caller.groups.contains(g));
        if !caller.superuser && (gives_away || foreign) {
            return Err(ErrorKind::NotPermitted);
        }
        match (op.atime_now, op.mtime_now) {
            (true, true) => owner.or_else(|_| Model::need(&caller, node, 2)),
            (false, false) => Ok(()),
            _ => owner,
        }
    })();
    if world.agree(Op::SetAttributes(op.clone()), expected).is_none() {
        return;
    }
    let now_ns = world.t.now_ns;
    let node = world.model.nodes.get_mut(&id).expect("picked");
    node.ctime_ns = now_ns;
    if op.mtime_now {
        node.mtime_ns = now_ns;
    }
    node.owner = op.owner.clone().unwrap_or(node.owner.clone());
    node.group = op.group.clone().unwrap_or(node.group.clone());
    let outsider = !caller.superuser && !caller.groups.contains(&node.group);
    if let Some(mode) = op.mode {
        node.mode = if outsider { mode & !0o2000 } else { mode };
    }
    let given_away = (op.owner.is_some() || op.group.is_some()) && !caller.superuser;
    if (given_away || op.kill_privileges) && !node.is_directory() {
        node.lose_set_id(outsider);
    }
}

fn xattrs(world: &mut World) {
    let id = anything(world);
    let name = *world.random.pick(&["user.a", "user.b", "trusted.a", "security.a"]);
    let mode = *world.random.pick(&[XattrMode::Any, XattrMode::Create, XattrMode::Replace]);
    let (removes, caller) = (world.flag(), world.t.caller.clone());
    let node = &world.model.nodes[&id];
    let expected = (|| {
        if name.starts_with("user.") {
            if !node.is_directory() && !node.is_file() {
                return Err(ErrorKind::NotPermitted);
            }
            if node.is_directory() && node.mode & 0o1000 != 0 {
                Model::owned(&caller, node)?;
            }
            Model::need(&caller, node, 2)?;
        } else if !caller.superuser {
            return Err(ErrorKind::NotPermitted);
        }
        match node.xattrs.contains_key(name) {
            false if removes || mode == XattrMode::Replace => Err(ErrorKind::NoAttribute),
            true if !removes && mode == XattrMode::Create => Err(ErrorKind::AlreadyExists),
            _ => Ok(()),
        }
    })();
    let value = vec![7; usize::try_from(world.below(9)).expect("small")];
    let raw = name.as_bytes().to_vec();
    let op = if removes {
        Op::RemoveXattr(log::RemoveXattrOp { inode: id, name: raw })
    } else {
        let value = value.clone();
        Op::SetXattr(log::SetXattrOp { inode: id, name: raw, value, mode: mode.into() })
    };
    if world.agree(op, expected).is_some() {
        let now_ns = world.t.now_ns;
        let node = world.model.nodes.get_mut(&id).expect("picked");
        node.ctime_ns = now_ns;
        match removes {
            true => drop(node.xattrs.remove(name)),
            false => drop(node.xattrs.insert(name.to_owned(), value)),
        }
        let names: Vec<_> = node.xattrs.keys().map(|n| n.clone().into_bytes()).collect();
        let found = world.t.snapshot().list_xattrs(&caller_of_all(), dfs_proto::InodeId(id)).expect("a node");
        assert_eq!(found, names);
    }
}

fn caller_of_all() -> log::Caller {
    caller("root", &[])
}

fn release(world: &mut World) {
    let orphans: Vec<u64> =
        world.model.orphans.iter().copied().filter(|_| world.random.below(2) == 0).collect();
    world.agree(Op::ReleaseOrphans(log::ReleaseOrphansOp { inodes: orphans.clone() }), Ok(()));
    for id in orphans {
        world.model.orphans.remove(&id);
        world.model.nodes.remove(&id);
    }
}

/// A path client deletes a tree, and all of it is freed.
fn delete(world: &mut World) {
    let (parent, name) = (directory(world), name(world));
    if world.below(3) > 0 {
        return;
    }
    let caller = world.t.caller.clone();
    let expected = match world.model.look_up(&caller, parent, name) {
        Ok(None) | Err(ErrorKind::NotFound) => Ok(None),
        Err(kind) => Err(kind),
        Ok(Some(child)) => world.model.may_remove(&caller, parent, child).map(|()| Some(child)),
    };
    let op = Op::Delete(log::DeleteOp { node: Some(below(parent, name)), recursive: true });
    let done = world.agree(op, expected.map(|_| ())).is_some();
    if let (true, Ok(Some(child))) = (done, expected) {
        let now_ns = world.t.now_ns;
        world.model.leave(parent, name, now_ns);
        if !world.model.nodes[&child].is_directory() {
            return world.model.drop_name(child, false, now_ns);
        }
        world.agree(Op::Reclaim(log::ReclaimOp { budget: 10_000 }), Ok(()));
        free_tree(world, child);
    }
}

fn free_tree(world: &mut World, directory: u64) {
    let now_ns = world.t.now_ns;
    for (name, child) in world.model.list(directory) {
        let name = String::from_utf8(name).expect("a short name");
        world.model.entries.remove(&(directory, name));
        if world.model.nodes[&child].is_directory() {
            free_tree(world, child);
        } else {
            world.model.drop_name(child, false, now_ns);
        }
    }
    world.model.nodes.remove(&directory);
}
