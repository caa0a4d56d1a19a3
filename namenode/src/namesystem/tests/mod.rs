//! Tests of the operations, on a store in memory.

mod attributes;
mod fixture;
mod leases;
mod names;
mod queries;
mod retries;
mod writing;
