//! Carries out what heartbeats bring. Nothing here waits: work goes to queues with bounds, and what does not
//! fit is dropped, because the namenode orders again what does not happen.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_proto::BlockId;
use dfs_proto::v1::datanode_command::Command;
use dfs_proto::v1::{DatanodeCommand, FinalizeCommand, RecoverBlockCommand, TransferCommand};

use super::small_orders::{Batch, SmallOrders};
use super::{NamenodeLink, recovery_outcome};
use crate::error::DatanodeError;
use crate::replica::BlockRef;
use crate::sync::lock;
use crate::transfer::copy;
use crate::transfer::copy_batch::{SmallCopy, copy_batch};

/// Block recoveries at once. Each is a handful of calls.
const MAX_RECOVERIES: usize = 64;

/// Carries commands out. Orders to copy small replicas go together.
pub fn execute_all(link: &NamenodeLink, commands: Vec<DatanodeCommand>) {
    let mut small = SmallOrders::default();
    for command in commands {
        match command.command {
            Some(Command::Transfer(order)) if SmallOrders::takes(&order) => {
                if let Some(batch) = small.add(order) {
                    transfer_batch(link, batch);
                }
            }
            _ => execute(link, command),
        }
    }
    small.rest().for_each(|batch| transfer_batch(link, batch));
}

/// Carries one command out.
fn execute(link: &NamenodeLink, command: DatanodeCommand) {
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
    let changes = Arc::clone(&link.changes);
    let storages: Vec<String> = order.targets.iter().map(|target| target.storage_id.clone()).collect();
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
                Ok(()) => {
                    shared.metrics.copies.increment(1);
                    tracing::debug!(%block, target = datanode.uuid, "replica copied");
                }
                Err(error) => {
                    tracing::warn!(%block, target = datanode.uuid, %error, "replica cannot be copied");
                    shared.metrics.failed_copies.increment(1);
                    changes.push_failed_copy(block, &target.storage_id, !error.is_of_peer());
                }
            }
        }
    });
    if !taken {
        link.copies.withdraw(block.id);
        storages.iter().for_each(|storage| link.changes.push_failed_copy(block, storage, true));
        tracing::info!(%block, "too many copies at once");
    }
}

/// Copies small replicas to one datanode.
fn transfer_batch(link: &NamenodeLink, batch: Batch) {
    let (shared, copies) = (Arc::clone(&link.shared), Arc::clone(&link.copies));
    let changes = Arc::clone(&link.changes);
    let numbers: Vec<u64> = batch.copies.iter().map(|copy| copies.add(copy.block.id)).collect();
    let dropped = batch.copies.clone();
    let taken = link.copy_workers.submit(move || {
        let client_bytes = || shared.metrics.client_bytes.load(Ordering::Relaxed);
        if shared.repair_pace.pay(batch.bytes, client_bytes).is_err() {
            return;
        }
        // Some may have been withdrawn in the meantime.
        let orders = batch.copies.iter().zip(numbers);
        let wanted: Vec<SmallCopy> = orders
            .filter(|(copy, number)| copies.begin(copy.block.id, *number))
            .map(|(copy, _)| copy.clone())
            .collect();
        let outcomes = copy_batch(&shared, &wanted, &batch.target);
        for (copy, outcome) in wanted.iter().zip(outcomes) {
            match outcome {
                Ok(()) => shared.metrics.copies.increment(1),
                Err(error) => {
                    tracing::warn!(block = %copy.block, %error, "replica cannot be copied");
                    shared.metrics.failed_copies.increment(1);
                    let storage = copy.storage_id.as_deref().unwrap_or_default();
                    changes.push_failed_copy(copy.block, storage, !error.is_of_peer());
                }
            }
        }
    });
    if !taken {
        tracing::info!(copies = dropped.len(), "too many copies at once");
        for copy in dropped {
            link.copies.withdraw(copy.block.id);
            link.changes.push_failed_copy(copy.block, copy.storage_id.as_deref().unwrap_or_default(), true);
        }
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
            recovery_outcome::tell_failed(&link, &order).await;
        }
    });
}
