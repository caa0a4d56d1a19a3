//! Extended attributes, access control lists, times, owners, special files, figures of the file system.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{errno, wait_until, with_cluster, with_mount};

use crate::commands::{run, shell};
use crate::sys::{get_xattr, list_xattrs, remove_xattr, set_xattr};

fn ctime(path: &Path) -> Result<(i64, i64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.ctime(), metadata.ctime_nsec()))
}

#[test]
fn extended_attributes_are_set_listed_and_removed() -> Result<()> {
    with_mount(&[], |place| {
        let path = place.root.join("f");
        fs::write(&path, "")?;
        fs::create_dir(place.root.join("d"))?;
        let before = ctime(&path)?;
        let long = vec![7u8; 700];
        for name in ["user.a", "user.with space", "trusted.t", "security.s"] {
            set_xattr(&path, name, &long, 0)?;
            ensure!(get_xattr(&path, name)? == long, "{name}");
        }
        ensure!(ctime(&path)? > before, "ctime does not tell of new attributes");
        set_xattr(&place.root.join("d"), "user.dir", b"", 0)?;
        ensure!(get_xattr(&place.root.join("d"), "user.dir")?.is_empty());
        let names: Vec<String> =
            list_xattrs(&path)?.into_iter().filter(|name| name != "security.selinux").collect();
        ensure!(names == ["security.s", "trusted.t", "user.a", "user.with space"], "{names:?}");
        set_xattr(&path, "user.a", b"short", libc::XATTR_REPLACE)?;
        ensure!(get_xattr(&path, "user.a")? == b"short");
        ensure!(errno(set_xattr(&path, "user.a", b"", libc::XATTR_CREATE))? == libc::EEXIST);
        ensure!(errno(set_xattr(&path, "user.b", b"", libc::XATTR_REPLACE))? == libc::ENODATA);
        ensure!(errno(get_xattr(&path, "user.b"))? == libc::ENODATA);
        remove_xattr(&path, "user.a")?;
        ensure!(errno(remove_xattr(&path, "user.a"))? == libc::ENODATA);
        ensure!(errno(set_xattr(&path, "nonsense.a", b"", 0))? == libc::EOPNOTSUPP);
        ensure!(errno(set_xattr(&path, "user.large", &vec![0u8; 65_537], 0))? == libc::E2BIG);
        // They go with the file, through a rename and with a hard link.
        fs::hard_link(&path, place.root.join("g"))?;
        fs::rename(&path, place.root.join("h"))?;
        ensure!(get_xattr(&place.root.join("g"), "trusted.t")? == long);
        run(&place.root, &["getfattr", "-d", "-m", "-", "h"]).map(|_| ())
    })
}

#[test]
fn access_control_lists_are_kept_or_refused() -> Result<()> {
    with_mount(&["-o", "allow_other"], |place| {
        fs::write(place.root.join("f"), "secret")?;
        fs::set_permissions(place.root.join("f"), PermissionsExt::from_mode(0o600))?;
        fs::set_permissions(&place.root, PermissionsExt::from_mode(0o755))?;
        if shell(&place.root, "setfacl -m u:daemon:r f 2>/dev/null").is_err() {
            let refused = shell(&place.root, "setfacl -m u:daemon:r f 2>&1 || true")?;
            ensure!(refused.contains("not supported"), "{refused}");
            return Ok(());
        }
        let list = run(&place.root, &["getfacl", "-c", "f"])?;
        ensure!(list.contains("user:daemon:r--"), "{list}");
        ensure!(
            run(&place.root, &["setpriv", "--reuid=1", "--regid=1", "--clear-groups", "cat", "f"])?
                == "secret"
        );
        let refused =
            run(&place.root, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", "f"]);
        ensure!(refused.is_err());
        // New files of a directory with a default list have it.
        shell(
            &place.root,
            "mkdir d; setfacl -d -m u:daemon:rwx d; touch d/f; getfacl -c d/f | grep -q user:daemon:rwx",
        )
        .map(|_| ())
    })
}

#[test]
fn times_have_nanoseconds_and_follow_what_is_done() -> Result<()> {
    with_mount(&[], |place| {
        let path = place.root.join("f");
        fs::write(&path, "x")?;
        for (seconds, nanoseconds) in [(1_234_567_890, 123_456_789), (0, 1), (4_102_444_800, 999_999_999)] {
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            File::open(&path)?.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time))?;
            let metadata = fs::metadata(&path)?;
            ensure!(metadata.modified()? == time && metadata.accessed()? == time, "{metadata:?}");
        }
        run(&place.root, &["touch", "-d", "1950-01-01T00:00:00Z", "f"])?;
        ensure!(fs::metadata(&path)?.mtime() == -631_152_000, "{}", fs::metadata(&path)?.mtime());
        // The clock moves on between two steps, so that an order can be seen.
        let step = |what: &str, act: &dyn Fn() -> Result<()>, modified: bool| -> Result<()> {
            let before = fs::metadata(&path)?;
            let (mtime, ctime) = (before.modified()?, (before.ctime(), before.ctime_nsec()));
            wait_until("the clock moves on", || {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
                Ok((now.as_secs() as i64, i64::from(now.subsec_nanos())) > (ctime.0, ctime.1 + 20_000_000))
            })?;
            act()?;
            let after = fs::metadata(&path)?;
            ensure!((after.ctime(), after.ctime_nsec()) > ctime, "{what}: ctime did not move");
            ensure!((after.modified()? != mtime) == modified, "{what}: mtime {:?}", after.modified()?);
            Ok(())
        };
        step("write", &|| Ok(fs::write(&path, "y")?), true)?;
        step("append", &|| Ok(OpenOptions::new().append(true).open(&path)?.write_all(b"z")?), true)?;
        step("overwrite", &|| Ok(OpenOptions::new().write(true).open(&path)?.write_all(b"o")?), true)?;
        step("truncate", &|| Ok(OpenOptions::new().write(true).open(&path)?.set_len(1)?), true)?;
        step("chmod", &|| Ok(fs::set_permissions(&path, PermissionsExt::from_mode(0o640))?), false)?;
        step("link", &|| Ok(fs::hard_link(&path, place.root.join("g"))?), false)?;
        step("unlink of another name", &|| Ok(fs::remove_file(place.root.join("g"))?), false)?;
        // A directory's times tell of its entries.
        let directory = place.root.join("d");
        fs::create_dir(&directory)?;
        let before = fs::metadata(&directory)?.modified()?;
        wait_until("the clock moves on", || {
            Ok(SystemTime::now().duration_since(before)? > Duration::from_millis(20))
        })?;
        fs::write(directory.join("f"), "")?;
        ensure!(fs::metadata(&directory)?.modified()? > before);
        Ok(())
    })
}

#[test]
fn owners_are_names_in_the_cluster_and_numbers_here() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&[])?;
        let path = mount.path("f");
        fs::write(&path, "")?;
        std::os::unix::fs::chown(&path, Some(1), Some(1))?;
        let listed = cluster.dfs(&["ls", "/f"])?.ok()?.text();
        ensure!(listed.contains("daemon"), "{listed}");
        // A number without a name on this machine stays that number.
        std::os::unix::fs::chown(&path, Some(54_321), Some(54_322))?;
        let metadata = fs::metadata(&path)?;
        ensure!((metadata.uid(), metadata.gid()) == (54_321, 54_322));
        let listed = cluster.dfs(&["ls", "/f"])?.ok()?.text();
        ensure!(listed.contains("54321") && listed.contains("54322"), "{listed}");
        mount.unmount()?;
        mount.mount()?;
        let metadata = fs::metadata(&path)?;
        ensure!((metadata.uid(), metadata.gid()) == (54_321, 54_322));
        // An owner that this machine does not know belongs to nobody.
        cluster.dfs(&["chown", "no-such-user:no-such-group", "/f"])?.ok()?;
        wait_until("the new owner is seen", || Ok(fs::metadata(&path)?.uid() == 65_534))?;
        // And is not changed by what does not concern it.
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        let listed = cluster.dfs(&["ls", "/f"])?.ok()?.text();
        ensure!(listed.contains("no-such-user"), "{listed}");
        Ok(())
    })
}

#[test]
fn special_files_work() -> Result<()> {
    with_mount(&[], |place| {
        run(&place.root, &["mkfifo", "pipe"])?;
        let (pipe, writer) = (place.root.join("pipe"), place.root.join("pipe"));
        let thread = std::thread::spawn(move || fs::write(writer, "through"));
        let mut text = String::new();
        File::open(&pipe)?.read_to_string(&mut text)?;
        thread.join().ok().context("the writer")??;
        ensure!(text == "through");
        // A socket's path has at most 108 bytes: it is named from its directory.
        let link = tempfile::tempdir()?;
        symlink(&place.root, link.path().join("m"))?;
        let address = link.path().join("m/socket");
        let listener = UnixListener::bind(&address)?;
        let mut client = UnixStream::connect(&address)?;
        client.write_all(b"hello")?;
        let mut got = [0u8; 5];
        listener.accept()?.0.read_exact(&mut got)?;
        ensure!(&got == b"hello" && fs::metadata(place.root.join("socket"))?.file_type().is_socket());
        run(&place.root, &["mknod", "zero", "c", "1", "5"])?;
        let device = fs::metadata(place.root.join("zero"))?;
        ensure!(device.file_type().is_char_device() && device.rdev() == libc::makedev(1, 5));
        let target = "t/".repeat(2_000) + "end";
        symlink(&target, place.root.join("long"))?;
        ensure!(fs::read_link(place.root.join("long"))?.as_os_str() == target.as_str());
        Ok(())
    })
}

#[test]
fn statfs_tells_the_clusters_figures() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&[])?;
        let figures = nix::sys::statvfs::statvfs(mount.root())?;
        let unit = figures.fragment_size();
        let (total, free) = (figures.blocks() * unit, figures.blocks_available() * unit);
        ensure!(figures.name_max() == 255);
        ensure!(total > 1 << 20 && free > 0 && free <= total, "{total} {free}");
        ensure!(figures.files() > 0 && figures.files_free() > 0);
        let stats = cluster.dfs(&["df", "/"])?.ok()?.text();
        ensure!(
            stats
                .split_ascii_whitespace()
                .flat_map(str::parse::<u64>)
                .any(|figure| { figure.abs_diff(total) <= unit || figure.abs_diff(total) < total / 100 }),
            "{total} is not in {stats}"
        );
        Ok(())
    })
}
