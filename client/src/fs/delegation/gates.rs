//! Which directories are being asked for, given back, or changed by calls of their own.
//!
//! Pure. Invariant: a directory is not asked for while a call that changes it is under way, nor the other way round: whether a grant shows
//! that change would not be known. Nor is it asked for before it was given back for good.

use std::collections::{HashMap, HashSet};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gates {
    changing: HashMap<u64, u32>,
    /// Whether somebody else wants it already.
    asking: HashMap<u64, bool>,
    returning: HashSet<u64>,
}

impl Gates {
    /// A directory is to be asked for. False if it is already, or is being given back.
    pub(super) fn ask(&mut self, dir: u64) -> bool {
        if self.returning.contains(&dir) || self.asking.contains_key(&dir) {
            return false;
        }
        self.asking.insert(dir, false);
        true
    }

    pub(super) fn is_asking(&self, dir: u64) -> bool {
        self.asking.contains_key(&dir)
    }

    pub(super) fn is_changing(&self, dir: u64) -> bool {
        self.changing.contains_key(&dir)
    }

    /// Somebody else wants a directory. True if it is being asked for: then it is given back when it is granted.
    pub(super) fn spoil(&mut self, dir: u64) -> bool {
        self.asking.get_mut(&dir).map(|spoiled| *spoiled = true).is_some()
    }

    /// All that are being asked for are given back when they are granted.
    pub(super) fn spoil_all(&mut self) {
        self.asking.values_mut().for_each(|spoiled| *spoiled = true);
    }

    /// The question was answered. True if the directory may be used.
    pub(super) fn asked(&mut self, dir: u64) -> bool {
        self.asking.remove(&dir) == Some(false)
    }

    /// Whether nothing is being asked for.
    pub(super) fn is_quiet(&self) -> bool {
        self.asking.is_empty()
    }

    /// A directory is to be given back. False if it is already.
    pub(super) fn give_back(&mut self, dir: u64) -> bool {
        self.returning.insert(dir)
    }

    /// They were given back.
    pub(super) fn given_back(&mut self, dirs: &[u64]) {
        for dir in dirs {
            self.returning.remove(dir);
        }
    }

    /// A call that changes these begins.
    pub(super) fn change(&mut self, dirs: &[u64]) {
        for dir in dirs {
            *self.changing.entry(*dir).or_default() += 1;
        }
    }

    /// It ended. True if somebody may wait for that.
    pub(super) fn changed(&mut self, dirs: &[u64]) -> bool {
        for dir in dirs {
            if let Some(count) = self.changing.get_mut(dir) {
                *count -= 1;
                if *count == 0 {
                    self.changing.remove(dir);
                }
            }
        }
        !self.asking.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_asked_for_once_and_not_while_it_is_given_back() {
        let mut gates = Gates::default();
        assert!(gates.ask(1) && !gates.ask(1) && gates.is_asking(1));
        assert!(gates.asked(1) && gates.is_quiet());
        assert!(gates.give_back(1) && !gates.give_back(1) && !gates.ask(1));
        gates.given_back(&[1]);
        assert!(gates.ask(1) && gates.spoil(1) && !gates.spoil(2));
        assert!(!gates.asked(1), "somebody else wants it");
        assert!(gates.ask(1));
        gates.spoil_all();
        assert!(!gates.asked(1));
    }

    #[test]
    fn changes_are_counted() {
        let mut gates = Gates::default();
        gates.change(&[1, 2]);
        gates.change(&[1]);
        assert!(!gates.changed(&[1, 2]) && gates.is_changing(1) && !gates.is_changing(2));
        gates.ask(1);
        assert!(gates.changed(&[1]) && !gates.is_changing(1));
    }
}
