//! The one way to change the namespace.

use super::effect::Effect;
use super::error::{NamesystemError, StoreError};
use super::ops;
use super::retry_cache;
use super::tables::Tables;
use crate::log;

/// What became of a command.
#[derive(Debug)]
pub struct Applied {
    /// The reply, or why the command was refused. A refused command changed nothing.
    pub outcome: Result<log::Reply, NamesystemError>,
    /// Consequences outside the tables; empty if refused, or if the reply came from the retry cache.
    pub effects: Vec<Effect>,
}

/// What an operation gets beside its own arguments.
pub(super) struct Context<'a> {
    /// Time of the command.
    pub(super) now_ns: i64,
    /// Who asks; `None` is the namenode itself, for which nothing is checked.
    pub(super) caller: Option<&'a log::Caller>,
    /// Consequences so far.
    pub(super) effects: Vec<Effect>,
}

/// Applies one command of the log. Deterministic: tables and command decide everything.
///
/// Every operation checks first and writes afterwards, so that a refusal leaves no trace. An `Err` of
/// the function itself means that the store failed midway: the transaction must not be committed.
pub fn apply(tables: &mut Tables<'_>, log_index: u64, command: &log::Command) -> Result<Applied, StoreError> {
    let mut context =
        Context { now_ns: command.now_ns, caller: command.caller.as_ref(), effects: Vec::new() };
    match run(tables, &mut context, log_index, command) {
        Ok(reply) => {
            tables.store_counters();
            Ok(Applied { outcome: Ok(reply), effects: context.effects })
        }
        Err(NamesystemError::Store(error)) => Err(error),
        Err(refused) => {
            assert!(context.effects.is_empty(), "refused ({refused}) after effects");
            assert!(!tables.counters_changed(), "refused ({refused}) after ids were taken");
            Ok(Applied { outcome: Err(refused), effects: Vec::new() })
        }
    }
}

fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    log_index: u64,
    command: &log::Command,
) -> Result<log::Reply, NamesystemError> {
    let key = retry_cache::key(command)?;
    let operation = ops::number(command);
    if let Some(key) = &key
        && let Some(reply) = retry_cache::find(tables, key, operation)?
    {
        return Ok(reply);
    }
    let reply = log::Reply { reply: Some(ops::run(tables, context, command)?) };
    if let Some(key) = &key {
        retry_cache::remember(tables, key, operation, log_index, command.now_ns, &reply)?;
    }
    Ok(reply)
}
