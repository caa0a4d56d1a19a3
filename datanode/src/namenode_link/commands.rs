//! Carries out what heartbeats bring. Nothing here waits: work goes to queues with bounds, and what does not
//! fit is dropped, because the namenode orders again what does not happen.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_proto::BlockId;
use dfs_proto::v1::datanode_command::Command;
use dfs_proto::v1::{DatanodeCommand, FinalizeCommand, RecoverBlockCommand, TransferCommand};

use super::NamenodeLink;
use crate::error::DatanodeError;
use crate::replica::BlockRef;
use crate::sync::lock;
use crate::transfer::copy;

/// Block recoveries at once. Each is a handful of calls.
const MAX_RECOVERIES: usize = 64;

/// Carries one command out.
pub fn execute(link: &NamenodeLink, command: DatanodeCommand) {
    match command.command {
        None => tracing::debug!("command of an unknown kind"),
        Some(Command::Transfer(order)) => transfer(link, order),
        Some(Command::Withdraw(order)) => {
            let withdrawn = order.block_ids.iter().filter(|id| link.copies.withdraw(BlockId(**id))).count();
            tracing::debug!(named = order.block_ids.len(), withdrawn, "copies withdrawn");
        }
        Some(Command::Invalidate(order)) => {
            let mut dropped = 0usize;
            for block in &order.blocks {
                let block = BlockRef::from(block);
                let dataset = Arc::clone(&link.shared.dataset);
                if !link.delete_workers.submit(move || delete(&dataset, block)) {
                    dropped += 1;
                }
            }
            if dropped > 0 {
                tracing::info!(dropped, "too many deletions at once");
            }
        }
        Some(Command::Finalize(order)) => {
            let dataset = Arc::clone(&link.shared.dataset);
            // One job: an order is a slice, and each replica takes two renames.
            if !link.disk_workers.submit(move || finalize(&dataset, &order)) {
                tracing::info!("too much disk work at once to close replicas");
            }
        }
        Some(Command::Verify(order)) => {
            let blocks = order.blocks.iter().map(BlockRef::from);
            let dropped = link.verifications.order(blocks);
            if dropped > 0 {
                tracing::info!(dropped, "too many replicas to verify at once");
            }
        }
        Some(Command::RecoverBlock(order)) => recover(link, order),
        Some(Command::Reregister(_)) => link.want_registration(),
        Some(Command::BlockReport(_)) => link.changes.want_full_report(),
    }
}

fn delete(dataset: &crate::dataset::Dataset, block: BlockRef) {
    match dataset.invalidate(block) {
        Ok(()) => {}
        // A newer incarnation, which the order did not mean.
        Err(DatanodeError::Transition(_)) => {
            tracing::debug!(%block, "nothing to delete");
        }
        Err(error) => tracing::warn!(%block, %error, "replica cannot be deleted"),
    }
}

fn finalize(dataset: &crate::dataset::Dataset, order: &FinalizeCommand) {
    for named in &order.blocks {
        let block = BlockRef::from(named);
        match dataset.finalize_found(block, named.length) {
            Ok(()) => tracing::info!(%block, length = named.length, "replica of a complete block closed"),
            // Gone, or taken up by a recovery or another writer since it was reported.
            Err(DatanodeError::ReplicaNotFound { .. } | DatanodeError::Transition(_)) => {
                tracing::debug!(%block, "nothing to close");
            }
            Err(error) => tracing::warn!(%block, %error, "replica cannot be closed"),
        }
    }
}

fn transfer(link: &NamenodeLink, order: TransferCommand) {
    let Some(block) = order.block.as_ref().map(BlockRef::from) else {
        return;
    };
    let shared = Arc::clone(&link.shared);
    let copies = Arc::clone(&link.copies);
    let bytes = order.block.map_or(0, |block| block.length).saturating_mul(order.targets.len() as u64);
    let number = copies.add(block.id);
    let workers = if order.balancing { &link.move_workers } else { &link.copy_workers };
    let taken = workers.submit(move || {
        if !copies.wants(block.id, number) {
            return;
        }
        if !order.balancing {
            let client_bytes = || shared.metrics.client_bytes.load(Ordering::Relaxed);
            if shared.repair_pace.pay(bytes, client_bytes).is_err() {
                return;
            }
        }
        // It may have been withdrawn in the meantime.
        if !copies.begin(block.id, number) {
            return;
        }
        let pace = order.balancing.then_some(&shared.balance_pace);
        for target in &order.targets {
            let Some(datanode) = &target.datanode else {
                continue;
            };
            let storage = Some(target.storage_id.clone()).filter(|s| !s.is_empty());
            match copy::copy_replica(&shared, block, &datanode.into(), storage, "", pace) {
                Ok(()) => tracing::debug!(%block, target = datanode.uuid, "replica copied"),
                Err(error) => {
                    tracing::warn!(%block, target = datanode.uuid, %error, "replica cannot be copied");
                }
            }
        }
    });
    if !taken {
        link.copies.withdraw(block.id);
        tracing::info!(%block, "too many copies at once");
    }
}

fn recover(link: &NamenodeLink, order: RecoverBlockCommand) {
    let mut recoveries = lock(&link.recoveries);
    while recoveries.try_join_next().is_some() {}
    if recoveries.len() >= MAX_RECOVERIES {
        tracing::info!("too many block recoveries at once");
        return;
    }
    let link = link.clone();
    recoveries.spawn(async move {
        if let Err(error) = super::recovery::run(&link, &order).await {
            tracing::warn!(%error, "block recovery failed");
        }
    });
}
