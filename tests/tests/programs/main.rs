//! Tests of the real programs, in processes of their own: one module a subject.

mod administration;
mod bad_input;
mod cli;
mod crash;
mod local_cluster;
mod namenode_dir;
mod open_file_faults;
mod read_faults;
mod transcript;
mod trash;
mod trees;
mod write_faults;
