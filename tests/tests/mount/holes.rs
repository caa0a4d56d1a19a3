//! Holes, sizes and fallocate.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Result, ensure};
use dfs_tests::mount::{errno, with_mount};
use dfs_tests::pattern::{ensure_same, pattern};

use crate::sys::{STAT_BLOCK, fallocate, seek};

/// Small blocks, so that ranges cross them.
const SMALL_BLOCKS: [&str; 2] = ["-o", "block-size=65536"];

fn read_write(path: &std::path::Path) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?)
}

#[test]
fn holes_read_as_zeros_and_take_no_space() -> Result<()> {
    with_mount(&[], |place| {
        let path = place.root.join("f");
        let file = read_write(&path)?;
        let far = 5u64 << 30;
        file.write_all_at(b"end", far)?;
        file.write_all_at(b"start", 0)?;
        drop(file);
        let metadata = fs::metadata(&path)?;
        ensure!(metadata.len() == far + 3, "{}", metadata.len());
        ensure!(metadata.blocks() * STAT_BLOCK < 16 << 20, "{} blocks", metadata.blocks());
        let file = File::open(&path)?;
        let mut got = vec![1u8; 100_000];
        file.read_exact_at(&mut got, 1 << 30)?;
        ensure!(got.iter().all(|byte| *byte == 0));
        let mut got = [1u8; 6];
        file.read_exact_at(&mut got, far - 3)?;
        ensure!(&got == b"\0\0\0end");
        let mut got = [1u8; 8];
        file.read_exact_at(&mut got, 0)?;
        ensure!(&got == b"start\0\0\0");
        Ok(())
    })
}

#[test]
fn a_file_is_cut_and_grown_and_what_comes_back_is_zeros() -> Result<()> {
    with_mount(&SMALL_BLOCKS, |place| {
        let path = place.root.join("f");
        let mut expected = pattern(1, 0, 200_000);
        fs::write(&path, &expected)?;
        for len in [150_000, 180_000, 65_536, 65_536 * 3, 65_537, 10, 0, 70_000] {
            let file = read_write(&path)?;
            file.set_len(len as u64)?;
            expected.resize(len, 0);
            ensure!(file.metadata()?.len() == len as u64);
            let mut got = vec![1u8; len];
            file.read_exact_at(&mut got, 0)?;
            ensure_same("while open", &got, &expected)?;
            drop(file);
            ensure_same("after close", &fs::read(&path)?, &expected)?;
            // Something to be cut next time.
            let file = read_write(&path)?;
            file.write_all_at(b"tail", len as u64)?;
            expected.extend_from_slice(b"tail");
        }
        // By path, with the file open and not.
        let file = read_write(&path)?;
        OpenOptions::new().write(true).open(&path)?.set_len(5)?;
        ensure!(file.metadata()?.len() == 5);
        Ok(())
    })
}

#[test]
fn fallocate_does_what_its_modes_say() -> Result<()> {
    with_mount(&SMALL_BLOCKS, |place| {
        let path = place.root.join("f");
        let mut expected = pattern(1, 0, 300_000);
        fs::write(&path, &expected)?;
        let file = read_write(&path)?;
        let check = |what: &str, expected: &[u8]| -> Result<()> {
            ensure!(file.metadata()?.len() == expected.len() as u64, "{what}: {}", file.metadata()?.len());
            let mut got = vec![1u8; expected.len()];
            file.read_exact_at(&mut got, 0)?;
            ensure_same(what, &got, expected)
        };
        let (keep, punch, zero) =
            (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
        fallocate(&file, punch | keep, 10_000, 150_000)?;
        expected[10_000..160_000].fill(0);
        check("punched", &expected)?;
        fallocate(&file, punch | keep, 290_000, 100_000)?;
        expected[290_000..].fill(0);
        check("punched over the end", &expected)?;
        fallocate(&file, zero, 200_000, 1_000)?;
        expected[200_000..201_000].fill(0);
        check("zeroed", &expected)?;
        fallocate(&file, zero | keep, 299_000, 10_000)?;
        expected[299_000..].fill(0);
        check("zeroed over the end, size kept", &expected)?;
        fallocate(&file, zero, 299_000, 10_000)?;
        expected.resize(309_000, 0);
        check("zeroed over the end", &expected)?;
        fallocate(&file, 0, 300_000, 50_000)?;
        expected.resize(350_000, 0);
        check("allocated", &expected)?;
        fallocate(&file, keep, 340_000, 50_000)?;
        check("allocated, size kept", &expected)?;
        file.write_all_at(&pattern(2, 0, 5_000), 100_000)?;
        expected[100_000..105_000].copy_from_slice(&pattern(2, 0, 5_000));
        check("written into a hole", &expected)?;

        ensure!(errno(fallocate(&file, punch, 0, 10))? == libc::EOPNOTSUPP);
        ensure!(errno(fallocate(&file, 0, 0, 0))? == libc::EINVAL);
        let reader = File::open(&path)?;
        ensure!(errno(fallocate(&reader, 0, 0, 10))? == libc::EBADF);
        drop(file);
        ensure_same("after close", &fs::read(&path)?, &expected)
    })
}

#[test]
fn seeking_for_data_and_holes_finds_all_data() -> Result<()> {
    with_mount(&SMALL_BLOCKS, |place| {
        const BLOCK: u64 = 65_536;
        let path = place.root.join("f");
        let file = read_write(&path)?;
        file.set_len(20 * BLOCK)?;
        ensure!(seek(&file, 0, libc::SEEK_HOLE)? == 0);
        ensure!(errno(seek(&file, 0, libc::SEEK_DATA))? == libc::ENXIO);
        file.write_all_at(&pattern(1, 0, BLOCK as usize), 4 * BLOCK)?;
        file.write_all_at(b"x", 11 * BLOCK + 7)?;
        for closed in [false, true] {
            let file = if closed { File::open(&path)? } else { file.try_clone()? };
            // What is found may be coarser than what was written, and never less.
            let data = seek(&file, 0, libc::SEEK_DATA)?;
            ensure!(data > 0 && data <= 4 * BLOCK, "data at {data}");
            let hole = seek(&file, data, libc::SEEK_HOLE)?;
            ensure!((5 * BLOCK..11 * BLOCK).contains(&hole), "hole at {hole}");
            let data = seek(&file, hole, libc::SEEK_DATA)?;
            ensure!((hole..=11 * BLOCK + 7).contains(&data), "data at {data}");
            let hole = seek(&file, data, libc::SEEK_HOLE)?;
            ensure!(hole > 11 * BLOCK + 7 && hole < 20 * BLOCK, "hole at {hole}");
            ensure!(errno(seek(&file, hole, libc::SEEK_DATA))? == libc::ENXIO);
            ensure!(errno(seek(&file, 20 * BLOCK, libc::SEEK_HOLE))? == libc::ENXIO);
        }
        // A file full of data has its hole at the end.
        let full = place.root.join("full");
        fs::write(&full, pattern(2, 0, 100_000))?;
        let full = File::open(&full)?;
        ensure!(seek(&full, 10, libc::SEEK_DATA)? == 10 && seek(&full, 10, libc::SEEK_HOLE)? == 100_000);
        Ok(())
    })
}

#[test]
fn sizes_that_cannot_be_are_refused() -> Result<()> {
    with_mount(&[], |place| {
        let file = read_write(&place.root.join("f"))?;
        ensure!(errno(file.write_all_at(b"x", i64::MAX as u64 - 1))? == libc::EFBIG);
        ensure!(file.metadata()?.len() == 0);
        Ok(())
    })
}
