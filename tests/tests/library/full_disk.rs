//! Disks without room: a clear refusal, nothing half-done, and everything goes on when there is room.

use anyhow::Result;
use dfs_client::{CreateOptions, MkdirOptions};
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_namenode::{Namenode, NamenodeConfig};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt as _;

use super::ensure_error;

#[test]
fn a_namenode_without_room_for_its_log_takes_no_changes_and_serves_reads() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        write_file(&cluster.client().await?, "/f", b"before").await?;
        cluster.kill_namenode().await;

        // No disk has so much room: to the namenode its own is full.
        let full = NamenodeConfig { reserved_bytes: u64::MAX, ..cluster.namenode_config() };
        let namenode = Namenode::start(full).await?;
        let client = dfs_client::DfsClient::builder()
            .namenode(namenode.rpc_addr().to_string())
            .user(dfs_tests::cluster::SUPERUSER)
            .connect()
            .await?;
        ensure_error(client.mkdir("/d", MkdirOptions::default()).await, ErrorKind::NoSpace, "full")?;
        assert_eq!(client.stat("/f").await?.size, 6);
        ensure_error(client.stat("/d").await, ErrorKind::NotFound, "/d")?;
        namenode.shutdown().await;

        cluster.start_namenode().await?;
        let client = cluster.client().await?;
        client.mkdir("/d", MkdirOptions::default()).await?;
        assert_eq!(read_all(&client, "/f").await?, b"before");
        Ok(())
    })
}

#[test]
fn datanodes_without_room_take_no_blocks() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", b"before").await?;
        cluster.kill_datanode(0).await;
        let full = DatanodeConfig { reserved_bytes: Some(u64::MAX), ..cluster.datanode_config(0) };
        let datanode = Datanode::start(full).await?;
        datanode.registered().await;

        let mut file = client.create("/g", CreateOptions::default()).await?;
        file.write_all(b"no room for this").await?;
        ensure_error(file.close().await, ErrorKind::NoUsableDatanode, "/g")?;
        assert_eq!(read_all(&client, "/f").await?, b"before");
        datanode.shutdown().await;
        Ok(())
    })
}
