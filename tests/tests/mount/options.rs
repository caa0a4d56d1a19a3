//! How a mount is made and taken away: by root and by an ordinary user, by `mount -t fuse.dfs` and fstab, read-only, for
//! others, below a directory, with other owners.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use dfs_tests::mount::{Cluster, errno, is_mounted, serving, wait_until, with_cluster};

use crate::commands::{command, finish, run};

/// An ordinary user that every Debian has, and its group.
const DAEMON: u32 = 1;

/// A command in the name of an ordinary user.
fn as_daemon(mut command: Command) -> Command {
    command.uid(DAEMON).gid(DAEMON);
    command
}

fn cat_as_daemon(path: &Path) -> Result<Output> {
    let mut cat = as_daemon(command("cat", Path::new("/")));
    Ok(cat.arg(path).output()?)
}

/// `dfs` for an ordinary user, in `directory`.
fn public_dfs(cluster: &Cluster, directory: &Path) -> Result<Command> {
    // dfs starts its sibling.
    cluster.public_program("dfs-fuse")?;
    let mut dfs = command(cluster.public_program("dfs")?, directory);
    dfs.env("DFS_NAMENODE", cluster.namenode_address());
    Ok(dfs)
}

/// A directory of an ordinary user, below one that it can reach.
fn daemons_directory() -> Result<tempfile::TempDir> {
    let directory = tempfile::Builder::new().prefix("dfs-daemon-").tempdir()?;
    chown(directory.path(), Some(DAEMON), Some(DAEMON))?;
    Ok(directory)
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() -> Result<()> {
    with_cluster(&[], |cluster| {
        cluster.dfs(&["chmod", "777", "/"])?.ok()?;
        let home = daemons_directory()?;
        let point = home.path().join("mnt");
        fs::create_dir(&point)?;
        chown(&point, Some(DAEMON), Some(DAEMON))?;
        let mount = cluster.adopt(point.clone(), &[]);
        for unmount in ["dfs", "fusermount3"] {
            let mut dfs = as_daemon(public_dfs(cluster, home.path())?);
            finish(dfs.arg("mount").arg(&point))?;
            ensure!(is_mounted(&point)?);
            let mut shell = as_daemon(command("sh", home.path()));
            let script = "echo mine > mnt/f; cat mnt/f; stat -c %U:%G mnt/f; rm mnt/f";
            let said = finish(shell.args(["-euc", script]))?;
            ensure!(said.stdout == b"mine\ndaemon:daemon\n", "{}", String::from_utf8_lossy(&said.stdout));
            // Nobody else may look into it, not even root.
            ensure!(errno(fs::read_dir(&point))? == libc::EACCES);
            let mut unmount = if unmount == "dfs" {
                let mut dfs = as_daemon(public_dfs(cluster, home.path())?);
                dfs.arg("umount").arg(&point);
                dfs
            } else {
                let mut fusermount = as_daemon(command(unmount, home.path()));
                fusermount.arg("-u").arg(&point);
                fusermount
            };
            finish(&mut unmount)?;
            ensure!(!is_mounted(&point)?);
            wait_until("the mount's process has ended", || Ok(serving(&point).is_empty()))?;
        }
        drop(mount);
        Ok(())
    })
}

#[test]
fn others_may_look_if_allowed_and_within_their_permissions() -> Result<()> {
    with_cluster(&[], |cluster| {
        let private = tempfile::Builder::new().prefix("dfs-other-").tempdir()?;
        fs::set_permissions(private.path(), fs::Permissions::from_mode(0o755))?;
        let points = [private.path().join("all"), private.path().join("own")];
        for point in &points {
            fs::create_dir(point)?;
        }
        let all = cluster.adopt(points[0].clone(), &["-o", "allow_other"]);
        let own = cluster.adopt(points[1].clone(), &[]);
        all.mount()?;
        own.mount()?;
        fs::write(all.path("open"), "open")?;
        fs::write(all.path("closed"), "closed")?;
        fs::set_permissions(all.path("closed"), fs::Permissions::from_mode(0o600))?;
        ensure!(cat_as_daemon(&all.path("open"))?.stdout == b"open");
        ensure!(!cat_as_daemon(&all.path("closed"))?.status.success());
        let mut touch = as_daemon(command("touch", Path::new("/")));
        ensure!(!touch.arg(all.path("new")).output()?.status.success());
        // Group membership counts, supplementary groups as well.
        chown(all.path("closed"), Some(0), Some(4))?;
        fs::set_permissions(all.path("closed"), fs::Permissions::from_mode(0o640))?;
        let closed = all.path("closed");
        let closed = closed.to_string_lossy();
        let with_group = ["setpriv", "--reuid=1", "--regid=1", "--groups=4", "cat", &closed];
        ensure!(run(Path::new("/"), &with_group)? == "closed");
        // What it makes is its own.
        fs::create_dir(all.path("shared"))?;
        fs::set_permissions(all.path("shared"), fs::Permissions::from_mode(0o1777))?;
        let mut touch = as_daemon(command("touch", Path::new("/")));
        finish(touch.arg(all.path("shared/new")))?;
        let metadata = fs::metadata(all.path("shared/new"))?;
        ensure!((metadata.uid(), metadata.gid()) == (DAEMON, DAEMON));
        Ok(())
    })
}

#[test]
fn a_read_only_mount_changes_nothing() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (writable, read_only) = (cluster.mount(&[])?, cluster.mount(&["-o", "ro"])?);
        fs::write(writable.path("f"), "text")?;
        ensure!(fs::read(read_only.path("f"))? == b"text");
        ensure!(errno(fs::write(read_only.path("f"), "no"))? == libc::EROFS);
        ensure!(errno(fs::write(read_only.path("g"), "no"))? == libc::EROFS);
        ensure!(errno(fs::create_dir(read_only.path("d")))? == libc::EROFS);
        ensure!(errno(fs::remove_file(read_only.path("f")))? == libc::EROFS);
        ensure!(fs::read(writable.path("f"))? == b"text");
        Ok(())
    })
}

#[test]
fn owners_can_be_given_for_the_whole_mount() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (plain, given) = (cluster.mount(&[])?, cluster.mount(&["-o", "uid=4711,gid=4712"])?);
        fs::write(plain.path("f"), "text")?;
        let metadata = fs::metadata(given.path("f"))?;
        ensure!((metadata.uid(), metadata.gid()) == (4711, 4712));
        ensure!(fs::metadata(plain.path("f"))?.uid() == 0);
        Ok(())
    })
}

#[test]
fn a_directory_of_the_cluster_is_mounted_alone() -> Result<()> {
    with_cluster(&[], |cluster| {
        cluster.dfs(&["mkdir", "-p", "/a/b"])?.ok()?;
        let (whole, part) = (cluster.mount(&[])?, cluster.mount(&["--subdir", "/a/b"])?);
        fs::write(part.path("f"), "text")?;
        ensure!(fs::read(whole.path("a/b/f"))? == b"text");
        ensure!(part.path("..").canonicalize()? == part.root().parent().unwrap_or(Path::new("/")));
        let missing = cluster.mount(&["--subdir", "/nowhere"]);
        ensure!(missing.is_err(), "a directory that is not there is mounted");
        Ok(())
    })
}

#[test]
fn a_mount_that_cannot_be_made_says_why() -> Result<()> {
    with_cluster(&[], |cluster| {
        let fail = |args: &[&str]| -> Result<String> {
            let finished = cluster.dfs(args)?;
            ensure!(finished.code == Some(1) || finished.code == Some(2), "{finished:?}");
            ensure!(finished.stderr.lines().count() <= 3, "{}", finished.stderr);
            Ok(finished.stderr)
        };
        let said = fail(&["mount", "/no/such/place"])?;
        ensure!(said.contains("/no/such/place"), "{said}");
        let point = cluster.home().join("point");
        fs::create_dir(&point)?;
        let point_text = point.to_string_lossy().into_owned();
        let said = fail(&["mount", &point_text, "-o", "no_such_option"])?;
        ensure!(said.contains("no_such_option"), "{said}");
        let said = fail(&["--namenode", "127.0.0.1:9", "mount", &point_text])?;
        ensure!(said.contains("127.0.0.1:9"), "{said}");
        let said = fail(&["umount", &point_text])?;
        ensure!(said.contains(&point_text), "{said}");
        ensure!(!is_mounted(&point)?);
        Ok(())
    })
}
