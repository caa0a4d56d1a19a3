//! `getattr` and `setattr`.

use std::sync::Arc;
use std::time::Instant;

use dfs_client::fs::{SetAttributes, SetTime};
use fuser::{FileAttr, FileType, INodeNo, ReplyAttr, TimeOrNow};

use crate::attributes::requested_ns;
use crate::caller::{Asker, Who};
use crate::errno::Refusal;
use crate::mount::Mount;

/// What is to be set; what is `None` stays.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Permission bits and type, of which the type is not looked at.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeOrNow>,
    /// Modification time.
    pub mtime: Option<TimeOrNow>,
    /// The file is open for writing.
    pub opened: bool,
    /// Clear set-user-id and set-group-id.
    pub kill_privileges: bool,
}

impl Setting {
    fn changes_owner(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    /// `kills`: whether a change of owner takes privileges away.
    fn for_cluster(self, mount: &Mount, kills: bool) -> SetAttributes {
        let time = |time: TimeOrNow| requested_ns(time).map_or(SetTime::Now, SetTime::At);
        SetAttributes {
            mode: self.mode.map(|mode| mode & 0o7777),
            owner: self.uid.map(|uid| mount.owners.user_name(uid).to_string()),
            group: self.gid.map(|gid| mount.owners.group_name(gid).to_string()),
            size: self.size,
            atime: self.atime.map(time),
            mtime: self.mtime.map(time),
            kill_privileges: self.kill_privileges || kills,
            opened: self.opened,
        }
    }
}

/// `getattr`.
pub fn getattr(mount: &Arc<Mount>, who: Who, ino: INodeNo, reply: ReplyAttr) {
    let inode = mount.inode(ino);
    if let Some((node, left)) = mount.known(inode, Instant::now()) {
        return reply.attr(&left, &node.attr);
    }
    let shared = mount.clone();
    let work = async move { Ok((shared.stat(who, inode).await?.attr, shared.ttl())) };
    mount.answer(who, reply, work, |reply, (attr, ttl)| reply.attr(&ttl, &attr));
}

/// `setattr`.
pub fn setattr(mount: &Arc<Mount>, who: Who, ino: INodeNo, setting: Setting, reply: ReplyAttr) {
    let shared = mount.clone();
    let work = async move { Ok((shared.set(who, ino, setting).await?, shared.ttl())) };
    mount.answer(who, reply, work, |reply, (attr, ttl)| reply.attr(&ttl, &attr));
}

impl Mount {
    async fn set(&self, who: Who, ino: INodeNo, setting: Setting) -> Result<FileAttr, Refusal> {
        let inode = self.inode(ino);
        if setting.size.is_some()
            && let Some(passthrough) = self.passthrough.get()
        {
            // Who reads a replica's file would not see the new end.
            passthrough.left(inode).await?;
        }
        // Changing the owner of anything but a directory takes away the privileges that its owner gave it; the kernel
        // leaves that to the file system.
        let kills = setting.changes_owner()
            && setting.mode.is_none()
            && self.current(who, inode).await?.attr.kind != FileType::Directory;
        let set = setting.for_cluster(self, kills);
        // A group that the caller is not in silently costs the set-group-id bit, and only members may give a file to a
        // group: here groups decide about more than yes or no.
        let groups_decide =
            setting.mode.is_some_and(|mode| mode & libc::S_ISGID != 0) || setting.gid.is_some();
        let mut asker = if groups_decide && who.uid != 0 {
            Asker::with_all_groups(who, &self.owners)
        } else {
            Asker::new(who, &self.owners)
        };
        let status = loop {
            match self.fs.set_attributes(asker.caller(), inode, set.clone()).await {
                Err(refusal) if asker.widen(&refusal) => {}
                answer => break answer?,
            }
        };
        // A file that is cut is cut in the kernel's pages too.
        self.contents.changed_once(inode, status.change);
        let mut node = self.learn_change(&status);
        if let Some(written) = self.fs.written(inode) {
            node.overlay(&written);
        }
        Ok(node.attr)
    }
}
