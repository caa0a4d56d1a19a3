//! Writers against scripted datanodes.

mod fake;

use std::time::{Duration, Instant};

use dfs_client::{CreateOptions, ErrorKind};
use fake::{BLOCK_SIZE, Cluster, Fault, pattern};
use tokio::io::AsyncWriteExt;

const BLOCK: usize = BLOCK_SIZE as usize;

#[tokio::test]
async fn small_files_need_two_calls_each_and_one_connection_to_each_member() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    for number in 0..10 {
        let path = format!("/small-{number}");
        let mut writer = client.create(&path, CreateOptions::default()).await.expect("creates");
        writer.write_bytes(pattern(number, 4096).into()).await.expect("writes");
        assert_eq!(writer.close().await.expect("closes").size, 4096);
        assert_eq!(writer.close().await.expect("closed already").size, 4096);
        assert!(cluster.stored(&path) == pattern(number, 4096));
    }
    let state = cluster.state();
    assert_eq!(state.calls, ["create", "complete"].repeat(10));
    assert_eq!(state.datanodes.iter().map(|d| d.accepted).collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test]
async fn an_empty_file_needs_no_datanode() {
    let cluster = Cluster::start(0).await;
    let client = cluster.client().await;
    let mut writer = client.create("/empty", CreateOptions::default()).await.expect("creates");
    writer.hsync().await.expect("nothing to sync");
    assert_eq!(writer.close().await.expect("closes").size, 0);
    assert_eq!(cluster.stored("/empty"), b"");
    assert!(client.open("/empty").await.expect("opens").chunk().await.expect("reads").is_none());
}

#[tokio::test]
async fn a_file_that_is_to_stay_empty_costs_no_block() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let options = CreateOptions { allocate_block: false, ..CreateOptions::default() };
    client.create("/empty", options).await.expect("creates").close().await.expect("closes");
    assert_eq!((cluster.stored("/empty").len(), cluster.state().allocations), (0, 0));
    let mut writer = client.create("/f", options).await.expect("creates");
    writer.write_bytes(pattern(0, 100).into()).await.expect("writes");
    writer.close().await.expect("closes");
    assert!(cluster.stored("/f") == pattern(0, 100));
    assert_eq!(cluster.state().calls, ["create", "complete", "create", "add_block", "complete"]);
    assert_eq!(cluster.state().allocations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn touching_files_allocates_no_blocks() {
    let cluster = Cluster::start(3).await;
    for (verb, path) in [("touch", "/a"), ("touchz", "/b"), ("touchz", "/b")] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_dfs"));
        command.args(["--namenode", &cluster.namenode.to_string(), verb, path]);
        let output = command.output().await.expect("runs");
        assert!(output.status.success(), "{verb} {path}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(cluster.stored(path), b"");
    }
    assert_eq!(cluster.state().allocations, 0);
}

#[tokio::test]
async fn no_datanode_is_an_error_that_says_so() {
    let cluster = Cluster::start(0).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_bytes(pattern(0, 10).into()).await.expect("buffered");
    let error = writer.close().await.expect_err("nowhere to write to");
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::NoUsableDatanode, "/f: No datanode can take the block".into())
    );
    assert_eq!(writer.close().await.expect_err("the same again").to_string(), error.to_string());
}

#[tokio::test]
async fn pieces_of_any_size_arrive_in_order() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    for piece in [1000, 4096, 40_000, 3 * BLOCK] {
        let path = format!("/f-{piece}");
        let (len, mut at) = (3 * BLOCK + 5, 0);
        let mut writer = client.create(&path, CreateOptions::default()).await.expect("creates");
        while at < len {
            let n = piece.min(len - at);
            if at / piece % 2 == 0 {
                writer.write_all(&pattern(at, n)).await.expect("writes");
            } else {
                writer.write_bytes(pattern(at, n).into()).await.expect("writes");
            }
            at += n;
            assert_eq!(writer.pos(), at as u64);
        }
        writer.shutdown().await.expect("closes");
        assert!(cluster.stored(&path) == pattern(0, len), "pieces of {piece}");
        assert_eq!(
            writer.write_all(b"x").await.expect_err("closed").kind(),
            std::io::ErrorKind::StaleNetworkFileHandle
        );
    }
}

#[tokio::test]
async fn flushed_bytes_are_visible_and_writing_goes_on_in_mid_chunk() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    let mut at = 0;
    for n in [1, 100, 4000, 5000, 20_000, BLOCK, 3] {
        writer.write_all(&pattern(at, n)).await.expect("writes");
        at += n;
        if n % 2 == 0 {
            writer.hflush().await.expect("flushes");
        } else {
            writer.hsync().await.expect("syncs");
        }
        let reader = client.open("/f").await.expect("opens");
        let mut buf = vec![0; at + 1];
        assert_eq!(reader.read_at(0, &mut buf).await.expect("reads"), at);
        assert!(buf[..at] == pattern(0, at), "after {at} bytes");
    }
    writer.close().await.expect("closes");
    assert!(cluster.stored("/f") == pattern(0, at));
}

#[tokio::test]
async fn appends_go_on_in_the_last_block_under_a_new_stamp() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut at = 0;
    for (round, n) in [1, 4095, 4097, 0, BLOCK - 8193, 1, BLOCK].into_iter().enumerate() {
        let mut writer = if round == 0 {
            client.create("/f", CreateOptions::default()).await.expect("creates")
        } else {
            client.append("/f").await.expect("appends")
        };
        assert_eq!(writer.pos(), at as u64);
        writer.write_all(&pattern(at, n)).await.expect("writes");
        at += n;
        assert_eq!(writer.close().await.expect("closes").size, at as u64);
        assert!(cluster.stored("/f") == pattern(0, at), "round {round}");
    }
}

#[tokio::test]
async fn writing_survives_the_loss_of_any_member_at_any_packet() {
    for bad in 0..3 {
        for packets in [0, 1, 2, 3, 4, 5, 9] {
            let cluster = Cluster::start(3).await;
            let client = cluster.client().await;
            cluster.set_fault(bad, Fault::FailWriteAfter(packets));
            let len = 2 * BLOCK + 100;
            let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
            writer.write_bytes(pattern(0, len).into()).await.expect("writes");
            writer.close().await.expect("closes");
            assert!(cluster.stored("/f") == pattern(0, len), "member {bad} after {packets} packets");
            let state = cluster.state();
            assert_eq!(state.datanodes[bad].fault, Fault::Refuse, "the fault struck");
            assert!(
                state.files["/f"].blocks.iter().skip(1).all(|(_, members)| !members.contains(&bad))
                    || packets > 5
            );
        }
    }
}

#[tokio::test]
async fn a_failure_while_closing_is_survived() {
    for (bad, len) in [(0, 100), (1, 100), (2, 100), (0, 50_000), (2, 50_000)] {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        cluster.set_fault(bad, Fault::FailLastPacket);
        let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
        writer.write_bytes(pattern(0, len).into()).await.expect("writes");
        writer.close().await.expect("closes");
        assert!(cluster.stored("/f") == pattern(0, len), "member {bad}, {len} bytes");
        assert!(!cluster.state().files["/f"].blocks[0].1.contains(&bad));
    }
}

#[tokio::test]
async fn a_pipeline_that_cannot_be_set_up_is_replaced() {
    let cluster = Cluster::start(5).await;
    let client = cluster.client().await;
    cluster.set_fault(0, Fault::Refuse);
    cluster.set_fault(2, Fault::Refuse);
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_bytes(pattern(0, 3 * BLOCK).into()).await.expect("writes");
    writer.close().await.expect("closes");
    assert!(cluster.stored("/f") == pattern(0, 3 * BLOCK));
    for (_, members) in &cluster.state().files["/f"].blocks {
        assert_eq!(members, &[1, 3, 4]);
    }
}

#[tokio::test]
async fn a_member_joins_when_half_are_gone() {
    let cluster = Cluster::start(4).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_all(&pattern(0, 20_000)).await.expect("writes");
    writer.hflush().await.expect("flushes");
    cluster.set_fault(1, Fault::FailWriteAfter(0));
    writer.write_all(&pattern(20_000, 20_000)).await.expect("writes");
    writer.hflush().await.expect("flushes");
    writer.close().await.expect("closes");
    assert!(cluster.stored("/f") == pattern(0, 40_000));
    assert_eq!(cluster.state().files["/f"].blocks[0].1, [0, 2, 3], "flushed data keeps its replication");
}

#[tokio::test]
async fn a_datanode_that_came_back_is_used_when_there_are_too_few_others() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_all(&pattern(0, 20_000)).await.expect("writes");
    writer.hflush().await.expect("flushes");
    cluster.set_fault(0, Fault::FailWriteAfter(0));
    writer.write_all(&pattern(20_000, 20_000)).await.expect("writes");
    writer.hflush().await.expect("flushes");
    cluster.set_fault(0, Fault::None);
    let mut at = 40_000;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < deadline, "the datanode is left out for good");
        writer.write_all(&pattern(at, BLOCK)).await.expect("writes");
        at += BLOCK;
        writer.hflush().await.expect("flushes");
        if cluster.state().files["/f"].blocks.last().is_some_and(|(_, members)| members.len() == 3) {
            break;
        }
    }
    writer.close().await.expect("closes");
    assert!(cluster.stored("/f") == pattern(0, at));
    assert_eq!(cluster.state().files["/f"].blocks[0].1, [1, 2], "before it came back");
}

#[tokio::test]
async fn a_dead_datanode_that_the_namenode_still_offers_is_not_tried_for_every_block() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    cluster.set_fault(2, Fault::Refuse);
    let started = Instant::now();
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_bytes(pattern(0, 40 * BLOCK).into()).await.expect("writes");
    writer.close().await.expect("closes");
    assert!(cluster.stored("/f") == pattern(0, 40 * BLOCK));
    // One block given back at the start, then two for each hold that ended: 500 ms, 1 s, ...
    let given_back = cluster.state().calls.iter().filter(|call| **call == "abandon_block").count();
    let holds = (started.elapsed().as_millis() / 500 + 1).ilog2() as usize;
    assert!((1..=1 + 2 * holds).contains(&given_back), "{given_back} blocks given back");
}

#[tokio::test]
async fn a_silent_member_is_found() {
    // By the timeout, and before it by asking all members.
    for patience in [Duration::from_millis(300), Duration::from_secs(600)] {
        let cluster = Cluster::start(3).await;
        let client = cluster.builder().datanode_timeout(patience).connect().await.expect("connects");
        let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
        writer.write_all(&pattern(0, 20_000)).await.expect("writes");
        writer.hflush().await.expect("flushes");
        cluster.set_fault(2, Fault::SilentWriteAfter(0));
        writer.write_all(&pattern(20_000, 20_000)).await.expect("writes");
        writer.close().await.expect("closes");
        assert!(cluster.stored("/f") == pattern(0, 40_000));
        assert_eq!(cluster.state().files["/f"].blocks[0].1, [0, 1]);
    }
}

#[tokio::test]
async fn losing_every_member_is_a_clear_error() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    writer.write_all(&pattern(0, 20_000)).await.expect("writes");
    writer.hflush().await.expect("flushes");
    (0..3).for_each(|index| cluster.set_fault(index, Fault::Refuse));
    cluster.set_fault(0, Fault::FailWriteAfter(0));
    writer.write_all(&pattern(20_000, 20_000)).await.expect("buffered");
    let error = writer.hflush().await.expect_err("all members are gone");
    let text = error.to_string();
    assert!(text.starts_with("/f: cannot write blk_"), "{text}");
    assert_eq!(writer.close().await.expect_err("for good").to_string(), text);
}

#[tokio::test]
async fn leases_are_renewed_while_a_file_is_open() {
    let cluster = Cluster::start(1).await;
    let client =
        cluster.builder().lease_renewal(Duration::from_millis(10)).connect().await.expect("connects");
    let mut writer = client.create("/f", CreateOptions::default()).await.expect("creates");
    let renewals = || cluster.state().calls.iter().filter(|call| **call == "renew_lease").count();
    let deadline = Instant::now() + Duration::from_secs(10);
    while renewals() < 3 {
        assert!(Instant::now() < deadline, "no renewal");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.close().await.expect("closes");
}
