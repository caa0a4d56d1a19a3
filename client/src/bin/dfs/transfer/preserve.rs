//! Modes, times and owners kept by `-p`.

use std::collections::HashMap;
use std::fs::{File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_client::{DfsClient, DfsError, ErrorKind, FileStatus};
use nix::unistd::{Gid, Group, Uid, User};

use crate::mode::ALL_BITS;
use crate::times;

/// Attributes of a source that its copy shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Last access, ns.
    pub atime_ns: i64,
    /// Last change, ns.
    pub mtime_ns: i64,
    /// Name of the owner, if known.
    pub owner: Option<String>,
    /// Name of the group, if known.
    pub group: Option<String>,
}

impl Attributes {
    /// Of a node of the namespace.
    pub fn of_remote(status: &FileStatus) -> Self {
        Self {
            mode: status.mode,
            atime_ns: status.atime_ns,
            mtime_ns: status.mtime_ns,
            owner: Some(status.owner.clone()),
            group: Some(status.group.clone()),
        }
    }

    /// Of a local file.
    pub fn of_local(metadata: &Metadata, names: &Names) -> Self {
        let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            mode: metadata.mode() & ALL_BITS,
            atime_ns: ns(metadata.atime(), metadata.atime_nsec()),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            owner: names.user(metadata.uid()),
            group: names.group(metadata.gid()),
        }
    }

    /// Gives them to a node whose attributes are `current` now. Owner and group are left to the namenode's
    /// rules: who may not set them keeps his own.
    pub async fn apply_remote(
        &self,
        client: &DfsClient,
        path: &str,
        current: &FileStatus,
    ) -> Result<(), DfsError> {
        let owner = self.owner.as_deref().filter(|owner| *owner != current.owner);
        let group = self.group.as_deref().filter(|group| *group != current.group);
        if owner.is_some() || group.is_some() {
            match client.set_owner(path, owner, group).await {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotPermitted | ErrorKind::AccessDenied) => {}
                Err(error) => return Err(error),
            }
        }
        // Changing the owner may take the set-id bits away.
        let set_id = self.mode & 0o6000 != 0 && (owner.is_some() || group.is_some());
        if current.mode != self.mode || set_id {
            client.set_permission(path, self.mode).await?;
        }
        let accessed = times::to_system(self.atime_ns);
        let modified = times::to_system(self.mtime_ns);
        client.set_times(path, Some(accessed), Some(modified)).await
    }

    /// Gives them to a local file or directory. Owner and group only if this process may.
    pub fn apply_local(&self, path: &Path, names: &Names) -> io::Result<()> {
        let file = File::open(path)?;
        if nix::unistd::geteuid().is_root() {
            let uid = self.owner.as_deref().and_then(|owner| names.uid(owner));
            let gid = self.group.as_deref().and_then(|group| names.gid(group));
            std::os::unix::fs::fchown(&file, uid, gid)?;
        }
        let file_times = FileTimes::new()
            .set_accessed(times::to_system(self.atime_ns))
            .set_modified(times::to_system(self.mtime_ns));
        file.set_times(file_times)?;
        file.set_permissions(Permissions::from_mode(self.mode))
    }
}

/// Names of users and groups, each looked up once. A lookup may ask a directory service, a tree has
/// few owners.
#[derive(Debug, Default)]
pub struct Names {
    users: Mutex<HashMap<u32, Option<String>>>,
    groups: Mutex<HashMap<u32, Option<String>>>,
    uids: Mutex<HashMap<String, Option<u32>>>,
    gids: Mutex<HashMap<String, Option<u32>>>,
}

impl Names {
    /// Name of a user.
    pub fn user(&self, uid: u32) -> Option<String> {
        let look_up = || Some(User::from_uid(Uid::from_raw(uid)).ok()??.name);
        locked(&self.users).entry(uid).or_insert_with(look_up).clone()
    }

    /// Name of a group.
    pub fn group(&self, gid: u32) -> Option<String> {
        let look_up = || Some(Group::from_gid(Gid::from_raw(gid)).ok()??.name);
        locked(&self.groups).entry(gid).or_insert_with(look_up).clone()
    }

    fn uid(&self, name: &str) -> Option<u32> {
        let look_up = || Some(User::from_name(name).ok()??.uid.as_raw());
        *locked(&self.uids).entry(name.to_owned()).or_insert_with(look_up)
    }

    fn gid(&self, name: &str) -> Option<u32> {
        let look_up = || Some(Group::from_name(name).ok()??.gid.as_raw());
        *locked(&self.gids).entry(name.to_owned()).or_insert_with(look_up)
    }
}

/// A cache that a panicking thread left behind is still a cache.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_attributes_survive_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let names = Names::default();
        let wanted = Attributes {
            mode: 0o640,
            atime_ns: 1_000_000_001_000_000_007,
            mtime_ns: 1_500_000_000_123_456_789,
            owner: names.user(nix::unistd::geteuid().as_raw()),
            group: names.group(nix::unistd::getegid().as_raw()),
        };
        for path in [path.as_path(), dir.path()] {
            let wanted =
                if path.is_dir() { Attributes { mode: 0o750, ..wanted.clone() } } else { wanted.clone() };
            wanted.apply_local(path, &names).unwrap();
            let found = Attributes::of_local(&std::fs::metadata(path).unwrap(), &names);
            assert_eq!(found, wanted);
        }
    }
}
