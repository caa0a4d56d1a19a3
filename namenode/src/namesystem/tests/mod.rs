//! Tests of the operations, on a store in memory.

mod acl;
mod attributes;
mod datanodes;
mod determinism;
mod fixture;
mod fuzz;
mod leases;
mod model;
mod mount_model;
mod mount_writing;
mod names;
mod posix_attributes;
mod posix_names;
mod queries;
mod reservations;
mod retries;
mod store;
mod trash;
mod writing;
mod xattrs;
