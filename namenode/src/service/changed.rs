//! Where in the log the change of a relaxed call is, on its way to the frame that answers the call.
//!
//! A call is a future of the generated services, whose messages are the API's; what is told about the log stands beside them. So the
//! one who polls the call lends it a place for that, and [`Context`](super::context::Context) notes there what it has proposed. Calls over
//! HTTP/2 have no such place: they are answered when their changes are on disk.

use std::cell::Cell;

use dfs_proto::v1::LogPosition;

tokio::task_local! {
    static CHANGED: Cell<Option<LogPosition>>;
}

/// Runs a step of a call, whose changes are noted in `changed`.
pub fn noting<T>(changed: &mut Option<LogPosition>, step: impl FnOnce() -> T) -> T {
    CHANGED.sync_scope(Cell::new(*changed), || {
        let outcome = step();
        *changed = CHANGED.get().get();
        outcome
    })
}

/// Whether the caller of this call is told where its changes are.
pub fn is_told() -> bool {
    CHANGED.try_with(|_| ()).is_ok()
}

/// The call changed something that is there. Entries are made in the log's order, so that the last one counts.
pub fn note(position: LogPosition) {
    // Who is not told has nothing to keep.
    let _ = CHANGED.try_with(|changed| {
        let newer = changed.get().is_none_or(|known| rank(&known) < rank(&position));
        if newer {
            changed.set(Some(position));
        }
    });
}

const fn rank(position: &LogPosition) -> (u64, u64, u64) {
    (position.term, position.node_id, position.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(index: u64) -> LogPosition {
        LogPosition { term: 1, node_id: 1, index }
    }

    #[test]
    fn each_call_has_a_place_of_its_own_and_the_newest_entry_counts() {
        note(at(1));
        assert!(!is_told(), "nobody polls a call");
        let (mut one, mut two) = (None, None);
        noting(&mut one, || note(at(5)));
        noting(&mut two, || assert!(is_told()));
        noting(&mut one, || note(at(3)));
        assert_eq!((one, two), (Some(at(5)), None));
        noting(&mut one, || note(at(6)));
        assert_eq!(one, Some(at(6)));
    }
}
