//! Random operations against a model: a map from paths to what a user would expect there.
//!
//! The model knows names, sizes, owners, modes and writers, not inodes or blocks. After each operation
//! its answer and the store's must agree; every so often the whole tree is compared and the
//! invariants are checked.

use std::collections::BTreeMap;

use dfs_proto::{ErrorKind, v1, v1::FileType};
use log::command::Op;
use log::reply::Reply;

use super::fixture::*;
use crate::log;

const STEPS: usize = 2_500;
/// Steps between comparisons of the whole tree.
const COMPARE_EVERY: usize = 25;

/// xorshift64*: enough for tests, and a seed tells everything.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = self.below(from.len() as u64);
        &from[usize::try_from(at).expect("small")]
    }

    /// A path of one to three short names, so that operations meet.
    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| format!("/{}", self.pick(&["a", "b", "c"]))).collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Directory { mode: u32 },
    File { size: u64, mode: u32, replication: u32, writer: Option<Writer> },
}

/// An open file: who writes it and how far the last block is.
#[derive(Clone, Debug, PartialEq)]
struct Writer {
    holder: String,
    inode: u64,
    /// The last block with the stamp that its pipeline has, and whether it is being written.
    block: Option<v1::Block>,
    recovery: Option<(u64, Option<u64>)>,
}

#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Model {
    /// What path resolution says before the last name is looked at.
    fn resolve(&self, path: &str) -> Result<(), ErrorKind> {
        let mut at = String::new();
        for name in parent(path).split('/').skip(1) {
            at = format!("{at}/{name}");
            match self.nodes.get(&at) {
                Some(Node::Directory { .. }) => {}
                Some(Node::File { .. }) => return Err(ErrorKind::NotADirectory),
                None => return Err(ErrorKind::NotFound),
            }
        }
        Ok(())
    }

    fn lookup(&self, path: &str) -> Result<&Node, ErrorKind> {
        self.resolve(path)?;
        self.nodes.get(path).ok_or(ErrorKind::NotFound)
    }

    fn has_children(&self, path: &str) -> bool {
        let prefix = format!("{path}/");
        self.nodes.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    fn subtree(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        let below = self.nodes.keys().filter(|key| *key == path || key.starts_with(&prefix));
        below.cloned().collect()
    }

    fn make_parents(&mut self, path: &str, mode: Option<u32>) {
        let mut at = String::new();
        let mut above = 0o755;
        for name in parent(path).split('/').skip(1) {
            at = format!("{at}/{name}");
            let made = Node::Directory { mode: mode.unwrap_or(above) | 0o300 };
            if let Node::Directory { mode } = self.nodes.entry(at.clone()).or_insert(made) {
                above = *mode & 0o777;
            }
        }
    }

    fn mkdir(&mut self, path: &str, mode: u32, parents: bool) -> Result<(), ErrorKind> {
        match self.resolve(path) {
            Err(ErrorKind::NotFound) if parents => {}
            other => other?,
        }
        match self.nodes.get(path) {
            Some(Node::Directory { .. }) if parents => return Ok(()),
            Some(_) => return Err(ErrorKind::AlreadyExists),
            None => {}
        }
        // Parents take the permission bits only.
        self.make_parents(path, Some(mode & 0o777));
        self.nodes.insert(path.to_owned(), Node::Directory { mode });
        Ok(())
    }

    fn check_create(
        &self,
        path: &str,
        holder: &str,
        overwrite: bool,
        parents: bool,
    ) -> Result<(), ErrorKind> {
        match self.resolve(path) {
            Err(ErrorKind::NotFound) if parents => {}
            other => other?,
        }
        match self.nodes.get(path) {
            Some(Node::Directory { .. }) => Err(ErrorKind::IsADirectory),
            Some(Node::File { writer: Some(w), .. }) if w.recovery.is_some() => {
                Err(ErrorKind::RecoveryInProgress)
            }
            Some(Node::File { writer: Some(w), .. }) if w.holder != holder => {
                Err(ErrorKind::LeaseHeldByOther)
            }
            Some(Node::File { .. }) if !overwrite => Err(ErrorKind::AlreadyExists),
            _ => Ok(()),
        }
    }

    fn file_mut(&mut self, path: &str) -> Result<&mut Node, ErrorKind> {
        self.resolve(path)?;
        match self.nodes.get_mut(path) {
            Some(Node::Directory { .. }) => Err(ErrorKind::IsADirectory),
            Some(file) => Ok(file),
            None => Err(ErrorKind::NotFound),
        }
    }

    fn closed(&mut self, path: &str) -> Result<u64, ErrorKind> {
        match self.file_mut(path)? {
            Node::File { writer: Some(w), .. } if w.recovery.is_some() => Err(ErrorKind::RecoveryInProgress),
            Node::File { writer: Some(_), .. } => Err(ErrorKind::LeaseHeldByOther),
            Node::File { size, .. } => Ok(*size),
            Node::Directory { .. } => Err(ErrorKind::IsADirectory),
        }
    }

    fn rename(&mut self, src: &str, dst: &str, overwrite: bool) -> Result<(), ErrorKind> {
        let moved = self.lookup(src)?.clone();
        self.resolve(dst)?;
        if src == dst {
            return Ok(());
        }
        let directory = matches!(moved, Node::Directory { .. });
        if directory && dst.starts_with(&format!("{src}/")) {
            return Err(ErrorKind::InvalidArgument);
        }
        match (self.nodes.get(dst), directory) {
            (Some(_), _) if !overwrite => return Err(ErrorKind::AlreadyExists),
            (Some(Node::File { .. }), true) => return Err(ErrorKind::NotADirectory),
            (Some(Node::Directory { .. }), false) => return Err(ErrorKind::IsADirectory),
            (Some(Node::Directory { .. }), true) if self.has_children(dst) => {
                return Err(ErrorKind::DirectoryNotEmpty);
            }
            _ => {}
        }
        for path in self.subtree(src) {
            if let Some(node) = self.nodes.remove(&path) {
                self.nodes.insert(format!("{dst}{}", &path[src.len()..]), node);
            }
        }
        Ok(())
    }

    fn delete(&mut self, path: &str, recursive: bool) -> Result<bool, ErrorKind> {
        match self.lookup(path) {
            Err(ErrorKind::NotFound) => return Ok(false),
            Err(kind) => return Err(kind),
            Ok(_) => {}
        }
        if !recursive && self.has_children(path) {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        for path in self.subtree(path) {
            self.nodes.remove(&path);
        }
        Ok(true)
    }

    /// A random open file that is not under recovery.
    fn open_file(&self, random: &mut Random) -> Option<String> {
        let open: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, n)| matches!(n, Node::File { writer: Some(w), .. } if w.recovery.is_none()))
            .map(|(path, _)| path.clone())
            .collect();
        (!open.is_empty()).then(|| random.pick(&open).clone())
    }
}

/// Compares outcomes; answers the reply of a success.
#[track_caller]
fn agree<T>(
    what: &str,
    expected: Result<T, ErrorKind>,
    got: Result<Reply, crate::namesystem::NamesystemError>,
) -> Option<(T, Reply)> {
    match (expected, got) {
        (Ok(value), Ok(reply)) => Some((value, reply)),
        (Err(kind), Err(error)) if error.kind() == kind => None,
        (expected, got) => panic!("{what}: expected {:?}, got {got:?}", expected.map(|_| ())),
    }
}

fn step(t: &mut Fixture, model: &mut Model, random: &mut Random) {
    let path = random.path();
    let flag = random.below(2) == 0;
    match random.below(16) {
        0 | 1 => {
            let mode = *random.pick(&[0o755, 0o700, 0o1777]);
            let op = log::MkdirOp { node: Some(node(&path)), mode, create_parents: flag };
            let expected = model.mkdir(&path, mode, flag);
            agree(&format!("mkdir {path} {flag}"), expected, t.run(Op::Mkdir(op)));
        }
        2 | 3 => {
            let holder = (*random.pick(&["w1", "w2"])).to_owned();
            let parents = random.below(2) == 0;
            let op = log::CreateOp {
                overwrite: flag,
                create_parents: parents,
                targets: if random.below(2) == 0 { storages(&["s1", "s2"]) } else { vec![] },
                ..create_op(&path, &holder)
            };
            let expected = model.check_create(&path, &holder, flag, parents);
            let what = format!("create {path} {holder} {flag} {parents}");
            if let Some((_, Reply::Opened(opened))) = agree(&what, expected, t.run(Op::Create(op))) {
                let opened = Opened::new(opened);
                model.make_parents(&path, None);
                let writer =
                    Some(Writer { holder, inode: opened.inode, block: opened.block, recovery: None });
                let file = Node::File { size: 0, mode: 0o644, replication: 3, writer };
                model.nodes.insert(path, file);
            }
        }
        4..=6 => write(t, model, random),
        7 => {
            let holder = (*random.pick(&["w1", "w2"])).to_owned();
            let expected = model.closed(&path);
            let what = format!("append {path}");
            if let Some((_, Reply::Opened(opened))) = agree(&what, expected, t.run(append(&path, &holder)))
                && let Ok(Node::File { writer, .. }) = model.file_mut(&path)
            {
                let opened = Opened::new(opened);
                let block = opened.block.map(|b| block(b.id, opened.new_stamp, b.length));
                *writer = Some(Writer { holder, inode: opened.inode, block, recovery: None });
            }
        }
        8 => {
            let length = random.below(3 * BLOCK);
            let expected = match model.closed(&path) {
                Ok(size) if length > size => Err(ErrorKind::InvalidArgument),
                other => other,
            };
            let what = format!("truncate {path} {length}");
            if let Some((_, reply)) = agree(&what, expected, t.run(truncate(&path, length)))
                && let Ok(Node::File { size, writer, .. }) = model.file_mut(&path)
            {
                *size = length;
                *writer = recovering(reply);
            }
        }
        9 => {
            let what = format!("recover {path}");
            let expected = model.file_mut(&path).map(|_| ());
            if let Some((_, reply)) = agree(&what, expected, t.run(recover_lease(&path)))
                && let Ok(Node::File { writer, .. }) = model.file_mut(&path)
            {
                *writer = recovering(reply);
            }
        }
        10 => synchronize(t, model, random),
        11 | 12 => {
            let dst = random.path();
            let expected = model.rename(&path, &dst, flag);
            agree(&format!("rename {path} {dst} {flag}"), expected, t.run(rename(&path, &dst, flag)));
        }
        13 => {
            let expected = model.delete(&path, flag);
            let got = t.run(delete(&path, flag));
            if let Some((deleted, reply)) = agree(&format!("delete {path} {flag}"), expected, got) {
                assert_eq!(reply, Reply::Deleted(deleted));
            }
            if random.below(2) == 0 {
                t.ok(Op::Reclaim(log::ReclaimOp { budget: 3 }));
            }
        }
        14 => {
            let mode = *random.pick(&[0o600, 0o777]);
            let expected = model.lookup(&path).map(|_| ());
            if agree(&format!("chmod {path}"), expected, t.run(chmod(&path, mode))).is_some() {
                match model.nodes.get_mut(&path) {
                    Some(Node::Directory { mode: m } | Node::File { mode: m, .. }) => *m = mode,
                    None => unreachable!("looked up above"),
                }
            }
        }
        _ => {
            let wanted = 1 + u32::try_from(random.below(4)).expect("small");
            let expected = model.file_mut(&path).map(|_| ());
            let got = t.run(set_replication(&path, wanted));
            if agree(&format!("setrep {path}"), expected, got).is_some()
                && let Ok(Node::File { replication, .. }) = model.file_mut(&path)
            {
                *replication = wanted;
            }
        }
    }
}

/// The writer of a file after truncate or recovery answered.
fn recovering(reply: Reply) -> Option<Writer> {
    match reply {
        Reply::Recovery(recovery) if recovery.closed => None,
        Reply::Recovery(recovery) => Some(Writer {
            holder: String::new(),
            inode: recovery.inode,
            block: recovery.block.and_then(|spec| spec.block),
            recovery: Some((recovery.new_generation_stamp, recovery.truncate_length)),
        }),
        other => panic!("{other:?}"),
    }
}

/// One step of a writer: a full block and the next, an fsync, a lost pipeline, or the end.
fn write(t: &mut Fixture, model: &mut Model, random: &mut Random) {
    let Some(path) = model.open_file(random) else { return };
    let Some(Node::File { size, writer: slot, .. }) = model.nodes.get_mut(&path) else { return };
    let Some(writer) = slot.as_mut() else { return };
    let recorded = writer.block.map_or(0, |b| b.length);
    let start = *size - recorded;
    let length = recorded + random.below(BLOCK - recorded + 1);
    let at = |length| writer.block.map(|b| block(b.id, b.generation_stamp, length));
    match (random.below(5), writer.block) {
        (0 | 1, _) => {
            let previous = at(BLOCK).map(|b| committed(b, &["s1"]));
            let was_open = previous.is_some();
            let reply = t.ok(add_block(writer.inode, &writer.holder, previous));
            let Reply::Block(spec) = reply else { panic!("{reply:?}") };
            if was_open {
                *size = start + BLOCK;
            }
            assert_eq!(spec.offset, *size, "{path}");
            writer.block = spec.block;
        }
        (2, Some(_)) => {
            let synced = at(length);
            t.ok(Op::Fsync(log::FsyncOp {
                inode: writer.inode,
                holder: writer.holder.clone(),
                block: synced,
            }));
            *size = start + length;
            writer.block = synced;
        }
        (3, Some(old)) => {
            let (inode, holder) = (writer.inode, writer.holder.clone());
            let op = log::UpdateBlockForPipelineOp { inode, holder: holder.clone(), block: Some(old) };
            let Reply::NewGenerationStamp(stamp) = t.ok(Op::UpdateBlockForPipeline(op)) else {
                panic!("no stamp")
            };
            let new = block(old.id, stamp, length);
            t.ok(Op::UpdatePipeline(log::UpdatePipelineOp {
                inode,
                holder,
                old_block: Some(block(old.id, stamp, old.length)),
                new_block: Some(new),
                storage_ids: storages(&["s2"]),
            }));
            *size = start + length;
            writer.block = Some(new);
        }
        (_, open) => {
            let last = at(length).map(|b| committed(b, &["s1", "s2"]));
            t.ok(complete(writer.inode, &writer.holder, last));
            if open.is_some() {
                *size = start + length;
            }
            *slot = None;
        }
    }
}

/// Ends a random recovery.
fn synchronize(t: &mut Fixture, model: &mut Model, random: &mut Random) {
    let running = |n: &Node| matches!(n, Node::File { writer: Some(w), .. } if w.recovery.is_some());
    let paths: Vec<_> = model.nodes.iter().filter(|(_, n)| running(n)).map(|(p, _)| p.clone()).collect();
    if paths.is_empty() {
        return;
    }
    let Some(Node::File { size, writer, .. }) = model.nodes.get_mut(random.pick(&paths)) else { return };
    let Some(Writer { block: Some(block), recovery: Some((stamp, cut)), .. }) = writer.clone() else {
        return;
    };
    let length = cut.unwrap_or(block.length + random.below(BLOCK - block.length + 1));
    if length == 0 && block.length > 0 {
        return;
    }
    t.ok(synchronized(block.id, stamp, length, if length == 0 { &[] } else { &["s1"] }));
    // A cut has set the size already.
    if cut.is_none() {
        *size = *size - block.length + length;
    }
    *writer = None;
}

fn compare(t: &Fixture, model: &Model) {
    let mut found = BTreeMap::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let (page, more) = t.snapshot().list(&t.caller, &node(&directory), b"", 0).expect("a directory");
        assert!(!more);
        for status in page {
            let path = format!("{directory}/{}", String::from_utf8_lossy(&status.name));
            if status.r#type() == FileType::Directory {
                directories.push(path.clone());
            }
            found.insert(path, status);
        }
    }
    let names: Vec<_> = found.keys().collect();
    assert_eq!(names, model.nodes.keys().collect::<Vec<_>>());
    for (path, node) in &model.nodes {
        let status = &found[path];
        match node {
            Node::Directory { mode } => {
                assert_eq!((status.r#type(), status.mode), (FileType::Directory, *mode), "{path}");
            }
            Node::File { size, mode, replication, writer } => {
                assert_eq!((status.r#type(), status.mode), (FileType::File, *mode), "{path}");
                assert_eq!((status.size, status.replication), (*size, *replication), "{path}");
                assert_eq!(status.under_construction, writer.is_some(), "{path}");
            }
        }
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut t = Fixture::new();
    let mut model = Model::default();
    for at in 0..STEPS {
        step(&mut t, &mut model, &mut random);
        t.assert_sound();
        if at % COMPARE_EVERY == 0 {
            compare(&t, &model);
        }
    }
    compare(&t, &model);
}

#[test]
fn random_operations_agree_with_the_model() {
    for seed in [1, 20_261, 777_777] {
        run(seed);
    }
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after the epoch")
        .as_nanos();
    run(u64::try_from(seed & u128::from(u64::MAX)).expect("masked"));
}
