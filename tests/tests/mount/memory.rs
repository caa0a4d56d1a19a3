//! A mount uses the memory it was given, whatever is read or written.

use std::fs::{self, File};
use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{Mount, with_cluster};
use dfs_tests::pattern::{ensure_same, pattern};

/// Budget of the mount's caches.
const BUDGET_MIB: u64 = 32;

/// What a mount may use besides its budget: the program itself, its threads, requests and replies on their way, in an unoptimised
/// build.
const OTHER_MIB: u64 = 96;

/// Written and read: several times the budget.
const FILE_MIB: u64 = 256;

fn resident_mib(mount: &Mount<'_>) -> Result<u64> {
    Ok(mount.footprint()?.resident_kib / 1_024)
}

#[test]
fn files_larger_than_the_budget_do_not_make_a_mount_grow() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&["--memory", &format!("{BUDGET_MIB}M")])?;
        let mut most = resident_mib(&mount)?;
        println!("idle: {most} MiB");
        let mut files = Vec::new();
        for number in 0..4 {
            files.push(File::create(mount.path(format!("f{number}")))?);
        }
        for mib in 0..FILE_MIB / 4 {
            for (number, file) in files.iter_mut().enumerate() {
                file.write_all(&pattern(number as u64, mib << 20, 1 << 20))?;
            }
            most = most.max(resident_mib(&mount)?);
        }
        drop(files);
        println!("written: at most {most} MiB");
        for number in 0..4u64 {
            let mut file = File::open(mount.path(format!("f{number}")))?;
            let mut piece = vec![0u8; 1 << 20];
            for mib in 0..FILE_MIB / 4 {
                file.read_exact(&mut piece)?;
                ensure_same("read", &piece, &pattern(number, mib << 20, 1 << 20))?;
                most = most.max(resident_mib(&mount)?);
            }
        }
        println!("read: at most {most} MiB");
        ensure!(most <= BUDGET_MIB + OTHER_MIB, "{most} MiB are used, {BUDGET_MIB} MiB were given");
        Ok(())
    })
}

#[test]
fn many_files_do_not_make_a_mount_grow() -> Result<()> {
    with_cluster(&[], |cluster| {
        const FILES: usize = 3_000;
        let mount = cluster.mount(&["--memory", &format!("{BUDGET_MIB}M")])?;
        let before = mount.footprint()?;
        for number in 0..FILES {
            fs::write(mount.path(format!("f{number}")), "small")?;
        }
        for number in 0..FILES {
            ensure!(fs::read(mount.path(format!("f{number}")))? == b"small");
        }
        let after = mount.footprint()?;
        println!("before {before:?}, after {after:?}");
        ensure!(after.resident_kib / 1_024 <= BUDGET_MIB + OTHER_MIB, "{after:?}");
        // Descriptors and threads are bounded as well.
        ensure!(after.descriptors < 1_000 && after.threads < 100, "{after:?}");
        let status = fs::read_to_string(format!("/proc/{}/status", mount.pid()?))?;
        status.lines().find(|line| line.starts_with("VmHWM")).map(|line| println!("{line}")).context("VmHWM")
    })
}
