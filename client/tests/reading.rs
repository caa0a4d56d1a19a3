//! Readers against scripted datanodes.

mod fake;

use std::io::SeekFrom;
use std::time::{Duration, Instant};

use dfs_client::{CreateOptions, DfsClient, DfsError, ErrorKind};
use fake::{BLOCK_SIZE, Cluster, Fault, pattern};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

const LEN: usize = 5 * BLOCK_SIZE as usize / 2 + 777;

async fn with_file(datanodes: usize) -> (Cluster, DfsClient) {
    let cluster = Cluster::start(datanodes).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_bytes(pattern(0, LEN).into()).await.expect("writes");
    let status = writer.close().await.expect("closes");
    assert_eq!(status.size, LEN as u64);
    (cluster, client)
}

async fn read_all(client: &DfsClient) -> Result<Vec<u8>, DfsError> {
    let mut reader = client.open("/f").await?;
    let mut content = Vec::new();
    while let Some(bytes) = reader.chunk().await? {
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

#[tokio::test]
async fn what_was_written_is_read_in_every_way() {
    let (cluster, client) = with_file(3).await;
    let expected = pattern(0, LEN);
    assert!(cluster.stored("/f") == expected);
    assert!(read_all(&client).await.expect("reads") == expected);

    let mut reader = client.open("/f").await.expect("opens");
    let mut content = Vec::new();
    reader.read_to_end(&mut content).await.expect("reads");
    assert!(content == expected);

    let seed = 0x5eed_u64;
    println!("seed {seed:#x}");
    let mut random = seed;
    let mut next = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    for _ in 0..200 {
        let (offset, len) = (next(LEN + 100), next(100_000));
        let end = (offset + len).min(LEN).max(offset.min(LEN));
        let mut buf = vec![0; len];
        let n = reader.read_at(offset as u64, &mut buf).await.expect("reads");
        assert!(buf[..n] == expected[offset.min(LEN)..end], "{len} bytes at {offset}");

        let to = next(LEN);
        let len = next(LEN - to + 1).min(40_000);
        assert_eq!(reader.seek(SeekFrom::Start(to as u64)).await.expect("seeks"), to as u64);
        let mut buf = vec![0; len];
        reader.read_exact(&mut buf).await.expect("reads");
        assert!(buf == expected[to..to + len], "{len} bytes at {to} after a seek");
        assert_eq!(reader.position(), (to + len) as u64);
    }
}

#[tokio::test]
async fn connections_are_reused() {
    let (cluster, client) = with_file(1).await;
    let before = cluster.state().datanodes[0].accepted;
    for _ in 0..20 {
        assert_eq!(read_all(&client).await.expect("reads").len(), LEN);
        let reader = client.open("/f").await.expect("opens");
        let mut buf = [0; 100];
        assert_eq!(reader.read_at(5000, &mut buf).await.expect("reads"), 100);
    }
    assert_eq!(cluster.state().datanodes[0].accepted, before, "the writer's connection serves all");
}

#[tokio::test]
async fn bad_replicas_are_skipped_and_corrupt_ones_reported() {
    for fault in [Fault::Corrupt, Fault::Refuse, Fault::CloseReadAfter(0), Fault::CloseReadAfter(2)] {
        let (cluster, client) = with_file(3).await;
        cluster.set_fault(0, fault);
        cluster.set_fault(1, fault);
        assert!(read_all(&client).await.expect("the third replica serves") == pattern(0, LEN), "{fault:?}");
        let reader = client.open("/f").await.expect("opens");
        let mut buf = vec![0; LEN];
        assert_eq!(reader.read_at(0, &mut buf).await.expect("reads"), LEN);
        assert!(buf == pattern(0, LEN), "{fault:?}");
        if fault == Fault::Corrupt {
            let deadline = Instant::now() + Duration::from_secs(10);
            while cluster.state().bad_reports.len() < 6 {
                assert!(Instant::now() < deadline, "corrupt replicas were not reported");
                tokio::task::yield_now().await;
            }
            assert!(cluster.state().bad_reports.iter().all(|(_, uuid)| uuid != "dn-2"));
        }
    }
}

/// Longer than any test, so that only what is hurried ends in time.
const FOREVER: Duration = Duration::from_secs(600);

/// A stalled replica costs less than a second; this leaves room for a machine that stands still meanwhile.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn stalled_replicas_are_left_within_a_second_and_remembered() {
    for packets in [0, 1] {
        let (cluster, _) = with_file(3).await;
        let client = cluster.builder().datanode_timeout(FOREVER).connect().await.expect("connects");
        cluster.set_fault(0, Fault::StallReadAfter(packets));
        cluster.set_fault(1, Fault::StallReadAfter(packets));
        let started = Instant::now();
        assert!(read_all(&client).await.expect("the third replica serves") == pattern(0, LEN));
        let reader = client.open("/f").await.expect("opens");
        let mut buf = vec![0; LEN];
        assert_eq!(reader.read_at(0, &mut buf).await.expect("reads"), LEN);
        assert!(buf == pattern(0, LEN));
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        let reads: Vec<_> = cluster.state().datanodes.iter().map(|d| d.reads).collect();
        assert!(reads[0] == 1 && reads[1] <= 2, "{reads:?}: hardly ever asked by later blocks and readers");
    }
}

#[tokio::test]
async fn the_last_replica_is_waited_for() {
    let (cluster, client) = with_file(3).await;
    (0..3).for_each(|index| cluster.set_fault(index, Fault::SlowRead(Duration::from_millis(1500))));
    let reader = client.open("/f").await.expect("opens");
    let mut buf = vec![0; 100];
    assert_eq!(reader.read_at(5000, &mut buf).await.expect("slow is better than nothing"), 100);
    assert!(buf == pattern(5000, 100));
    let reads: Vec<_> = cluster.state().datanodes.iter().map(|d| d.reads).collect();
    assert_eq!(reads, [1, 1, 1]);
    // The slow ones are asked again, with all patience, when the others are gone.
    cluster.set_fault(1, Fault::Refuse);
    cluster.set_fault(2, Fault::Refuse);
    assert_eq!(reader.read_at(0, &mut buf).await.expect("slow is better than nothing"), 100);
    assert!(buf == pattern(0, 100));
}

#[tokio::test]
async fn a_file_being_written_is_opened_although_a_datanode_is_stalled() {
    let cluster = Cluster::start(3).await;
    let client = cluster.builder().datanode_timeout(FOREVER).connect().await.expect("connects");
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_bytes(pattern(0, 1000).into()).await.expect("writes");
    writer.hflush().await.expect("flushes");
    cluster.set_fault(0, Fault::StallReadAfter(0));
    let started = Instant::now();
    let mut reader = client.open("/f").await.expect("opens");
    assert_eq!(reader.len(), 1000);
    assert!(reader.chunk().await.expect("reads").expect("bytes") == pattern(0, 1000));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(cluster.state().datanodes[0].reads, 0, "known to be slow");
    writer.close().await.expect("closes");
}

#[tokio::test]
async fn corrupt_data_is_never_returned() {
    let (cluster, client) = with_file(3).await;
    (0..3).for_each(|index| cluster.set_fault(index, Fault::Corrupt));
    let error = read_all(&client).await.expect_err("all replicas are corrupt");
    assert_eq!(error.kind(), ErrorKind::BlockMissing);
    let text = error.to_string();
    assert!(text.starts_with("/f: ") && text.contains("blk_") && text.contains("checksum"), "{text}");
}

#[tokio::test]
async fn replicas_that_the_namenode_hears_of_a_moment_later_are_read() {
    let (cluster, client) = with_file(2).await;
    cluster.set_fault(0, Fault::Corrupt);
    let place = |replicas: &[usize]| {
        for (_, places) in &mut cluster.state().files.get_mut("/f").expect("the file").blocks {
            *places = replicas.to_vec();
        }
    };
    place(&[0]);
    let asked = || cluster.state().calls.iter().filter(|call| **call == "open").count();
    let before = asked();
    let report = async {
        // The file is opened, and asked for again three times.
        let deadline = Instant::now() + Duration::from_secs(10);
        while asked() < before + 4 {
            assert!(Instant::now() < deadline, "asked {} times", asked() - before);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        place(&[0, 1]);
    };
    let (read, ()) = tokio::join!(read_all(&client), report);
    assert!(read.expect("the second replica serves") == pattern(0, LEN));
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let (_cluster, client) = with_file(1).await;
    let error = client.open("/g").await.expect_err("missing");
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::NotFound, "/g: No such file or directory".into())
    );
}

#[tokio::test]
async fn the_checksum_is_that_of_the_content() {
    let (cluster, client) = with_file(3).await;
    cluster.set_fault(0, Fault::Refuse);
    let checksum = client.checksum("/f").await.expect("composes");
    assert_eq!((checksum.crc, checksum.length), (crc32fast::hash(&pattern(0, LEN)), LEN as u64));
}

#[tokio::test]
async fn a_cancelled_read_loses_nothing() {
    let (_cluster, client) = with_file(2).await;
    let mut reader = client.open("/f").await.expect("opens");
    let mut content = Vec::new();
    let mut polls = 0;
    while content.len() < LEN {
        // Given up at a different point each time.
        polls = (polls + 1) % 7;
        let mut budget = polls;
        let limited = std::future::poll_fn(|cx| {
            budget -= 1;
            if budget <= 0 {
                std::task::Poll::Ready(())
            } else {
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            }
        });
        tokio::select! {
            biased;
            bytes = reader.chunk() => {
                let bytes = bytes.expect("reads").expect("not at the end");
                content.extend_from_slice(&bytes);
            }
            () = limited => {
                assert_eq!(reader.position(), content.len() as u64);
                let bytes = reader.chunk().await.expect("reads").expect("not at the end");
                content.extend_from_slice(&bytes);
            }
        }
    }
    assert!(content == pattern(0, LEN));
}

#[tokio::test]
async fn a_server_of_another_kind_is_called_that() {
    let cluster = Cluster::start(1).await;
    let datanode = cluster.state().datanodes[0].location.datanode.clone().expect("a datanode");
    for port in [datanode.xfer_port, datanode.ipc_port] {
        let address = format!("127.0.0.1:{port}");
        let error = DfsClient::connect(address.clone()).await.expect_err("no namenode");
        assert!(matches!(error, DfsError::NotANamenode { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("{address}: not a dfs namenode")) && !text.contains('\n'),
            "{text}"
        );
    }
}
