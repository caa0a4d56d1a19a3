//! The bytes of files: reading, writing at any offset, appending, mapping, and files without a name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{errno, with_mount};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::{Rng, seed_of_run};

use crate::commands::shell;
use crate::sys::Mapping;

/// Small blocks, so that writes cross them.
const SMALL_BLOCKS: [&str; 2] = ["-o", "block-size=65536"];

fn read_write(path: &std::path::Path) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?)
}

#[test]
fn writes_at_random_offsets_are_read_back_before_and_after_close() -> Result<()> {
    let seed = seed_of_run("writes_at_random_offsets_are_read_back_before_and_after_close");
    with_mount(&SMALL_BLOCKS, move |place| {
        const SIZE: usize = 700_000;
        let mut rng = Rng::new(seed);
        let path = place.root.join("f");
        let mut expected = Vec::new();
        for round in 0..6 {
            let file = read_write(&path)?;
            for number in 0..60 {
                let longest = if rng.chance(20) { 200_000 } else { 5_000 };
                let (at, len) = (rng.index(SIZE), 1 + rng.index(longest));
                let bytes = pattern(seed + round * 1_000 + number, 0, len);
                file.write_all_at(&bytes, at as u64)?;
                if expected.len() < at + len {
                    expected.resize(at + len, 0);
                }
                expected[at..at + len].copy_from_slice(&bytes);
                if rng.chance(10) {
                    let cut = rng.index(SIZE);
                    file.set_len(cut as u64)?;
                    expected.resize(cut, 0);
                }
                if rng.chance(30) && !expected.is_empty() {
                    let at = rng.index(expected.len());
                    let len = (expected.len() - at).min(50_000);
                    let mut got = vec![0u8; len];
                    file.read_exact_at(&mut got, at as u64)?;
                    ensure_same("while open", &got, &expected[at..at + len])?;
                }
                ensure!(file.metadata()?.len() == expected.len() as u64);
            }
            if rng.chance(50) {
                file.sync_all()?;
            }
            drop(file);
            ensure_same("after close", &fs::read(&path)?, &expected)?;
        }
        Ok(())
    })
}

#[test]
fn direct_reads_and_writes_see_what_buffered_ones_do() -> Result<()> {
    with_mount(&SMALL_BLOCKS, |place| {
        let path = place.root.join("f");
        let bytes = pattern(1, 0, 300_000);
        fs::write(&path, &bytes)?;
        shell(&place.root, "dd if=f of=g bs=4096 iflag=direct conv=fsync status=none; cmp f g")?;
        // A direct overwrite in the middle of a file whose pages are cached.
        let cached = File::open(&path)?;
        ensure_same("cached", &fs::read(&path)?, &bytes)?;
        shell(
            &place.root,
            "dd if=/dev/zero of=f bs=4096 seek=17 count=3 conv=notrunc oflag=direct status=none",
        )?;
        let mut got = vec![0u8; 20_000];
        cached.read_exact_at(&mut got, 16 * 4096)?;
        let mut expected = bytes[16 * 4096..16 * 4096 + 20_000].to_vec();
        expected[4096..4 * 4096].fill(0);
        ensure_same("after a direct write", &got, &expected)
    })
}

#[test]
fn a_shared_mapping_and_the_file_are_the_same_bytes() -> Result<()> {
    with_mount(&SMALL_BLOCKS, |place| {
        const LEN: usize = 200_000;
        let path = place.root.join("f");
        let mut expected = pattern(1, 0, LEN);
        fs::write(&path, &expected)?;
        let file = read_write(&path)?;
        let mut mapping = Mapping::shared(&file, LEN)?;
        ensure_same("mapped", &mapping.read(0, LEN), &expected)?;
        for (number, at) in [0, 4_090, 65_530, 131_072, LEN - 10].into_iter().enumerate() {
            let bytes = pattern(10 + number as u64, 0, 10);
            mapping.write(at, &bytes);
            expected[at..at + 10].copy_from_slice(&bytes);
        }
        mapping.sync()?;
        let mut got = vec![0u8; LEN];
        file.read_exact_at(&mut got, 0)?;
        ensure_same("read after msync", &got, &expected)?;
        // And the other way round.
        file.write_all_at(b"written", 100_000)?;
        expected[100_000..100_007].copy_from_slice(b"written");
        ensure_same("mapped after a write", &mapping.read(0, LEN), &expected)?;
        // Stores after the last msync reach the file when the mapping and the file are gone.
        mapping.write(50_000, b"unsynced");
        expected[50_000..50_008].copy_from_slice(b"unsynced");
        drop(file);
        drop(mapping);
        ensure_same("after everything is closed", &fs::read(&path)?, &expected)
    })
}

#[test]
fn a_private_mapping_runs_and_a_read_only_one_reads() -> Result<()> {
    with_mount(&[], |place| {
        fs::copy("/bin/true", place.root.join("true"))?;
        fs::set_permissions(place.root.join("true"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        shell(&place.root, "./true && cmp true /bin/true").map(|_| ())
    })
}

#[test]
fn appends_of_several_processes_are_all_there_and_whole() -> Result<()> {
    with_mount(&SMALL_BLOCKS, |place| {
        const WRITERS: usize = 4;
        const LINES: usize = 300;
        // Two keep the file open, two open it for each line.
        shell(
            &place.root,
            &format!(
                "for w in 0 1; do
                     (exec >> f; i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); printf 'w%d-%06d-%0200d\\n' $w $i 0; done) &
                 done
                 for w in 2 3; do
                     (i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); printf 'w%d-%06d-%0200d\\n' $w $i 0 >> f; done) &
                 done; wait"
            ),
        )?;
        let text = fs::read_to_string(place.root.join("f"))?;
        let mut next = [1usize; WRITERS];
        for line in text.lines() {
            let mut parts = line.trim_start_matches('w').split('-');
            let writer: usize = parts.next().context("a writer")?.parse()?;
            let number: usize = parts.next().context("a number")?.parse()?;
            ensure!(parts.next().is_some_and(|rest| rest.len() == 200), "torn: {line}");
            ensure!(next[writer] == number, "writer {writer}: line {number}, wanted {}", next[writer]);
            next[writer] += 1;
        }
        ensure!(next == [LINES + 1; WRITERS], "{next:?}");
        Ok(())
    })
}

#[test]
fn an_unlinked_open_file_lives_until_its_last_close() -> Result<()> {
    with_mount(&SMALL_BLOCKS, |place| {
        let path = place.root.join("f");
        let bytes = pattern(1, 0, 150_000);
        fs::write(&path, &bytes)?;
        let (mut writer, mut reader) = (read_write(&path)?, File::open(&path)?);
        fs::remove_file(&path)?;
        ensure!(errno(fs::metadata(&path))? == libc::ENOENT);
        ensure!(writer.metadata()?.nlink() == 0 && reader.metadata()?.nlink() == 0);
        let mut got = Vec::new();
        reader.read_to_end(&mut got)?;
        ensure_same("read without a name", &got, &bytes)?;
        writer.seek(SeekFrom::End(0))?;
        writer.write_all(b"more")?;
        writer.write_all_at(b"first", 0)?;
        writer.sync_all()?;
        drop(writer);
        let mut got = vec![0u8; 5];
        reader.read_exact_at(&mut got, 0)?;
        ensure!(got == b"first");
        reader.read_exact_at(&mut got[..4], 150_000)?;
        ensure!(&got[..4] == b"more");
        // A new file of that name is another one.
        fs::write(&path, b"other")?;
        reader.read_exact_at(&mut got, 0)?;
        ensure!(got == b"first" && fs::read(&path)? == b"other");
        // Replaced by a rename, it lives on as well.
        let replaced = File::open(&path)?;
        fs::write(place.root.join("g"), b"third")?;
        fs::rename(place.root.join("g"), &path)?;
        replaced.read_exact_at(&mut got, 0)?;
        ensure!(got == b"other" && fs::read(&path)? == b"third");
        ensure!(replaced.metadata()?.nlink() == 0);
        Ok(())
    })
}

#[test]
fn a_file_opened_without_a_name_can_be_written_and_read() -> Result<()> {
    with_mount(&[], |place| {
        let opened =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(&place.root);
        match opened {
            Ok(file) => {
                file.write_all_at(b"nameless", 0)?;
                let mut got = [0u8; 8];
                file.read_exact_at(&mut got, 0)?;
                ensure!(&got == b"nameless" && file.metadata()?.nlink() == 0);
            }
            // Programs then make a name and unlink it, as they do for every file system without O_TMPFILE.
            Err(error) => ensure!(error.raw_os_error() == Some(libc::EOPNOTSUPP), "{error}"),
        }
        ensure!(fs::read_dir(&place.root)?.next().is_none());
        Ok(())
    })
}

#[test]
fn copies_within_the_mount_by_the_kernel_are_whole() -> Result<()> {
    with_mount(&SMALL_BLOCKS, |place| {
        let bytes = pattern(5, 0, 500_001);
        fs::write(place.root.join("f"), &bytes)?;
        // copy_file_range where the kernel has it, sendfile or reads and writes where not.
        ensure!(fs::copy(place.root.join("f"), place.root.join("g"))? == bytes.len() as u64);
        ensure_same("the copy", &fs::read(place.root.join("g"))?, &bytes)
    })
}
