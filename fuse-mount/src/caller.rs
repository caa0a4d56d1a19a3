//! In whose name the cluster is asked.
//!
//! The kernel has checked permissions already (`default_permissions`), the namenode checks again. It is told the user and
//! the primary group of the asking process at first. Only when that is refused, or where the groups decide about more than
//! yes or no, the supplementary groups are read from `/proc`: that costs some 15 us, and few calls need it.

use std::sync::Arc;

use dfs_client::fs::Caller;
use dfs_client::{DfsError, ErrorKind};
use fuser::Request;

use crate::owners::Owners;

/// The process behind a request, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Thread id; 0 if the kernel itself asks or the thread is not visible here.
    pub pid: u32,
}

impl From<&Request> for Who {
    fn from(request: &Request) -> Self {
        Self { uid: request.uid(), gid: request.gid(), pid: request.pid() }
    }
}

/// One call's caller, which can be widened once by the supplementary groups.
#[derive(Debug)]
pub struct Asker<'o> {
    who: Who,
    owners: &'o Owners,
    caller: Caller,
    wide: bool,
}

impl<'o> Asker<'o> {
    /// With the primary group only.
    pub fn new(who: Who, owners: &'o Owners) -> Self {
        let groups: Arc<[String]> = Arc::new([owners.group_name(who.gid).to_string()]);
        let caller = Caller { user: owners.user_name(who.uid), groups };
        Self { who, owners, caller, wide: false }
    }

    /// With all groups.
    pub fn with_all_groups(who: Who, owners: &'o Owners) -> Self {
        let mut asker = Self::new(who, owners);
        asker.add_groups();
        asker
    }

    /// The caller as far as it is known now.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// After a refusal: whether asking again can help, since the caller has more groups than were told.
    pub fn widen(&mut self, refusal: &DfsError) -> bool {
        matches!(refusal.kind(), ErrorKind::AccessDenied | ErrorKind::NotPermitted) && self.add_groups()
    }

    /// Whether groups were added.
    fn add_groups(&mut self) -> bool {
        if self.wide {
            return false;
        }
        self.wide = true;
        let Some(more) = supplementary_groups(self.who.pid) else { return false };
        let mut groups = self.caller.groups.to_vec();
        for gid in more {
            let name = self.owners.group_name(gid);
            if !groups.iter().any(|group| **group == *name) {
                groups.push(name.to_string());
            }
        }
        let added = groups.len() > self.caller.groups.len();
        self.caller.groups = groups.into();
        added
    }
}

/// Supplementary groups of a thread; `None` if it is gone or out of sight.
fn supplementary_groups(pid: u32) -> Option<Vec<u32>> {
    if pid == 0 {
        return None;
    }
    groups_in(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// The line `Groups:` of a status file.
fn groups_in(status: &str) -> Option<Vec<u32>> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"))?;
    Some(line.split_ascii_whitespace().filter_map(|gid| gid.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> DfsError {
        DfsError::Refused {
            subject: "/f".into(),
            error: dfs_proto::RpcError::new(ErrorKind::AccessDenied, "/f", ""),
        }
    }

    #[test]
    fn the_groups_line_is_found() {
        assert_eq!(groups_in("Name:\tx\nGroups:\t4 24 1000 \nNStgid:\t1\n"), Some(vec![4, 24, 1000]));
        assert_eq!(groups_in("Name:\tx\nGroups:\t \n"), Some(vec![]));
        assert_eq!(groups_in("Name:\tx\n"), None);
    }

    #[test]
    fn a_caller_is_widened_at_most_once() {
        let owners = Owners::default();
        // A group that this process is not in comes first, so that its own groups are more.
        let who = Who { uid: 0, gid: 3_999_999_001, pid: std::process::id() };
        let mut asker = Asker::new(who, &owners);
        assert_eq!(asker.caller().groups.to_vec(), ["3999999001"]);
        let has_more = supplementary_groups(who.pid).is_some_and(|groups| !groups.is_empty());
        assert_eq!(asker.widen(&denied()), has_more);
        assert!(!asker.widen(&denied()));
    }

    #[test]
    fn other_errors_do_not_widen() {
        let owners = Owners::default();
        let mut asker = Asker::new(Who { uid: 0, gid: 0, pid: std::process::id() }, &owners);
        assert!(!asker.widen(&DfsError::WriterClosed { path: "/f".into() }));
        assert!(!asker.wide);
    }

    #[test]
    fn a_process_that_is_gone_has_no_more_groups() {
        assert_eq!(supplementary_groups(0), None);
        assert_eq!(supplementary_groups(u32::MAX), None);
    }
}
