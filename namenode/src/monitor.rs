//! Work that nobody asks for: liveness and repair, leases that ran out, sessions that ended, freeing of what was
//! deleted, the search for missing blocks after a start, and recording where replicas are.
//!
//! Each is a loop of its own that ends with the namenode. Decisions are made in block management; here
//! are only the clock and the proposals, which the leader alone makes.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dfs_proto::v1::NodeRef;
use dfs_proto::{BlockId, ErrorKind, InodeId, RpcError};
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::log::reply::Reply;
use crate::log::{self, command::Op};
use crate::service::Context;
use crate::trash_emptier;

/// Inodes, entries and blocks that one reclaim command frees: about 10 ms of apply time, so that a
/// deleted tree of a million entries never makes others wait longer.
const RECLAIM_BUDGET: u32 = 1_000;

/// How often the room on the log's disk is looked at: at full speed the log grows by some MB in the time.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

/// A full disk counts as such until so large a part of the reserve is free beside it.
const HYSTERESIS_SHARE: u64 = 4;

/// How often leases are looked at.
const LEASE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a session that fell silent keeps the inode numbers that it had reserved: changes that it has answered
/// are carried out when it comes back, and mounts do not wait longer for that.
const RESERVATIONS_KEPT_MS: u64 = 600_000;

/// How long the files of a session that fell silent may take to be recovered before others see them as they are, in parts of its timeout: 3.75 s, of
/// which a recovery takes a second. With [`SESSION_CHECKS`] it is less than what holders of delegations get (`delegations.rs`).
const RECOVERY_SHARE: u64 = 8;

/// How often that is looked at.
const RECOVERY_LOOK: Duration = Duration::from_millis(20);

/// Orphans that one command frees.
const ORPHANS_MAX: usize = 1_000;

/// How often sessions are looked at, in parts of their timeout.
const SESSION_CHECKS: u64 = 10;

/// How often changed replica locations are recorded as hints.
const HINT_INTERVAL: Duration = Duration::from_secs(10);

/// Blocks whose hints one command records.
const HINTS_MAX: usize = 1_000;

/// Blocks checked between two pauses of the redundancy scan.
const SCAN_SLICE: usize = 4_096;

/// Pause between slices: a round passes about 80,000 blocks a second and leaves the lock free.
const SCAN_PAUSE: Duration = Duration::from_millis(50);

/// Pause between rounds. What the first round after a start finds, reports do not tell; later ones are a
/// safety net.
const SCAN_INTERVAL: Duration = Duration::from_secs(600);

/// Pause between ticks while a dead datanode's replicas are being gone through in slices.
const SWEEP_PAUSE: Duration = Duration::from_millis(10);

/// How often a failed reclaim (no leader, stopping) is tried again.
const RECLAIM_RETRY: Duration = Duration::from_secs(1);

/// Starts all loops on `tasks`.
pub fn spawn_all(tasks: &mut JoinSet<()>, context: &Arc<Context>) {
    tasks.spawn(tick(context.clone()));
    tasks.spawn(watch_disk(context.clone()));
    tasks.spawn(expire_leases(context.clone()));
    tasks.spawn(expire_sessions(context.clone()));
    tasks.spawn(free_orphans(context.clone()));
    tasks.spawn(reclaim(context.clone()));
    tasks.spawn(record_hints(context.clone()));
    tasks.spawn(trash_emptier::run(context.clone()));
    tasks.spawn(scan_redundancy(context.clone()));
}

async fn tick(context: Arc<Context>) {
    let usual = Duration::from_millis(u64::from(context.config.heartbeat_interval_ms));
    let mut ticks = interval(usual);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = context.soft.now_ms();
        context.soft.blocks().tick(now);
        let overdue = context.soft.blocks().take_overdue_recoveries();
        for (inode, _) in overdue {
            recover(&context, inode, "block recovery did not end in time").await;
        }
        let soon = {
            let blocks = context.soft.blocks();
            let sweep = blocks.is_sweeping().then_some(SWEEP_PAUSE);
            let next = blocks.next_tick_ms(context.soft.now_ms()).map(Duration::from_millis);
            sweep.into_iter().chain(next).min()
        };
        if let Some(pause) = soon.filter(|pause| *pause < usual) {
            ticks.reset_after(pause);
        }
    }
}

async fn watch_disk(context: Arc<Context>) {
    let mut ticks = interval(DISK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        watch_disk_once(&context).await;
    }
}

/// Looks whether the log's disk has the room that is to stay free. A disk that cannot be asked counts as
/// having it: if it is broken, the next write tells.
pub async fn watch_disk_once(context: &Arc<Context>) {
    let dir = context.config.dir.clone();
    let asked = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&dir)).await;
    let Ok(Ok(stat)) = asked else { return };
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let reserved = context.config.reserved_bytes;
    let was_full = context.disk_full.load(Ordering::Relaxed);
    // Not on and off with every file that comes and goes.
    let enough = if was_full { reserved.saturating_add(reserved / HYSTERESIS_SHARE) } else { reserved };
    let full = free < enough;
    if context.disk_full.swap(full, Ordering::Relaxed) != full {
        if full {
            tracing::error!(free, reserved, "disk of the log is full: changes are refused");
        } else {
            tracing::info!(free, reserved, "disk of the log has room again");
        }
    }
    if !full {
        let consensus = context.consensus.clone();
        // Whatever comes of it: it is tried again.
        let _ = tokio::task::spawn_blocking(move || consensus.keep_reserve()).await;
    }
}

async fn expire_leases(context: Arc<Context>) {
    let shortest = Duration::from_millis(context.config.hard_lease_ms / 4).max(Duration::from_millis(10));
    let mut ticks = interval(LEASE_INTERVAL.min(shortest));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !context.consensus.is_leader() {
            continue;
        }
        let expired = context.soft.leases().hard_expired(context.soft.now_ms());
        for holder in expired {
            let files = context
                .snapshot()
                .and_then(|snapshot| snapshot.leases_of(&holder).map_err(|e| crate::service::rpc_error(&e)));
            match files {
                Ok(files) => {
                    for inode in files {
                        let now = context.soft.now_ms();
                        if context.soft.blocks().recovers(now, inode) {
                            continue;
                        }
                        recover(&context, inode, "lease expired").await;
                    }
                }
                Err(error) => tracing::error!(%error, holder, "leases cannot be read"),
            }
        }
    }
}

async fn expire_sessions(context: Arc<Context>) {
    let period = Duration::from_millis(context.config.session_timeout_ms / SESSION_CHECKS);
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At most the sessions that end in the time.
    let mut reserving: VecDeque<(u64, Arc<str>)> = VecDeque::new();
    loop {
        ticks.tick().await;
        if !context.consensus.is_leader() {
            continue;
        }
        let now = context.soft.now_ms();
        let silent = context.sessions.expired(now);
        join_all(silent.iter().map(|session| end_silent_session(&context, session))).await;
        for session in silent {
            reserving.push_back((now.saturating_add(RESERVATIONS_KEPT_MS), session));
        }
        while let Some((until, session)) = reserving.front()
            && *until <= now
        {
            if !context.sessions.is_served(session) {
                drop_reservations(&context, session).await;
            }
            reserving.pop_front();
        }
        context.sessions.free_unclaimed(now);
    }
}

/// Ends a session at its own wish: it will not make anything any more.
pub async fn close_session(context: &Context, session: &str) {
    end_session(context, session, "session closed").await;
    drop_reservations(context, session).await;
}

/// Ends a session that fell silent. It may have closed files without this namenode having heard of it: what it has delegated is kept from others
/// until these are as long as their replicas, or for some time.
async fn end_silent_session(context: &Context, session: &str) {
    const WHY: &str = "session was silent";
    let until = Instant::now() + Duration::from_millis(context.config.session_timeout_ms / RECOVERY_SHARE);
    for inode in recover_leases(context, session, WHY).await {
        while is_written(context, inode) && Instant::now() < until {
            sleep(RECOVERY_LOOK).await;
        }
    }
    // It may have come back meanwhile, and taken others.
    end_session(context, session, WHY).await;
}

/// Ends a session, and recovers the leases that it has not given back.
async fn end_session(context: &Context, session: &str, why: &'static str) {
    if context.sessions.end(session) {
        tracing::info!(session, why, "session ended");
    }
    let _recovering = recover_leases(context, session, why).await;
}

/// Takes the leases of a session away. Answers of which files.
async fn recover_leases(context: &Context, session: &str, why: &'static str) -> Vec<InodeId> {
    let leases = context.snapshot().and_then(|snapshot| {
        let leases = snapshot.leases_of(session);
        leases.map_err(|e| crate::service::rpc_error(&e))
    });
    let leases = leases.unwrap_or_else(|error| {
        tracing::error!(%error, session, "leases cannot be read");
        Vec::new()
    });
    for inode in &leases {
        recover(context, *inode, why).await;
    }
    leases
}

/// Whether somebody writes a file, or it is being recovered.
fn is_written(context: &Context, inode: InodeId) -> bool {
    let node = NodeRef { base: inode.get(), path: Default::default() };
    let status = context.snapshot().map(|snapshot| snapshot.stat(&Context::own_caller(), &node));
    matches!(status, Ok(Ok(status)) if status.under_construction)
}

async fn drop_reservations(context: &Context, session: &str) {
    let reserved = context.snapshot().and_then(|snapshot| {
        let reserved = snapshot.has_reservations(session);
        reserved.map_err(|e| crate::service::rpc_error(&e))
    });
    let dropped = match reserved {
        Ok(false) => return,
        Ok(true) => {
            let op = log::DropReservationsOp { session: session.to_owned() };
            context.own_change_relaxed(Op::DropReservations(op)).await.map(drop)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = dropped {
        // They are found again after the next start.
        tracing::warn!(session, %error, "reserved inode numbers are not given up");
    }
}

/// Frees unlinked files that nobody has open any longer.
async fn free_orphans(context: Arc<Context>) {
    loop {
        let inodes = context.sessions.take_unwanted(ORPHANS_MAX);
        if inodes.is_empty() {
            context.sessions.unwanted_added.notified().await;
            continue;
        }
        let op = log::ReleaseOrphansOp { inodes: inodes.clone() };
        match context.own_change_relaxed(Op::ReleaseOrphans(op)).await {
            Ok(_) => context.soft.reclaim.notify_one(),
            Err(error) => {
                tracing::debug!(%error, "orphans wait");
                context.sessions.put_back_unwanted(inodes);
                tokio::time::sleep(RECLAIM_RETRY).await;
            }
        }
    }
}

/// Starts or restarts recovery of a file's lease.
async fn recover(context: &Context, inode: InodeId, why: &str) {
    let node = Some(NodeRef { base: inode.get(), path: Default::default() });
    match context.own_change(Op::RecoverLease(log::RecoverLeaseOp { node })).await {
        Ok(_) => tracing::info!(%inode, why, "lease recovery started"),
        Err(RpcError { kind: ErrorKind::NotFound, .. }) => {}
        Err(error) => tracing::warn!(%inode, %error, why, "lease recovery not started"),
    }
}

async fn reclaim(context: Arc<Context>) {
    loop {
        // Most deletions leave nothing behind, and asking costs less than a command.
        if context.snapshot().is_ok_and(|snapshot| snapshot.needs_reclaim().is_ok_and(|needs| !needs)) {
            context.soft.reclaim.notified().await;
            continue;
        }
        match context.own_change_relaxed(Op::Reclaim(log::ReclaimOp { budget: RECLAIM_BUDGET })).await {
            Ok(log::Reply { reply: Some(Reply::More(true)) }) => tokio::task::yield_now().await,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "reclaim waits");
                tokio::time::sleep(RECLAIM_RETRY).await;
            }
        }
    }
}

async fn record_hints(context: Arc<Context>) {
    let mut ticks = interval(HINT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !context.consensus.is_leader() {
            continue;
        }
        let blocks = context.soft.blocks().take_hint_updates(HINTS_MAX);
        if blocks.is_empty() {
            continue;
        }
        if let Err(error) = context.own_change(Op::UpdateHints(log::UpdateHintsOp { blocks })).await {
            tracing::warn!(%error, "replica locations not recorded");
        }
    }
}

/// When datanodes had the time to report or to be dead, and then over and over: finds blocks that are
/// missing or have too few replicas, which no report would tell.
async fn scan_redundancy(context: Arc<Context>) {
    while context.soft.blocks().is_starting() {
        tokio::time::sleep(SCAN_PAUSE).await;
    }
    let mut after: Bound<BlockId> = Bound::Unbounded;
    loop {
        let slice =
            context.scan(move |snapshot| snapshot.blocks_in((after, Bound::Unbounded), SCAN_SLICE)).await;
        let slice = match slice {
            Ok(slice) => slice,
            Err(error) => {
                tracing::error!(%error, "redundancy scan stopped");
                return;
            }
        };
        context.soft.blocks().check_slice(context.soft.now_ms(), &slice);
        match slice.last() {
            Some(last) => {
                after = Bound::Excluded(last.id);
                tokio::time::sleep(SCAN_PAUSE).await;
            }
            None => {
                after = Bound::Unbounded;
                tokio::time::sleep(SCAN_INTERVAL).await;
            }
        }
    }
}
