//! What is added to a block that the namenode has on its disk, and synced, is told to the namenode without a sync of its log: then the replicas
//! say how long the block is. Here the namenode comes back from a copy of its disk that was made after the first sync: it knows nothing
//! of what was added since, as after a loss of power, whatever else has failed with it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use dfs_namenode::NODE_ID;
use dfs_namenode::maintenance;
use dfs_tests::mount::{Cluster, Mount, wait_until, with_cluster};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::tree::copy_tree;

/// Blocks that hold some of the records.
const OPTIONS: [&str; 2] = ["-o", "block-size=65536"];

fn writable(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// A log that is synced after each record.
struct Log {
    path: PathBuf,
    file: File,
    /// Programs that other tests start close their copies of the other one: with this one open, that does not end the writing.
    second: File,
    /// What was synced.
    bytes: Vec<u8>,
}

impl Log {
    fn start(mount: &Mount<'_>, name: &str) -> Result<Self> {
        let path = mount.path(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let second = writable(&path)?;
        let mut log = Self { path, file, second, bytes: Vec::new() };
        log.add(5_000)?;
        Ok(log)
    }

    /// Closes it and opens it again.
    fn reopen(self, mount: &Mount<'_>) -> Result<Self> {
        let Self { path, file, second, bytes } = self;
        drop((file, second));
        ensure_same("closed", &fs::read(&path)?, &bytes)?;
        fs::write(mount.path("other"), "another file")?;
        Ok(Self { file: writable(&path)?, second: writable(&path)?, path, bytes })
    }

    fn add(&mut self, len: usize) -> Result<()> {
        let record = pattern(self.bytes.len() as u64, 0, len);
        self.file.write_all_at(&record, self.bytes.len() as u64)?;
        self.file.sync_data()?;
        self.bytes.extend(record);
        Ok(())
    }

    fn grow(&mut self) -> Result<()> {
        (0..6).try_for_each(|round| self.add(1_000 + 700 * round))
    }

    fn until_closed(&self) -> Result<()> {
        let closed = || Ok(writable(&self.path).is_ok());
        wait_until("the log can be written again", closed)
    }

    /// It is there to the last synced byte, after its writer's end.
    fn survives(&self) -> Result<()> {
        self.until_closed()?;
        let got = fs::read(&self.path).with_context(|| self.path.display().to_string())?;
        ensure_same(&self.path.display().to_string(), &got, &self.bytes)
    }
}

/// The namenode's disk as it is now.
fn copy_of(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let to = cluster.home().join(name);
    copy_tree(&cluster.namenode_directory(), &to)?;
    Ok(to)
}

/// The blocks of a file and their stamps.
fn blocks(cluster: &Cluster, path: &str) -> Result<Vec<String>> {
    let told = cluster.dfs(&["fsck", path, "-files", "-blocks"])?.ok()?.text();
    let words = told.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let blocks: Vec<String> = words.filter(|word| word.starts_with("blk_")).map(str::to_owned).collect();
    ensure!(!blocks.is_empty(), "{told}");
    Ok(blocks)
}

/// The namenode, which does not run, has what is in `copy`.
fn put_back(cluster: &Cluster, copy: &PathBuf) -> Result<()> {
    fs::remove_dir_all(cluster.namenode_directory())?;
    copy_tree(copy, &cluster.namenode_directory())?;
    fs::remove_dir_all(copy)?;
    Ok(())
}

#[test]
fn it_survives_the_mount_and_a_namenode_that_forgot_it() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&OPTIONS)?;
        let mut plain = Log::start(&mount, "plain")?;
        // Shorter than its replicas are, and shorter than what the namenode was told.
        let mut cut = Log::start(&mount, "cut")?;
        cut.grow()?;
        cut.file.set_len(7_000)?;
        cut.bytes.truncate(7_000);
        cut.add(500)?;
        // Closed, opened again and added to.
        let mut again = Log::start(&mount, "again")?;
        again.grow()?;
        let mut again = again.reopen(&mount)?;
        again.add(300)?;
        // No replica tells its size: a hole is at its end.
        let mut hole = Log::start(&mount, "hole")?;
        hole.grow()?;
        hole.file.set_len(30_000)?;
        hole.bytes.resize(30_000, 0);
        hole.file.sync_data()?;

        let copy = copy_of(cluster, "copy")?;
        [&mut plain, &mut cut, &mut again].into_iter().try_for_each(Log::grow)?;
        mount.kill_9()?;
        cluster.kill_9(|name| name == "namenode")?;
        put_back(cluster, &copy)?;
        cluster.start_again()?;
        mount.mount()?;
        [plain, cut, again, hole].iter().try_for_each(Log::survives)
    })
}

#[test]
fn it_survives_all_of_them() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&OPTIONS)?;
        let mut log = Log::start(&mount, "log")?;
        let copy = copy_of(cluster, "copy")?;
        log.grow()?;
        // This one is not synced, and may be there or not.
        let loose = pattern(9, 0, 3_000);
        log.file.write_all_at(&loose, log.bytes.len() as u64)?;
        mount.kill_9()?;
        cluster.kill_9(|_| true)?;
        put_back(cluster, &copy)?;
        cluster.start_again()?;
        mount.mount()?;
        log.until_closed()?;
        let (synced, got) = (log.bytes.len(), fs::metadata(&log.path)?.len() as usize);
        ensure!((synced..=synced + loose.len()).contains(&got), "{got} bytes, {synced} were synced");
        log.bytes.extend(&loose[..got - synced]);
        log.survives()
    })
}

#[test]
fn it_survives_a_change_of_the_pipeline_and_a_datanode_that_stays_away() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&OPTIONS)?;
        let mut log = Log::start(&mount, "log")?;
        log.grow()?;
        cluster.kill_9(|name| name == "datanode-1")?;
        // Under a new stamp, which the namenode has on its disk when this is answered.
        log.add(2_000)?;
        let copy = copy_of(cluster, "copy")?;
        log.grow()?;
        mount.kill_9()?;
        cluster.kill_9(|name| name == "namenode" || name == "datanode-2")?;
        put_back(cluster, &copy)?;
        // The one that was left out is back, with its shorter replica.
        cluster.start_again()?;
        mount.mount()?;
        log.survives()
    })
}

#[test]
fn it_is_told_again_by_a_mount_that_goes_on() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&OPTIONS)?, cluster.mount(&OPTIONS)?);
        let mut log = Log::start(&here, "log")?;
        // A machine that stood still for seconds ended the block: what came then was on the namenode's disk, and is not lost.
        let copy = loop {
            let (copy, before) = (copy_of(cluster, "copy")?, blocks(cluster, "/log")?);
            log.add(1_000)?;
            log.grow()?;
            if blocks(cluster, "/log")? == before {
                break copy;
            }
            ensure!(log.bytes.len() < 50_000, "never long enough in one block: {before:?}");
            fs::remove_dir_all(copy)?;
        };
        ensure_same("elsewhere", &fs::read(there.path("log"))?, &log.bytes)?;
        cluster.kill_9(|name| name == "namenode")?;
        put_back(cluster, &copy)?;
        cluster.start_again()?;
        wait_until("others see what was synced", || Ok(fs::read(there.path("log"))? == log.bytes))?;
        log.grow()?;
        ensure_same("goes on", &fs::read(there.path("log"))?, &log.bytes)?;
        // Into the next block, and to the end.
        while log.bytes.len() < 100_000 {
            log.add(9_000)?;
        }
        let Log { path, file, second, bytes } = log;
        file.sync_all()?;
        drop((file, second));
        ensure_same("closed", &fs::read(there.path("log"))?, &bytes)?;
        ensure_same("here", &fs::read(path)?, &bytes)
    })
}

#[test]
fn it_survives_a_restore_from_a_backup() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mount = cluster.mount(&OPTIONS)?;
        let mut log = Log::start(&mount, "log")?;
        let backup = cluster.home().join("backup");
        let address = cluster.namenode_address();
        cluster.block_on(maintenance::from_namenode(&address, "root", &backup))?;
        log.grow()?;
        mount.kill_9()?;
        cluster.kill_9(|name| name == "namenode")?;
        let directory = cluster.namenode_directory();
        fs::rename(&directory, cluster.home().join("lost"))?;
        maintenance::restore(&backup, &directory, NODE_ID)?;
        cluster.start_again()?;
        mount.mount()?;
        log.survives()
    })
}
