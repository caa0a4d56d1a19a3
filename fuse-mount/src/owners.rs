//! Users and groups: numbers for the kernel, names for the cluster.
//!
//! The cluster knows owners by name. A number without a name on this host is its decimal text, and such a text becomes the
//! number again, so that ownership survives on hosts that do not know the user. A name that this host
//! does not know is shown as nobody.
//!
//! Called on event loop threads: the look-ups of the C library may ask a directory service and take a while, which is why
//! answers are kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};

/// How long an answer of the user database counts: a new user is known after a minute at most.
const KEEP: Duration = Duration::from_secs(60);
/// Most answers kept of each kind: more users than one host sees in [`KEEP`].
const MAX_KEPT: usize = 10_000;
/// Shown for names that this host does not know: Linux's overflow id.
pub const NOBODY: u32 = 65_534;

/// Translates between numbers and names, with a memory.
#[derive(Debug, Default)]
pub struct Owners {
    users: Names,
    groups: Names,
    /// Every file is shown as owned by this user.
    uid: Option<u32>,
    /// Every file is shown as owned by this group.
    gid: Option<u32>,
}

#[derive(Debug, Default)]
struct Names {
    by_number: Mutex<Kept<u32, Arc<str>>>,
    by_name: Mutex<Kept<Box<str>, u32>>,
}

type Kept<K, V> = HashMap<K, (V, Instant)>;

impl Owners {
    /// With the options `uid=` and `gid=`.
    pub fn new(uid: Option<u32>, gid: Option<u32>) -> Self {
        Self { uid, gid, ..Self::default() }
    }

    /// The user's name; the decimal number if it has none.
    pub fn user_name(&self, uid: u32) -> Arc<str> {
        self.users.name(uid, |uid| User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name))
    }

    /// The group's name; the decimal number if it has none.
    pub fn group_name(&self, gid: u32) -> Arc<str> {
        self.groups
            .name(gid, |gid| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name))
    }

    /// The number under which the kernel sees a file of user `name`.
    pub fn uid(&self, name: &str) -> u32 {
        match self.uid {
            Some(uid) => uid,
            None => self
                .users
                .number(name, |name| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())),
        }
    }

    /// The number under which the kernel sees a file of group `name`.
    pub fn gid(&self, name: &str) -> u32 {
        match self.gid {
            Some(gid) => gid,
            None => self
                .groups
                .number(name, |name| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())),
        }
    }
}

impl Names {
    fn name(&self, number: u32, look_up: impl FnOnce(u32) -> Option<String>) -> Arc<str> {
        if let Some(name) = get(&self.by_number, &number) {
            return name;
        }
        let name: Arc<str> = look_up(number).unwrap_or_else(|| number.to_string()).into();
        keep(&self.by_number, number, name.clone());
        name
    }

    fn number(&self, name: &str, look_up: impl FnOnce(&str) -> Option<u32>) -> u32 {
        if let Some(number) = get(&self.by_name, name) {
            return number;
        }
        let number = look_up(name).or_else(|| name.parse().ok()).unwrap_or(NOBODY);
        keep(&self.by_name, name.into(), number);
        number
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn get<K, Q, V>(kept: &Mutex<Kept<K, V>>, key: &Q) -> Option<V>
where
    K: Eq + Hash + std::borrow::Borrow<Q>,
    Q: Eq + Hash + ?Sized,
    V: Clone,
{
    let kept = locked(kept);
    let (value, since) = kept.get(key)?;
    (since.elapsed() < KEEP).then(|| value.clone())
}

fn keep<K: Eq + Hash, V>(kept: &Mutex<Kept<K, V>>, key: K, value: V) {
    let mut kept = locked(kept);
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(key, (value, Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_everywhere() {
        let owners = Owners::default();
        assert_eq!((&*owners.user_name(0), owners.uid("root")), ("root", 0));
        assert_eq!((&*owners.group_name(0), owners.gid("root")), ("root", 0));
    }

    #[test]
    fn numbers_without_a_name_survive() {
        let owners = Owners::default();
        let stranger = 3_999_999_001;
        assert_eq!(&*owners.user_name(stranger), "3999999001");
        assert_eq!(owners.uid("3999999001"), stranger);
        assert_eq!(owners.gid(&owners.group_name(stranger)), stranger);
    }

    #[test]
    fn unknown_names_are_nobody_and_the_options_win() {
        let owners = Owners::default();
        assert_eq!(owners.uid("no such user here"), NOBODY);
        assert_eq!(owners.uid("no such user here"), NOBODY, "the kept answer is the same");
        let owners = Owners::new(Some(7), Some(8));
        assert_eq!((owners.uid("root"), owners.gid("root")), (7, 8));
        assert_eq!(&*owners.user_name(0), "root", "callers keep their names");
    }

    #[test]
    fn the_memory_is_bounded() {
        let names = Names::default();
        for number in 0..u32::try_from(MAX_KEPT).unwrap() * 2 {
            names.name(number, |_| None);
        }
        assert!(locked(&names.by_number).len() <= MAX_KEPT);
    }
}
