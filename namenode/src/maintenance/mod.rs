//! What an operator does to a namenode's directory: `dfs-namenode check`, `backup` and `restore`.

mod backup;
mod backup_file;
mod check;
mod error;
mod restore;

pub use backup::{BackedUp, from_directory, from_namenode};
pub use backup_file::{BackupHeader, FrameEncoder};
pub use check::{CheckReport, check};
pub use error::MaintenanceError;
pub use restore::{Restored, restore};
