//! Names: creating, overwriting, renaming, deleting, listing, and every refusal.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use dfs_client::{CreateOptions, MkdirOptions, RenameOptions};
use dfs_proto::ErrorKind;
use dfs_tests::cluster::{MiniCluster, SUPERUSER};
use dfs_tests::harness::run;
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::wait::{PATIENCE, wait_until};
use dfs_tests::workload::{read_all, write_file};
use tokio::io::AsyncWriteExt;

use crate::ensure_error;

const OVERWRITE: RenameOptions = RenameOptions { overwrite: true };
const KEEP: RenameOptions = RenameOptions { overwrite: false };

fn with_parents() -> MkdirOptions {
    MkdirOptions { parents: true, ..MkdirOptions::default() }
}

#[test]
fn attributes_are_what_was_asked_for() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        let before = SystemTime::now();
        client.mkdir("/d/e", MkdirOptions { mode: 0o750, parents: true }).await?;
        let options = CreateOptions {
            mode: 0o640,
            replication: Some(2),
            block_size: Some(2 << 20),
            ..CreateOptions::default()
        };
        let mut writer = client.create("/d/e/f", options).await?;
        assert!(client.stat("/d/e/f").await?.under_construction);
        writer.write_all(b"hello").await?;
        writer.close().await?;

        let file = client.stat("/d/e/f").await?;
        assert!(file.is_file() && !file.is_dir() && !file.under_construction);
        assert_eq!((file.size, file.mode, file.replication, file.block_size), (5, 0o640, 2, 2 << 20));
        assert_eq!((file.owner.as_str(), file.path.as_str(), file.name()), (SUPERUSER, "/d/e/f", "f"));
        let slack = Duration::from_secs(2);
        ensure!(file.modified() + slack > before && file.modified() < SystemTime::now() + slack);
        let directory = client.stat("/d/e").await?;
        assert!(directory.is_dir());
        assert_eq!((directory.mode, directory.size, directory.replication), (0o750, 0, 0));
        assert_eq!(client.stat("/").await?.inode, 1);

        client.set_permission("/d/e/f", 0o1604).await?;
        client.set_owner("/d/e/f", Some("alice"), Some("staff")).await?;
        let (atime, mtime) = (
            SystemTime::UNIX_EPOCH + Duration::new(1_000, 5),
            SystemTime::UNIX_EPOCH + Duration::new(2_000, 999_999_999),
        );
        client.set_times("/d/e/f", Some(atime), Some(mtime)).await?;
        let file = client.stat("/d/e/f").await?;
        assert_eq!((file.mode, file.owner.as_str(), file.group.as_str()), (0o1604, "alice", "staff"));
        assert_eq!((file.accessed(), file.modified()), (atime, mtime));

        let summary = client.content_summary("/d").await?;
        assert_eq!((summary.length, summary.file_count, summary.directory_count), (5, 1, 2));
        assert_eq!(summary.space_consumed, 10);
        Ok(())
    })
}

#[test]
fn overwriting_replaces_the_content_and_frees_the_old_blocks() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(64 << 10).start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", &pattern(1, 0, 200_000)).await?;
        let old = cluster.blocks("/f").await?;
        let refused = client.create("/f", CreateOptions::default()).await.map(drop);
        ensure_error(refused, ErrorKind::AlreadyExists, "/f")?;
        ensure_same("/f", &read_all(&client, "/f").await?, &pattern(1, 0, 200_000))?;

        write_file(&client, "/f", &pattern(2, 0, 10)).await?;
        ensure_same("/f", &read_all(&client, "/f").await?, &pattern(2, 0, 10))?;
        wait_until("the old replicas are deleted", PATIENCE, async || {
            for block in &old {
                if !cluster.stored_on(block.block.context("block")?.id)?.is_empty() {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    })
}

#[test]
fn renames_move_files_and_whole_directories() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/a/b/f", b"one").await?;
        write_file(&client, "/a/b/g", b"two").await?;
        client.mkdir("/empty", Default::default()).await?;
        client.mkdir("/full/x", with_parents()).await?;

        ensure_error(client.rename("/none", "/x", KEEP).await, ErrorKind::NotFound, "/none")?;
        ensure_error(client.rename("/a", "/a/b/c", KEEP).await, ErrorKind::InvalidArgument, "/a")?;
        ensure_error(client.rename("/a/b/f", "/no/where", KEEP).await, ErrorKind::NotFound, "/no")?;
        ensure_error(client.rename("/a/b/f", "/a/b/g", KEEP).await, ErrorKind::AlreadyExists, "/a/b/g")?;
        ensure_error(client.rename("/a", "/empty", KEEP).await, ErrorKind::AlreadyExists, "/empty")?;
        ensure_error(client.rename("/a", "/full", OVERWRITE).await, ErrorKind::DirectoryNotEmpty, "/full")?;
        ensure_error(client.rename("/a/b/f", "/empty", OVERWRITE).await, ErrorKind::IsADirectory, "/empty")?;
        ensure_error(client.rename("/empty", "/a/b/f", OVERWRITE).await, ErrorKind::NotADirectory, "/a/b/f")?;

        client.rename("/a/b/f", "/a/b/f", KEEP).await?;
        client.rename("/a/b/f", "/a/b/g", OVERWRITE).await?;
        assert_eq!(read_all(&client, "/a/b/g").await?, b"one");
        let inode = client.stat("/a").await?.inode;
        client.rename("/a", "/empty", OVERWRITE).await?;
        assert_eq!(client.stat("/empty").await?.inode, inode);
        assert_eq!(read_all(&client, "/empty/b/g").await?, b"one");
        ensure_error(client.stat("/a").await, ErrorKind::NotFound, "/a")
    })
}

#[test]
fn a_file_can_be_renamed_and_deleted_while_it_is_written() -> Result<()> {
    run(async {
        let cluster = MiniCluster::builder().block_size(64 << 10).start().await?;
        let client = cluster.client().await?;
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.write_all(&pattern(1, 0, 100_000)).await?;
        writer.hflush().await?;
        client.rename("/f", "/g", KEEP).await?;
        writer.write_all(&pattern(1, 100_000, 100_000)).await?;
        writer.close().await?;
        ensure_same("/g", &read_all(&client, "/g").await?, &pattern(1, 0, 200_000))?;

        let mut writer = client.create("/h", CreateOptions::default()).await?;
        writer.write_all(&pattern(1, 0, 1_000)).await?;
        writer.hflush().await?;
        assert!(client.delete("/h", false).await?);
        let outcome = async {
            writer.write_bytes(pattern(1, 0, 300_000).into()).await?;
            writer.close().await
        };
        ensure!(outcome.await.is_err(), "a writer whose file is gone must be told");
        ensure_error(client.stat("/h").await, ErrorKind::NotFound, "/h")
    })
}

#[test]
fn deletes_say_whether_there_was_something() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/d/e/f", &pattern(1, 0, 5_000)).await?;
        let block = cluster.blocks("/d/e/f").await?[0].block.context("block")?.id;
        assert!(!client.delete("/none", true).await?);
        ensure_error(client.delete("/d", false).await, ErrorKind::DirectoryNotEmpty, "/d")?;
        ensure!(client.delete("/", true).await.is_err(), "the root stays");
        assert!(client.delete("/d", true).await?);
        ensure_error(client.stat("/d/e/f").await, ErrorKind::NotFound, "/d")?;
        wait_until("the replicas are deleted", PATIENCE, async || Ok(cluster.stored_on(block)?.is_empty()))
            .await
    })
}

#[test]
fn pages_of_a_listing_stay_in_order_while_entries_come_and_go() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        client.mkdir("/dir", Default::default()).await?;
        let lasting: BTreeSet<String> = (0..60).map(|number| format!("keep{number:03}")).collect();
        for name in &lasting {
            client.mkdir(&format!("/dir/{name}"), Default::default()).await?;
        }
        let mut seen = Vec::new();
        let mut after = Vec::new();
        for page_number in 0.. {
            // Between two pages entries appear and vanish on both sides of the position.
            client.mkdir(&format!("/dir/a-new{page_number}"), Default::default()).await?;
            client.mkdir(&format!("/dir/z-new{page_number:03}"), Default::default()).await?;
            client.delete(&format!("/dir/a-new{page_number}"), false).await?;
            let page = client.list_page("/dir", &after, 7).await?;
            ensure!(page.entries.len() <= 7);
            after = page.entries.last().context("a page of a listing that has more")?.raw_name.to_vec();
            seen.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
            if !page.has_more {
                break;
            }
        }
        ensure!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
        let kept: BTreeSet<String> = seen.iter().filter(|name| name.starts_with("keep")).cloned().collect();
        assert_eq!(kept, lasting);
        Ok(())
    })
}

#[test]
fn a_directory_larger_than_one_page_is_listed_whole() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        client.mkdir("/dir", Default::default()).await?;
        let made = futures::future::join_all((0..2_100).map(|number| {
            let client = &client;
            async move { client.mkdir(&format!("/dir/{number}"), Default::default()).await }
        }));
        for outcome in made.await {
            outcome?;
        }
        let names: BTreeSet<String> =
            client.list("/dir").await?.iter().map(|entry| entry.name().to_owned()).collect();
        assert_eq!(names, (0..2_100).map(|number| number.to_string()).collect());
        write_file(&client, "/file", b"x").await?;
        let alone = client.list("/file").await?;
        assert_eq!((alone.len(), alone[0].path.as_str()), (1, "/file"));
        Ok(())
    })
}

#[test]
fn bad_names_are_refused_by_name() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        let longest = format!("/{}", "n".repeat(255));
        client.mkdir(&longest, Default::default()).await?;
        client.mkdir("/sp ace/äöü/*?[", with_parents()).await?;
        for (path, kind) in [
            ("relative", ErrorKind::InvalidPath),
            ("/a/../b", ErrorKind::InvalidPath),
            ("/a/./b", ErrorKind::InvalidPath),
            ("/a//b", ErrorKind::InvalidPath),
            ("/nul\0name", ErrorKind::InvalidPath),
            (&format!("{longest}n"), ErrorKind::NameTooLong),
            (&"/d".repeat(1_001), ErrorKind::NameTooLong),
        ] {
            ensure_error(client.mkdir(path, with_parents()).await, kind, path)?;
            ensure_error(client.stat(path).await, kind, path)?;
        }
        assert_eq!(client.list("/").await?.len(), 2);
        Ok(())
    })
}

#[test]
fn unreasonable_settings_of_a_file_are_refused() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", b"x").await?;
        for options in [
            CreateOptions { replication: Some(513), ..CreateOptions::default() },
            CreateOptions { block_size: Some(100), ..CreateOptions::default() },
            CreateOptions { block_size: Some(8 << 30), ..CreateOptions::default() },
        ] {
            let refused = client.create("/g", options).await.map(drop);
            ensure!(
                refused.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidArgument),
                "{options:?} gave {refused:?}"
            );
        }
        for replication in [0, 513] {
            let refused = client.set_replication("/f", replication).await;
            ensure!(
                refused.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidArgument),
                "replication {replication} gave {refused:?}"
            );
        }
        ensure_error(client.stat("/g").await, ErrorKind::NotFound, "/g")
    })
}

#[test]
fn safe_mode_refuses_changes_and_allows_reads() -> Result<()> {
    run(async {
        let cluster = MiniCluster::start().await?;
        let client = cluster.client().await?;
        write_file(&client, "/f", b"content").await?;
        let impatient = dfs_client::DfsClient::builder()
            .namenode(cluster.namenode_address())
            .user(SUPERUSER)
            .retry(dfs_client::RetryPolicy { deadline: Duration::from_millis(500), ..Default::default() })
            .connect()
            .await?;
        assert!(client.safe_mode(dfs_client::SafeModeAction::Enter).await?);
        assert_eq!(read_all(&client, "/f").await?, b"content");
        ensure_error(impatient.mkdir("/d", Default::default()).await, ErrorKind::SafeMode, "")?;
        assert!(!client.safe_mode(dfs_client::SafeModeAction::Leave).await?);
        client.mkdir("/d", Default::default()).await?;
        Ok(())
    })
}
