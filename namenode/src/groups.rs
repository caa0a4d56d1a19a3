//! Groups of users, from the operating system and the configuration.
//!
//! Answers are cached as HDFS does (300 s), because the operating system may have to ask a directory
//! service. Looking up blocks, so misses run on the runtime's blocking threads.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::unistd::{Group, User, getgrouplist};

/// How long an answer is used.
const CACHE_TIME: Duration = Duration::from_secs(300);

/// Users remembered at once; past it the cache is emptied. An entry has about 200 bytes.
const CACHE_USERS_MAX: usize = 10_000;

/// Groups of users.
#[derive(Debug)]
pub struct GroupMapping {
    static_groups: Vec<(String, String)>,
    cache: Mutex<HashMap<String, (Instant, Vec<String>)>>,
}

impl GroupMapping {
    /// Groups from the operating system plus `static_groups`, pairs of user and group.
    pub fn new(static_groups: Vec<(String, String)>) -> Self {
        Self { static_groups, cache: Mutex::new(HashMap::new()) }
    }

    /// The answer if it is remembered.
    pub fn cached(&self, user: &str) -> Option<Vec<String>> {
        let cache = self.cache.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        cache.get(user).filter(|(since, _)| since.elapsed() < CACHE_TIME).map(|(_, groups)| groups.clone())
    }

    /// Groups of `user`, the primary one first; a user that the system does not know has a group of its
    /// own name (so that clusters work without accounts on the namenode's machine). Blocks.
    pub fn look_up(&self, user: &str) -> Vec<String> {
        let mut groups = system_groups(user).unwrap_or_else(|| vec![user.to_owned()]);
        for (_, group) in self.static_groups.iter().filter(|(of, _)| of == user) {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        let mut cache = self.cache.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if cache.len() >= CACHE_USERS_MAX {
            cache.clear();
        }
        cache.insert(user.to_owned(), (Instant::now(), groups.clone()));
        groups
    }
}

/// The operating system's answer; `None` for an unknown user.
fn system_groups(user: &str) -> Option<Vec<String>> {
    let account = User::from_name(user).ok()??;
    let name = CString::new(user).ok()?;
    let ids = getgrouplist(&name, account.gid).ok()?;
    Some(
        ids.into_iter()
            .map(|gid| {
                Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_and_static_groups_are_joined_and_remembered() {
        let mapping = GroupMapping::new(vec![("root".to_owned(), "ops".to_owned())]);
        assert_eq!(mapping.cached("root"), None);
        let groups = mapping.look_up("root");
        assert_eq!(groups[0], "root");
        assert!(groups.contains(&"ops".to_owned()));
        assert_eq!(mapping.cached("root"), Some(groups));
        assert_eq!(mapping.look_up("no such user"), ["no such user"]);
    }
}
