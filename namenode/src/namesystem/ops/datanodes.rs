//! What the namespace remembers of datanodes, so that reads are served at once after a restart.

use prost::Message;

use super::{RECORD_VERSION, check};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::effect::Effect;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::rows::Rows;
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
    tables.record_storages(&op.storage_ids)?;
    let mut record = vec![RECORD_VERSION];
    op.encode_raw(&mut record);
    tables.insert(Table::Datanodes, info.uuid.as_bytes(), &record);
    context
        .effects
        .push(Effect::DatanodeRecorded { info: info.clone(), storage_ids: op.storage_ids.clone() });
    Ok(Reply::Empty(Default::default()))
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
