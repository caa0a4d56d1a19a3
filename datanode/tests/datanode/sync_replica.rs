//! Putting closed replicas on disk.

use dfs_proto::v1::{self, SyncReplicaRequest};
use dfs_proto::{ErrorKind, RpcError};

use crate::wire::{self, Block, Pipeline, control};
use crate::{Cluster, pattern};

async fn sync(cluster: &Cluster, block: Block, length: u64) -> Result<(), RpcError> {
    let block = Some(v1::Block { id: block.id, generation_stamp: block.stamp, length });
    let outcome = control(&cluster.nodes[0]).sync_replica(SyncReplicaRequest { block }).await;
    outcome.map(drop).map_err(|status| RpcError::from_status(&status))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalized_replica_is_synced_and_nothing_else() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let block = Block::new(1, 5);
    wire::write(&[node], block, &pattern(1, 5000));
    sync(&cluster, block, 5000).await.expect("synced");
    sync(&cluster, Block::new(1, 4), 10).await.expect("a later incarnation has it all");

    let kind = |outcome: Result<(), RpcError>| outcome.expect_err("refused").kind;
    assert_eq!(kind(sync(&cluster, Block::new(2, 5), 0).await), ErrorKind::BlockMissing);
    assert_eq!(kind(sync(&cluster, Block::new(1, 6), 0).await), ErrorKind::StaleGenerationStamp);
    assert_eq!(kind(sync(&cluster, block, 5001).await), ErrorKind::InvalidArgument);
    let none = control(node).sync_replica(SyncReplicaRequest { block: None }).await.expect_err("no block");
    assert_eq!(RpcError::from_status(&none).kind, ErrorKind::InvalidArgument);

    let open = Block::new(3, 5);
    let mut pipeline = Pipeline::create(&[node], open);
    pipeline.flush(0, &pattern(3, 100));
    assert_eq!(kind(sync(&cluster, open, 100).await), ErrorKind::InvalidArgument);
    pipeline.close(100);
    sync(&cluster, open, 100).await.expect("synced");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_files_are_put_on_disk() {
    let cluster = Cluster::start(1).await;
    for (id, name) in [(1, Block::new(1, 1).data_name()), (2, Block::new(2, 1).meta_name())] {
        let block = Block::new(id, 1);
        wire::write(&[&cluster.nodes[0]], block, &pattern(id, 5000));
        // A device that cannot be synced shows whether anybody tries.
        let path = cluster.find(0, &name).expect("the file");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/null", &path).expect("linked");
        let error = sync(&cluster, block, 5000).await.expect_err("not synced");
        assert_eq!(error.kind, ErrorKind::Internal, "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
}
