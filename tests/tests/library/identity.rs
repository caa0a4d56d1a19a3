//! Who may join: cluster ids, protocol versions, and one process a directory.

use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_datanode::Datanode;
use dfs_namenode::Namenode;
use dfs_proto::v1::datanode_protocol_client::DatanodeProtocolClient;
use dfs_proto::v1::{
    DatanodeInfo, GetServerDefaultsRequest, HeartbeatRequest, NamespaceInfoRequest, RegisterRequest,
    StorageReport,
};
use dfs_proto::{CLIENT_PROTOCOL_VERSION, DATANODE_PROTOCOL_VERSION, ErrorKind, RpcError};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::workload::{read_all, write_file};

#[test]
fn a_second_namenode_on_the_same_directory_is_refused() -> Result<()> {
    run(async {
        let mut cluster = MiniCluster::start().await?;
        let Err(error) = Namenode::start(cluster.namenode_config()).await else {
            anyhow::bail!("two namenodes run on one directory");
        };
        let text = error.to_string();
        ensure!(text.contains(&cluster.namenode_dir().display().to_string()), "names the directory: {text}");
        write_file(&cluster.client().await?, "/f", b"the first one is not disturbed").await?;
        cluster.restart_namenode().await?;
        assert_eq!(read_all(&cluster.client().await?, "/f").await?, b"the first one is not disturbed");
        Ok(())
    })
}

#[test]
fn a_second_datanode_on_the_same_volume_is_refused() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let Err(error) = Datanode::start(cluster.datanode_config(0)).await else {
            anyhow::bail!("two datanodes run on one volume");
        };
        let volume = cluster.datanode_config(0).volumes[0].display().to_string();
        ensure!(error.to_string().contains(&volume), "names the volume: {error}");
        Ok(())
    })
}

#[test]
fn a_datanode_of_another_cluster_is_refused() -> Result<()> {
    run(async {
        let mut ours = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let theirs = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let client = ours.client().await?;
        write_file(&client, "/f", b"ours").await?;
        ours.kill_datanode(0).await;
        let mut config = ours.datanode_config(0);
        config.namenode = theirs.namenode_address();
        // Refused either at once or while registering; in no case does it become a member.
        let stray = Datanode::start(config).await;
        if let Ok(stray) = stray {
            let registered = tokio::time::timeout(Duration::from_secs(3), stray.registered()).await;
            stray.shutdown().await;
            ensure!(registered.is_err(), "a datanode of another cluster was registered");
        }
        assert_eq!(theirs.client().await?.datanodes().await?.len(), 1);
        ours.start_datanode(0).await?;
        assert_eq!(read_all(&client, "/f").await?, b"ours");
        Ok(())
    })
}

#[test]
fn other_protocol_versions_and_strangers_are_told_so() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let kind = |status: tonic::Status| RpcError::from_status(&status).kind;
        let mut rpc = cluster.rpc().await?;
        let defaults = GetServerDefaultsRequest { protocol_version: CLIENT_PROTOCOL_VERSION + 1 };
        let refused = rpc.get_server_defaults(defaults).await.expect_err("another version");
        assert_eq!(kind(refused), ErrorKind::VersionMismatch);

        let mut datanodes = DatanodeProtocolClient::new(cluster.channel().await?);
        let version = NamespaceInfoRequest { protocol_version: DATANODE_PROTOCOL_VERSION + 1 };
        let refused = datanodes.get_namespace_info(version).await.expect_err("another version");
        assert_eq!(kind(refused), ErrorKind::VersionMismatch);

        let stranger = RegisterRequest {
            protocol_version: DATANODE_PROTOCOL_VERSION,
            cluster_id: "CID-of-another-cluster".to_owned(),
            info: Some(DatanodeInfo {
                uuid: "stranger".to_owned(),
                ip: "127.0.0.1".to_owned(),
                hostname: "stranger".to_owned(),
                xfer_port: 1,
                ipc_port: 2,
                http_port: 3,
                rack: "/default-rack".to_owned(),
                ..DatanodeInfo::default()
            }),
            storages: vec![StorageReport {
                storage_id: "DS-stranger".to_owned(),
                ..StorageReport::default()
            }],
            software_version: "0".to_owned(),
        };
        let refused = datanodes.register(stranger).await.expect_err("another cluster");
        assert_eq!(kind(refused), ErrorKind::WrongCluster);

        // A heartbeat of an unknown datanode is answered with the order to register, or refused.
        let heartbeat = HeartbeatRequest { uuid: "stranger".to_owned(), ..HeartbeatRequest::default() };
        match datanodes.heartbeat(heartbeat).await {
            Ok(answer) => ensure!(answer.into_inner().commands.len() == 1),
            Err(status) => ensure!(kind(status) == ErrorKind::NotRegistered),
        }
        assert_eq!(cluster.client().await?.datanodes().await?.len(), 3);
        Ok(())
    })
}
