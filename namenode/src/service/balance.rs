//! Balancing of datanodes on an administrator's call. The work is block management's.

use dfs_proto::v1::{BalanceAction, BalanceRequest, BalanceStatus};
use dfs_proto::{ErrorKind, RpcError};

use super::context::Context;
use crate::block_management::BANDWIDTH_MIN;

/// All of a datanode's capacity, in hundredths of a percent.
const THRESHOLD_MAX: u32 = 10_000;

/// Does what the request says, and tells how balancing stands then.
pub async fn balance(context: &Context, request: BalanceRequest) -> Result<BalanceStatus, RpcError> {
    let caller = context.caller(request.context.as_ref()).await?;
    let action = request.action();
    check(&request)?;
    if action != BalanceAction::Get {
        if !caller.superuser {
            return Err(RpcError::new(ErrorKind::NotPermitted, "balancer", "superuser only"));
        }
        tracing::info!(
            ?action,
            threshold = request.threshold,
            bandwidth = request.bandwidth,
            background_bandwidth = request.background_bandwidth,
            user = caller.user,
            "balancing"
        );
    }
    let now = context.soft.now_ms();
    let mut blocks = context.soft.blocks();
    match action {
        BalanceAction::Get => {}
        BalanceAction::Start => blocks.start_balancing(now, request.threshold, request.bandwidth),
        BalanceAction::Stop => blocks.stop_balancing(),
        BalanceAction::Set => {
            blocks.set_balance_bandwidth(now, request.bandwidth, request.background_bandwidth);
        }
    }
    Ok(blocks.balance_status(now, request.run_id))
}

/// Refuses settings out of their bounds.
fn check(request: &BalanceRequest) -> Result<(), RpcError> {
    let refuse = |what: &str, rule: String| Err(RpcError::new(ErrorKind::InvalidArgument, what, rule));
    if request.threshold.is_some_and(|threshold| !(1..=THRESHOLD_MAX).contains(&threshold)) {
        return refuse("threshold", "must be 0.01 to 100 %".to_owned());
    }
    if request.bandwidth.is_some_and(|bandwidth| bandwidth < BANDWIDTH_MIN) {
        return refuse("bandwidth", format!("must be at least {BANDWIDTH_MIN} bytes a second"));
    }
    if request.background_bandwidth.is_some_and(|bandwidth| (1..BANDWIDTH_MIN).contains(&bandwidth)) {
        return refuse(
            "background bandwidth",
            format!("must be 0 or at least {BANDWIDTH_MIN} bytes a second"),
        );
    }
    Ok(())
}
