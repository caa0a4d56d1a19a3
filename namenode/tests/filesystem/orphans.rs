//! Names that go while the node is open; extended attributes and groups on the way.

use dfs_proto::ErrorKind;
use dfs_proto::v1::*;
use tempfile::tempdir;

use super::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlinked_file_lives_until_its_last_session_releases_it() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut first = Mount::connect(namenode.rpc_addr(), "mount-1").await;
    let mut second = Mount::connect(namenode.rpc_addr(), "mount-2").await;
    let _live = (first.keep_alive(), second.keep_alive());
    let inode = first.create("f").await.expect("made").inode;
    first.close(inode).await.expect("closed");
    second.open(inode, false).await.expect("opened");
    first.unlink("f").await.expect("unlinked");
    first.release(inode).await.expect("released");
    let orphan = second.open(inode, true).await.expect("opened without a name").status.expect("status");
    assert_eq!((orphan.inode, orphan.nlink), (inode, 0));
    second.close(inode).await.expect("written without a name");
    second.release(inode).await.expect("released");
    second.wait_until_gone(inode).await;
    let refused = second.open(inode, false).await.expect_err("gone");
    assert_eq!(kind(&refused), ErrorKind::NotFound);
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_file_that_is_open_stays_and_a_closed_one_goes() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut mount = Mount::connect(namenode.rpc_addr(), "mount-1").await;
    let _lives = mount.keep_alive();
    let open = mount.create("open").await.expect("made").inode;
    let closed = mount.make("closed", FileType::File, false).await.expect("made").inode;
    for (name, old, stays) in [("open", open, true), ("closed", closed, false)] {
        let new = mount.make("new", FileType::File, false).await.expect("made").inode;
        let request = MoveRequest {
            context: context(),
            src: below(1, "new"),
            dst: below(1, name),
            mode: MoveMode::Replace.into(),
        };
        let moved = mount.calls.r#move(request).await.expect("moved").into_inner();
        assert_eq!(moved.moved.map(|node| node.inode), Some(new));
        assert_eq!(moved.other.map(|node| (node.inode, node.nlink)), Some((old, 0)));
        assert_eq!(mount.stat(old).await.is_ok(), stays, "{name}");
    }
    mount.close(open).await.expect("closed");
    mount.release(open).await.expect("released");
    mount.wait_until_gone(open).await;
    namenode.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_links_and_groups_of_the_caller() {
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut mount = Mount::connect(namenode.rpc_addr(), "mount-1").await;
    let inode = mount.make("f", FileType::File, false).await.expect("made").inode;
    let chown = SetAttributesRequest {
        context: context(),
        node: below(inode, ""),
        owner: Some("1234".to_owned()),
        group: Some("77".to_owned()),
        mode: Some(0o640),
        size: Some(5_000),
        ..Default::default()
    };
    let status = mount.calls.set_attributes(chown).await.expect("set").into_inner();
    assert_eq!((status.owner.as_str(), status.size, status.allocated), ("1234", 5_000, 0));
    let link = LinkRequest { context: context(), inode, node: below(1, "g") };
    assert_eq!(mount.calls.link(link).await.expect("linked").into_inner().nlink, 2);

    // The groups that the call names count, not those that the namenode's host knows.
    let read = |groups: &[&str]| OpenFileRequest {
        context: context_of("4321", groups),
        node: below(inode, ""),
        session: "mount-1".to_owned(),
        ..Default::default()
    };
    mount.calls.open_file(read(&["1", "77"])).await.expect("a member may read");
    let refused = mount.calls.open_file(read(&["1"])).await.expect_err("no member");
    assert_eq!(kind(&refused), ErrorKind::AccessDenied);

    let name = || bytes::Bytes::from_static(b"user.note");
    let value = bytes::Bytes::from_static(b"\0bytes");
    let set = SetXattrRequest { context: context(), inode, name: name(), value: value.clone(), mode: 0 };
    assert!(mount.calls.set_xattr(set).await.expect("set").into_inner().has_xattrs);
    let list = ListXattrsRequest { context: context(), inode };
    assert_eq!(mount.calls.list_xattrs(list).await.expect("listed").into_inner().names, [name()]);
    let get = || GetXattrRequest { context: context(), inode, name: name() };
    assert_eq!(mount.calls.get_xattr(get()).await.expect("read").into_inner().value, value);
    let remove = RemoveXattrRequest { context: context(), inode, name: name() };
    mount.calls.remove_xattr(remove).await.expect("removed");
    assert_eq!(kind(&mount.calls.get_xattr(get()).await.expect_err("gone")), ErrorKind::NoAttribute);
    namenode.shutdown().await;
}

/// Opening and unlinking one file at the same time, many times: whoever was told that the file is open can use it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_that_succeeds_is_not_undone_by_an_unlink_at_the_same_moment() {
    const ROUNDS: usize = 200;
    let dir = tempdir().expect("directory");
    let namenode = start(&dir).await;
    let mut first = Mount::connect(namenode.rpc_addr(), "mount-1").await;
    let second = Mount::connect(namenode.rpc_addr(), "mount-2").await;
    let _live = (first.keep_alive(), second.keep_alive());
    for round in 0..ROUNDS {
        let name = format!("f{round}");
        let inode = first.make(&name, FileType::File, false).await.expect("made").inode;
        let opening = tokio::spawn({
            let mut second = second.clone();
            async move { second.open(inode, false).await }
        });
        first.unlink(&name).await.expect("unlinked");
        if opening.await.expect("no panic").is_ok() {
            first.stat(inode).await.expect("it is open");
        }
    }
    namenode.shutdown().await;
}
