//! What the kernel does by itself if a mount asks for it: reading replicas' files (`--passthrough`) and gathering what is written
//! (`--writeback-cache`).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{Cluster, Mount, errno, wait_until, with_cluster};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::replica_files::{Damage, replicas_below};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys::{drop_pages, seek};

/// Size of a file of one block, not a whole number of pages or chunks.
const SIZE: usize = (3 << 20) + 1_234;

/// Longest that the kernel needs for reading a file that is in memory.
const LONG_FOR_THE_KERNEL: Duration = Duration::from_secs(3);

/// The first kernel that reads files itself.
const FIRST_WITH_PASSTHROUGH: (u32, u32) = (6, 9);

/// A mount with `--passthrough`; `None` if this kernel does not have that, which the mount must have said.
fn passthrough<'c>(cluster: &'c Cluster, options: &[&str]) -> Result<Option<Mount<'c>>> {
    let root = cluster.home().join("passthrough");
    fs::create_dir(&root)?;
    let options: Vec<&str> = ["--passthrough"].into_iter().chain(options.iter().copied()).collect();
    let mount = cluster.adopt(root, &options);
    let said = mount.mount()?.stderr;
    if said.is_empty() {
        return Ok(Some(mount));
    }
    ensure!(said.contains("this kernel has no passthrough: mounted without"), "{said}");
    ensure!(!kernel_has_passthrough()?, "this kernel should have it: {said}");
    eprintln!("\n**** SKIPPED: this kernel has no FUSE passthrough ****\n");
    fs::write(mount.path("f"), "text")?;
    ensure!(fs::read(mount.path("f"))? == b"text");
    Ok(None)
}

fn kernel_has_passthrough() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return Ok(false) };
    Ok((major?, minor?) >= FIRST_WITH_PASSTHROUGH)
}

/// Reads `file` while the process of `mount` is stopped. `None`: there was no answer before it went on, so that it is not the kernel
/// that reads.
fn read_without_asking(mount: &Mount<'_>, file: &File, len: usize) -> Result<Option<Vec<u8>>> {
    let process = Pid::from_raw(mount.pid()?);
    drop_pages(file)?;
    kill(process, Signal::SIGSTOP)?;
    let outcome = std::thread::scope(|scope| {
        let (done, answered) = channel();
        scope.spawn(move || {
            let mut content = vec![0; len];
            // Nobody listens when it is too late.
            let _ = done.send(file.read_exact_at(&mut content, 0).map(|()| content));
        });
        let answer = answered.recv_timeout(LONG_FOR_THE_KERNEL);
        kill(process, Signal::SIGCONT)?;
        Ok::<_, anyhow::Error>(answer.ok())
    });
    Ok(outcome?.transpose()?)
}

/// Opens a file of `len` bytes such that the kernel reads it, which is so once earlier handles are closed: the mount hears of that
/// a moment after the program. Answers its content, too.
fn open_to_the_replica(mount: &Mount<'_>, path: &Path, len: usize) -> Result<(File, Vec<u8>)> {
    let mut opened = None;
    wait_until("the kernel reads the replica", || {
        let file = File::open(path)?;
        opened = read_without_asking(mount, &file, len)?.map(|content| (file, content));
        Ok(opened.is_some())
    })?;
    opened.context("it was opened")
}

#[test]
fn passthrough_reads_a_replica_without_asking_the_mount() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (Some(mount), other) = (passthrough(cluster, &[])?, cluster.mount(&[])?) else { return Ok(()) };
        let content = pattern(1, 0, SIZE);
        fs::write(other.path("f"), &content)?;
        let (first, second) = (File::open(mount.path("f"))?, File::open(mount.path("f"))?);
        for file in [&first, &second] {
            let read =
                read_without_asking(&mount, file, SIZE)?.context("the kernel has it, and does not use it")?;
            ensure_same("read by the kernel", &read, &content)?;
        }
        ensure!(first.read_at(&mut [0; 10], SIZE as u64)? == 0, "behind the end");
        // Another mount overwrites it in place: its readers see that, those who open it later for sure.
        let writer = OpenOptions::new().write(true).open(other.path("f"))?;
        writer.write_all_at(b"other bytes", 1_000_000)?;
        drop(writer);
        let changed = fs::read(mount.path("f"))?;
        ensure!(changed[1_000_000..].starts_with(b"other bytes") && changed.len() == SIZE);
        drop((first, second));
        // Another file takes its name.
        fs::write(other.path("g"), b"short")?;
        fs::rename(other.path("g"), other.path("f"))?;
        wait_until(
            "the new file is seen",
            || Ok(fs::read(mount.path("f")).is_ok_and(|read| read == b"short")),
        )
    })
}

#[test]
fn passthrough_and_writing_take_turns() -> Result<()> {
    with_cluster(&[], |cluster| {
        let Some(mount) = passthrough(cluster, &[])? else { return Ok(()) };
        let path = mount.path("f");
        fs::write(&path, pattern(2, 0, SIZE))?;
        // Through the mount while it is written, and after.
        let writer = OpenOptions::new().write(true).open(&path)?;
        writer.write_all_at(b"new", 5)?;
        let reader = File::open(&path)?;
        let mut read = [0; 3];
        reader.read_exact_at(&mut read, 5)?;
        ensure!(&read == b"new");
        drop((writer, reader));
        // A reader of the replica's file is waited for, for a while.
        let (reader, content) = open_to_the_replica(&mount, &path, SIZE)?;
        ensure!(&content[5..8] == b"new");
        ensure!(errno(OpenOptions::new().append(true).open(&path))? == libc::EBUSY);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| OpenOptions::new().append(true).open(&path)?.write_all(b"end"));
            drop(reader);
            writing.join().map_err(|_| anyhow::anyhow!("panicked"))?.context("the reader is gone")
        })?;
        fs::OpenOptions::new().write(true).open(&path)?.set_len(SIZE as u64 + 1)?;
        let read = fs::read(&path)?;
        ensure!(read.len() == SIZE + 1 && read.ends_with(b"e"));
        Ok(())
    })
}

#[test]
fn passthrough_takes_no_other_files() -> Result<()> {
    with_cluster(&[], |cluster| {
        let Some(mount) = passthrough(cluster, &["--block-size=1m"])? else { return Ok(()) };
        // Several blocks; a hole at the end; nothing at all; damaged replicas.
        let content = pattern(3, 0, SIZE);
        fs::write(mount.path("blocks"), &content)?;
        let hole = File::create(mount.path("hole"))?;
        hole.write_all_at(b"begin", 0)?;
        hole.set_len(100_000)?;
        drop(hole);
        File::create(mount.path("empty"))?;
        ensure_same("blocks", &fs::read(mount.path("blocks"))?, &content)?;
        let read = fs::read(mount.path("hole"))?;
        ensure!(read.len() == 100_000 && read.starts_with(b"begin\0") && read.ends_with(&[0; 1_000]));
        ensure!(fs::read(mount.path("empty"))?.is_empty());
        let small = pattern(4, 0, 500_000);
        fs::write(mount.path("small"), &small)?;
        let mut damaged = 0;
        for datanode in [0, 1] {
            for (_, replica) in replicas_below(&cluster.datanode_directory(datanode))? {
                if fs::metadata(&replica.data)?.len() == small.len() as u64 {
                    replica.damage(Damage::FlipBit(300_000))?;
                    damaged += 1;
                }
            }
        }
        ensure!(damaged == 2, "{damaged} replicas were found");
        ensure_same("small", &fs::read(mount.path("small"))?, &small)
    })
}

#[test]
fn a_mount_that_gathers_writes_loses_none() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (mount, other) = (cluster.mount(&["--writeback-cache"])?, cluster.mount(&[])?);
        // Many small writes in a row; what is closed is seen elsewhere.
        let mut file = File::create(mount.path("small"))?;
        let mut expected = Vec::new();
        for number in 0..5_000 {
            let line = format!("line {number}\n");
            file.write_all(line.as_bytes())?;
            expected.extend_from_slice(line.as_bytes());
        }
        drop(file);
        ensure_same("elsewhere", &fs::read(other.path("small"))?, &expected)?;
        let (here, there) = (fs::metadata(mount.path("small"))?, fs::metadata(other.path("small"))?);
        ensure!(
            (here.len(), here.mtime(), here.mtime_nsec()) == (there.len(), there.mtime(), there.mtime_nsec())
        );
        // Part of a page, through a descriptor that cannot read.
        fs::write(other.path("part"), pattern(5, 0, 20_000))?;
        let file = OpenOptions::new().write(true).open(mount.path("part"))?;
        file.write_all_at(b"within", 9_000)?;
        drop(file);
        let mut expected = pattern(5, 0, 20_000);
        expected[9_000..9_006].copy_from_slice(b"within");
        ensure_same("part of a page", &fs::read(other.path("part"))?, &expected)?;
        // Appending by several descriptors; cutting; growing; looking for data before it is written back.
        let appending = || OpenOptions::new().append(true).create(true).open(mount.path("log"));
        let (mut first, mut second) = (appending()?, appending()?);
        for _ in 0..100 {
            first.write_all(b"first ")?;
            second.write_all(b"second ")?;
        }
        drop((first, second));
        ensure!(fs::read(other.path("log"))? == b"first second ".repeat(100));
        let file = File::create_new(mount.path("holes"))?;
        file.set_len(200_000)?;
        file.write_all_at(b"data", 150_000)?;
        ensure!(seek(&file, 0, libc::SEEK_DATA)? <= 150_000, "data was passed over");
        file.set_len(150_002)?;
        drop(file);
        let read = fs::read(other.path("holes"))?;
        ensure!(read.len() == 150_002 && read.ends_with(b"\0da"));
        // A time that was set stays.
        let file = OpenOptions::new().write(true).open(mount.path("small"))?;
        file.write_all_at(b"LINE", 0)?;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        file.set_modified(time)?;
        drop(file);
        ensure!(File::open(other.path("small"))?.metadata()?.mtime() == 1_000_000);
        // What is synced survives the mount.
        let file = File::create(mount.path("synced"))?;
        file.write_all_at(&pattern(6, 0, 300_000), 0)?;
        file.sync_all()?;
        mount.kill_9()?;
        drop(file);
        wait_until("the name is seen", || Ok(other.path("synced").exists()))?;
        ensure_same("synced", &fs::read(other.path("synced"))?, &pattern(6, 0, 300_000))
    })
}

#[test]
fn one_of_the_two_can_be_had() -> Result<()> {
    with_cluster(&[], |cluster| {
        let point = cluster.home().join("point");
        fs::create_dir(&point)?;
        let point = point.to_string_lossy().into_owned();
        let both = cluster.dfs(&["mount", &point, "--passthrough", "--writeback-cache"])?;
        ensure!(both.code == Some(2), "{both:?}");
        ensure!(both.stderr.contains("cannot be had together"), "{}", both.stderr);
        Ok(())
    })
}
