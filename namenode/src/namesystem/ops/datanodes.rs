//! What the namespace remembers of datanodes, so that reads are served at once after a restart, and what an
//! administrator ordered about them.

use dfs_proto::v1;
use prost::Message;

use super::{RECORD_VERSION, REPAIR_BANDWIDTH_KEY, check};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::effect::Effect;
use crate::namesystem::error::{InvalidReason, NamesystemError, StoreError};
use crate::namesystem::rows::Rows;
use crate::namesystem::snapshot::decode_message;
use crate::namesystem::tables::{Table, Tables};

/// Records a datanode's address and storages.
pub(super) fn register(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::RegisterDatanodeOp,
) -> Result<Reply, NamesystemError> {
    let Some(info) = &op.info else {
        return Err(check::invalid("", InvalidReason::Incomplete));
    };
    check::storage_ids(std::slice::from_ref(&info.uuid))?;
    check::storage_ids(&op.storage_ids)?;
    let before = record_of(tables, &info.uuid)?.unwrap_or_default();
    tables.record_storages(&op.storage_ids)?;
    let record =
        log::DatanodeRecord { info: Some(info.clone()), storage_ids: op.storage_ids.clone(), ..before };
    put_record(tables, &info.uuid, &record);
    context
        .effects
        .push(Effect::DatanodeRecorded { info: info.clone(), storage_ids: op.storage_ids.clone() });
    Ok(Reply::Empty(Default::default()))
}

/// Records what an administrator wants of a datanode.
pub(super) fn set_admin(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::SetDatanodeAdminOp,
) -> Result<Reply, NamesystemError> {
    superuser_only(context, &op.uuid)?;
    let state = v1::AdminState::try_from(op.state)
        .map_err(|_| check::invalid(&op.uuid, InvalidReason::Incomplete))?;
    let Some(mut record) = record_of(tables, &op.uuid)? else {
        return Err(NamesystemError::DatanodeNotFound { uuid: op.uuid.clone() });
    };
    let until_ns = if state == v1::AdminState::Maintenance { op.until_ns } else { 0 };
    record.set_admin_state(state);
    record.maintenance_until_ns = until_ns;
    put_record(tables, &op.uuid, &record);
    let remaining_ms = remaining_ms(until_ns, context.now_ns);
    context.effects.push(Effect::DatanodeAdminSet { uuid: op.uuid.clone(), state, remaining_ms });
    Ok(Reply::Empty(Default::default()))
}

/// Forgets a datanode. What the rows of blocks say about its storages stays, and means nothing any longer.
pub(super) fn remove(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::RemoveDatanodeOp,
) -> Result<Reply, NamesystemError> {
    superuser_only(context, &op.uuid)?;
    if record_of(tables, &op.uuid)?.is_none() {
        return Err(NamesystemError::DatanodeNotFound { uuid: op.uuid.clone() });
    }
    tables.remove(Table::Datanodes, op.uuid.as_bytes());
    context.effects.push(Effect::DatanodeRemoved { uuid: op.uuid.clone() });
    Ok(Reply::Empty(Default::default()))
}

/// Records how many bytes a second each datanode may spend on repair; 0: as it sees fit.
pub(super) fn set_repair_bandwidth(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::SetRepairBandwidthOp,
) -> Result<Reply, NamesystemError> {
    superuser_only(context, "repair bandwidth")?;
    let mut value = vec![RECORD_VERSION];
    op.encode_raw(&mut value);
    tables.insert(Table::Meta, REPAIR_BANDWIDTH_KEY.as_bytes(), &value);
    context.effects.push(Effect::RepairBandwidthSet { bytes_per_second: op.bytes_per_second });
    Ok(Reply::Empty(Default::default()))
}

/// Milliseconds from `now_ns` until `until_ns`; 0 if that is over.
pub(in crate::namesystem) fn remaining_ms(until_ns: i64, now_ns: i64) -> u64 {
    u64::try_from(until_ns.saturating_sub(now_ns) / 1_000_000).unwrap_or(0)
}

fn superuser_only(context: &Context<'_>, subject: &str) -> Result<(), NamesystemError> {
    match context.caller {
        Some(caller) if !caller.superuser => {
            Err(NamesystemError::NotPermitted { path: subject.to_owned(), user: caller.user.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

fn record_of(rows: &impl Rows, uuid: &str) -> Result<Option<log::DatanodeRecord>, StoreError> {
    let key = uuid.as_bytes();
    let value = rows.get(Table::Datanodes, key)?;
    value.map(|value| decode_message(Table::Datanodes, key, value.value())).transpose()
}

fn put_record(tables: &mut Tables<'_>, uuid: &str, record: &log::DatanodeRecord) {
    let mut value = vec![RECORD_VERSION];
    record.encode_raw(&mut value);
    tables.insert(Table::Datanodes, uuid.as_bytes(), &value);
}

/// Records where replicas were last seen. Blocks that are gone or have another stamp by now are passed
/// over: their hints are of no use.
pub(super) fn update_hints(
    tables: &mut Tables<'_>,
    _context: &mut Context<'_>,
    op: &log::UpdateHintsOp,
) -> Result<Reply, NamesystemError> {
    for seen in &op.blocks {
        check::storage_ids(&seen.storage_ids)?;
    }
    for seen in &op.blocks {
        let block = seen.block.unwrap_or_default();
        let Some(mut record) = tables.block_record(block.block_id())? else {
            continue;
        };
        if record.stamp == block.stamp() {
            record.hints = tables.record_storages(&seen.storage_ids)?;
            tables.put_block(&record);
        }
    }
    Ok(Reply::Empty(Default::default()))
}
