//! flock and fcntl locks, within a mount and between two of them.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{errno, wait_until, with_cluster, with_mount};
use libc::{F_OFD_SETLK, F_OFD_SETLKW, F_RDLCK, F_SETLK, F_SETLKW, F_UNLCK, F_WRLCK};

use crate::commands::command;
use crate::hanging_reads::Stopped;
use crate::metrics::metric;
use crate::outages::{start, still_waits};
use crate::sys::{flock, lock_in_the_way, record_lock};

/// Turns of the two mounts, and rows that each adds.
const TURNS: usize = 8;
const ROWS: usize = 15;

/// Where sqlite locks a byte of the database for a reader.
const SHARED_FIRST: u64 = 0x4000_0002;

fn open(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?)
}

/// A process that holds an exclusive fcntl lock on bytes 10 to 19 of `name` until it is killed.
struct Holder(Child);

impl Holder {
    fn start(directory: &Path, name: &str) -> Result<Self> {
        let script = "import fcntl,sys,time\nf=open(sys.argv[1],'r+b')\nfcntl.lockf(f,fcntl.LOCK_EX,10,10)\n\
                      open(sys.argv[1]+'.held','w').close()\nsys.stdin.read()";
        let child = command("python3", directory).args(["-c", script, name]).stdin(Stdio::piped()).spawn()?;
        let holder = Self(child);
        wait_until("the other process holds the lock", || {
            Ok(directory.join(format!("{name}.held")).exists())
        })?;
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `lock` succeeds.
fn wait_for_lock(mut lock: impl FnMut() -> std::io::Result<()>) -> Result<()> {
    wait_until("the lock is free", || match lock() {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error.into()),
    })
}

#[test]
fn locks_of_a_mount_exclude_each_other() -> Result<()> {
    with_mount(&[], |place| {
        let path = place.root.join("f");
        let (one, two) = (open(&path)?, open(&path)?);
        flock(&one, libc::LOCK_SH | libc::LOCK_NB)?;
        flock(&two, libc::LOCK_SH | libc::LOCK_NB)?;
        ensure!(errno(flock(&two, libc::LOCK_EX | libc::LOCK_NB))? == libc::EWOULDBLOCK);
        flock(&one, libc::LOCK_UN)?;
        flock(&two, libc::LOCK_EX | libc::LOCK_NB)?;
        ensure!(errno(flock(&one, libc::LOCK_SH | libc::LOCK_NB))? == libc::EWOULDBLOCK);
        drop(two);
        wait_for_lock(|| flock(&one, libc::LOCK_EX | libc::LOCK_NB))?;

        // Ranges, owned by open files.
        let two = open(&path)?;
        record_lock(&one, F_OFD_SETLK, F_WRLCK, 0, 100)?;
        record_lock(&two, F_OFD_SETLK, F_WRLCK, 100, 0)?;
        ensure!(errno(record_lock(&two, F_OFD_SETLK, F_RDLCK, 50, 1))? == libc::EAGAIN);
        record_lock(&one, F_OFD_SETLK, F_UNLCK, 40, 20)?;
        record_lock(&two, F_OFD_SETLK, F_RDLCK, 50, 1)?;
        ensure!(errno(record_lock(&two, F_OFD_SETLK, F_RDLCK, 39, 1))? == libc::EAGAIN);

        // Ranges, owned by processes; a killed process holds none.
        let third = open(&place.root.join("g"))?;
        let holder = Holder::start(&place.root, "g")?;
        ensure!(errno(record_lock(&third, F_SETLK, F_WRLCK, 0, 11))? == libc::EAGAIN);
        record_lock(&third, F_SETLK, F_WRLCK, 0, 10)?;
        let found = lock_in_the_way(&third, 0, 100)?.context("a lock")?;
        ensure!(found == (F_WRLCK, holder.0.id() as i32), "{found:?}");
        let waiting = open(&place.root.join("g"))?;
        let waiter = std::thread::spawn(move || record_lock(&waiting, F_SETLKW, F_WRLCK, 10, 10));
        drop(holder);
        waiter.join().ok().context("the waiter")??;
        Ok(())
    })
}

#[test]
fn locks_hold_between_mounts() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&[])?, cluster.mount(&[])?);
        let (one, two) = (open(&here.path("f"))?, open(&there.path("f"))?);
        flock(&one, libc::LOCK_EX | libc::LOCK_NB)?;
        ensure!(errno(flock(&two, libc::LOCK_SH | libc::LOCK_NB))? == libc::EWOULDBLOCK);
        // A waiting one gets it when it is given back.
        let waiting = two.try_clone()?;
        let waiter = std::thread::spawn(move || flock(&waiting, libc::LOCK_EX));
        flock(&one, libc::LOCK_UN)?;
        waiter.join().ok().context("the waiter")??;
        ensure!(errno(flock(&one, libc::LOCK_EX | libc::LOCK_NB))? == libc::EWOULDBLOCK);
        flock(&two, libc::LOCK_UN)?;

        record_lock(&one, F_SETLK, F_WRLCK, 0, 10)?;
        ensure!(errno(record_lock(&two, F_SETLK, F_WRLCK, 9, 1))? == libc::EAGAIN);
        record_lock(&two, F_SETLK, F_WRLCK, 10, 10)?;
        ensure!(lock_in_the_way(&two, 0, 5)?.is_some_and(|(kind, _)| kind == F_WRLCK));
        // Closing a file gives its locks back.
        drop(one);
        wait_for_lock(|| record_lock(&two, F_SETLK, F_WRLCK, 0, 10))
    })
}

#[test]
fn locks_survive_the_namenode() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&[])?, cluster.mount(&[])?);
        let (one, two) = (open(&here.path("f"))?, open(&there.path("f"))?);
        flock(&one, libc::LOCK_EX | libc::LOCK_NB)?;
        record_lock(&one, F_OFD_SETLK, F_WRLCK, 0, 10)?;
        let stopped = Stopped::new(here.pid()?)?;
        cluster.kill_9(|name| name == "namenode")?;
        cluster.start_again()?;
        // Nobody gets them before the first mount has told that it has them.
        let asking = two.try_clone()?;
        let asked = start(move || flock(&asking, libc::LOCK_EX | libc::LOCK_NB));
        still_waits(&asked)?;
        drop(stopped);
        ensure!(errno(asked.recv()?)? == libc::EWOULDBLOCK);
        ensure!(errno(record_lock(&two, F_OFD_SETLK, F_WRLCK, 5, 1))? == libc::EAGAIN);
        drop(one);
        wait_for_lock(|| flock(&two, libc::LOCK_EX | libc::LOCK_NB))
    })
}

#[test]
fn locks_end_with_their_mount_delegated_ones_too() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&[])?, cluster.mount(&[])?);
        let (one, two) = (open(&here.path("f"))?, open(&there.path("f"))?);
        let turn = |start| {
            record_lock(&one, F_OFD_SETLK, F_WRLCK, start, 10)?;
            record_lock(&one, F_OFD_SETLK, F_UNLCK, start, 10)
        };
        wait_until("the locks are delegated", || {
            turn(0)?;
            Ok(metric(here.root(), "dfs_mount_delegated_lock_files")? == 1)
        })?;
        let answered = metric(here.root(), "dfs_mount_lock_calls_answered_total")?;
        record_lock(&one, F_OFD_SETLK, F_WRLCK, 20, 10)?;
        ensure!(metric(here.root(), "dfs_mount_lock_calls_answered_total")? == answered + 1);
        // The namenode does not know of this lock; it has to ask for it.
        ensure!(errno(record_lock(&two, F_OFD_SETLK, F_WRLCK, 25, 1))? == libc::EAGAIN);
        ensure!(metric(here.root(), "dfs_mount_lock_delegations_recalled_total")? == 1);
        wait_until("the locks are delegated again", || {
            turn(0)?;
            Ok(metric(here.root(), "dfs_mount_delegated_lock_files")? == 1)
        })?;
        let (told, same) = (open(&here.path("g"))?, open(&there.path("g"))?);
        flock(&told, libc::LOCK_EX | libc::LOCK_NB)?;
        let (waiting, killed) = (two.try_clone()?, Instant::now());
        here.kill_9()?;
        let waiter = start(move || record_lock(&waiting, F_OFD_SETLKW, F_WRLCK, 20, 10));
        waiter.recv()??;
        println!("the locks of a killed mount were free after {:?}", killed.elapsed());
        wait_for_lock(|| flock(&same, libc::LOCK_EX | libc::LOCK_NB))
    })
}

#[test]
fn waiting_for_a_lock_can_be_interrupted() -> Result<()> {
    with_cluster(&[], |cluster| {
        let (here, there) = (cluster.mount(&[])?, cluster.mount(&[])?);
        let one = open(&here.path("f"))?;
        flock(&one, libc::LOCK_EX | libc::LOCK_NB)?;
        let mut waiter = Command::new("flock").arg(there.path("f")).args(["-c", "true"]).spawn()?;
        wait_until("the process waits for the lock", || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", waiter.id()))?;
            Ok(state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S') || rest.starts_with('D')))
        })?;
        waiter.kill()?;
        wait_until("the killed process is gone", || Ok(waiter.try_wait()?.is_some()))?;
        // Its request does not stand in the way of others.
        flock(&one, libc::LOCK_UN)?;
        let two = open(&there.path("f"))?;
        wait_for_lock(|| flock(&two, libc::LOCK_EX | libc::LOCK_NB))
    })
}

#[test]
fn two_mounts_write_to_one_database_by_turns() -> Result<()> {
    with_cluster(&[], |cluster| {
        let mounts = [cluster.mount(&[])?, cluster.mount(&[])?];
        let sql = |turn: usize, statements: &str| {
            let output = command("sqlite3", &mounts[turn % 2].path(""))
                .args(["-cmd", ".timeout 60000", "turns.db", statements])
                .output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(
                output.status.success(),
                "turn {turn}: {said}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(said)
        };
        sql(0, "CREATE TABLE t(turn INTEGER, row INTEGER)")?;
        for turn in 0..TURNS {
            // A transaction each, so that the locks of the database are worth having.
            let rows = (0..ROWS).map(|row| format!("INSERT INTO t VALUES({turn}, {row});"));
            sql(turn, &rows.collect::<String>())?;
        }
        // A reader on the one mount keeps a writer on the other one out.
        let path = mounts[0].path("turns.db");
        let reader = open(&path)?;
        record_lock(&reader, F_SETLK, F_RDLCK, SHARED_FIRST, 1)?;
        let refused = command("sqlite3", &mounts[1].path(""))
            .args(["turns.db", "INSERT INTO t VALUES(-1, -1)"])
            .output()?;
        ensure!(String::from_utf8_lossy(&refused.stderr).contains("locked"), "{refused:?}");
        drop(reader);
        let said = sql(1, "PRAGMA integrity_check; SELECT count(*), count(DISTINCT turn), sum(row) FROM t")?;
        let rows = TURNS * ROWS;
        ensure!(said == format!("ok\n{rows}|{TURNS}|{}\n", TURNS * ROWS * (ROWS - 1) / 2), "{said}");
        Ok(())
    })
}
