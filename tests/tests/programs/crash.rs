//! `kill -9` of any or all processes loses no completed file and no acknowledged hflush.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, DfsClient, RetryPolicy};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::programs::{LocalCluster, run};
use dfs_tests::rng::{Rng, seed_of_run};
use dfs_tests::wait::{PATIENCE, wait_for, wait_until};
use dfs_tests::workload::read_all;
use tokio::io::AsyncWriteExt;

/// A client that gives up soon, for work that is about to be cut off.
async fn impatient(cluster: &LocalCluster) -> Result<DfsClient> {
    let retry = RetryPolicy { deadline: Duration::from_secs(2), ..RetryPolicy::default() };
    let builder = DfsClient::builder().namenode(cluster.namenode_address()).retry(retry);
    Ok(builder.datanode_timeout(Duration::from_secs(2)).connect().await?)
}

#[test]
fn flushed_bytes_survive_kill_9_of_everything() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&[]).await?;
        let client = cluster.client().await?;
        let options = CreateOptions { block_size: Some(1 << 20), ..CreateOptions::default() };
        // Flushed lengths in the first chunk, inside a chunk, at a block edge, in the second block.
        let lengths = [100, 10_000, 1 << 20, (1 << 20) + 5_000];
        let mut writers = Vec::new();
        for (number, len) in lengths.into_iter().enumerate() {
            let mut writer = client.create(&format!("/open{number}"), options).await?;
            writer.write_all(&pattern(number as u64, 0, len)).await?;
            writer.hflush().await?;
            writers.push(writer);
        }
        cluster.kill_9(|_| true).await?;
        drop(writers);
        cluster.start_again().await?;

        let client = cluster.client().await?;
        for (number, len) in lengths.into_iter().enumerate() {
            let path = format!("/open{number}");
            wait_until(&format!("{path} is recovered"), PATIENCE, async || {
                Ok(client.recover_lease(&path).await?)
            })
            .await?;
            let bytes = read_all(&client, &path).await?;
            ensure!(bytes.len() >= len, "{path}: {} of {len} flushed bytes are left", bytes.len());
            ensure_same(&path, &bytes, &pattern(number as u64, 0, bytes.len()))?;
        }
        Ok(())
    })
}

#[test]
fn completed_files_survive_kill_9_in_the_middle_of_many_writers() -> Result<()> {
    run(async {
        const WRITERS: usize = 4;
        const ENOUGH: usize = 60;
        let seed = seed_of_run("completed_files_survive_kill_9_in_the_middle_of_many_writers");
        let cluster = LocalCluster::start(&[]).await?;
        let mut rng = Rng::new(seed);
        let mut completed: Vec<String> = Vec::new();
        for round in 0..3 {
            // What dies: the namenode, one datanode, or everything.
            let victim = match round {
                0 => "namenode".to_owned(),
                1 => format!("datanode-{}", rng.below(3)),
                _ => String::new(),
            };
            let (count, killed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
            let mut writers = Vec::new();
            for writer in 0..WRITERS {
                let (client, count, killed) = (impatient(&cluster).await?, count.clone(), killed.clone());
                writers.push(tokio::spawn(async move {
                    let mut done = Vec::new();
                    for number in 0.. {
                        let path = format!("/r{round}-w{writer}-{number}");
                        let outcome = async {
                            let mut file = client.create(&path, CreateOptions::default()).await?;
                            file.write_all(&pattern(number, 0, 100 * number as usize)).await?;
                            file.close().await?;
                            anyhow::Ok(())
                        };
                        match outcome.await {
                            Ok(()) => {
                                done.push(path);
                                count.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(_) if killed.load(Ordering::SeqCst) => break,
                            // The machine stood still for longer than this client waits.
                            Err(_) => {}
                        }
                        if count.load(Ordering::SeqCst) > 4 * ENOUGH {
                            break;
                        }
                    }
                    done
                }));
            }
            wait_until("enough files are complete", PATIENCE, async || {
                Ok(count.load(Ordering::SeqCst) >= ENOUGH)
            })
            .await?;
            killed.store(true, Ordering::SeqCst);
            cluster.kill_9(|name| victim.is_empty() || name == victim).await?;
            for writer in writers {
                completed.extend(writer.await?);
            }
            cluster.start_again().await?;
            let client = cluster.client().await?;
            for path in &completed {
                let number: u64 = path.rsplit('-').next().context("a number")?.parse()?;
                let expected = pattern(number, 0, 100 * number as usize);
                let bytes = read_all(&client, path).await.with_context(|| format!("seed {seed}"))?;
                ensure_same(path, &bytes, &expected)?;
            }
            println!("{} files are complete after round {round}", completed.len());
        }
        Ok(())
    })
}

#[test]
fn a_namenode_killed_again_and_again_comes_back_with_every_acknowledged_name() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        let mut made = Vec::new();
        for round in 0..4 {
            let client = impatient(&cluster).await?;
            let (count, killed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
            let maker = {
                let (count, killed) = (count.clone(), killed.clone());
                tokio::spawn(async move {
                    let mut made = Vec::new();
                    for number in 0..5_000 {
                        let path = format!("/r{round}-{number}");
                        match client.mkdir(&path, Default::default()).await {
                            Ok(_) => {
                                made.push(path);
                                count.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(_) if killed.load(Ordering::SeqCst) => break,
                            // The machine stood still for longer than this client waits.
                            Err(_) => {}
                        }
                    }
                    made
                })
            };
            wait_until("some directories are made", PATIENCE, async || {
                Ok(count.load(Ordering::SeqCst) >= 50 * (round + 1))
            })
            .await?;
            killed.store(true, Ordering::SeqCst);
            cluster.kill_9(|name| name == "namenode").await?;
            made.extend(maker.await?);
            cluster.start_again().await?;
            let client = cluster.client().await?;
            let listed = client.list("/").await?;
            let names: std::collections::BTreeSet<&str> =
                listed.iter().map(|entry| entry.path.as_str()).collect();
            for path in &made {
                ensure!(names.contains(path.as_str()), "{path} was acknowledged and is gone");
            }
        }
        Ok(())
    })
}

#[test]
fn replicas_with_a_torn_tail_are_cut_back_and_the_file_is_whole() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&[]).await?;
        let client = cluster.client().await?;
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.write_all(&pattern(1, 0, 50_000)).await?;
        writer.hflush().await?;
        cluster.kill_9(|_| true).await?;
        drop(writer);
        // As a crash of the machine may leave them: one replica with bytes that were never checksummed.
        let volume = cluster.dir().join("datanode-1");
        let replicas = dfs_tests::replica_files::replicas_below(&volume)?;
        let (_, files) = replicas.first().context("a replica being written on datanode-1")?;
        let mut data = std::fs::read(&files.data)?;
        data.extend_from_slice(&[0xde; 3_000]);
        std::fs::write(&files.data, data)?;
        cluster.start_again().await?;

        let client = cluster.client().await?;
        let recovered = async || Ok(client.recover_lease("/f").await?);
        wait_until("/f is recovered", PATIENCE, recovered).await?;
        let bytes = wait_for("/f", PATIENCE, async || read_all(&client, "/f").await).await?;
        ensure!(bytes.len() >= 50_000, "{} of 50000 flushed bytes are left", bytes.len());
        ensure_same("/f", &bytes, &pattern(1, 0, bytes.len()))
    })
}
