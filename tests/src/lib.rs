//! System tests of dfs and what they stand on.
//!
//! * [`cluster`]: `MiniCluster`, a real namenode and real datanodes in one process.
//! * [`replica_files`]: the files of a replica on a datanode's volume, and how to damage them.
//! * [`programs`]: the real programs in processes of their own, started by `dfs cluster start`.
//! * [`net`], [`net_cluster`]: machines with addresses of their own, and the real programs on them, to be killed, stopped, cut off.
//! * [`mount`]: real mounts of such a cluster, and tests that cannot hang in them.
//! * [`harness`]: runs a test with a deadline; [`wait`]: waits for a condition.
//! * [`rng`], [`pattern`]: seeded choices and generated file content.
//! * [`model`], [`workload`]: the reference model of a file tree, and random operations on both.
//! * [`hostile`]: what a port must survive.
//! * [`chaos`]: a load that remembers what it was promised, under faults drawn from a seed.
//! * [`tree`]: real file trees on the local disk, and their comparison.
//!
//! The tests are in four test programs, so that linking stays cheap: `tests/library` (through the
//! client library against a `MiniCluster`), `tests/programs` (real programs), `tests/mount` (a real mount) and `tests/chaos`.
//!
//! Invariants: no test sleeps for a fixed time, every test has a deadline, every random choice comes
//! from a printed seed, and nothing outlives its test.

pub mod chaos;
pub mod cluster;
pub mod frozen_disk;
pub mod harness;
pub mod hostile;
pub mod model;
pub mod mount;
pub mod net;
pub mod net_cluster;
pub mod pattern;
pub mod programs;
pub mod replica_files;
pub mod rng;
pub mod small_disk;
pub mod tree;
pub mod wait;
pub mod workload;
