//! A program that works on a mount.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Actor, Failure, Safe};
use crate::chaos::load::Abilities;
use crate::chaos::operation::Operation;
use crate::pattern::{ensure_same, pattern};

/// The actor.
#[derive(Debug)]
pub struct Mounted {
    mount: PathBuf,
    /// It syncs every change before it relies on it.
    careful: bool,
}

impl Mounted {
    /// An actor for what is mounted at `mount`.
    pub fn new(mount: PathBuf, careful: bool) -> Self {
        Self { mount, careful }
    }

    /// Which mount is at the mount point. Between the end of one that was killed and the next there is the directory below, in
    /// which nothing is found.
    fn identity(&self) -> Result<Option<String>> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let here = format!(" {} ", self.mount.display());
        let mut ours = mounts.lines().filter(|line| line.contains(&here) && line.contains(" - fuse"));
        Ok(ours.next_back().and_then(|line| line.split(' ').next()).map(str::to_owned))
    }

    fn local(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }

    /// Has a change on disk, if that is asked for. Whatever fails, the change may be lost.
    fn settle(&self, what: &Path) -> io::Result<()> {
        if self.careful {
            let synced = File::open(what).and_then(|file| file.sync_all());
            synced.map_err(|error| io::Error::other(format!("not synced: {error}")))?;
        }
        Ok(())
    }

    /// The same for names of `path`'s directory.
    fn settle_name(&self, path: &str) -> io::Result<()> {
        self.settle(self.local(path).parent().unwrap_or(&self.mount))
    }

    fn carry_out(&self, operation: &Operation, known: &[u8], safe: &mut Safe<'_>) -> Result<io::Result<()>> {
        Ok(match operation {
            Operation::Mkdir { path } => {
                fs::create_dir(self.local(path)).and_then(|()| self.settle_name(path))
            }
            Operation::Write { path, seed, len, piece, .. } => {
                let created = File::create_new(self.local(path));
                match created.and_then(|file| self.settle_name(path).map(|()| file)) {
                    Ok(file) => {
                        safe(0)?;
                        return self.write(file, *seed, *len, *piece, safe);
                    }
                    Err(error) => Err(error),
                }
            }
            Operation::Append { path, seed, len, piece } => {
                match OpenOptions::new().append(true).open(self.local(path)) {
                    Ok(file) => return self.write(file, *seed, *len, *piece, safe),
                    Err(error) => Err(error),
                }
            }
            Operation::Overwrite { path, offset, seed, len } => {
                OpenOptions::new().write(true).open(self.local(path)).and_then(|file| {
                    let written = file.write_all_at(&pattern(*seed, 0, *len as usize), *offset);
                    let written = written.and_then(|()| file.sync_data()).and_then(|()| close(file));
                    written?;
                    self.settle(&self.local(path))
                })
            }
            Operation::Truncate { path, len } => {
                OpenOptions::new().write(true).open(self.local(path)).and_then(|file| {
                    let cut = file.set_len(*len).and_then(|()| close(file));
                    cut?;
                    self.settle(&self.local(path))
                })
            }
            Operation::Rename { from, to } | Operation::Replace { from, to } => {
                let renamed = fs::rename(self.local(from), self.local(to));
                renamed.and_then(|()| self.settle_name(from)).and_then(|()| self.settle_name(to))
            }
            Operation::Delete { path } => {
                let local = self.local(path);
                let deleted = match fs::symlink_metadata(&local) {
                    Ok(found) if found.is_dir() => fs::remove_dir_all(local),
                    Ok(_) => fs::remove_file(local),
                    Err(error) => Err(error),
                };
                deleted.and_then(|()| self.settle_name(path))
            }
            Operation::SetReplication { .. } => Err(io::Error::from(io::ErrorKind::InvalidInput)),
            Operation::Read { path } => match fs::read(self.local(path)) {
                Ok(bytes) => match ensure_same(path, &bytes, known) {
                    Ok(()) => Ok(()),
                    Err(error) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{error:#}"))),
                },
                Err(error) => Err(error),
            },
        })
    }

    /// Writes, making each piece safe, and closes, which makes the rest safe.
    fn write(
        &self,
        mut file: File,
        seed: u64,
        len: u64,
        piece: u64,
        safe: &mut Safe<'_>,
    ) -> Result<io::Result<()>> {
        let piece = if piece == 0 { len.max(1) } else { piece };
        let mut at = 0;
        while at < len {
            let bytes = pattern(seed, at, piece.min(len - at) as usize);
            at += bytes.len() as u64;
            let synced = at < len || self.careful;
            let written = file.write_all(&bytes).and_then(|()| if synced { file.sync_all() } else { Ok(()) });
            if written.is_err() {
                return Ok(written);
            }
            if at < len {
                safe(at)?;
            }
        }
        Ok(close(file))
    }
}

impl Actor for Mounted {
    fn abilities(&self) -> Abilities {
        Abilities { overwrite: true, replication: false, replace: true }
    }

    fn perform(
        &mut self,
        operation: &Operation,
        known: &[u8],
        safe: &mut Safe<'_>,
    ) -> Result<std::result::Result<(), Failure>> {
        let before = self.identity()?;
        if before.is_none() {
            return Ok(Err(Failure::Unknown("nothing is mounted".to_owned())));
        }
        let performed = self.carry_out(operation, known, safe)?;
        if self.identity()? != before {
            return Ok(Err(Failure::Unknown(format!("mounted anew meanwhile: {performed:?}"))));
        }
        Ok(performed.map_err(|error| {
            let text = error.to_string();
            if denies(&error) { Failure::Impossible(text) } else { Failure::Unknown(text) }
        }))
    }
}

/// Closes `file` and answers what that said, which `drop` does not.
fn close(file: File) -> io::Result<()> {
    nix::unistd::close(OwnedFd::from(file)).map_err(io::Error::from)
}

/// Whether an error cannot come from what is away, stopped or full.
fn denies(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::NotFound
            | Kind::AlreadyExists
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::DirectoryNotEmpty
            | Kind::PermissionDenied
            | Kind::InvalidInput
            | Kind::InvalidData
            | Kind::Unsupported
    )
}
