//! Reserving inode numbers for a session, and giving up what it has reserved.

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::reservation::{self, RANGES_MAX, Reservation};
use crate::namesystem::tables::Tables;

/// Numbers in one range.
pub(in crate::namesystem) const COUNT_MAX: u32 = 4_096;

/// Reserves numbers. A session that has too many ranges loses the oldest.
pub(super) fn reserve(tables: &mut Tables<'_>, op: &log::ReserveInodesOp) -> Result<Reply, NamesystemError> {
    check::holder(&op.session)?;
    if !(1..=COUNT_MAX).contains(&op.count) {
        return Err(check::invalid(op.session.clone(), InvalidReason::ReservedCount));
    }
    let ranges = reservation::ranges(tables, &op.session)?;
    let surplus = (ranges.len() + 1).saturating_sub(RANGES_MAX);
    for range in &ranges[..surplus] {
        tables.drop_reservation(&op.session, range);
    }
    let first = tables.counters.take_inodes(op.count).get();
    let range = Reservation { first, next: first, end: first + u64::from(op.count) };
    tables.put_reservation(&op.session, &range);
    Ok(Reply::Reserved(log::ReservedInodes { first, count: op.count }))
}

/// A session has ended.
pub(super) fn give_up(
    tables: &mut Tables<'_>,
    op: &log::DropReservationsOp,
) -> Result<Reply, NamesystemError> {
    check::holder(&op.session)?;
    for range in reservation::ranges(tables, &op.session)? {
        tables.drop_reservation(&op.session, &range);
    }
    Ok(Reply::Empty(Default::default()))
}
