//! Directories read file by file: small files are fetched before they are opened, and every open still sees what was closed last.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Result, ensure};
use dfs_tests::mount::with_cluster;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::{Rng, seed_of_run};

const FILES: usize = 80;

/// Names as a listing has them.
fn name(number: usize) -> String {
    format!("d/f{number:04}")
}

#[test]
fn a_mount_that_walks_a_directory_sees_what_another_closes_in_front_of_it() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mut rng = Rng::new(seed_of_run("a_mount_that_walks_a_directory"));
        let here = cluster.mount(&[])?;
        fs::create_dir(here.path("d"))?;
        let mut expected: Vec<Vec<u8>> =
            (0..FILES).map(|number| pattern(number as u64, 0, 100 + number * 200)).collect();
        for (number, bytes) in expected.iter().enumerate() {
            fs::write(here.path(name(number)), bytes)?;
        }
        for round in 0..4u64 {
            // Fresh: its kernel has no pages.
            let there = cluster.mount(&[])?;
            let mut listed: Vec<(u64, usize)> = Vec::new();
            for entry in fs::read_dir(there.path("d"))? {
                let entry = entry?;
                let number = entry.file_name().to_string_lossy()[1..].parse()?;
                listed.push((entry.metadata()?.ino(), number));
            }
            ensure!(listed.len() == FILES);
            if round % 2 == 0 {
                // In the order of inode numbers; else in that of the listing.
                listed.sort_unstable();
            }
            for at in 0..FILES {
                // Some of those that come next, which have been fetched probably.
                for _ in 0..rng.below(3) {
                    let next = listed[(at + rng.index(8)).min(FILES - 1)].1;
                    let bytes = &mut expected[next];
                    match rng.below(3) {
                        0 => {
                            *bytes = pattern(rng.next_u64(), 0, 1 + rng.index(9_000));
                            fs::write(here.path(name(next)), &bytes)?;
                        }
                        1 => {
                            let piece = pattern(rng.next_u64(), 0, 50);
                            let end = bytes.len().min(50);
                            bytes[..end].copy_from_slice(&piece[..end]);
                            OpenOptions::new()
                                .write(true)
                                .open(here.path(name(next)))?
                                .write_all_at(&piece[..end], 0)?;
                        }
                        _ => {
                            bytes.truncate(1 + bytes.len() / 2);
                            let file = OpenOptions::new().write(true).open(here.path(name(next)))?;
                            file.set_len(bytes.len() as u64)?;
                        }
                    }
                }
                let path = name(listed[at].1);
                let got = fs::read(there.path(&path))?;
                ensure_same(&format!("round {round}, {path}"), &got, &expected[listed[at].1])?;
            }
            there.unmount()?;
        }
        Ok(())
    })
}

#[test]
fn a_tree_that_is_read_in_order_is_read_right_and_again_after_it_was_changed_here() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&[])?;
        let dirs = 12u64;
        let content = |dir: u64, file: u64, version: u64| {
            pattern(dir * 1_000 + file + version * 100_000, 0, (1 + file * 700) as usize)
        };
        for dir in 0..dirs {
            fs::create_dir(mount.path(format!("d{dir}")))?;
            for file in 0..15 {
                fs::write(mount.path(format!("d{dir}/f{file:02}")), content(dir, file, 0))?;
            }
        }
        mount.unmount()?;
        let mount = cluster.mount(&[])?;
        for version in 0..2 {
            for dir in 0..dirs {
                for entry in fs::read_dir(mount.path(format!("d{dir}")))? {
                    let file: u64 = entry?.file_name().to_string_lossy()[1..].parse()?;
                    let path = mount.path(format!("d{dir}/f{file:02}"));
                    ensure_same("a file of the tree", &fs::read(&path)?, &content(dir, file, version))?;
                    if version == 0 {
                        // The next one is changed by this mount, perhaps after it was fetched.
                        fs::write(&path, content(dir, file, 1))?;
                        if file + 1 < 15 {
                            let next = mount.path(format!("d{dir}/f{:02}", file + 1));
                            fs::write(&next, b"changed")?;
                            ensure!(fs::read(&next)? == b"changed");
                            fs::write(&next, content(dir, file + 1, 0))?;
                        }
                    }
                }
            }
        }
        Ok(())
    })
}
