//! Servers that are away for a while: operations wait, go on when the servers are back, can be interrupted, and fail in the end.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{errno, wait_until, with_cluster};
use dfs_tests::pattern::{ensure_same, pattern};

use crate::commands::{command, shell};

/// Long enough that an operation which does not wait would have ended.
const A_WHILE: Duration = Duration::from_secs(2);

/// Small blocks, so that writes need the namenode again and again.
const SMALL_BLOCKS: [&str; 2] = ["-o", "block-size=65536"];

/// Does `work` on another thread.
pub fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, outcome) = channel();
    std::thread::spawn(move || {
        // Nobody listens when the test has failed.
        let _ = done.send(work());
    });
    outcome
}

/// That it has not ended.
pub fn still_waits<T: std::fmt::Debug>(outcome: &Receiver<T>) -> Result<()> {
    let early = outcome.recv_timeout(A_WHILE);
    ensure!(matches!(early, Err(RecvTimeoutError::Timeout)), "it did not wait: {early:?}");
    Ok(())
}

#[test]
fn operations_wait_for_the_namenode_and_go_on() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&SMALL_BLOCKS)?;
        fs::write(mount.path("old"), "old")?;
        let open = OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("open"))?;
        open.write_all_at(&pattern(1, 0, 100_000), 0)?;
        let unlinked = OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("gone"))?;
        unlinked.write_all_at(&pattern(2, 0, 100_000), 0)?;
        unlinked.sync_all()?;
        fs::remove_file(mount.path("gone"))?;

        cluster.kill_9(|name| name == "namenode")?;
        let root = mount.root().to_owned();
        let waiting = start(move || -> std::io::Result<()> {
            fs::create_dir(root.join("d"))?;
            fs::rename(root.join("old"), root.join("d/new"))?;
            open.write_all_at(&pattern(1, 100_000, 200_000), 100_000)?;
            open.sync_all()
        });
        still_waits(&waiting)?;
        cluster.start_again()?;
        waiting.recv()??;
        ensure!(fs::read(mount.path("d/new"))? == b"old");
        ensure_same("written over the restart", &fs::read(mount.path("open"))?, &pattern(1, 0, 300_000))?;
        // A file without a name outlives the namenode as well.
        let mut got = vec![0u8; 100_000];
        unlinked.read_exact_at(&mut got, 0)?;
        ensure_same("unlinked", &got, &pattern(2, 0, 100_000))?;
        unlinked.write_all_at(b"still", 0)?;
        unlinked.sync_all()?;
        ensure!(unlinked.metadata()?.nlink() == 0);
        Ok(())
    })
}

#[test]
fn work_goes_on_while_the_namenode_is_killed_again_and_again() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&SMALL_BLOCKS)?;
        let root = mount.root().to_owned();
        let work = start(move || {
            shell(
                &root,
                "i=0; while [ $i -lt 150 ]; do i=$((i+1)); mkdir d$i; head -c 70000 /dev/zero | tr '\\0' x > d$i/f; echo $i >> log
                 mv d$i/f d$i/g; ln d$i/g d$i/h; chmod 600 d$i/g; done",
            )
        });
        let mut outcome = None;
        for _ in 0..4 {
            if let Ok(early) = work.recv_timeout(A_WHILE) {
                outcome = Some(early);
                break;
            }
            cluster.kill_9(|name| name == "namenode")?;
            cluster.start_again()?;
        }
        match outcome {
            Some(outcome) => outcome?,
            None => work.recv()??,
        };
        for number in 1..=150 {
            let metadata = fs::metadata(mount.path(format!("d{number}/h")))?;
            ensure!(metadata.len() == 70_000 && metadata.nlink() == 2 && metadata.mode() & 0o777 == 0o600);
            ensure!(!mount.path(format!("d{number}/f")).exists());
        }
        let expected: String = (1..=150).map(|number| format!("{number}\n")).collect();
        ensure!(fs::read_to_string(mount.path("log"))? == expected);
        Ok(())
    })
}

#[test]
fn reads_and_writes_wait_for_the_datanodes_and_go_on() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&["-o", "block-size=65536", "--memory", "32M"])?;
        fs::write(mount.path("f"), pattern(1, 0, 500_000))?;
        let open = OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("open"))?;
        open.write_all_at(&pattern(2, 0, 300_000), 0)?;
        open.sync_all()?;
        cluster.kill_9(|name| name.starts_with("datanode"))?;
        let path = mount.path("f");
        let reading = start(move || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            OpenOptions::new().read(true).open(path)?.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let writing = start(move || -> std::io::Result<()> {
            open.write_all_at(b"in place", 70_000)?;
            open.write_all_at(&pattern(2, 300_000, 300_000), 300_000)?;
            open.sync_all()
        });
        still_waits(&writing)?;
        cluster.start_again()?;
        reading.recv()?.map(|bytes| ensure_same("read", &bytes, &pattern(1, 0, 500_000)))??;
        writing.recv()??;
        let mut expected = pattern(2, 0, 600_000);
        expected[70_000..70_008].copy_from_slice(b"in place");
        ensure_same("written", &fs::read(mount.path("open"))?, &expected)
    })
}

#[test]
fn a_process_that_waits_for_an_outage_can_be_killed() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&[])?;
        fs::write(mount.path("f"), pattern(1, 0, 100_000))?;
        cluster.kill_9(|_| true)?;
        for line in ["touch new", "cat f > /dev/null", "ls -l unknown"] {
            let mut child = command("sh", mount.root())
                .args(["-c", &format!("exec {line}")])
                .stderr(Stdio::null())
                .spawn()?;
            let pid = child.id();
            wait_until("the process waits", || {
                let state = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
                Ok(state.contains("fuse") || state.contains("request") || child.try_wait()?.is_some())
            })?;
            ensure!(child.try_wait()?.is_none() || line.starts_with("cat"), "{line} did not wait");
            let asked = Instant::now();
            child.kill()?;
            wait_until("the killed process is gone", || Ok(child.try_wait()?.is_some()))?;
            ensure!(asked.elapsed() < Duration::from_secs(10), "{line}: {:?}", asked.elapsed());
        }
        cluster.start_again()?;
        ensure_same("afterwards", &fs::read(mount.path("f"))?, &pattern(1, 0, 100_000))
    })
}

#[test]
fn an_outage_that_lasts_ends_in_an_io_error() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&["--wait", "3"])?;
        fs::write(mount.path("f"), pattern(1, 0, 100_000))?;
        let open = File::open(mount.path("f"))?;
        cluster.kill_9(|_| true)?;
        let asked = Instant::now();
        ensure!(errno(fs::create_dir(mount.path("d")))? == libc::EIO);
        ensure!(asked.elapsed() > Duration::from_secs(2), "after {:?}", asked.elapsed());
        cluster.start_again()?;
        wait_until("the mount works again", || Ok(fs::create_dir(mount.path("e")).is_ok()))?;
        let mut got = vec![0u8; 100_000];
        open.read_exact_at(&mut got, 0)?;
        ensure_same("an old handle", &got, &pattern(1, 0, 100_000))
    })
}

#[test]
fn writers_do_not_notice_that_a_datanode_is_killed() -> Result<()> {
    with_cluster(&["--datanodes", "4"], |cluster| {
        let mount = cluster.mount(&["-o", "block-size=1048576"])?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("f"))?;
        let mut expected = pattern(1, 0, 3 << 20);
        file.write_all_at(&expected, 0)?;
        file.sync_all()?;
        for round in 0..4usize {
            cluster.kill_9(|name| name == format!("datanode-{round}"))?;
            for at in [round * 1_000, (1 << 20) - 5, (2 << 20) + 77_777] {
                let bytes = pattern(at as u64, 0, 20_000);
                file.write_all_at(&bytes, at as u64)?;
                expected[at..at + 20_000].copy_from_slice(&bytes);
            }
            file.sync_all().with_context(|| format!("round {round}"))?;
            let mut got = vec![0u8; expected.len()];
            file.read_exact_at(&mut got, 0)?;
            ensure_same(&format!("round {round}"), &got, &expected)?;
            cluster.start_again()?;
        }
        drop(file);
        ensure_same("after close", &fs::read(mount.path("f"))?, &expected)
    })
}
