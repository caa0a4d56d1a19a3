//! Inode numbers that sessions have reserved.

use std::collections::BTreeMap;
use std::ops::Range;

use log::command::Op;
use log::reply::Reply;

use super::World;
use crate::log;

const SESSIONS: [&str; 2] = ["mount-a", "mount-ab"];

/// Ranges with numbers left, by session and first number.
#[derive(Default)]
pub(super) struct Reserved {
    ranges: BTreeMap<(&'static str, u64), Range<u64>>,
}

impl Reserved {
    fn of(&self, session: &str) -> Vec<(&'static str, u64)> {
        self.ranges.keys().copied().filter(|(owner, _)| *owner == session).collect()
    }

    /// Takes a number, if the session has it.
    pub(super) fn take(&mut self, session: &str, number: u64) -> bool {
        let holds = |(key, range): (&(&str, u64), &mut Range<u64>)| {
            (key.0 == session && range.contains(&number)).then(|| range.start = number + 1)
        };
        let taken = self.ranges.iter_mut().find_map(holds).is_some();
        self.ranges.retain(|_, range| !range.is_empty());
        taken
    }
}

/// Reserves, or gives up what a session has.
pub(super) fn step(world: &mut World) {
    let session = *world.random.pick(&SESSIONS);
    if world.below(5) == 0 {
        world.agree(Op::DropReservations(log::DropReservationsOp { session: session.to_owned() }), Ok(()));
        world.reserved.ranges.retain(|(owner, _), _| *owner != session);
        return;
    }
    let count = 1 + u32::try_from(world.below(5)).expect("small");
    let op = Op::ReserveInodes(log::ReserveInodesOp { session: session.to_owned(), count });
    let Some(Reply::Reserved(reserved)) = world.agree(op, Ok(())) else { return };
    assert_eq!(reserved.count, count);
    assert!(!world.model.nodes.contains_key(&reserved.first));
    let of_session = world.reserved.of(session);
    if let [oldest, _, _, _] = of_session[..] {
        world.reserved.ranges.remove(&oldest);
    }
    let end = reserved.first + u64::from(count);
    world.reserved.ranges.insert((session, reserved.first), reserved.first..end);
}

/// Session and number of a node to be made; 0: none, and now and then one that is not the session's.
pub(super) fn choose(world: &mut World) -> (&'static str, u64) {
    let session = *world.random.pick(&SESSIONS);
    let ranges: Vec<_> = world.reserved.ranges.iter().map(|(key, range)| (key.0, range.clone())).collect();
    match world.below(4) {
        0 | 1 if !ranges.is_empty() => {
            let (owner, range) = world.random.pick(&ranges).clone();
            let number = range.start + world.below(range.end - range.start);
            // Another session's, sometimes.
            (if world.below(10) == 0 { session } else { owner }, number)
        }
        2 if world.below(5) == 0 => (session, 16_385 + world.below(200)),
        _ => (session, 0),
    }
}
