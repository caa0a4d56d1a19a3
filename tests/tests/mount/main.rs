//! Tests of a real mount of a real cluster: one module a subject. `fuse-mount/SEMANTICS.md` names the test of each promise.

mod attributes;
mod coherence;
mod commands;
mod content;
mod crash;
mod directories;
mod fsx;
mod hanging_reads;
mod holes;
mod kernel_features;
mod locks;
mod memory;
mod metrics;
mod model;
mod options;
mod outages;
mod pjdfstest;
mod programs;
mod reading_ahead;
mod rolling_restart;
mod synced_growth;
mod sys;
mod twin;
