//! What a datanode says about its space.

use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::v1::datanode_command::Command;
use dfs_proto::v1::{self, InvalidateCommand};

use crate::wire::{self, Block, Pipeline};
use crate::{Cluster, eventually, pattern};

fn used(cluster: &Cluster) -> u64 {
    cluster.nodes[0].dataset().volumes()[0].report().used
}

#[tokio::test(flavor = "multi_thread")]
async fn the_space_used_is_the_data_of_all_replicas_whatever_their_state() {
    let mut cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    assert_eq!(used(&cluster), 0);
    wire::write(&[node], Block::new(1, 1), &pattern(1, 5_000));
    assert_eq!(used(&cluster), 5_000);
    // While it is written.
    let mut open = Pipeline::create(&[node], Block::new(2, 1));
    open.flush(0, &pattern(2, 1_000));
    assert_eq!(used(&cluster), 6_000);
    open.flush(1_000, &[7; 24]);
    open.close(1_024);
    assert_eq!(used(&cluster), 6_024);
    // Sent again by a pipeline recovery; reopened and grown by an append.
    let mut open = Pipeline::create(&[node], Block::new(3, 1));
    open.flush(0, &pattern(3, 2_000));
    let mut open =
        Pipeline::recover(&[node], Block::new(3, 1), Stage::PipelineSetupStreamingRecovery, 2, 0, 2_000);
    open.flush(1_536, &pattern(3, 2_000)[1_536..]);
    open.flush(2_000, &[7; 48]);
    assert_eq!(used(&cluster), 8_072);
    let mut append =
        Pipeline::recover(&[node], Block::new(1, 1), Stage::PipelineSetupAppend, 2, 5_000, 5_000);
    assert_eq!(used(&cluster), 8_072);
    append.flush(5_000, &[7; 100]);
    append.close(5_100);
    assert_eq!(used(&cluster), 8_172);
    // Found again, closed or not.
    cluster.restart(0).await;
    assert_eq!(used(&cluster), 8_172);
    let mut control = wire::control(&cluster.nodes[0]);
    let block = |id, stamp| Some(v1::Block { id, generation_stamp: stamp, length: 0 });
    let begin = v1::InitReplicaRecoveryRequest { block: block(3, 2), new_generation_stamp: 9 };
    assert!(control.init_replica_recovery(begin).await.expect("answered").into_inner().exists);
    let finish = v1::UpdateReplicaUnderRecoveryRequest {
        block: block(3, 2),
        new_generation_stamp: 9,
        new_length: 1_000,
    };
    control.update_replica_under_recovery(finish).await.expect("answered");
    assert_eq!(used(&cluster), 7_124);
    let blocks = [(1, 2), (2, 1), (3, 9)].into_iter().filter_map(|(id, stamp)| block(id, stamp)).collect();
    cluster.namenode.order(cluster.nodes[0].uuid(), Command::Invalidate(InvalidateCommand { blocks }));
    eventually("nothing is left", || used(&cluster) == 0).await;
}
