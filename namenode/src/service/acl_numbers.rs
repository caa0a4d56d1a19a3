//! Access control lists between mounts, which speak Linux's form with numbers, and the namespace, which knows users
//! and groups by name.
//!
//! The numbers are those of this host's user database, so hosts with mounts have to agree with it about the users
//! whom lists name. A number without a name is its decimal text, and such a text becomes the number again; a
//! name that this host does not know is shown as nobody.

use dfs_proto::{ErrorKind, RpcError};
use nix::unistd::{Gid, Group, Uid, User};

use crate::namesystem::acl::{self, Acl};

/// Shown for names that this host does not know: Linux's overflow id.
const NOBODY: u32 = 65_534;

/// The value of an attribute as the namespace keeps it; only lists differ.
pub async fn from_mount(name: &[u8], value: Vec<u8>) -> Result<Vec<u8>, RpcError> {
    if ![acl::ACCESS, acl::DEFAULT].contains(&name) {
        return Ok(value);
    }
    let list = blocking(move || Acl::from_linux(&value, user_name, group_name)).await?;
    let invalid = || RpcError::new(ErrorKind::InvalidArgument, "", "access control list is not valid");
    list.map(|list| list.encode()).ok_or_else(invalid)
}

/// The value of an attribute as mounts know it.
pub async fn to_mount(name: &[u8], value: Vec<u8>) -> Result<Vec<u8>, RpcError> {
    match Acl::decode(&value) {
        Some(list) if [acl::ACCESS, acl::DEFAULT].contains(&name) => {
            blocking(move || list.to_linux(user_number, group_number)).await
        }
        _ => Ok(value),
    }
}

/// The user database may have to ask a directory service.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RpcError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| RpcError::new(ErrorKind::Internal, "user database", e.to_string()))
}

fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

fn group_name(gid: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map_or_else(|| gid.to_string(), |group| group.name)
}

fn user_number(name: &str) -> u32 {
    let user = User::from_name(name).ok().flatten();
    user.map_or_else(|| name.parse().unwrap_or(NOBODY), |user| user.uid.as_raw())
}

fn group_number(name: &str) -> u32 {
    let group = Group::from_name(name).ok().flatten();
    group.map_or_else(|| name.parse().unwrap_or(NOBODY), |group| group.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owner, root, a user without a name, group, mask, others.
    fn list(stranger: u32) -> Vec<u8> {
        let mut raw = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in [
            (1u16, 7u16, u32::MAX),
            (2, 6, 0),
            (2, 4, stranger),
            (4, 5, u32::MAX),
            (16, 7, u32::MAX),
            (32, 0, u32::MAX),
        ] {
            raw.extend_from_slice(&tag.to_le_bytes());
            raw.extend_from_slice(&permissions.to_le_bytes());
            raw.extend_from_slice(&id.to_le_bytes());
        }
        raw
    }

    #[tokio::test]
    async fn lists_are_translated_both_ways_and_nothing_else_is() {
        let raw = list(3_999_999_999);
        let kept = from_mount(acl::ACCESS, raw.clone()).await.expect("valid");
        let text = String::from_utf8_lossy(&kept).into_owned();
        assert!(text.contains("root") && text.contains("3999999999"), "{text:?}");
        let mut back = to_mount(acl::ACCESS, kept).await.expect("known");
        // Users come in the order of their names.
        back[12..28].rotate_left(8);
        assert_eq!(back, raw);
        assert_eq!(user_number("no such user"), NOBODY);
        let refused = from_mount(acl::DEFAULT, vec![1, 2, 3]).await.expect_err("not a list");
        assert_eq!(refused.kind, ErrorKind::InvalidArgument);
        assert_eq!(from_mount(b"user.a", vec![1, 2, 3]).await, Ok(vec![1, 2, 3]));
        assert_eq!(to_mount(b"user.a", vec![1, 2, 3]).await, Ok(vec![1, 2, 3]));
    }
}
