//! `kill -9` of a mount and of servers: what fsync promised is there, and the mount point is taken over.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{Cluster, errno, wait_until, with_cluster};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::{Rng, seed_of_run};

/// Small blocks, so that little data has several.
const SMALL_BLOCKS: [&str; 2] = ["-o", "block-size=65536"];

#[test]
fn the_mount_point_of_a_killed_mount_is_taken_over() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&[])?;
        fs::write(mount.path("f"), "content")?;
        let first = mount.pid()?;
        mount.kill_9()?;
        // A call that meets the kernel just then is answered with ECONNABORTED.
        wait_until(
            "the mount point is dead",
            || Ok(errno(fs::metadata(mount.path("f")))? == libc::ENOTCONN),
        )?;
        mount.mount()?;
        ensure!(mount.pid()? != first);
        ensure!(fs::read(mount.path("f"))? == b"content");
        // Closed files are no longer anybody's, and new ones can be made.
        OpenOptions::new().append(true).open(mount.path("f"))?.write_all(b" and more")?;
        ensure!(fs::read(mount.path("f"))? == b"content and more");
        // A mount that works is not mounted over.
        let place = format!(" {} fuse.dfs ", mount.path("").display().to_string().trim_end_matches('/'));
        let mounts_here =
            || Ok::<_, anyhow::Error>(fs::read_to_string("/proc/self/mounts")?.matches(&place).count());
        let serving = mount.pid()?;
        ensure!(mounts_here()? == 1, "not found: {place}");
        ensure!(mount.mount().is_err(), "a second mount at the same place");
        ensure!(mount.pid()? == serving);
        ensure!(mounts_here()? == 1);
        ensure!(fs::read(mount.path("f"))? == b"content and more");
        Ok(())
    })
}

#[test]
fn synced_bytes_survive_the_mount_and_a_datanode() -> Result<()> {
    let seed = seed_of_run("synced_bytes_survive_the_mount_and_a_datanode");
    with_cluster(&[], move |cluster| {
        let mount = cluster.mount(&SMALL_BLOCKS)?;
        let mut rng = Rng::new(seed);
        for round in 0..3 {
            let path = mount.path(format!("f{round}"));
            let file = File::create(&path)?;
            let mut synced = pattern(round, 0, 250_000);
            file.write_all_at(&synced, 0)?;
            file.sync_all()?;
            for number in 0..20 {
                let at = rng.index(245_000);
                let bytes = pattern(100 * round + number, 0, 1 + rng.index(5_000));
                file.write_all_at(&bytes, at as u64)?;
                file.sync_data()?;
                synced[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            // What follows is not synced: it may be there or not, and only it.
            let (at, len) = (rng.index(240_000), 10_000);
            file.write_all_at(&pattern(7_777, 0, len), at as u64)?;
            mount.kill_9()?;
            cluster.kill_9(|name| name == format!("datanode-{round}"))?;
            drop(file);
            mount.mount()?;
            let new = pattern(7_777, 0, len);
            let check = |got: &[u8]| -> Result<()> {
                ensure!(got.len() == 250_000, "{} bytes", got.len());
                ensure_same("before", &got[..at], &synced[..at])?;
                ensure_same("behind", &got[at + len..], &synced[at + len..])?;
                for (index, byte) in got[at..at + len].iter().enumerate() {
                    ensure!(
                        *byte == new[index] || *byte == synced[at + index],
                        "byte {} is neither",
                        at + index
                    );
                }
                Ok(())
            };
            check(&fs::read(&path).with_context(|| format!("seed {seed}, round {round}"))?)?;
            // Replicas may differ in what was not synced until the file is recovered. From then on readers agree, whichever
            // replica they get.
            wait_until("the file can be written again", || {
                Ok(OpenOptions::new().write(true).open(&path).is_ok())
            })?;
            let got = fs::read(&path)?;
            check(&got)?;
            cluster.start_again()?;
            for _ in 0..3 {
                ensure_same("read again", &cluster.dfs(&["cat", &format!("/f{round}")])?.ok()?.stdout, &got)?;
            }
        }
        Ok(())
    })
}

#[test]
fn synced_bytes_and_names_survive_everything() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&SMALL_BLOCKS)?;
        fs::create_dir(mount.path("d"))?;
        let mut names = Vec::new();
        let mut open = Vec::new();
        for number in 0..30u64 {
            let path = mount.path(format!("d/new-{number}"));
            let mut file = File::create(&path)?;
            file.write_all(&pattern(number, 0, 3_000 * number as usize))?;
            file.sync_all()?;
            if number % 2 == 0 {
                open.push(file);
            }
            let name = format!("d/{number}");
            fs::rename(&path, mount.path(&name))?;
            names.push((name, number));
        }
        File::open(mount.path("d"))?.sync_all()?;
        mount.kill_9()?;
        cluster.kill_9(|_| true)?;
        drop(open);
        cluster.start_again()?;
        mount.mount()?;
        for (name, number) in names {
            let got = fs::read(mount.path(&name)).with_context(|| name.clone())?;
            ensure_same(&name, &got, &pattern(number, 0, 3_000 * number as usize))?;
        }
        Ok(())
    })
}

#[test]
fn synced_names_of_a_busy_directory_survive_a_killed_mount_and_others_are_a_prefix() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&[])?;
        fs::create_dir(mount.path("d"))?;
        for number in 0..300 {
            fs::create_dir(mount.path(format!("d/{number}")))?;
            if number >= 10 {
                fs::remove_dir(mount.path(format!("d/{}", number - 10)))?;
            }
            if number == 200 {
                File::open(mount.path("d"))?.sync_all()?;
            }
        }
        mount.kill_9()?;
        mount.mount()?;
        let mut left = Vec::new();
        for entry in fs::read_dir(mount.path("d"))? {
            left.push(entry?.file_name().to_string_lossy().parse::<u64>()?);
        }
        left.sort_unstable();
        let (Some(first), Some(last)) = (left.first(), left.last()) else { anyhow::bail!("nothing is left") };
        ensure!(*last >= 200, "synced: {left:?}");
        // Ten are there, or eleven between a making and a removal.
        ensure!((10..=11).contains(&left.len()) && last - first + 1 == left.len() as u64, "{left:?}");
        Ok(())
    })
}

#[test]
fn closed_files_survive_a_killed_mount_without_fsync() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&SMALL_BLOCKS)?;
        for number in 0..40u64 {
            fs::write(mount.path(format!("f{number}")), pattern(number, 0, 2_500 * number as usize))?;
        }
        mount.kill_9()?;
        mount.mount()?;
        for number in 0..40u64 {
            let name = format!("f{number}");
            ensure_same(&name, &fs::read(mount.path(&name))?, &pattern(number, 0, 2_500 * number as usize))?;
        }
        Ok(())
    })
}

/// What a mount has closed without telling the namenode, which stands still, is whole for who looks once the mount's session has ended: also for who
/// waits for just that.
/// Has a mount close files of a directory that it has for itself while the namenode stands still, and be killed: so the namenode does not hear that they
/// are closed. `meanwhile` ends that, then the mount is there again.
fn with_closed_files_unheard_of(
    meanwhile: impl FnOnce(&Cluster) -> Result<()> + Send + 'static,
    check: impl FnOnce(&[(PathBuf, Vec<u8>)]) -> Result<()> + Send + 'static,
) -> Result<()> {
    with_cluster(&[], move |cluster| {
        let mount = cluster.mount(&[])?;
        let dir = mount.path("d");
        fs::create_dir(&dir)?;
        for number in 0..30 {
            fs::write(dir.join(format!("first{number}")), "content")?;
        }
        let (mut open, mut written) = (Vec::new(), Vec::new());
        for number in 0..60u64 {
            let (name, content) = (dir.join(format!("f{number}")), pattern(number, 0, 100 * number as usize));
            let file = File::create_new(&name)?;
            file.write_all_at(&content, 0)?;
            open.push(file);
            written.push((name, content));
        }
        // They are made.
        File::open(&dir)?.sync_all()?;
        cluster.stop("namenode", true)?;
        drop(open);
        mount.kill_9()?;
        meanwhile(cluster)?;
        mount.mount()?;
        check(&written)
    })
}

#[test]
fn closed_files_that_the_namenode_did_not_hear_of_are_recovered_before_others_look() -> Result<()> {
    with_closed_files_unheard_of(
        |cluster| cluster.stop("namenode", false),
        |written| {
            for (name, content) in written {
                let length = fs::metadata(name)?.len();
                ensure!(length == content.len() as u64, "{} has {length} bytes", name.display());
                ensure_same(&name.display().to_string(), &fs::read(name)?, content)?;
            }
            Ok(())
        },
    )
}

/// A namenode that is started anew does not wait so long for a mount that is gone.
#[test]
fn closed_files_that_the_namenode_did_not_hear_of_are_recovered_after_its_start() -> Result<()> {
    with_closed_files_unheard_of(
        |cluster| {
            cluster.kill_9(|_| true)?;
            cluster.start_again()
        },
        |written| {
            for (name, content) in written {
                let what = format!("{} is recovered", name.display());
                wait_until(&what, || Ok(fs::metadata(name)?.len() == content.len() as u64))?;
                ensure_same(&name.display().to_string(), &fs::read(name)?, content)?;
            }
            Ok(())
        },
    )
}

#[test]
fn files_without_a_name_are_freed_when_their_mount_is_killed() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&SMALL_BLOCKS)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("f"))?;
        file.write_all_at(&pattern(1, 0, 300_000), 0)?;
        file.sync_all()?;
        fs::remove_file(mount.path("f"))?;
        mount.kill_9()?;
        drop(file);
        wait_until("no replica is left", || {
            for index in 0..3 {
                let replicas = dfs_tests::replica_files::replicas_below(&cluster.datanode_directory(index))?;
                if replicas.iter().any(|(_, files)| files.data.metadata().is_ok_and(|data| data.len() > 0)) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    })
}
