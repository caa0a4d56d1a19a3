//! What administrators order about datanodes.

use std::sync::Arc;

use dfs_proto::v1::*;
use dfs_proto::{ErrorKind, RpcError};

use super::context::{Context, wall_clock_ns};
use crate::log::{self, command::Op};

/// Longest maintenance that can be asked for: its end is there so that nobody forgets a datanode.
const MAINTENANCE_MAX_MS: u64 = 30 * 24 * 3_600_000;

/// Shortest one: the datanode has to be stopped and started in it.
const MAINTENANCE_MIN_MS: u64 = 1_000;

fn invalid(subject: &str, reason: impl Into<String>) -> RpcError {
    RpcError::new(ErrorKind::InvalidArgument, subject, reason.into())
}

/// Refuses everybody but superusers.
pub(super) async fn superuser(
    context: &Context,
    call: Option<&CallContext>,
    subject: &str,
) -> Result<String, RpcError> {
    let caller = context.caller(call).await?;
    if caller.superuser {
        Ok(caller.user)
    } else {
        Err(RpcError::new(ErrorKind::NotPermitted, subject, "superuser only"))
    }
}

/// The one datanode that a name means.
fn uuid_of(context: &Context, node: &str) -> Result<String, RpcError> {
    let found = context.soft.blocks().find_datanode(node);
    found.map_err(|meant| match &meant[..] {
        [] => invalid(node, "no such datanode"),
        several => invalid(node, format!("means several datanodes: {}", several.join(", "))),
    })
}

/// Forgets a dead datanode.
pub async fn remove_datanode(
    context: &Arc<Context>,
    request: RemoveDatanodeRequest,
) -> Result<Empty, RpcError> {
    let RemoveDatanodeRequest { context: call, node } = request;
    let user = superuser(context, call.as_ref(), &node).await?;
    let uuid = uuid_of(context, &node)?;
    let may = context.soft.blocks().may_remove(&uuid);
    may.map_err(|reason| invalid(&node, reason))?;
    context.change(call, Op::RemoveDatanode(log::RemoveDatanodeOp { uuid: uuid.clone() })).await?;
    tracing::info!(datanode = uuid, user, "datanode removed");
    Ok(Empty {})
}

/// Orders what is to become of a datanode, and answers how it stands.
pub async fn set_datanode_admin(
    context: &Arc<Context>,
    request: SetDatanodeAdminRequest,
) -> Result<DatanodeReport, RpcError> {
    let state = request.state();
    let SetDatanodeAdminRequest { context: call, node, duration_ms, .. } = request;
    let user = superuser(context, call.as_ref(), &node).await?;
    let uuid = uuid_of(context, &node)?;
    let until_ns = match state {
        AdminState::Maintenance if !(MAINTENANCE_MIN_MS..=MAINTENANCE_MAX_MS).contains(&duration_ms) => {
            return Err(invalid(&node, "maintenance lasts a second to 30 days"));
        }
        AdminState::Maintenance => {
            let duration_ns = i64::try_from(duration_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            wall_clock_ns().saturating_add(duration_ns)
        }
        AdminState::Normal | AdminState::Decommission => 0,
    };
    let op = log::SetDatanodeAdminOp { uuid: uuid.clone(), state: state.into(), until_ns };
    context.change(call, Op::SetDatanodeAdmin(op)).await?;
    tracing::info!(datanode = uuid, ?state, duration_ms, user, "datanode administered");
    let rows = context.soft.blocks().datanode_report(context.soft.now_ms());
    let row = rows.into_iter().find(|row| row.info.as_ref().is_some_and(|info| info.uuid == uuid));
    row.ok_or_else(|| invalid(&node, "no such datanode"))
}

/// Tells or sets what each datanode may spend on repair.
pub async fn repair_bandwidth(
    context: &Arc<Context>,
    request: RepairBandwidthRequest,
) -> Result<RepairBandwidthResponse, RpcError> {
    if let Some(bytes_per_second) = request.bytes_per_second {
        let user = superuser(context, request.context.as_ref(), "repair bandwidth").await?;
        let op = log::SetRepairBandwidthOp { bytes_per_second };
        context.change(request.context, Op::SetRepairBandwidth(op)).await?;
        tracing::info!(bytes_per_second, user, "bandwidth of repair set");
    }
    Ok(RepairBandwidthResponse { bytes_per_second: context.soft.blocks().repair_bandwidth() })
}
