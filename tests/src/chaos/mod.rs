//! The chaos test: a cluster of real processes on a network of its own, a mixed load that records what it was
//! promised, and faults drawn from a seed.
//!
//! * [`isolation`]: runs a piece of the test in namespaces of its own, which end with it whatever happens.
//! * [`network`]: a network namespace a node, a bridge between them; links are cut one way or both, and slowed.
//! * [`servers`]: the processes; [`clock`]: wall clocks that step; [`volumes`]: small disks that fill up, hang and fail.
//! * [`plan`]: which faults come when, from the seed; [`faults`]: does them and undoes them.
//! * [`operation`], [`load`]: what a worker does next, from the seed and what it knows; [`worker`]: does it, as one of
//!   the [`actors`], and writes it to the [`history`].
//! * [`expectation`]: what the namespace must look like after a history, and what is in doubt.
//! * [`observation`]: what the namespace and the disks look like; [`pauses`]: how long the load waited while something was wrong.
//! * [`setup`]: which processes there are; [`run`]: rounds of load and faults, then [`quiet`], then the checks that `tests/chaos`
//!   brings along.
//!
//! Invariants: faults and choices follow from the seed; a worker is the only one to touch its directory; what was
//! acknowledged is in the history before the worker goes on; nothing outlives the run.

pub mod actors;
pub mod clock;
pub mod events;
pub mod expectation;
pub mod faults;
pub mod history;
pub mod isolation;
pub mod load;
pub mod network;
pub mod observation;
pub mod operation;
pub mod pauses;
pub mod plan;
pub mod quiet;
pub mod run;
pub mod servers;
pub mod setup;
pub mod volumes;
pub mod worker;

/// Names the seed of a single run.
pub const SEED_VARIABLE: &str = "DFS_CHAOS_SEED";

/// Names how many seconds of faults a run has.
pub const SECONDS_VARIABLE: &str = "DFS_CHAOS_SECONDS";

/// Names a directory in which failed runs leave everything they have.
pub const KEEP_VARIABLE: &str = "DFS_CHAOS_KEEP";
