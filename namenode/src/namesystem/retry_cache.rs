//! Replies of commands that succeeded, so that a call sent again acts once, also across restarts and
//! changes of the leader.
//!
//! | offset | size | field                                           |
//! |--------|------|-------------------------------------------------|
//! | 0      | 1    | version, 1                                      |
//! | 1      | 1    | field number of the operation in `log::Command` |
//! | 2      |      | `log::Reply`                                    |
//!
//! Replies are forgotten in the order of the log, a few with each new one, once they are old or too
//! many: no command ever pays for a long purge.

use std::ops::Bound;

use prost::Message;

use super::error::{InvalidReason, NamesystemError, RecordFault, StoreError};
use super::keys::{self, RETRY_KEY_BYTES};
use super::rows::Rows;
use super::tables::{Table, Tables};
use crate::log;

const VERSION: u8 = 1;
const ORDER_VERSION: u8 = 1;

/// Age at which a reply may be forgotten, as in HDFS: clients give up on a call long before.
pub const RETRY_AGE_MAX_NS: i64 = 600_000_000_000;

/// Replies kept at most: about 60 MB in the store. At 10,000 changes a second a call can still be sent
/// again for 26 s; slower clusters keep all of [`RETRY_AGE_MAX_NS`].
pub const RETRIES_MAX: u64 = 262_144;

/// Replies forgotten with each new one: more than one, so that a full cache shrinks.
const FORGET_PER_COMMAND: usize = 2;

type Key = [u8; RETRY_KEY_BYTES];

/// Key of a command's reply; `None` for commands of the namenode itself.
pub(super) fn key(command: &log::Command) -> Result<Option<Key>, NamesystemError> {
    if command.client_id.is_empty() {
        return Ok(None);
    }
    match <&[u8; 16]>::try_from(command.client_id.as_slice()) {
        Ok(client_id) => Ok(Some(keys::retry(client_id, command.call_id))),
        Err(_) => {
            Err(NamesystemError::InvalidArgument { subject: String::new(), reason: InvalidReason::ClientId })
        }
    }
}

/// The reply to an earlier command with this key.
pub(super) fn find(
    tables: &Tables<'_>,
    key: &Key,
    operation: u8,
) -> Result<Option<log::Reply>, NamesystemError> {
    let Some(raw) = tables.get(Table::Retries, key)? else {
        return Ok(None);
    };
    let corrupt = |fault| StoreError::Corrupt { table: Table::Retries.name(), key: key.to_vec(), fault };
    match raw.value() {
        [VERSION, found, reply @ ..] if *found == operation => match log::Reply::decode(reply) {
            Ok(reply) => Ok(Some(reply)),
            Err(_) => Err(corrupt(RecordFault::Field("reply")).into()),
        },
        [VERSION, _, ..] => Err(NamesystemError::InvalidArgument {
            subject: String::new(),
            reason: InvalidReason::CallIdReused,
        }),
        other => Err(corrupt(RecordFault::Length(other.len())).into()),
    }
}

/// Keeps a reply, and forgets a few old ones.
pub(super) fn remember(
    tables: &mut Tables<'_>,
    key: &Key,
    operation: u8,
    log_index: u64,
    now_ns: i64,
    reply: &log::Reply,
) -> Result<(), StoreError> {
    forget_old(tables, now_ns)?;
    let mut value = Vec::with_capacity(2 + reply.encoded_len());
    value.extend_from_slice(&[VERSION, operation]);
    reply.encode_raw(&mut value);
    tables.insert(Table::Retries, key, &value);

    let mut order = [ORDER_VERSION; 9 + RETRY_KEY_BYTES];
    order[1..9].copy_from_slice(&now_ns.to_le_bytes());
    order[9..].copy_from_slice(key);
    tables.insert(Table::RetryOrder, &log_index.to_be_bytes(), &order);
    tables.hints.retries_from = tables.hints.retries_from.min(log_index);
    tables.counters.retries += 1;
    Ok(())
}

fn forget_old(tables: &mut Tables<'_>, now_ns: i64) -> Result<(), StoreError> {
    for _ in 0..FORGET_PER_COMMAND {
        let is_kept = |tables: &Tables<'_>, time_ns| {
            now_ns.saturating_sub(time_ns) <= RETRY_AGE_MAX_NS && tables.counters.retries < RETRIES_MAX
        };
        if tables.hints.oldest_retry.is_some_and(|time_ns| is_kept(tables, time_ns)) {
            return Ok(());
        }
        let Some((order_key, time_ns, key)) = oldest(tables)? else {
            return Ok(());
        };
        tables.hints.retries_from = u64::from_be_bytes(order_key);
        tables.hints.oldest_retry = Some(time_ns);
        if is_kept(tables, time_ns) {
            return Ok(());
        }
        tables.hints.oldest_retry = None;
        tables.remove(Table::RetryOrder, &order_key);
        tables.remove(Table::Retries, &key);
        tables.counters.retries = tables.counters.retries.saturating_sub(1);
    }
    Ok(())
}

fn oldest(tables: &Tables<'_>) -> Result<Option<([u8; 8], i64, Key)>, StoreError> {
    let from = tables.hints.retries_from.to_be_bytes();
    let mut rows = tables.range(Table::RetryOrder, Bound::Included(&from), Bound::Unbounded)?;
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    let (order_key, value) = row?;
    let log_index = keys::trailing_u64(Table::RetryOrder, order_key.value())?;
    let corrupt = |fault| StoreError::Corrupt {
        table: Table::RetryOrder.name(),
        key: order_key.value().to_vec(),
        fault,
    };
    match value.value().split_first_chunk::<9>() {
        Some(([ORDER_VERSION, time @ ..], key)) => {
            let key = Key::try_from(key).map_err(|_| corrupt(RecordFault::Length(key.len())))?;
            Ok(Some((log_index.to_be_bytes(), i64::from_le_bytes(*time), key)))
        }
        Some(([version, ..], _)) => Err(corrupt(RecordFault::Version(*version))),
        None => Err(corrupt(RecordFault::Length(value.value().len()))),
    }
}
