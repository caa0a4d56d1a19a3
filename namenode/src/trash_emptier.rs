//! Makes checkpoints of everybody's trash and deletes old ones, without an operator.
//!
//! Time is this process's monotonic clock, told to the namespace as what passed since the last command: a wall clock that
//! is set deletes nothing early, nor does a restart. See `namesystem::trash`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::log::{self, command::Op};
use crate::service::Context;

/// How often the trash is looked at, at most and at least.
const TICKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Looks in the time between two checkpoints, so that they are about on time.
const TICKS_A_ROUND: u64 = 10;

/// Users whose trash one command goes through: some ms of apply time.
const USERS_MAX: usize = 100;

/// Checkpoints that one command forgets.
const FORGET_MAX: usize = 10_000;

/// Runs until the namenode ends. Does nothing if no trash is kept.
pub async fn run(context: Arc<Context>) {
    let keep_ms = context.config.trash_keep_ms;
    if keep_ms == 0 {
        return;
    }
    let shorter_ms = context.config.trash_checkpoint_ms.min(keep_ms);
    let tick = Duration::from_millis(shorter_ms / TICKS_A_ROUND).clamp(TICKS.0, TICKS.1);
    let mut ticks = interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counted = Instant::now();
    loop {
        ticks.tick().await;
        if !context.consensus.is_leader() {
            counted = Instant::now();
            continue;
        }
        let now = Instant::now();
        let elapsed = now - counted;
        match empty(&context, elapsed, tick).await {
            // What could not be done is done with the next tick, and the time counts then.
            Err(error) => tracing::warn!(%error, "trash not emptied"),
            Ok(()) => counted = now,
        }
    }
}

async fn empty(context: &Context, elapsed: Duration, tick: Duration) -> Result<(), dfs_proto::RpcError> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // A checkpoint may be a tick younger than the clock says: the clock moves once a tick.
    let keep_ms = context.config.trash_keep_ms.saturating_add(ms(tick));
    let elapsed_ms = ms(elapsed);
    let work = context.scan(move |snapshot| snapshot.trash_work(keep_ms, elapsed_ms)).await?;
    let round = work.is_ageing && work.since_round_ms >= context.config.trash_checkpoint_ms;
    if !work.is_ageing && work.to_forget.is_empty() {
        return Ok(());
    }
    let mut forget = work.to_forget;
    forget.truncate(FORGET_MAX);
    let clock = log::EmptyTrashOp { elapsed_ms, round, forget, keep_ms, ..log::EmptyTrashOp::default() };
    context.own_change(Op::EmptyTrash(clock)).await?;
    let mut users = work.to_delete;
    if round {
        users.extend(work.to_checkpoint);
        users.sort_unstable();
        users.dedup();
    }
    // The time is counted: what fails from here on is found again by the next tick.
    for users in users.chunks(USERS_MAX) {
        let users = users.iter().map(|user| user.clone().into()).collect();
        let op = log::EmptyTrashOp { users, checkpoint: round, keep_ms, ..log::EmptyTrashOp::default() };
        match context.own_change(Op::EmptyTrash(op)).await {
            Ok(log::Reply { reply: Some(log::reply::Reply::TrashEmptied(emptied)) }) => {
                context.soft.reclaim.notify_one();
                tracing::info!(made = emptied.made.len(), deleted = emptied.deleted.len(), "trash emptied");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "trash of some users not emptied"),
        }
    }
    Ok(())
}
