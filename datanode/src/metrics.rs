//! Counters and gauges of one datanode. Each datanode has a recorder of its own, so that several can run in
//! one process; handles are made once, so that the data path only adds to an atomic.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::dataset::scrub_counts::ScrubFigures;

/// Handles of all metrics.
pub struct Metrics {
    exporter: PrometheusHandle,
    /// Bytes sent to readers and to other datanodes.
    pub bytes_read: Counter,
    /// Bytes received from writers and other datanodes.
    pub bytes_written: Counter,
    /// Read operations.
    pub reads: Counter,
    /// Replicas whose files were handed to readers on the same machine.
    pub local_reads: Counter,
    /// Write operations, copies included.
    pub writes: Counter,
    /// Replicas sent to other datanodes on the namenode's order.
    pub copies: Counter,
    /// Those that could not be sent.
    pub failed_copies: Counter,
    /// Operations that failed, disconnects aside.
    pub failures: Counter,
    /// Streams that were not our protocol.
    pub foreign_streams: Counter,
    /// Connections refused because too many were open.
    pub refused_connections: Counter,
    /// Data connections open.
    pub xceivers: Gauge,
    /// Replicas.
    pub replicas: Gauge,
    /// Bytes used by replicas.
    pub used_bytes: Gauge,
    /// Bytes left for replicas.
    pub remaining_bytes: Gauge,
    /// Replicas that scrubs reread, their bytes, and those of them that were bad.
    pub scrubbed_replicas: Counter,
    /// See there.
    pub scrubbed_bytes: Counter,
    /// See there.
    pub scrub_bad: Counter,
    /// Least share of the present passes over the volumes that is verified.
    pub scrub_progress: Gauge,
    /// When all replicas of all volumes had last been verified, in seconds since the epoch; 0: not yet.
    pub scrub_ended: Gauge,
    /// Heartbeats answered by the namenode.
    pub heartbeats: Counter,
    /// Bytes that clients read and wrote: repair goes slower while they do.
    pub client_bytes: AtomicU64,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || Self {
            exporter: recorder.handle(),
            bytes_read: metrics::counter!("dfs_datanode_bytes_read_total"),
            bytes_written: metrics::counter!("dfs_datanode_bytes_written_total"),
            reads: metrics::counter!("dfs_datanode_reads_total"),
            local_reads: metrics::counter!("dfs_datanode_local_reads_total"),
            writes: metrics::counter!("dfs_datanode_writes_total"),
            copies: metrics::counter!("dfs_datanode_copies_total"),
            failed_copies: metrics::counter!("dfs_datanode_copy_failures_total"),
            failures: metrics::counter!("dfs_datanode_operation_failures_total"),
            foreign_streams: metrics::counter!("dfs_datanode_foreign_streams_total"),
            refused_connections: metrics::counter!("dfs_datanode_refused_connections_total"),
            xceivers: metrics::gauge!("dfs_datanode_xceivers"),
            replicas: metrics::gauge!("dfs_datanode_replicas"),
            used_bytes: metrics::gauge!("dfs_datanode_used_bytes"),
            remaining_bytes: metrics::gauge!("dfs_datanode_remaining_bytes"),
            scrubbed_replicas: metrics::counter!("dfs_datanode_scrubbed_replicas_total"),
            scrubbed_bytes: metrics::counter!("dfs_datanode_scrubbed_bytes_total"),
            scrub_bad: metrics::counter!("dfs_datanode_scrub_bad_replicas_total"),
            scrub_progress: metrics::gauge!("dfs_datanode_scrub_progress_ratio"),
            scrub_ended: metrics::gauge!("dfs_datanode_scrub_ended_seconds"),
            heartbeats: metrics::counter!("dfs_datanode_heartbeats_total"),
            client_bytes: AtomicU64::new(0),
        })
    }
}

impl Metrics {
    /// Clients have moved some bytes.
    pub fn count_client(&self, bytes: u64) {
        self.client_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How far the scrubs of all volumes that serve are.
    pub fn set_scrubs(&self, volumes: &[ScrubFigures]) {
        let sum = |of: fn(&ScrubFigures) -> u64| volumes.iter().map(of).sum();
        self.scrubbed_replicas.absolute(sum(|figures| figures.replicas));
        self.scrubbed_bytes.absolute(sum(|figures| figures.bytes));
        self.scrub_bad.absolute(sum(|figures| figures.bad));
        let done = volumes.iter().map(|figures| figures.done_milli).min().unwrap_or(0);
        self.scrub_progress.set(f64::from(done) / 1_000.0);
        self.scrub_ended.set(volumes.iter().map(|figures| figures.ended_s).min().unwrap_or(0) as f64);
    }

    /// The Prometheus page.
    pub fn render(&self) -> String {
        self.exporter.render()
    }
}
