//! Two mounts of one cluster, and a mount beside path clients: who sees what when, and who may write.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_tests::mount::{errno, wait_until, with_cluster};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::workload::{read_all, write_file};

use crate::hanging_reads::Stopped;
use crate::metrics::metric;
use crate::sys::Mapping;

/// Small blocks, so that little data has several.
const SMALL_BLOCKS: [&str; 2] = ["-o", "block-size=65536"];

/// Longest that a second writer waits for a holder that is not idle, with time to spare on a loaded machine.
const RECALL_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn what_one_mount_closed_another_sees_at_its_next_open() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&SMALL_BLOCKS)?, cluster.mount(&SMALL_BLOCKS)?);
        let mut expected = pattern(1, 0, 200_000);
        fs::write(here.path("f"), &expected)?;
        for round in 0..20u64 {
            // Read there (so that its kernel has the pages), changed here: whole, in place, longer, shorter.
            ensure_same(&format!("round {round}"), &fs::read(there.path("f"))?, &expected)?;
            let (writer, reader) = if round % 2 == 0 { (&here, &there) } else { (&there, &here) };
            match round % 4 {
                0 => {
                    expected = pattern(round, 0, 150_000);
                    fs::write(writer.path("f"), &expected)?;
                }
                1 => {
                    let file = OpenOptions::new().write(true).open(writer.path("f"))?;
                    file.write_all_at(b"in place", 70_000)?;
                    expected[70_000..70_008].copy_from_slice(b"in place");
                }
                2 => {
                    OpenOptions::new()
                        .append(true)
                        .open(writer.path("f"))?
                        .write_all(&pattern(round, 0, 90_000))?;
                    expected.extend(pattern(round, 0, 90_000));
                }
                _ => {
                    OpenOptions::new().write(true).open(writer.path("f"))?.set_len(100_000)?;
                    expected.truncate(100_000);
                }
            }
            let mut opened = File::open(reader.path("f"))?;
            ensure!(
                opened.metadata()?.len() == expected.len() as u64,
                "round {round}: the size of an open file"
            );
            let mut got = Vec::new();
            opened.read_to_end(&mut got)?;
            ensure_same(&format!("round {round}, the other mount"), &got, &expected)?;
            let mapping = Mapping::shared(
                &OpenOptions::new().read(true).write(true).open(reader.path("f"))?,
                got.len(),
            )?;
            ensure_same(&format!("round {round}, mapped"), &mapping.read(0, got.len()), &expected)?;
        }
        Ok(())
    })
}

#[test]
fn a_directory_that_mounts_read_shows_what_another_one_closed() -> Result<()> {
    with_cluster(&[], |cluster| {
        let here = cluster.mount(&[])?;
        let readers = [cluster.mount(&[])?, cluster.mount(&[])?];
        let content = |number: u64| pattern(number, 0, 300 + 50 * number as usize);
        for round in 0..3u64 {
            let dir = format!("d{round}");
            fs::create_dir(here.path(&dir))?;
            let name = |number: u64| format!("{dir}/f{number:02}");
            for number in 0..40 {
                fs::write(here.path(name(number)), content(number))?;
            }
            for reader in &readers {
                wait_until("the directory is seen", || Ok(reader.path(&dir).exists()))?;
                wait_until("files are opened by the mount", || {
                    let before = metric(reader.root(), "dfs_mount_files_opened_total")?;
                    ensure!(fs::read_dir(reader.path(&dir))?.count() == 40);
                    for number in 0..40 {
                        ensure_same("as written", &fs::read(reader.path(name(number)))?, &content(number))?;
                    }
                    Ok(metric(reader.root(), "dfs_mount_files_opened_total")? > before + 10)
                })?;
                ensure!(metric(reader.root(), "dfs_mount_shared_directories")? > 0);
            }
            // Open there, without a call; it loses its name here.
            let mut open: Vec<File> = Vec::new();
            for reader in &readers {
                open.push(File::open(reader.path(name(1)))?);
            }
            match round {
                0 => fs::remove_file(here.path(name(1)))?,
                1 => fs::rename(here.path(name(2)), here.path(name(1)))?,
                // One that reads it changes it.
                _ => fs::remove_file(readers[0].path(name(1)))?,
            }
            for file in &mut open {
                let mut got = Vec::new();
                file.read_to_end(&mut got)?;
                ensure_same("without a name", &got, &content(1))?;
            }
            drop(open);
            for (number, writer) in [(3, &here), (4, &readers[0]), (5, &readers[1])] {
                fs::write(writer.path(name(number)), "new")?;
                for reader in readers.iter().chain([&here]) {
                    ensure_same("written anew", &fs::read(reader.path(name(number)))?, b"new")?;
                }
            }
        }
        for mount in readers.iter().chain([&here]) {
            ensure!(metric(mount.root(), "dfs_mount_changes_refused_total")? == 0);
        }
        Ok(())
    })
}

#[test]
fn a_reader_that_stands_still_holds_up_a_change_for_seconds_and_sees_it_when_it_goes_on() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, reader) = (cluster.mount(&[])?, cluster.mount(&[])?);
        fs::create_dir(here.path("d"))?;
        let name = |number: u64| format!("d/f{number}");
        for number in 0..10 {
            fs::write(here.path(name(number)), "old")?;
        }
        wait_until("the directory is delegated for reading", || {
            for number in 0..10 {
                ensure_same("as written", &fs::read(reader.path(name(number)))?, b"old")?;
            }
            Ok(metric(reader.root(), "dfs_mount_shared_directories")? > 0)
        })?;
        let stopped = Stopped::new(reader.pid()?)?;
        let began = Instant::now();
        let written = fs::write(here.path(name(3)), "new").and_then(|()| fs::remove_file(here.path(name(4))));
        let paused = began.elapsed();
        drop(stopped);
        written?;
        // The time of a session is 30 s.
        ensure!(paused < Duration::from_secs(15), "a change waited {paused:?} for a reader");
        ensure_same("written anew", &fs::read(reader.path(name(3)))?, b"new")?;
        ensure!(errno(File::open(reader.path(name(4))))? == libc::ENOENT);
        wait_until("the directory is delegated again", || {
            for number in 5..10 {
                ensure_same("as written", &fs::read(reader.path(name(number)))?, b"old")?;
            }
            Ok(metric(reader.root(), "dfs_mount_shared_directories")? > 0)
        })
    })
}

#[test]
fn names_and_attributes_of_one_mount_are_seen_on_another_within_the_cache_time() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&[])?, cluster.mount(&[])?);
        // Known to be missing there, then made here.
        ensure!(errno(fs::metadata(there.path("f")))? == libc::ENOENT);
        fs::write(here.path("f"), "x")?;
        wait_until("the new name is seen", || Ok(there.path("f").exists()))?;
        fs::set_permissions(here.path("f"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        wait_until("the new mode is seen", || Ok(fs::metadata(there.path("f"))?.mode() & 0o777 == 0o600))?;
        fs::rename(here.path("f"), here.path("g"))?;
        wait_until("the move is seen", || Ok(!there.path("f").exists() && there.path("g").exists()))?;
        fs::remove_file(there.path("g"))?;
        wait_until("the removal is seen", || Ok(!here.path("g").exists()))?;
        ensure!(fs::read_dir(here.root())?.next().is_none() && fs::read_dir(there.root())?.next().is_none());
        // Making a name that exists fails at once, whatever a cache says.
        fs::create_dir(here.path("d"))?;
        ensure!(errno(fs::create_dir(there.path("d")))? == libc::EEXIST);
        Ok(())
    })
}

#[test]
fn a_directory_that_one_mount_changes_a_lot_is_seen_as_it_is_elsewhere() -> Result<()> {
    with_cluster(&[], |cluster| {
        // Without caches of its own, the other mount sees what the cluster says.
        let (here, there) = (cluster.mount(&[])?, cluster.mount(&["-o", "cache-ttl=0"])?);
        let client = cluster.client()?;
        for round in 0..3u64 {
            let dir = format!("d{round}");
            fs::create_dir(here.path(&dir))?;
            for number in 0..200u64 {
                let path = here.path(format!("{dir}/f{number}"));
                fs::write(&path, if number % 4 == 0 { pattern(number, 0, 900) } else { Vec::new() })?;
                if number % 10 == 0 {
                    fs::rename(&path, here.path(format!("{dir}/moved{number}")))?;
                }
                if number % 2 == 1 {
                    fs::remove_file(&path)?;
                }
            }
            let subdir = here.path(format!("{dir}/sub"));
            fs::create_dir(&subdir)?;
            fs::set_permissions(&subdir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            fs::write(subdir.join("x"), "x")?;
            match round {
                0 => {
                    ensure!(fs::read_dir(there.path(&dir))?.count() == 101);
                    let same = |name: &str| -> Result<bool> {
                        let (one, other) = (fs::metadata(here.path(name))?, fs::metadata(there.path(name))?);
                        let of =
                            |m: &fs::Metadata| (m.ino(), m.len(), m.mode(), m.mtime_nsec(), m.ctime_nsec());
                        Ok(of(&one) == of(&other))
                    };
                    ensure!(same(&format!("{dir}/f2"))? && same(&format!("{dir}/moved20"))?);
                    ensure!(same(&format!("{dir}/sub"))? && same(&dir)?);
                    ensure!(fs::read(there.path(format!("{dir}/sub/x")))? == b"x");
                }
                1 => {
                    ensure!(errno(fs::metadata(there.path(format!("{dir}/f1"))))? == libc::ENOENT);
                    ensure!(errno(fs::create_dir(there.path(format!("{dir}/f198"))))? == libc::EEXIST);
                    fs::remove_dir_all(there.path(&dir))?;
                    ensure!(errno(fs::write(here.path(format!("{dir}/again")), "x"))? == libc::ENOENT);
                }
                _ => {
                    let got = cluster.block_on(read_all(&client, &format!("/{dir}/moved180")))?;
                    ensure_same("the library", &got, &pattern(180, 0, 900))?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn synced_bytes_of_an_open_file_are_read_on_another_mount() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&SMALL_BLOCKS)?, cluster.mount(&SMALL_BLOCKS)?);
        let mut writer = File::create(here.path("f"))?;
        let mut expected = Vec::new();
        for round in 0..8 {
            let bytes = pattern(round, 0, 50_001);
            writer.write_all(&bytes)?;
            expected.extend(bytes);
            writer.sync_data()?;
            let got = fs::read(there.path("f"))?;
            ensure_same(&format!("round {round}"), &got, &expected)?;
        }
        // In place as well, and by path clients.
        writer.write_all_at(b"overwritten", 65_530)?;
        expected[65_530..65_541].copy_from_slice(b"overwritten");
        writer.sync_all()?;
        ensure_same("overwritten", &fs::read(there.path("f"))?, &expected)?;
        let client = cluster.client()?;
        ensure_same("the library", &cluster.block_on(read_all(&client, "/f"))?, &expected)
    })
}

#[test]
fn an_idle_writer_gives_the_lease_to_a_second_one() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&SMALL_BLOCKS)?, cluster.mount(&SMALL_BLOCKS)?);
        let first = OpenOptions::new().read(true).write(true).create_new(true).open(here.path("f"))?;
        first.write_all_at(&pattern(1, 0, 100_000), 0)?;
        let asked = Instant::now();
        let second = OpenOptions::new().read(true).write(true).open(there.path("f"))?;
        println!("the second writer waited {:?}", asked.elapsed());
        second.write_all_at(b"second", 100_000)?;
        drop(second);
        let mut expected = [pattern(1, 0, 100_000), b"second".to_vec()].concat();
        // The first, still open, gets it back when it writes again, and sees what the second wrote.
        first.write_all_at(b"first", 10)?;
        expected[10..15].copy_from_slice(b"first");
        first.sync_all()?;
        drop(first);
        ensure_same("here", &fs::read(here.path("f"))?, &expected)?;
        ensure_same("there", &fs::read(there.path("f"))?, &expected)
    })
}

#[test]
fn a_second_writer_of_a_busy_file_is_told_so_and_one_of_a_closed_file_is_not() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&[])?, cluster.mount(&[])?);
        let path = here.path("f");
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = std::thread::spawn(move || -> std::io::Result<u64> {
            let mut file = File::create(path)?;
            let mut written = 0;
            while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                file.write_all(&[7; 1_000])?;
                written += 1_000;
            }
            Ok(written)
        });
        wait_until("the file is there", || Ok(there.path("f").exists()))?;
        let asked = Instant::now();
        let refused = OpenOptions::new().write(true).open(there.path("f"));
        let (waited, outcome) = (asked.elapsed(), errno(refused));
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        println!("{outcome:?} after {waited:?}");
        ensure!(outcome? == libc::EBUSY && waited < RECALL_LIMIT, "{waited:?}");
        // Closed: no waiting, and nothing is lost.
        OpenOptions::new().append(true).open(there.path("f"))?.write_all(b"end")?;
        ensure!(fs::metadata(there.path("f"))?.len() == written + 3);
        ensure!(fs::read(here.path("f"))?.ends_with(b"\x07end"));
        Ok(())
    })
}

#[test]
fn mounts_that_append_in_turn_lose_nothing() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mounts = [cluster.mount(&[])?, cluster.mount(&[])?];
        for number in 0..40 {
            let mut file =
                OpenOptions::new().append(true).create(true).open(mounts[number % 2].path("log"))?;
            writeln!(file, "line {number}")?;
        }
        let expected: String = (0..40).map(|number| format!("line {number}\n")).collect();
        for mount in &mounts {
            ensure!(fs::read_to_string(mount.path("log"))? == expected);
        }
        Ok(())
    })
}

#[test]
fn an_appended_log_is_followed_on_another_mount() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&[])?, cluster.mount(&[])?);
        let mut log = File::create(here.path("log"))?;
        let mut reader: Option<File> = None;
        let mut read = String::new();
        let mut expected = String::new();
        for number in 0..10 {
            let line = format!("line {number}\n");
            log.write_all(line.as_bytes())?;
            log.sync_data()?;
            expected.push_str(&line);
            // tail -f: the file stays open and grows within the cache time.
            let reader = match &mut reader {
                Some(reader) => reader,
                none => none.insert(File::open(there.path("log"))?),
            };
            wait_until("the line is seen", || {
                reader.read_to_string(&mut read)?;
                Ok(read == expected)
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_file_removed_on_one_mount_is_readable_where_it_is_open() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&SMALL_BLOCKS)?, cluster.mount(&SMALL_BLOCKS)?);
        let bytes = pattern(3, 0, 300_000);
        fs::write(here.path("f"), &bytes)?;
        let mut open = File::open(there.path("f"))?;
        fs::remove_file(here.path("f"))?;
        let mut got = Vec::new();
        open.read_to_end(&mut got)?;
        ensure_same("removed on the other mount", &got, &bytes)?;
        drop(open);
        // Nobody has it any longer: its space comes back.
        wait_until("the space is free again", || {
            let used = cluster.dfs(&["du", "-s", "/"])?.ok()?.text();
            Ok(used.split_ascii_whitespace().next() == Some("0"))
        })
    })
}

#[test]
fn path_clients_and_mounts_see_each_others_files() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&[])?;
        let client = cluster.client()?;
        let bytes = pattern(4, 0, 1_000_000);
        fs::create_dir_all(mount.path("a/b"))?;
        fs::write(mount.path("a/b/f"), &bytes)?;
        ensure_same("through the library", &cluster.block_on(read_all(&client, "/a/b/f"))?, &bytes)?;
        cluster.block_on(write_file(&client, "/a/b/g", &bytes))?;
        wait_until("the file is seen", || Ok(mount.path("a/b/g").exists()))?;
        ensure_same("through the mount", &fs::read(mount.path("a/b/g"))?, &bytes)?;
        // Written by the library, changed in place by the mount.
        OpenOptions::new().write(true).open(mount.path("a/b/g"))?.write_all_at(b"changed", 500_000)?;
        let got = cluster.block_on(read_all(&client, "/a/b/g"))?;
        ensure!(&got[500_000..500_007] == b"changed" && got.len() == bytes.len());
        // A hole reads as zeros through the library.
        File::create(mount.path("sparse"))?.write_all_at(b"x", 3 << 20)?;
        let got = cluster.block_on(read_all(&client, "/sparse"))?;
        ensure!(
            got.len() == (3 << 20) + 1 && got[..3 << 20].iter().all(|byte| *byte == 0) && got.ends_with(b"x")
        );
        // The checker finds nothing wrong.
        let report = cluster.dfs(&["fsck", "/"])?.ok()?.text();
        ensure!(report.contains("healthy") || report.contains("HEALTHY"), "{report}");
        Ok(())
    })
}
