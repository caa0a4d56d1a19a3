//! The reference model through a mount: each operation is done with system calls and compared with the model, through the
//! mount and through a path client, which must see the same.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dfs_proto::ErrorKind;
use dfs_tests::model::{Answer, Model, Node, Operation};
use dfs_tests::mount::with_cluster_within;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::seed_of_run;
use dfs_tests::workload::{Workload, compare_contents, compare_trees};

use crate::sys::rename;

/// Steps of a run unless `DFS_TEST_STEPS` says otherwise.
const STEPS: usize = 600;

/// Steps between two looks at everything.
const LOOK_EVERY: usize = 20;

/// Longest run in an unoptimised build.
const DEADLINE: Duration = Duration::from_secs(400);

/// Blocks of the mount's files.
const BLOCK: u64 = 65_536;

/// Replicas of the mount's files.
const REPLICATION: u16 = 3;

/// The operation as a mount can do it: system calls make no missing parents, replication is the mount's, and a
/// truncation may not grow the model's file.
fn as_system_call(operation: Operation, model: &Model) -> Option<Operation> {
    Some(match operation {
        Operation::Mkdir { path, mode, .. } => Operation::Mkdir { path, mode, parents: false },
        Operation::Create { path, mode, overwrite, seed, len, .. } => {
            Operation::Create { path, mode, overwrite, parents: false, replication: REPLICATION, seed, len }
        }
        Operation::Truncate { path, len } => match model.get(&path) {
            Some(Node::File { content, .. }) => Operation::Truncate { path, len: len.min(content.len()) },
            _ => Operation::Truncate { path, len },
        },
        Operation::SetReplication { .. } => return None,
        other => other,
    })
}

fn perform(root: &Path, operation: &Operation) -> io::Result<Answer> {
    let at = |path: &str| -> PathBuf { root.join(path.trim_start_matches('/')) };
    match operation {
        Operation::Mkdir { path, mode, .. } => {
            fs::create_dir(at(path))?;
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
        }
        Operation::Create { path, mode, overwrite, seed, len, .. } => {
            let mut options = OpenOptions::new();
            options.write(true);
            let options =
                if *overwrite { options.create(true).truncate(true) } else { options.create_new(true) };
            let mut file = options.open(at(path))?;
            file.write_all(&pattern(*seed, 0, *len as usize))?;
            file.set_permissions(fs::Permissions::from_mode(*mode))?;
        }
        Operation::Append { path, seed, len } => {
            OpenOptions::new().append(true).open(at(path))?.write_all(&pattern(*seed, 0, *len as usize))?;
        }
        Operation::Truncate { path, len } => OpenOptions::new().write(true).open(at(path))?.set_len(*len)?,
        Operation::Rename { src, dst, overwrite } => {
            rename(&at(src), &at(dst), if *overwrite { 0 } else { libc::RENAME_NOREPLACE })?;
        }
        Operation::Delete { path, recursive } => {
            let result = match fs::symlink_metadata(at(path)) {
                Ok(metadata) if metadata.is_dir() && *recursive => fs::remove_dir_all(at(path)),
                Ok(metadata) if metadata.is_dir() => fs::remove_dir(at(path)),
                Ok(_) => fs::remove_file(at(path)),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => return Ok(Answer::Deleted(true)),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    return Ok(Answer::Deleted(false));
                }
                Err(error) => return Err(error),
            }
        }
        Operation::SetPermission { path, mode } => {
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
        }
        Operation::SetReplication { .. } => return Err(io::ErrorKind::Unsupported.into()),
        Operation::Read { path, offset, len } => {
            let file = OpenOptions::new().read(true).open(at(path))?;
            if file.metadata()?.is_dir() {
                return Err(io::Error::from_raw_os_error(libc::EISDIR));
            }
            let mut bytes = vec![0u8; *len as usize];
            let mut done = 0;
            while done < bytes.len() {
                match file.read_at(&mut bytes[done..], *offset + done as u64)? {
                    0 => break,
                    count => done += count,
                }
            }
            bytes.truncate(done);
            return Ok(Answer::Bytes(bytes));
        }
    }
    Ok(Answer::Done)
}

fn errno_of(kind: ErrorKind) -> Result<i32> {
    Ok(match kind {
        ErrorKind::NotFound => libc::ENOENT,
        ErrorKind::AlreadyExists => libc::EEXIST,
        ErrorKind::NotADirectory => libc::ENOTDIR,
        ErrorKind::IsADirectory => libc::EISDIR,
        ErrorKind::DirectoryNotEmpty => libc::ENOTEMPTY,
        ErrorKind::InvalidArgument => libc::EINVAL,
        other => bail!("the model does not say {other:?}"),
    })
}

/// What keeps a name from being looked up on the way to it.
fn walk_error(model: &Model, path: &str) -> Option<i32> {
    let mut on_the_way: Vec<&str> = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]).collect();
    on_the_way.sort_by_key(|above| above.len());
    on_the_way.into_iter().find_map(|above| match model.get(above) {
        Some(Node::Directory { .. }) => None,
        Some(Node::File { .. }) => Some(libc::ENOTDIR),
        None => Some(libc::ENOENT),
    })
}

/// The errno of system calls where the model, which follows HDFS, looks at things in another order.
fn expected_errno(model: &Model, operation: &Operation, kind: ErrorKind) -> Result<i32> {
    match operation {
        Operation::Create { path, overwrite: false, .. }
            if model.get(path).is_some() && walk_error(model, path).is_none() =>
        {
            Ok(libc::EEXIST)
        }
        Operation::Rename { src, dst, overwrite } => {
            let walk = walk_error(model, src).or_else(|| walk_error(model, dst));
            let below = |a: &str, b: &str| a.starts_with(&format!("{b}/"));
            Ok(match walk {
                Some(errno) => errno,
                None if model.get(src).is_none() => libc::ENOENT,
                None if !*overwrite && model.get(dst).is_some() => libc::EEXIST,
                None if below(dst, src) => libc::EINVAL,
                None if below(src, dst) => libc::ENOTEMPTY,
                None => errno_of(kind)?,
            })
        }
        _ => errno_of(kind),
    }
}

/// Type, length and permission bits of everything below the mount.
fn compare_mounted(root: &Path, model: &Model) -> Result<()> {
    let mut seen = 0;
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = format!("/{}", path.strip_prefix(root)?.display());
            let metadata = fs::metadata(&path)?;
            let mode = metadata.mode() & 0o7777;
            match model.get(&name).with_context(|| format!("{name} should not be there"))? {
                Node::Directory { mode: wanted } => {
                    ensure!(metadata.is_dir() && mode == *wanted, "{name}: {mode:o}, wanted {wanted:o}");
                    directories.push(path);
                }
                Node::File { mode: wanted, content, .. } => {
                    ensure!(metadata.is_file() && mode == *wanted, "{name}: {mode:o}, wanted {wanted:o}");
                    ensure!(metadata.len() == content.len(), "{name}: {} bytes", metadata.len());
                    ensure_same(&name, &fs::read(&path)?, &content.bytes())?;
                }
            }
            seen += 1;
        }
    }
    ensure!(seen == model.nodes().count(), "the mount has {seen} nodes, the model {}", model.nodes().count());
    Ok(())
}

#[test]
fn a_mount_and_path_clients_behave_like_the_model() -> Result<()> {
    let seed = seed_of_run("a_mount_and_path_clients_behave_like_the_model");
    with_cluster_within(DEADLINE, &[], move |cluster| {
        let mount = cluster.mount(&["-o", &format!("block-size={BLOCK}")])?;
        let client = cluster.client()?;
        let (mut model, mut workload) = (Model::default(), Workload::new(seed, BLOCK, REPLICATION));
        let steps = std::env::var("DFS_TEST_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(STEPS);
        for number in 0..steps {
            let Some(operation) = as_system_call(workload.next_operation(&model), &model) else { continue };
            if matches!(&operation, Operation::Rename { src, dst, .. } if src == dst) {
                continue;
            }
            let shown = || format!("seed {seed}, step {number}: {operation:?}");
            let before = model.clone();
            let got = perform(mount.root(), &operation);
            match (got, model.apply(&operation)) {
                (Ok(Answer::Bytes(got)), Ok(Answer::Bytes(wanted))) => {
                    ensure_same("bytes read", &got, &wanted).with_context(shown)?;
                }
                (Ok(got), Ok(wanted)) => ensure!(got == wanted, "{}: {got:?}, wanted {wanted:?}", shown()),
                (Err(error), Err(kind)) => {
                    let wanted = expected_errno(&before, &operation, kind)?;
                    ensure!(error.raw_os_error() == Some(wanted), "{}: {error}, wanted {kind:?}", shown());
                }
                (got, wanted) => bail!("{}: the mount says {got:?}, the model {wanted:?}", shown()),
            }
            if number % LOOK_EVERY == LOOK_EVERY - 1 {
                compare_mounted(mount.root(), &model).with_context(shown)?;
                cluster.block_on(compare_trees(&client, &model)).with_context(shown)?;
                cluster.block_on(compare_contents(&client, &model)).with_context(shown)?;
            }
        }
        compare_mounted(mount.root(), &model).with_context(|| format!("seed {seed}, at the end"))
    })
}
