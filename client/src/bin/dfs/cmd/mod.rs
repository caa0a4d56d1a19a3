//! The verbs. Each module has a verb's arguments and what it does; several small verbs on one subject
//! share one.

pub mod admin;
pub mod attributes;
pub mod balancer;
mod balancer_disks;
pub mod checksum;
pub mod content;
pub mod copy;
pub mod find;
pub mod fsck;
mod fsck_report;
pub mod ls;
pub mod names;
pub mod stat;
pub mod usage;
pub mod write;
