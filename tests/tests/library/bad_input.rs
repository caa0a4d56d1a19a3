//! Every port survives what is not meant for it. (Growth of the servers is measured on the real programs,
//! in `tests/programs`.)

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dfs_proto::data_transfer::{Op, encode_op, read_delimited};
use dfs_proto::packet::PacketHeader;
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage;
use dfs_proto::transfer::{
    BaseHeaderProto, BlockOpResponseProto, ChecksumProto, ChecksumTypeProto, ClientOperationHeaderProto,
    ExtendedBlockProto, OpReadBlockProto, OpWriteBlockProto, Status,
};
use dfs_proto::v1::{
    AddBlockRequest, CompleteRequest, FileStatus, ListRequest, MkdirRequest, NodeRef, StatRequest,
};
use dfs_proto::{ErrorKind, RpcError};
use dfs_tests::cluster::{MiniCluster, SUPERUSER, context_of, node};
use dfs_tests::harness::run;
use dfs_tests::hostile::{Salvo, bombard, fire, volley};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::rng::seed_of_run;
use dfs_tests::workload::{read_all, write_file};

async fn still_works(cluster: &MiniCluster) -> Result<()> {
    let client = cluster.client().await?;
    let bytes = pattern(9, 0, 300_000);
    write_file(&client, "/check", &bytes).await?;
    ensure_same("/check", &read_all(&client, "/check").await?, &bytes)?;
    assert_eq!(client.stats().await?.live_datanodes, 3);
    Ok(())
}

#[test]
fn every_port_survives_foreign_protocols_and_nonsense() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let salvoes = volley(seed_of_run("every_port_survives_foreign_protocols_and_nonsense"));
        bombard(cluster.ports(), &salvoes).await?;
        still_works(&cluster).await
    })
}

#[test]
fn http_ports_answer_http() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        for (name, address) in cluster.ports().into_iter().filter(|(name, _)| name.ends_with("http")) {
            for (path, expected) in [("/health", "200"), ("/metrics", "200"), ("/nothing-here", "404")] {
                let get = Salvo {
                    name: path.to_owned(),
                    bytes: format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        .into_bytes(),
                };
                let answer = tokio::task::spawn_blocking(move || fire(address, &get)).await??;
                let text = String::from_utf8_lossy(&answer);
                ensure!(text.starts_with(&format!("HTTP/1.1 {expected}")), "{name} {path}: {text}");
            }
        }
        Ok(())
    })
}

fn header_of(pool_id: &str, block_id: u64, stamp: u64) -> ClientOperationHeaderProto {
    let block = ExtendedBlockProto {
        pool_id: pool_id.to_owned(),
        block_id,
        generation_stamp: stamp,
        num_bytes: None,
    };
    ClientOperationHeaderProto {
        base_header: BaseHeaderProto { block, token: None },
        client_name: "stranger".to_owned(),
    }
}

/// Status of the first answer to a data transfer operation.
async fn first_status(cluster: &MiniCluster, request: Vec<u8>) -> Result<Status> {
    let address = cluster.xfer_addr(0)?;
    let salvo = Salvo { name: "operation".to_owned(), bytes: request };
    let answer = tokio::task::spawn_blocking(move || fire(address, &salvo)).await??;
    let response: BlockOpResponseProto = read_delimited(&mut answer.as_slice())?;
    Ok(response.status())
}

#[test]
fn reads_of_what_is_not_there_are_refused_with_a_status() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(1, 0, 10_000)).await?;
        cluster.wait_for_replication("/f", 3).await?;
        let pool = client.server_defaults().block_pool_id.clone();
        let block = cluster.blocks("/f").await?[0].block.context("block")?;
        let read = |pool: &str, id, stamp, offset, len| {
            let header = header_of(pool, id, stamp);
            encode_op(Op::ReadBlock, &OpReadBlockProto { header, offset, len, ..Default::default() })
        };
        let good = read(&pool, block.id, block.generation_stamp, 0, 10_000);
        assert_eq!(first_status(&cluster, good).await?, Status::Success);
        for (what, request) in [
            ("no such block", read(&pool, block.id + 1_000, block.generation_stamp, 0, 1)),
            ("another pool", read("BP-other", block.id, block.generation_stamp, 0, 1)),
            ("a newer stamp", read(&pool, block.id, block.generation_stamp + 1, 0, 1)),
            ("past the end", read(&pool, block.id, block.generation_stamp, 10_001, 1)),
            ("an overflow", read(&pool, block.id, block.generation_stamp, u64::MAX - 1, 100)),
            ("too long", read(&pool, block.id, block.generation_stamp, 5_000, 10_000)),
        ] {
            let status = first_status(&cluster, request).await.context(what)?;
            ensure!(status != Status::Success, "{what} was accepted");
        }
        still_works(&cluster).await
    })
}

#[test]
fn a_write_with_wrong_checksums_or_impossible_packets_does_not_hurt() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        let pool = client.server_defaults().block_pool_id.clone();
        let begin = |id| {
            let write = OpWriteBlockProto {
                header: header_of(&pool, id, 77),
                stage: BlockConstructionStage::PipelineSetupCreate.into(),
                pipeline_size: 1,
                latest_generation_stamp: 77,
                requested_checksum: ChecksumProto {
                    r#type: ChecksumTypeProto::ChecksumCrc32.into(),
                    bytes_per_checksum: 4096,
                },
                ..Default::default()
            };
            encode_op(Op::WriteBlock, &write)
        };
        let packet = |offset, seqno, sums: usize, data: &[u8]| {
            let mut out = Vec::new();
            let data_len = data.len() as u32;
            PacketHeader {
                offset_in_block: offset,
                seqno,
                last_packet_in_block: false,
                data_len,
                sync_block: false,
                zero_len: 0,
            }
            .encode(sums, &mut out);
            out.extend(std::iter::repeat_n(0xab, sums));
            out.extend_from_slice(data);
            out
        };
        let address = cluster.xfer_addr(0)?;
        for (number, (what, packets)) in [
            ("wrong checksums", packet(0, 0, 4, &[1; 4096])),
            ("too few checksums", packet(0, 0, 4, &[1; 10_000])),
            ("too many checksums", packet(0, 0, 400, &[1; 100])),
            ("a gap", packet(1 << 40, 0, 4, &[1; 4096])),
            ("an odd sequence", packet(0, i64::MIN, 4, &[1; 4096])),
            ("garbage", vec![0xee; 70_000]),
        ]
        .into_iter()
        .enumerate()
        {
            let salvo =
                Salvo { name: what.to_owned(), bytes: [begin(1_000_000 + number as u64), packets].concat() };
            tokio::task::spawn_blocking(move || fire(address, &salvo)).await?.context(what)?;
        }
        still_works(&cluster).await
    })
}

#[test]
fn calls_that_make_no_sense_get_an_error_of_the_right_kind() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let mut rpc = cluster.rpc().await?;
        let kind = |status: tonic::Status| RpcError::from_status(&status).kind;
        let mut call_id = 100;
        let mut context = || {
            call_id += 1;
            Some(context_of(SUPERUSER, call_id))
        };

        let no_node = MkdirRequest { context: context(), node: None, mode: 0o755, create_parents: false };
        ensure!(rpc.mkdir(no_node).await.is_err(), "no node");
        let no_context = MkdirRequest { node: Some(node("/x")), ..MkdirRequest::default() };
        ensure!(rpc.mkdir(no_context).await.is_err(), "no caller");
        for path in [b"/a\0b".as_slice(), b"/a/./b", b"/a/../b", b"/a//b"] {
            let node = Some(NodeRef { base: 0, path: Bytes::copy_from_slice(path) });
            let refused = rpc.stat(StatRequest { context: context(), node }).await.expect_err("a bad path");
            assert_eq!(kind(refused), ErrorKind::InvalidPath, "{path:?}");
        }
        let node_of = |base, path: &str| Some(NodeRef { base, path: path.as_bytes().to_vec().into() });
        let refused = rpc.stat(StatRequest { context: context(), node: node_of(u64::MAX, "x") }).await;
        assert_eq!(kind(refused.expect_err("no such base")), ErrorKind::NotFound);
        let long = "n".repeat(256);
        let refused = rpc.stat(StatRequest { context: context(), node: node_of(1, &long) }).await;
        assert_eq!(kind(refused.expect_err("a long name")), ErrorKind::NameTooLong);

        let add = AddBlockRequest {
            context: context(),
            inode: u64::MAX,
            holder: "nobody".to_owned(),
            ..AddBlockRequest::default()
        };
        ensure!(rpc.add_block(add).await.is_err(), "a block for no file");
        let complete =
            CompleteRequest { context: context(), inode: 1, holder: String::new(), ..Default::default() };
        ensure!(rpc.complete(complete).await.is_err(), "the root is no file");

        // Non-UTF-8 names are legal bytes at this level; they must not confuse listings.
        let odd = NodeRef { base: 1, path: Bytes::from_static(b"\xff\xfe odd") };
        let mkdir = MkdirRequest { context: context(), node: Some(odd), mode: 0o755, create_parents: false };
        rpc.mkdir(mkdir).await?;
        let list =
            ListRequest { context: context(), node: Some(node("/")), limit: u32::MAX, ..Default::default() };
        let entries: Vec<FileStatus> = rpc.list(list).await?.into_inner().entries;
        assert_eq!(entries.iter().map(|entry| entry.name.as_ref()).collect::<Vec<_>>(), [b"\xff\xfe odd"]);
        still_works(&cluster).await
    })
}

#[test]
fn an_oversized_call_is_refused_and_the_next_one_served() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let mut rpc = cluster.rpc().await?.max_encoding_message_size(64 << 20);
        let huge = NodeRef { base: 0, path: vec![b'x'; 32 << 20].into() };
        let request = StatRequest { context: Some(context_of(SUPERUSER, 1)), node: Some(huge) };
        ensure!(rpc.stat(request).await.is_err(), "32 MiB of path");
        still_works(&cluster).await
    })
}
