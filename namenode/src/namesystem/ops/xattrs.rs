//! Extended attributes, by Linux's rules.
//!
//! | namespace     | on                    | read                  | write                                       |
//! |---------------|-----------------------|-----------------------|---------------------------------------------|
//! | `user.`       | files and directories | who may read the node | who may write it; in a sticky directory's own case its owner |
//! | `trusted.`    | everything            | the superuser         | the superuser                               |
//! | `security.`   | everything            | everybody             | the superuser                               |
//! | lists         | no symbolic links     | everybody             | the owner; a default list for directories only |
//!
//! Lists are the two attributes of [`acl`], whose setting is also a change of the mode.
//!
//! What the caller may not read is not there for him. Other namespaces are not supported.

use dfs_proto::InodeId;
use dfs_proto::v1::{FileType, XattrMode};

use super::check;
use crate::log::{self, Caller, reply::Reply};
use crate::namesystem::acl::{self, Acl};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::inode::Inode;
use crate::namesystem::permission::{self, Access};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;
use crate::namesystem::xattrs::{XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX, Xattrs};

/// Who decides about an attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
    /// An access control list.
    List,
}

impl Namespace {
    fn of(name: &[u8]) -> Result<Self, NamesystemError> {
        let shown = || String::from_utf8_lossy(&name[..name.len().min(XATTR_NAME_BYTES_MAX)]).into_owned();
        if name.len() > XATTR_NAME_BYTES_MAX {
            return Err(NamesystemError::NameTooLong { path: shown() });
        }
        if name.contains(&0) {
            return Err(check::invalid(shown(), InvalidReason::XattrName));
        }
        if [acl::ACCESS, acl::DEFAULT].contains(&name) {
            return Ok(Self::List);
        }
        for (prefix, namespace) in
            [("user.", Self::User), ("trusted.", Self::Trusted), ("security.", Self::Security)]
        {
            match name.strip_prefix(prefix.as_bytes()) {
                Some([]) => return Err(check::invalid(shown(), InvalidReason::XattrName)),
                Some(_) => return Ok(namespace),
                None => {}
            }
        }
        Err(NamesystemError::XattrNamespace { name: shown() })
    }
}

/// Sets an attribute.
pub(super) fn set(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::SetXattrOp,
) -> Result<Reply, NamesystemError> {
    let mut node = existing(tables, op.inode)?;
    check_write(context.caller, &node, &op.name)?;
    if op.value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(NamesystemError::TooLarge { subject: node.id.to_string() });
    }
    let mut xattrs = Xattrs::decode(node.id, &node.xattrs)?;
    if Namespace::of(&op.name)? == Namespace::List {
        let list = Acl::decode(&op.value)
            .ok_or_else(|| check::invalid(node.id.to_string(), InvalidReason::AccessControlList))?;
        return set_list(tables, context, node, xattrs, &op.name, &list);
    }
    match (op.mode(), xattrs.get(&op.name)) {
        (XattrMode::Create, Some(_)) => {
            return Err(NamesystemError::AlreadyExists {
                path: String::from_utf8_lossy(&op.name).into_owned(),
            });
        }
        (XattrMode::Replace, None) => return Err(no_attribute(&node, &op.name)),
        (XattrMode::Any | XattrMode::Create | XattrMode::Replace, _) => {}
    }
    xattrs.set(&op.name, &op.value);
    if xattrs.encoded_bytes() > XATTRS_BYTES_MAX {
        return Err(NamesystemError::XattrSpace { inode: node.id });
    }

    node.xattrs = xattrs.encode();
    node.touch_attributes(context.now_ns);
    tables.put_inode(&node);
    Ok(Reply::Status(node.status(bytes::Bytes::new())))
}

/// Sets a list. What a mode can say as well becomes the mode alone.
fn set_list(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    mut node: Inode,
    mut xattrs: Xattrs,
    name: &[u8],
    list: &Acl,
) -> Result<Reply, NamesystemError> {
    if name == acl::ACCESS {
        let outsider = context.caller.is_some_and(|c| !permission::in_group(c, &node.group));
        node.mode = node.mode & !0o777 | list.mode_bits();
        if outsider {
            node.mode &= !permission::SET_GROUP_ID;
        }
    }
    if name == acl::ACCESS && list.is_minimal() {
        xattrs.remove(name);
    } else {
        xattrs.set(name, &list.encode());
    }
    if xattrs.encoded_bytes() > XATTRS_BYTES_MAX {
        return Err(NamesystemError::XattrSpace { inode: node.id });
    }

    node.xattrs = xattrs.encode();
    node.touch_attributes(context.now_ns);
    tables.put_inode(&node);
    Ok(Reply::Status(node.status(bytes::Bytes::new())))
}

/// Removes an attribute. Without its list a node is guarded by its mode; that stays, so that what the mask
/// forbade stays forbidden.
pub(super) fn remove(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::RemoveXattrOp,
) -> Result<Reply, NamesystemError> {
    let mut node = existing(tables, op.inode)?;
    check_write(context.caller, &node, &op.name)?;
    let mut xattrs = Xattrs::decode(node.id, &node.xattrs)?;
    if !xattrs.remove(&op.name) {
        return Err(no_attribute(&node, &op.name));
    }

    node.xattrs = xattrs.encode();
    node.touch_attributes(context.now_ns);
    tables.put_inode(&node);
    Ok(Reply::Status(node.status(bytes::Bytes::new())))
}

/// Value of an attribute.
pub(in crate::namesystem) fn get(
    rows: &impl Rows,
    caller: &Caller,
    inode: u64,
    name: &[u8],
) -> Result<Vec<u8>, NamesystemError> {
    let node = existing(rows, inode)?;
    let namespace = Namespace::of(name)?;
    if namespace == Namespace::User && has_user_attributes(&node) {
        check_access(Some(caller), &node, Access::READ)?;
    }
    let hidden = namespace == Namespace::Trusted && !caller.superuser;
    let xattrs = Xattrs::decode(node.id, &node.xattrs)?;
    match xattrs.get(name) {
        Some(value) if !hidden => Ok(value.to_vec()),
        _ => Err(no_attribute(&node, name)),
    }
}

/// Names of all attributes that the caller may know of, ascending.
pub(in crate::namesystem) fn list(
    rows: &impl Rows,
    caller: &Caller,
    inode: u64,
) -> Result<Vec<Vec<u8>>, NamesystemError> {
    let node = existing(rows, inode)?;
    let xattrs = Xattrs::decode(node.id, &node.xattrs)?;
    let visible = |name: &&[u8]| caller.superuser || !name.starts_with(b"trusted.");
    Ok(xattrs.names().filter(visible).map(<[u8]>::to_vec).collect())
}

fn existing(rows: &impl Rows, inode: u64) -> Result<Inode, NamesystemError> {
    let inode = InodeId(inode);
    rows.live_inode(inode)?.ok_or(NamesystemError::InodeNotFound { inode })
}

const fn has_user_attributes(node: &Inode) -> bool {
    matches!(node.kind, FileType::File | FileType::Directory)
}

fn check_write(caller: Option<&Caller>, node: &Inode, name: &[u8]) -> Result<(), NamesystemError> {
    let namespace = Namespace::of(name)?;
    let not_permitted = || NamesystemError::NotPermitted {
        path: node.id.to_string(),
        user: caller.map(|c| c.user.clone()).unwrap_or_default(),
    };
    let superuser = caller.is_none_or(|c| c.superuser);
    match namespace {
        Namespace::Trusted | Namespace::Security if superuser => Ok(()),
        Namespace::Trusted | Namespace::Security => Err(not_permitted()),
        Namespace::List if node.kind == FileType::Symlink => {
            Err(NamesystemError::SymbolicLink { path: node.id.to_string() })
        }
        Namespace::List if !superuser && caller.is_some_and(|c| c.user != node.owner) => Err(not_permitted()),
        Namespace::List if name == acl::DEFAULT && !node.is_directory() => {
            // Linux's answer.
            let path = node.id.to_string();
            let user = caller.map(|c| c.user.clone()).unwrap_or_default();
            Err(NamesystemError::AccessDenied { refuser: path.clone(), path, user, needed: Access::ALL })
        }
        Namespace::List => Ok(()),
        Namespace::User if !has_user_attributes(node) => Err(not_permitted()),
        Namespace::User => {
            let sticky = node.is_directory() && node.mode & permission::STICKY != 0;
            if sticky && !superuser && caller.is_some_and(|c| c.user != node.owner) {
                return Err(not_permitted());
            }
            check_access(caller, node, Access::WRITE)
        }
    }
}

fn check_access(caller: Option<&Caller>, node: &Inode, access: Access) -> Result<(), NamesystemError> {
    match caller {
        Some(caller) if !node.guard().permits(caller, access.bits())? => {
            let path = node.id.to_string();
            Err(NamesystemError::AccessDenied {
                refuser: path.clone(),
                path,
                user: caller.user.clone(),
                needed: access,
            })
        }
        _ => Ok(()),
    }
}

fn no_attribute(node: &Inode, name: &[u8]) -> NamesystemError {
    NamesystemError::NoAttribute { inode: node.id, name: String::from_utf8_lossy(name).into_owned() }
}
