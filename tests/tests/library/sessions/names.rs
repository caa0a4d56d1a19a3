//! Names and attributes by inode.

use anyhow::Result;
use dfs_client::ErrorKind;
use dfs_client::fs::{FileType, MoveMode, NewNode, SetAttributes, SetTime, XattrMode};
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;

use super::{ROOT, directory, file, inode, root, session, user};
use crate::ensure_error;

#[test]
fn nodes_of_every_type_have_the_attributes_they_were_made_with() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let fs = session(&cluster).await?;
        let alice = user("alice", &["staff", "web"]);
        let open = fs.make_node(&root(), ROOT, b"open", directory(0o777)).await?;
        let dir = inode(&open);
        for (name, kind, rdev, target) in [
            (&b"file"[..], FileType::File, 0, ""),
            (b"dir", FileType::Directory, 0, ""),
            (b"link\xff", FileType::Symlink, 0, "../else where"),
            (b"fifo", FileType::Fifo, 0, ""),
            (b"socket", FileType::Socket, 0, ""),
            (b"null", FileType::CharDevice, 0x103, ""),
            (b"disk", FileType::BlockDevice, 0x801, ""),
        ] {
            let devices = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
            let caller = if devices { root() } else { alice.clone() };
            let new = NewNode { rdev, symlink: target.into(), ..NewNode::new(kind, 0o640, "web") };
            let made = fs.make_node(&caller, dir, name, new).await?;
            let found = fs.lookup(&alice, dir, name).await?;
            assert_eq!(made.inode, found.inode);
            assert_eq!(found.r#type(), kind);
            assert_eq!((found.owner.as_str(), found.group.as_str()), (&*caller.user, "web"));
            assert_eq!((found.rdev, found.symlink.as_ref()), (rdev, target.as_bytes()));
            assert_eq!(fs.stat(&alice, inode(&found)).await?.inode, found.inode);
        }
        let (entries, more) = fs.list(&alice, dir, b"", 1000).await?;
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_ref()).collect();
        assert_eq!(names, [&b"dir"[..], b"disk", b"fifo", b"file", b"link\xff", b"null", b"socket"]);
        assert!(!more);
        let (page, more) = fs.list(&alice, dir, b"fifo", 2).await?;
        assert_eq!((page.len(), page[0].name.as_ref(), more), (2, &b"file"[..], true));
        assert_eq!(fs.resolve(&alice, "/open/link\\xff").await?.symlink.as_ref(), b"../else where");
        ensure_error(fs.make_node(&alice, dir, b"dir", file()).await, ErrorKind::AlreadyExists, "dir")?;
        ensure_error(fs.lookup(&alice, dir, b"none").await, ErrorKind::NotFound, "none")?;
        ensure_error(fs.make_node(&alice, ROOT, b"x", file()).await, ErrorKind::AccessDenied, "")?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn links_removals_and_moves_follow_posix() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let fs = session(&cluster).await?;
        let me = root();
        let one = inode(&fs.make_node(&me, ROOT, b"one", directory(0o755)).await?);
        let two = inode(&fs.make_node(&me, ROOT, b"two", directory(0o755)).await?);
        let file_a = fs.make_node(&me, one, b"a", file()).await?;
        let linked = fs.link(&me, inode(&file_a), two, b"also").await?;
        assert_eq!((linked.inode, linked.nlink), (file_a.inode, 2));
        assert_eq!(fs.unlink(&me, one, b"a", false).await?.nlink, 1);
        assert_eq!(fs.lookup(&me, two, b"also").await?.inode, file_a.inode);

        let file_b = fs.make_node(&me, one, b"b", file()).await?;
        ensure_error(
            fs.rename(&me, one, b"b", two, b"also", MoveMode::NoReplace).await,
            ErrorKind::AlreadyExists,
            "",
        )?;
        let exchanged = fs.rename(&me, one, b"b", two, b"also", MoveMode::Exchange).await?;
        assert_eq!(exchanged.moved.map(|status| status.inode), Some(file_b.inode));
        assert_eq!(fs.lookup(&me, one, b"b").await?.inode, file_a.inode);
        let replaced = fs.rename(&me, one, b"b", two, b"also", MoveMode::Replace).await?;
        assert_eq!(replaced.other.map(|status| (status.inode, status.nlink)), Some((file_b.inode, 0)));
        ensure_error(fs.lookup(&me, one, b"b").await, ErrorKind::NotFound, "b")?;

        ensure_error(fs.unlink(&me, ROOT, b"two", false).await, ErrorKind::IsADirectory, "")?;
        ensure_error(fs.unlink(&me, ROOT, b"two", true).await, ErrorKind::DirectoryNotEmpty, "")?;
        fs.unlink(&me, ROOT, b"one", true).await?;
        ensure_error(fs.lookup(&me, ROOT, b"one").await, ErrorKind::NotFound, "one")?;
        fs.sync().await?;
        fs.close().await?;
        Ok(())
    })
}

#[test]
fn attributes_and_extended_attributes_are_set_in_one_call_each() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().datanodes(1).replication(1).start().await?;
        let fs = session(&cluster).await?;
        let me = root();
        let made = fs.make_node(&me, ROOT, b"f", file()).await?;
        let node = inode(&made);
        let set = SetAttributes {
            mode: Some(0o4711),
            owner: Some("1234".to_owned()),
            group: Some("web".to_owned()),
            size: Some(10_000_000_000),
            atime: Some(SetTime::At(-5)),
            mtime: Some(SetTime::At(1_000_000_000_000_000_001)),
            ..Default::default()
        };
        let status = fs.set_attributes(&me, node, set).await?;
        assert_eq!((status.mode, status.owner.as_str(), status.group.as_str()), (0o4711, "1234", "web"));
        assert_eq!((status.size, status.allocated), (10_000_000_000, 0));
        assert_eq!((status.atime_ns, status.mtime_ns), (-5, 1_000_000_000_000_000_001));
        assert!(status.change > made.change && status.ctime_ns >= made.ctime_ns);
        let now = SetAttributes { mtime: Some(SetTime::Now), ..Default::default() };
        assert!(fs.set_attributes(&me, node, now).await?.mtime_ns > 1_000_000_000_000_000_001);
        let mallory = user("mallory", &["users"]);
        let mine = SetAttributes { mode: Some(0o777), ..Default::default() };
        ensure_error(fs.set_attributes(&mallory, node, mine).await, ErrorKind::NotPermitted, "")?;

        ensure_error(fs.get_xattr(&me, node, b"user.a").await, ErrorKind::NoAttribute, "")?;
        assert!(fs.set_xattr(&me, node, b"user.a", b"\x00\xff", XattrMode::Create).await?.has_xattrs);
        ensure_error(
            fs.set_xattr(&me, node, b"user.a", b"", XattrMode::Create).await,
            ErrorKind::AlreadyExists,
            "",
        )?;
        fs.set_xattr(&me, node, b"user.b", b"", XattrMode::Any).await?;
        assert_eq!(fs.get_xattr(&me, node, b"user.a").await?.as_ref(), b"\x00\xff");
        assert_eq!(fs.list_xattrs(&me, node).await?, [&b"user.a"[..], b"user.b"]);
        fs.remove_xattr(&me, node, b"user.a").await?;
        assert_eq!(fs.list_xattrs(&me, node).await?, [&b"user.b"[..]]);
        fs.close().await?;
        Ok(())
    })
}
