//! In whose name a call is made.

use std::sync::Arc;

/// A user and its groups, as the caller's host knows them. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User name; the decimal number if the host has no name for it.
    pub user: Arc<str>,
    /// Groups, the primary one first, by the same rule. Empty: the namenode looks them up.
    pub groups: Arc<[String]>,
}

impl Caller {
    /// A user whose groups the namenode looks up.
    pub fn named(user: &str) -> Self {
        Self { user: user.into(), groups: Arc::new([]) }
    }
}
