//! The HTTP port: health, a summary for scripts, and metrics for Prometheus.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};

use crate::service::Context;

/// The process's recorder; namenodes of one process (tests) share it.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// The process's metrics, installed at the first call.
pub fn recorder() -> PrometheusHandle {
    if let Some(handle) = RECORDER.get() {
        return handle.clone();
    }
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = RECORDER.get_or_init(|| recorder.handle()).clone();
    // A datanode of the same process may have installed its own: then ours records nothing.
    let _ = metrics::set_global_recorder(recorder);
    handle
}

/// Routes of the HTTP port.
pub fn router(context: Arc<Context>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/health/cluster", get(cluster_health))
        .route("/status", get(status))
        .route(
            "/metrics",
            get(move |State(context): State<Arc<Context>>| async move {
                set_gauges(&context);
                metrics.render()
            }),
        )
        .with_state(context)
}

async fn health(State(context): State<Arc<Context>>) -> (StatusCode, &'static str) {
    if context.consensus.is_leader() && context.disk_full.load(Ordering::Relaxed) {
        (StatusCode::OK, "leader, read-only: the disk is full\n")
    } else if context.consensus.is_leader() {
        (StatusCode::OK, "leader\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not the leader\n")
    }
}

/// Whether all data can be read: 200 or 503, and the figures either way. A namenode that has just started does not know
/// yet, and says so with 503.
async fn cluster_health(State(context): State<Arc<Context>>) -> (StatusCode, Json<Value>) {
    let stats = context.soft.blocks().stats(context.soft.now_ms());
    let reachable = stats.missing_blocks == 0 && stats.corrupt_blocks == 0 && stats.live_datanodes > 0;
    let writable = !context.safe_mode.load(Ordering::Relaxed) && !context.disk_full.load(Ordering::Relaxed);
    let well = context.consensus.is_leader() && !stats.starting && reachable && writable;
    let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "leader": context.consensus.is_leader(),
        "starting": stats.starting,
        "takes_changes": writable,
        "missing_blocks": stats.missing_blocks,
        "corrupt_blocks": stats.corrupt_blocks,
        "last_replica_blocks": stats.last_replica_blocks,
        "under_replicated_blocks": stats.under_replicated_blocks,
        "misplaced_blocks": stats.misplaced_blocks,
        "live_datanodes": stats.live_datanodes,
        "dead_datanodes": stats.dead_datanodes,
        "expected_dead_datanodes": stats.expected_dead_datanodes,
        "failed_volumes": stats.failed_volumes,
    });
    (code, Json(body))
}

async fn status(State(context): State<Arc<Context>>) -> Json<Value> {
    let stats = context.soft.blocks().stats(context.soft.now_ms());
    let counts = context.snapshot().ok().and_then(|snapshot| snapshot.counts().ok());
    let (sessions, open_files, locks) = context.sessions.counts();
    let kept_blocks = context.soft.blocks().kept_blocks();
    Json(json!({
        "cluster_id": context.cluster_id,
        "leader": context.consensus.is_leader(),
        "disk_full": context.disk_full.load(Ordering::Relaxed),
        "kept_blocks": kept_blocks,
        "inodes": counts.map(|(inodes, _)| inodes),
        "blocks": counts.map(|(_, blocks)| blocks),
        "capacity": stats.capacity,
        "used": stats.used,
        "remaining": stats.remaining,
        "live_datanodes": stats.live_datanodes,
        "stale_datanodes": stats.stale_datanodes,
        "dead_datanodes": stats.dead_datanodes,
        "under_replicated_blocks": stats.under_replicated_blocks,
        "corrupt_blocks": stats.corrupt_blocks,
        "missing_blocks": stats.missing_blocks,
        "sessions": sessions,
        "open_files": open_files,
        "locks": locks,
        "delegated_directories": context.sessions.delegations.len(),
    }))
}

fn set_gauges(context: &Context) {
    let stats = context.soft.blocks().stats(context.soft.now_ms());
    let disk_full = context.disk_full.load(Ordering::Relaxed);
    gauge!("dfs_namenode_disk_full").set(f64::from(u8::from(disk_full)));
    gauge!("dfs_capacity_bytes").set(stats.capacity as f64);
    gauge!("dfs_used_bytes").set(stats.used as f64);
    gauge!("dfs_remaining_bytes").set(stats.remaining as f64);
    gauge!("dfs_under_replicated_blocks").set(stats.under_replicated_blocks as f64);
    gauge!("dfs_corrupt_blocks").set(stats.corrupt_blocks as f64);
    gauge!("dfs_missing_blocks").set(stats.missing_blocks as f64);
    gauge!("dfs_pending_replication_blocks").set(stats.pending_replication_blocks as f64);
    gauge!("dfs_pending_deletion_blocks").set(stats.pending_deletion_blocks as f64);
    gauge!("dfs_last_replica_blocks").set(stats.last_replica_blocks as f64);
    gauge!("dfs_misplaced_blocks").set(stats.misplaced_blocks as f64);
    gauge!("dfs_excess_blocks").set(stats.excess_blocks as f64);
    gauge!("dfs_repair_queue_blocks").set(stats.repair_queue_blocks as f64);
    gauge!("dfs_repair_bandwidth_bytes").set(stats.repair_bandwidth as f64);
    gauge!("dfs_failed_volumes").set(f64::from(stats.failed_volumes));
    counter!("dfs_copied_blocks_total").absolute(stats.copied_blocks);
    counter!("dfs_copied_bytes_total").absolute(stats.copied_bytes);
    counter!("dfs_failed_copies_total").absolute(stats.failed_copies);
    gauge!("dfs_datanodes_administered", "state" => "decommissioning")
        .set(f64::from(stats.decommissioning_datanodes));
    gauge!("dfs_datanodes_administered", "state" => "decommissioned")
        .set(f64::from(stats.decommissioned_datanodes));
    gauge!("dfs_datanodes_administered", "state" => "maintenance")
        .set(f64::from(stats.maintenance_datanodes));
    gauge!("dfs_datanodes", "state" => "live").set(f64::from(stats.live_datanodes));
    gauge!("dfs_datanodes", "state" => "stale").set(f64::from(stats.stale_datanodes));
    gauge!("dfs_datanodes", "state" => "dead").set(f64::from(stats.dead_datanodes));
    let (sessions, open_files, locks) = context.sessions.counts();
    gauge!("dfs_sessions").set(sessions as f64);
    gauge!("dfs_open_files").set(open_files as f64);
    gauge!("dfs_locks").set(locks as f64);
    gauge!("dfs_delegated_directories").set(context.sessions.delegations.len() as f64);
    gauge!("dfs_delegated_lock_files").set(context.sessions.locks.delegated() as f64);
    if let Some((inodes, blocks)) = context.snapshot().ok().and_then(|snapshot| snapshot.counts().ok()) {
        gauge!("dfs_inodes").set(inodes as f64);
        gauge!("dfs_blocks").set(blocks as f64);
    }
}
