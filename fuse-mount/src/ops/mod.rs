//! The operations, by what they are about.
//!
//! Each takes what the kernel asked and the reply to give; see [`crate::calls`] for how they are run.

pub mod attributes;
pub mod directories;
pub mod files;
pub mod links;
pub mod locks;
pub mod names;
pub mod opening;
pub mod space;
pub mod xattrs;
