//! How a mount is made and taken away: by root and by an ordinary user, by `mount -t fuse.dfs` and fstab, read-only, for
//! others, below a directory, with other owners.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use dfs_tests::mount::{Cluster, errno, is_mounted, with_cluster};

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

/// Runs a script of root in a mount namespace of its own, with `DFS`, `NAMENODE` and a home directory of an ordinary user, in which it
/// works. Mounts that the script makes are seen by nobody else and end with it.
fn in_a_namespace(cluster: &Cluster, script: &str) -> Result<String> {
    let dfs = cluster.public_program("dfs")?;
    // dfs starts its sibling.
    let fuse = cluster.public_program("dfs-fuse")?;
    let home = tempfile::Builder::new().prefix("dfs-daemon-").tempdir()?;
    chown(home.path(), Some(DAEMON), Some(DAEMON))?;
    let mut unshare = command("unshare", home.path());
    unshare.args(["--mount", "--propagation", "private", "sh", "-euc", script]);
    unshare.env("DFS", dfs).env("FUSE", fuse).env("DFS_NAMENODE", cluster.namenode_address());
    let output = finish(&mut unshare)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() -> Result<()> {
    with_cluster(&[], |cluster| {
        cluster.dfs(&["chmod", "777", "/"])?.ok()?;
        // Machines let users open /dev/fuse; where only root may, this namespace does as they do.
        let said = in_a_namespace(
            cluster,
            "mkdir dev mnt; chown 1:1 mnt; mount -t tmpfs none dev; mknod -m 666 dev/fuse c 10 229
             mount --bind dev/fuse /dev/fuse
             cat > user <<'END'
             $DFS mount $PWD/mnt --log $PWD/log
             grep -q $PWD/mnt /proc/mounts
             echo mine > mnt/f; cat mnt/f; stat -c %U:%G mnt/f; rm mnt/f
             touch $PWD/ready; until test -e $PWD/go; do sleep 0.1; done
             $DFS umount $PWD/mnt
             ! grep -q $PWD/mnt /proc/mounts
             $DFS mount $PWD/mnt --log $PWD/log --passthrough 2>&1 | grep -o 'passthrough needs .*'
             fusermount3 -u $PWD/mnt
             ! grep -q $PWD/mnt /proc/mounts
END
             setpriv --reuid=1 --regid=1 --clear-groups sh -eu user & user=$!
             until test -e ready || ! kill -0 $user; do sleep 0.1; done
             # Nobody else may look into it, not even root.
             if test -e ready && ls mnt 2> /dev/null; then echo root sees it; fi
             touch go; wait $user",
        )?;
        let expected = "mine\ndaemon:daemon\npassthrough needs CAP_SYS_ADMIN: mounted without\n";
        ensure!(said == expected, "{said}");
        Ok(())
    })
}

#[test]
fn mount_and_fstab_know_the_type() -> Result<()> {
    with_cluster(&[], |cluster| {
        // mount(8) looks for helpers in /sbin; in this namespace ours is there.
        let said = in_a_namespace(
            cluster,
            "mkdir tmp; mount -t tmpfs none tmp; mkdir tmp/old tmp/new mnt
             sbin=$(readlink -f /sbin); mount --bind $sbin tmp/old
             for program in tmp/old/*; do ln -s $PWD/$program tmp/new/; done
             rm -f tmp/new/mount.fuse.dfs; ln -s $FUSE tmp/new/mount.fuse.dfs
             mount --bind tmp/new $sbin
             address=$DFS_NAMENODE; unset DFS_NAMENODE
             mount -t fuse.dfs -o cache-ttl=0.5,log=$PWD/log $address mnt
             echo one > mnt/f; cat mnt/f; stat -f -c %T mnt > /dev/null; umount mnt
             echo \"$address $PWD/mnt fuse.dfs defaults,noauto,_netdev,ro,log=$PWD/log 0 0\" > fstab
             mount -T fstab $PWD/mnt; cat mnt/f
             if echo no > mnt/f; then echo it is written; fi 2> /dev/null
             mount -o remount,rw $PWD/mnt; echo two > mnt/f; cat mnt/f
             umount mnt",
        )?;
        ensure!(said == "one\none\ntwo\n", "{said}");
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
