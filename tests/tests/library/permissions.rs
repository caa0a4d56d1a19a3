//! Owner, group and mode are enforced for the calling user.

use anyhow::{Result, ensure};
use dfs_client::{CreateOptions, DfsClient, MkdirOptions};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::MiniCluster;
use dfs_tests::harness::run;
use dfs_tests::workload::{read_all, write_file};

use crate::ensure_error;

/// A cluster with the users alice and bob of group staff, and carol of none.
async fn cluster() -> Result<MiniCluster> {
    MiniCluster::builder().member("alice", "staff").member("bob", "staff").start().await
}

async fn create(client: &DfsClient, path: &str) -> Result<(), dfs_client::DfsError> {
    client.create(path, CreateOptions::default()).await?.close().await?;
    Ok(())
}

#[test]
fn strangers_may_not_write_and_group_members_may_read() -> Result<()> {
    run(async {
        let cluster = cluster().await?;
        let root = cluster.client().await?;
        let alice = cluster.client_of("alice").await?;
        let bob = cluster.client_of("bob").await?;
        let carol = cluster.client_of("carol").await?;
        root.mkdir("/home", Default::default()).await?;
        root.mkdir("/home/alice", MkdirOptions { mode: 0o750, parents: false }).await?;
        root.set_owner("/home/alice", Some("alice"), Some("staff")).await?;

        ensure_error(create(&alice, "/f").await, ErrorKind::AccessDenied, "/f")?;
        write_file(&alice, "/home/alice/f", b"mine").await?;
        let status = alice.stat("/home/alice/f").await?;
        assert_eq!((status.owner.as_str(), status.group.as_str()), ("alice", "staff"));

        assert_eq!(read_all(&bob, "/home/alice/f").await?, b"mine");
        ensure_error(create(&bob, "/home/alice/g").await, ErrorKind::AccessDenied, "/home/alice")?;
        ensure_error(bob.delete("/home/alice/f", false).await, ErrorKind::AccessDenied, "/home/alice")?;
        ensure_error(bob.append("/home/alice/f").await.map(drop), ErrorKind::AccessDenied, "/home/alice/f")?;
        ensure_error(carol.open("/home/alice/f").await.map(drop), ErrorKind::AccessDenied, "/home/alice")?;
        ensure_error(carol.stat("/home/alice/f").await, ErrorKind::AccessDenied, "/home/alice")?;
        ensure_error(carol.list("/home/alice").await, ErrorKind::AccessDenied, "/home/alice")?;

        alice.set_permission("/home/alice/f", 0o600).await?;
        ensure_error(bob.open("/home/alice/f").await.map(drop), ErrorKind::AccessDenied, "/home/alice/f")?;
        assert_eq!(read_all(&root, "/home/alice/f").await?, b"mine");
        Ok(())
    })
}

#[test]
fn attributes_belong_to_the_owner() -> Result<()> {
    run(async {
        let cluster = cluster().await?;
        let root = cluster.client().await?;
        let alice = cluster.client_of("alice").await?;
        let bob = cluster.client_of("bob").await?;
        root.mkdir("/tmp", MkdirOptions { mode: 0o1777, parents: false }).await?;
        write_file(&alice, "/tmp/f", b"x").await?;

        ensure_error(bob.set_permission("/tmp/f", 0o777).await, ErrorKind::NotPermitted, "/tmp/f")?;
        ensure_error(alice.set_owner("/tmp/f", Some("bob"), None).await, ErrorKind::NotPermitted, "/tmp/f")?;
        ensure_error(
            alice.set_owner("/tmp/f", None, Some("wheel")).await,
            ErrorKind::NotPermitted,
            "/tmp/f",
        )?;
        alice.set_owner("/tmp/f", None, Some("staff")).await?;
        alice.set_permission("/tmp/f", 0o666).await?;
        assert_eq!(root.stat("/tmp/f").await?.group, "staff");

        // The sticky bit: everybody writes into the directory, but removes only what is his own.
        let denied = bob.delete("/tmp/f", false).await;
        ensure!(
            denied.as_ref().is_err_and(|error| matches!(
                error.kind(),
                ErrorKind::AccessDenied | ErrorKind::NotPermitted
            )),
            "{denied:?}"
        );
        let denied = bob.rename("/tmp/f", "/tmp/g", Default::default()).await;
        ensure!(denied.is_err(), "the sticky bit also keeps names");
        assert!(alice.delete("/tmp/f", false).await?);
        Ok(())
    })
}

#[test]
fn only_the_superuser_may_command_the_cluster() -> Result<()> {
    run(async {
        let cluster = cluster().await?;
        let alice = cluster.client_of("alice").await?;
        let denied = alice.safe_mode(dfs_client::SafeModeAction::Enter).await;
        ensure!(
            denied.as_ref().is_err_and(|error| matches!(
                error.kind(),
                ErrorKind::AccessDenied | ErrorKind::NotPermitted
            )),
            "{denied:?}"
        );
        Ok(())
    })
}

#[test]
fn a_recursive_delete_checks_what_is_below() -> Result<()> {
    run(async {
        let cluster = cluster().await?;
        let root = cluster.client().await?;
        let alice = cluster.client_of("alice").await?;
        root.mkdir("/shared", MkdirOptions { mode: 0o777, parents: false }).await?;
        alice.mkdir("/shared/mine", Default::default()).await?;
        root.mkdir("/shared/mine/foreign", MkdirOptions { mode: 0o700, parents: false }).await?;
        write_file(&root, "/shared/mine/foreign/f", b"x").await?;
        ensure_error(alice.delete("/shared/mine", true).await, ErrorKind::AccessDenied, "/shared/mine")?;
        assert_eq!(read_all(&root, "/shared/mine/foreign/f").await?, b"x");
        assert!(root.delete("/shared/mine", true).await?);
        Ok(())
    })
}
