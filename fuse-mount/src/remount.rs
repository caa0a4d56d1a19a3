//! `-o remount`: other flags for a mount that stays, such as `ro`.
//!
//! mount(8) leaves that to the program that mounts too.

use std::path::Path;

use fuser::MountOption;
use nix::mount::{MsFlags, mount};

use crate::error::MountError;
use crate::options::Options;

/// Gives the mount at `options.mountpoint` the flags of `options`.
pub fn remount(options: &Options) -> Result<(), MountError> {
    let root = nix::unistd::geteuid().is_root();
    let none: Option<&Path> = None;
    mount(none, &options.mountpoint, none, flags(&options.kernel_options(root)), none)
        .map_err(|errno| MountError::Mount { path: options.mountpoint.clone(), source: errno.into() })
}

fn flags(options: &[MountOption]) -> MsFlags {
    let given = |option: &MountOption| match option {
        MountOption::RO => MsFlags::MS_RDONLY,
        MountOption::NoExec => MsFlags::MS_NOEXEC,
        MountOption::NoAtime => MsFlags::MS_NOATIME,
        MountOption::Sync => MsFlags::MS_SYNCHRONOUS,
        MountOption::DirSync => MsFlags::MS_DIRSYNC,
        _ => MsFlags::empty(),
    };
    let mut flags = options.iter().map(given).fold(MsFlags::MS_REMOUNT, |all, one| all | one);
    flags.set(MsFlags::MS_NODEV, !options.contains(&MountOption::Dev));
    flags.set(MsFlags::MS_NOSUID, !options.contains(&MountOption::Suid));
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mount_8_passes_on_becomes_flags() {
        let mut options = Options::new("/mnt".into());
        options
            .list("remount,ro,nosuid,relatime,user_id=0,group_id=0,default_permissions,allow_other")
            .unwrap();
        assert!(options.remount);
        let flags = flags(&options.kernel_options(true));
        assert_eq!(flags, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
    }
}
