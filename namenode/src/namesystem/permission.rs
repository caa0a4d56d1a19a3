//! Permission bits, HDFS's model, which is POSIX's: owner, group and other, sticky directories, and a
//! superuser for whom nothing is checked. Who has which bits on a node is told by [`super::acl`].

use std::fmt;

use crate::log;

/// Bits needed on a node: read, write, execute (search).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u16);

impl Access {
    /// Read.
    pub const READ: Access = Access(4);
    /// Write.
    pub const WRITE: Access = Access(2);
    /// Execute; of a directory: search.
    pub const EXECUTE: Access = Access(1);
    /// List a directory.
    pub const READ_EXECUTE: Access = Access(5);
    /// Change the entries of a directory.
    pub const WRITE_EXECUTE: Access = Access(3);
    /// Everything.
    pub const ALL: Access = Access(7);

    /// As in one class of a mode.
    pub(super) const fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bit = |bit: u16, letter: char| if self.0 & bit != 0 { letter } else { '-' };
        write!(f, "{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'))
    }
}

/// Permission bits of a mode.
pub const MODE_BITS: u32 = 0o7777;

/// Only the owner of an entry, the owner of the directory or the superuser may remove the entry.
pub const STICKY: u16 = 0o1000;

/// Run with the rights of the file's owner.
pub const SET_USER_ID: u16 = 0o4000;

/// Run with the rights of the file's group.
pub const SET_GROUP_ID: u16 = 0o2000;

/// The group may run it.
const GROUP_EXECUTE: u16 = 0o010;

/// Whether the caller may act for a group.
pub fn in_group(caller: &log::Caller, group: &str) -> bool {
    caller.superuser || caller.groups.iter().any(|g| g == group)
}

/// Whether a file with this mode runs with the rights of its group. Without the group's execute bit the
/// set-group-id bit once meant mandatory locking.
pub const fn runs_as_group(mode: u16) -> bool {
    mode & (SET_GROUP_ID | GROUP_EXECUTE) == SET_GROUP_ID | GROUP_EXECUTE
}

/// A file's mode after its content or owner was changed by somebody without privileges. The set-group-id bit
/// of a file that does not run as its group stays, unless an outsider of the group asks.
pub const fn without_set_id(mode: u16, outsider: bool) -> u16 {
    let mode = mode & !SET_USER_ID;
    if outsider || runs_as_group(mode) { mode & !SET_GROUP_ID } else { mode }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_fall_with_a_change_by_somebody_else() {
        // Mode, whether by an outsider of the group, what is left.
        for (mode, outsider, left) in [
            (0o6755, false, 0o755),
            (0o6755, true, 0o755),
            (0o6745, false, 0o2745),
            (0o6745, true, 0o745),
            (0o1777, true, 0o1777),
        ] {
            assert_eq!(without_set_id(mode, outsider), left, "{mode:o} {outsider}");
        }
        assert!(runs_as_group(0o2010) && !runs_as_group(0o2000) && !runs_as_group(0o0010));
    }
}
