//! Open files: what two sessions see of each other, unlinked files, leases that move.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dfs_client::ErrorKind;
use dfs_client::fs::{OpenFile, OpenOptions, SetAttributes, SetTime};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::read_all;

use super::{ROOT, file, inode, root, session};
use crate::ensure_error;

const READ: OpenOptions = OpenOptions { write: false, truncate: false };
const WRITE: OpenOptions = OpenOptions { write: true, truncate: false };
const CUT: OpenOptions = OpenOptions { write: true, truncate: true };

async fn content(file: &Arc<OpenFile>) -> Result<Vec<u8>> {
    let size = usize::try_from(file.status().size)?;
    Ok(file.read_at(0, size).await?.to_vec())
}

#[test]
fn what_one_session_closed_the_next_open_elsewhere_sees() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        // More than one block.
        let bytes = pattern(1, 0, 2_500_000);
        let (made, writer) = one.create(&me, ROOT, b"f", file()).await?;
        ensure_error(one.create(&me, ROOT, b"f", file()).await, ErrorKind::AlreadyExists, "f")?;
        writer.write_at(0, Bytes::from(bytes.clone())).await?;
        assert_eq!(one.stat(&me, inode(&made)).await?.size, 2_500_000, "overlaid");
        assert_eq!(one.lookup(&me, ROOT, b"f").await?.size, 2_500_000);
        assert_eq!(one.list(&me, ROOT, b"", 10).await?.0[0].size, 2_500_000);
        ensure_same("own read", &content(&writer).await?, &bytes)?;
        let times = SetAttributes { mtime: Some(SetTime::At(77)), ..Default::default() };
        one.set_attributes(&me, inode(&made), times).await?;
        writer.release(true).await?;

        let reader = two.open(&me, inode(&made), READ).await?;
        ensure_same("other session", &content(&reader).await?, &bytes)?;
        assert_eq!(reader.status().mtime_ns, 77, "an explicit time survives the flush");
        reader.release(false).await?;
        ensure_same("path client", &read_all(&cluster.client().await?, "/f").await?, &bytes)?;

        // The second session overwrites the middle and cuts the end, the first sees it at its next open.
        let writer = two.open(&me, inode(&made), WRITE).await?;
        writer.write_at(1_000_000, Bytes::from(vec![7; 100_000])).await?;
        let cut = SetAttributes { size: Some(2_000_000), opened: true, ..Default::default() };
        assert_eq!(two.set_attributes(&me, inode(&made), cut).await?.size, 2_000_000);
        writer.release(true).await?;
        let mut changed = bytes;
        changed[1_000_000..1_100_000].fill(7);
        changed.truncate(2_000_000);
        let reader = one.open(&me, inode(&made), READ).await?;
        ensure_same("after close", &content(&reader).await?, &changed)?;
        reader.release(false).await?;
        let emptied = one.open(&me, inode(&made), CUT).await?;
        assert_eq!(emptied.status().size, 0);
        emptied.release(true).await?;
        assert_eq!(two.stat(&me, inode(&made)).await?.size, 0);
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

/// How often a file is opened and looked at while its writer is being released.
const RELEASES: u64 = 200;

#[test]
fn a_file_whose_writer_is_being_released_is_seen_as_it_was_written() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let session = session(&cluster).await?;
        let me = root();
        let (made, writer) = session.create(&me, ROOT, b"f", file()).await?;
        let f = inode(&made);
        writer.release(true).await?;
        let mut expected = Vec::new();
        for round in 0..RELEASES {
            let writer = session.open(&me, f, WRITE).await?;
            let bytes = pattern(round, 0, 1_000);
            writer.write_at(expected.len() as u64, Bytes::from(bytes.clone())).await?;
            expected.extend(bytes);
            ensure!(session.written(f).is_some_and(|status| status.size == expected.len() as u64));
            let looking = async {
                loop {
                    let seen = session.stat(&me, f).await?.size;
                    ensure!(seen == expected.len() as u64, "round {round}: {seen} bytes seen");
                    let reader = session.open(&me, f, READ).await?;
                    ensure_same(&format!("round {round}"), &content(&reader).await?, &expected)?;
                    reader.release(false).await?;
                }
            };
            tokio::select! {
                biased;
                released = writer.release(true) => released?,
                looked = looking => looked?,
            }
            ensure!(session.written(f).is_none(), "round {round}: nobody writes");
        }
        session.close().await?;
        Ok(())
    })
}

#[test]
fn an_unlinked_file_lives_until_its_last_opener_has_released_it() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let (made, writer) = one.create(&me, ROOT, b"f", file()).await?;
        writer.write_at(0, Bytes::from_static(b"still here")).await?;
        writer.flush().await?;
        let reader = two.open(&me, inode(&made), READ).await?;
        assert_eq!(one.unlink(&me, ROOT, b"f", false).await?.nlink, 0);
        ensure_error(one.lookup(&me, ROOT, b"f").await, ErrorKind::NotFound, "f")?;
        writer.release(true).await?;
        assert_eq!(two.stat(&me, inode(&made)).await?.nlink, 0);
        ensure_same("orphan", &content(&reader).await?, b"still here")?;
        reader.release(false).await?;
        wait_until("it is gone", PATIENCE, async || {
            let found = two.stat(&me, inode(&made)).await;
            Ok(found.is_err_and(|error| error.kind() == ErrorKind::NotFound))
        })
        .await?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn a_lease_moves_to_the_session_that_writes() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        let (made, first) = one.create(&me, ROOT, b"f", file()).await?;
        first.write_at(0, Bytes::from_static(b"one")).await?;
        // Still open in the first session, but idle: the lease is recalled.
        let second = two.open(&me, inode(&made), WRITE).await?;
        ensure_same("written back", &content(&second).await?, b"one")?;
        second.write_at(3, Bytes::from_static(b" two")).await?;
        second.flush().await?;
        // And back, by a write of the handle that lost it.
        first.write_at(0, Bytes::from_static(b"ONE")).await?;
        first.release(true).await?;
        second.release(true).await?;
        ensure_same("both", &read_all(&cluster.client().await?, "/f").await?, b"ONE two")?;
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}

#[test]
fn calls_that_are_given_up_leave_no_lease_behind() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let (one, two) = (session(&cluster).await?, session(&cluster).await?);
        let me = root();
        for round in 0..20u32 {
            let name = format!("f{round}");
            {
                let create = one.create(&me, ROOT, name.as_bytes(), file());
                tokio::pin!(create);
                // Given up at different moments: before it is sent, on its way, and answered.
                for _ in 0..round {
                    if futures::poll!(create.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            let Ok(made) = one.make_node(&me, ROOT, name.as_bytes(), file()).await else {
                let made = one.lookup(&me, ROOT, name.as_bytes()).await?;
                let file = two.open(&me, inode(&made), WRITE).await.context(name)?;
                file.release(true).await?;
                continue;
            };
            let opened =
                tokio::time::timeout(std::time::Duration::from_micros(u64::from(round) * 50), async {
                    one.open(&me, inode(&made), WRITE).await
                });
            if let Ok(file) = opened.await {
                file?.release(true).await?;
            }
            let file = two.open(&me, inode(&made), WRITE).await.context(name)?;
            file.release(true).await?;
        }
        ensure!(one.list(&me, ROOT, b"", 1000).await?.0.iter().all(|entry| !entry.under_construction));
        one.close().await?;
        two.close().await?;
        Ok(())
    })
}
