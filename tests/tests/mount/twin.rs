//! Random system calls, done in a mount and in a directory of the local disk: every answer, every errno, the tree and the
//! contents must be the same. `DFS_TEST_SEED` replays a run, `DFS_TEST_STEPS` makes it longer.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{Cluster, with_cluster_within};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::{Rng, seed_of_run};

use crate::sys::{fallocate, get_xattr, list_xattrs, remove_xattr, rename, set_xattr};

/// Steps of a run unless `DFS_TEST_STEPS` says otherwise.
const STEPS: usize = 3_000;

/// Steps between two looks at the whole tree.
const LOOK_EVERY: usize = 100;

/// Steps between two disturbances.
const DISTURB_EVERY: usize = 150;

/// Longest run in an unoptimised build.
const DEADLINE: Duration = Duration::from_secs(500);

/// Blocks of the mount's files: small, so that few bytes cross them.
const BLOCK: u64 = 65_536;

/// Largest offset and length.
const SIZE: u64 = 4 * BLOCK;

/// Names of the tree: few, so that calls meet what others left.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Files that are held open.
const SLOTS: usize = 4;

/// One system call, or a few that belong together. Paths are relative.
#[derive(Debug)]
enum Call {
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    Create { path: String, mode: u32, exclusive: bool, seed: u64, len: u64 },
    Write { path: String, offset: u64, seed: u64, len: u64 },
    Append { path: String, seed: u64, len: u64 },
    Truncate { path: String, len: u64 },
    Allocate { path: String, mode: i32, offset: u64, len: u64 },
    Rename { from: String, to: String, flags: u32 },
    Link { from: String, to: String },
    Symlink { target: String, path: String },
    Readlink { path: String },
    Unlink { path: String },
    Chmod { path: String, mode: u32 },
    Chown { path: String, uid: u32, gid: u32 },
    SetTimes { path: String, seconds: u64 },
    SetXattr { path: String, name: String, value: Vec<u8>, flags: i32 },
    RemoveXattr { path: String, name: String },
    Read { path: String, offset: u64, len: u64 },
    Stat { path: String },
    Open { slot: usize, path: String },
    WriteOpen { slot: usize, offset: u64, seed: u64, len: u64 },
    ReadOpen { slot: usize, offset: u64, len: u64 },
    SyncOpen { slot: usize },
    StatOpen { slot: usize },
    Close { slot: usize },
}

/// Makes calls from random choices.
struct Choices(Rng);

impl Choices {
    fn path(&mut self) -> String {
        let depth = 1 + self.0.index(3);
        let names: Vec<&str> = (0..depth).map(|_| *self.0.pick(&NAMES)).collect();
        names.join("/")
    }

    fn mode(&mut self) -> u32 {
        *self.0.pick(&[0o755, 0o644, 0o700, 0o1777, 0o2755, 0o4711, 0o000, 0o777])
    }

    /// Numbers around the edges of pages, chunks and blocks, and some in between.
    fn number(&mut self) -> u64 {
        let edge = *self.0.pick(&[0, 1, 4_096, BLOCK, 2 * BLOCK, 3 * BLOCK]);
        match self.0.below(5) {
            0 => edge,
            1 => edge + 1 + self.0.below(10),
            2 => edge.saturating_sub(1 + self.0.below(10)),
            _ => self.0.below(SIZE),
        }
    }

    fn len(&mut self) -> u64 {
        if self.0.chance(70) { self.0.below(10_000) } else { self.number() }
    }

    fn next(&mut self) -> Call {
        let path = self.path();
        let slot = self.0.index(SLOTS);
        match self.0.below(100) {
            0..7 => Call::Mkdir { path, mode: self.mode() },
            7..10 => Call::Rmdir { path },
            10..20 => Call::Create {
                path,
                mode: self.mode(),
                exclusive: self.0.chance(40),
                seed: self.0.next_u64(),
                len: self.number(),
            },
            20..30 => Call::Write { path, offset: self.number(), seed: self.0.next_u64(), len: self.len() },
            30..35 => Call::Append { path, seed: self.0.next_u64(), len: self.len() },
            35..40 => Call::Truncate { path, len: self.number() },
            40..45 => {
                let (keep, punch, zero) =
                    (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
                let mode = *self.0.pick(&[0, keep, punch | keep, zero, zero | keep]);
                Call::Allocate { path, mode, offset: self.number(), len: self.number() }
            }
            45..52 => {
                let flags = *self.0.pick(&[0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]);
                Call::Rename { from: path, to: self.path(), flags }
            }
            52..55 => Call::Link { from: path, to: self.path() },
            55..57 => Call::Symlink { target: self.path(), path },
            57 => Call::Readlink { path },
            58..62 => Call::Unlink { path },
            62..64 => Call::Chmod { path, mode: self.mode() },
            64..66 => {
                Call::Chown { path, uid: *self.0.pick(&[0, 1, 4_711]), gid: *self.0.pick(&[0, 1, 4_711]) }
            }
            66..68 => Call::SetTimes { path, seconds: self.0.below(2_000_000_000) },
            68..71 => Call::SetXattr {
                path,
                name: format!("user.{}", self.0.below(3)),
                value: pattern(self.0.next_u64(), 0, self.0.index(100)),
                flags: *self.0.pick(&[0, libc::XATTR_CREATE, libc::XATTR_REPLACE]),
            },
            71 => Call::RemoveXattr { path, name: format!("user.{}", self.0.below(3)) },
            72..78 => Call::Read { path, offset: self.number(), len: self.len() },
            78..82 => Call::Stat { path },
            82..85 => Call::Open { slot, path },
            85..91 => {
                Call::WriteOpen { slot, offset: self.number(), seed: self.0.next_u64(), len: self.len() }
            }
            91..95 => Call::ReadOpen { slot, offset: self.number(), len: self.len() },
            95..97 => Call::SyncOpen { slot },
            97 => Call::StatOpen { slot },
            _ => Call::Close { slot },
        }
    }
}

/// What is seen of a tree: attributes and content of each path.
type Sight = BTreeMap<PathBuf, (Vec<u8>, Vec<u8>)>;

/// A tree with some files held open.
struct Side {
    root: PathBuf,
    open: BTreeMap<usize, File>,
}

fn read_range(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut out = vec![0u8; len as usize];
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    out.truncate(done);
    Ok(out)
}

fn attributes(metadata: &fs::Metadata) -> Vec<u8> {
    // Sizes and link counts of directories are each file system's own.
    let (len, links) = if metadata.is_dir() { (0, 0) } else { (metadata.len(), metadata.nlink()) };
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    format!("mode {mode:o} len {len} links {links} owner {uid}:{gid}").into_bytes()
}

impl Side {
    fn new(root: PathBuf) -> Self {
        Self { root, open: BTreeMap::new() }
    }

    fn slot(&self, slot: usize) -> io::Result<&File> {
        self.open.get(&slot).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Does `call` and answers what a program would see of it.
    fn perform(&mut self, call: &Call) -> io::Result<Vec<u8>> {
        let at = |path: &str| self.root.join(path);
        let writer = |path: &str| OpenOptions::new().write(true).open(at(path));
        match call {
            Call::Mkdir { path, mode } => {
                fs::create_dir(at(path))?;
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
            }
            Call::Rmdir { path } => fs::remove_dir(at(path))?,
            Call::Create { path, mode, exclusive, seed, len } => {
                let mut options = OpenOptions::new();
                options.write(true).mode(*mode);
                let options =
                    if *exclusive { options.create_new(true) } else { options.create(true).truncate(true) };
                options.open(at(path))?.write_all_at(&pattern(*seed, 0, *len as usize), 0)?;
            }
            Call::Write { path, offset, seed, len } => {
                writer(path)?.write_all_at(&pattern(*seed, 0, *len as usize), *offset)?;
            }
            Call::Append { path, seed, len } => {
                let mut file = OpenOptions::new().append(true).open(at(path))?;
                io::Write::write_all(&mut file, &pattern(*seed, 0, *len as usize))?;
            }
            Call::Truncate { path, len } => writer(path)?.set_len(*len)?,
            Call::Allocate { path, mode, offset, len } => fallocate(&writer(path)?, *mode, *offset, *len)?,
            Call::Rename { from, to, flags } => rename(&at(from), &at(to), *flags)?,
            Call::Link { from, to } => fs::hard_link(at(from), at(to))?,
            Call::Symlink { target, path } => symlink(target, at(path))?,
            Call::Readlink { path } => {
                return Ok(fs::read_link(at(path))?.into_os_string().into_encoded_bytes());
            }
            Call::Unlink { path } => fs::remove_file(at(path))?,
            Call::Chmod { path, mode } => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?,
            Call::Chown { path, uid, gid } => chown(at(path), Some(*uid), Some(*gid))?,
            Call::SetTimes { path, seconds } => {
                let time =
                    SystemTime::UNIX_EPOCH + Duration::new(*seconds, (*seconds % 1_000_000_000) as u32);
                File::open(at(path))?.set_times(fs::FileTimes::new().set_modified(time))?;
                return Ok(format!("{:?}", fs::metadata(at(path))?.modified()?).into_bytes());
            }
            Call::SetXattr { path, name, value, flags } => set_xattr(&at(path), name, value, *flags)?,
            Call::RemoveXattr { path, name } => remove_xattr(&at(path), name)?,
            Call::Read { path, offset, len } => return read_range(&File::open(at(path))?, *offset, *len),
            Call::Stat { path } => return Ok(attributes(&fs::symlink_metadata(at(path))?)),
            Call::Open { slot, path } => {
                let file = OpenOptions::new().read(true).write(true).open(at(path))?;
                self.open.insert(*slot, file);
            }
            Call::WriteOpen { slot, offset, seed, len } => {
                self.slot(*slot)?.write_all_at(&pattern(*seed, 0, *len as usize), *offset)?;
            }
            Call::ReadOpen { slot, offset, len } => return read_range(self.slot(*slot)?, *offset, *len),
            Call::SyncOpen { slot } => self.slot(*slot)?.sync_all()?,
            Call::StatOpen { slot } => return Ok(attributes(&self.slot(*slot)?.metadata()?)),
            Call::Close { slot } => drop(self.open.remove(slot)),
        }
        Ok(Vec::new())
    }

    /// Everything below the root: attributes, extended attributes, and contents.
    fn look(&self) -> Result<Sight> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                let metadata = fs::symlink_metadata(&path)?;
                let mut seen = attributes(&metadata);
                let content = if metadata.is_dir() {
                    directories.push(path.clone());
                    Vec::new()
                } else if metadata.is_symlink() {
                    fs::read_link(&path)?.into_os_string().into_encoded_bytes()
                } else {
                    fs::read(&path).with_context(|| path.display().to_string())?
                };
                if !metadata.is_symlink() {
                    for name in list_xattrs(&path)?.iter().filter(|name| name.starts_with("user.")) {
                        seen.extend(format!(" {name}=").as_bytes());
                        seen.extend(get_xattr(&path, name)?);
                    }
                }
                found.insert(path.strip_prefix(&self.root)?.to_owned(), (seen, content));
            }
        }
        Ok(found)
    }
}

fn compare_trees(mount: &Side, local: &Side) -> Result<()> {
    let (got, wanted) = (mount.look()?, local.look()?);
    let (names, wanted_names): (Vec<_>, Vec<_>) = (got.keys().collect(), wanted.keys().collect());
    ensure!(names == wanted_names, "the mount has {names:?}, the local disk {wanted_names:?}");
    for (path, (attributes, content)) in &wanted {
        let (got_attributes, got_content) = &got[path];
        let (one, other) = (String::from_utf8_lossy(got_attributes), String::from_utf8_lossy(attributes));
        ensure!(
            got_attributes == attributes,
            "{}: the mount has {one}, the local disk {other}",
            path.display()
        );
        ensure_same(&path.display().to_string(), got_content, content)?;
    }
    Ok(())
}

/// Whether the local disk can do this at all; tmpfs, for one, zeroes no ranges.
fn local_cannot(local: &io::Result<Vec<u8>>) -> bool {
    local.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP))
}

fn run(
    cluster: &Cluster,
    options: &[&str],
    (seed, steps): (u64, usize),
    disturb: impl Fn(usize) -> Result<()>,
) -> Result<()> {
    let steps = std::env::var("DFS_TEST_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(steps);
    let common = format!("suid,block-size={BLOCK}");
    let options: Vec<&str> = ["-o", &common].into_iter().chain(options.iter().copied()).collect();
    let mount = cluster.mount(&options)?;
    let directory = cluster.home().join("twin");
    fs::create_dir(&directory)?;
    let (mut mount, mut local) = (Side::new(mount.root().to_owned()), Side::new(directory));
    let mut choices = Choices(Rng::new(seed));
    for number in 0..steps {
        let call = choices.next();
        let shown = || format!("seed {seed}, step {number}: {call:?}");
        let wanted = local.perform(&call);
        if local_cannot(&wanted) {
            continue;
        }
        match (mount.perform(&call), wanted) {
            (Ok(got), Ok(wanted)) => ensure_same("the answer", &got, &wanted).with_context(shown)?,
            (got, wanted) => {
                let (got, wanted) = (got.err(), wanted.err());
                let errno = |error: &Option<io::Error>| error.as_ref().and_then(io::Error::raw_os_error);
                ensure!(
                    errno(&got) == errno(&wanted),
                    "{}: the mount says {got:?}, the local disk {wanted:?}",
                    shown()
                );
            }
        }
        if number % LOOK_EVERY == LOOK_EVERY - 1 {
            compare_trees(&mount, &local).with_context(shown)?;
        }
        if number % DISTURB_EVERY == DISTURB_EVERY / 2 {
            disturb(number / DISTURB_EVERY).with_context(shown)?;
        }
    }
    mount.open.clear();
    local.open.clear();
    compare_trees(&mount, &local).with_context(|| format!("seed {seed}, at the end"))
}

#[test]
fn a_mount_answers_like_a_local_disk() -> Result<()> {
    let seed = seed_of_run("a_mount_answers_like_a_local_disk");
    with_cluster_within(DEADLINE, &[], move |cluster| run(cluster, &[], (seed, STEPS), |_| Ok(())))
}

#[test]
fn a_mount_that_gathers_writes_answers_like_a_local_disk() -> Result<()> {
    let seed = seed_of_run("a_mount_that_gathers_writes_answers_like_a_local_disk");
    with_cluster_within(DEADLINE, &[], move |cluster| {
        run(cluster, &["--writeback-cache"], (seed, STEPS / 3), |_| Ok(()))
    })
}

#[test]
fn a_mount_answers_like_a_local_disk_while_servers_are_killed() -> Result<()> {
    let seed = seed_of_run("a_mount_answers_like_a_local_disk_while_servers_are_killed");
    with_cluster_within(DEADLINE, &["--datanodes", "4"], move |cluster| {
        run(cluster, &[], (seed, STEPS / 3), |number| {
            match number % 3 {
                0 => cluster.kill_9(|name| name == "namenode")?,
                1 => cluster.kill_9(|name| name == format!("datanode-{}", number % 4))?,
                _ => cluster.kill_9(|_| true)?,
            }
            cluster.start_again()
        })
    })
}

/// The comparison itself works: a tree equals its like and no other.
#[test]
fn a_difference_of_two_trees_is_noticed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    fs::create_dir(&one)?;
    fs::create_dir(&two)?;
    let write = |root: &Path, text: &str| fs::write(root.join("f"), text);
    let (one, two) = (Side::new(one), Side::new(two));
    write(&one.root, "x")?;
    ensure!(compare_trees(&one, &two).is_err());
    write(&two.root, "y")?;
    ensure!(compare_trees(&one, &two).is_err());
    write(&two.root, "x")?;
    compare_trees(&one, &two)
}
