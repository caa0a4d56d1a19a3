//! `dfs rm`, `dfs expunge` and the trash between them.

use anyhow::{Result, ensure};
use dfs_tests::programs::{LocalCluster, run};

#[test]
fn rm_moves_to_the_trash_and_says_where() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        let say = async |args: &[&str]| -> Result<String> {
            let all: Vec<&str> = ["--user", "alice"].iter().chain(args).copied().collect();
            Ok(cluster.dfs(&all).await?.ok()?.text())
        };
        cluster.dfs(&["mkdir", "-p", "/shared/d/e"]).await?.ok()?;
        cluster.dfs(&["chmod", "-R", "777", "/shared"]).await?.ok()?;
        cluster.dfs_with_input(&["--user", "alice", "put", "-", "/shared/d/f"], b"alice's").await?.ok()?;

        let current = "/user/alice/.Trash/Current";
        assert_eq!(
            say(&["rm", "/shared/d/f"]).await?,
            format!("Moved: '/shared/d/f' to trash at: {current}/shared/d/f\n")
        );
        assert_eq!(say(&["cat", &format!("{current}/shared/d/f")]).await?, "alice's");
        let moved = say(&["rm", "-r", "/shared/d"]).await?;
        ensure!(
            moved.starts_with(&format!("Moved: '/shared/d' to trash at: {current}/shared/d1")),
            "{moved}"
        );
        let refused = cluster.dfs(&["--user", "alice", "rm", "-r", "/user/alice"]).await?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("-skipTrash"), "{refused:?}");

        let made = say(&["expunge"]).await?;
        let checkpoint = made.trim_end().strip_prefix("Created trash checkpoint: ").unwrap_or_default();
        ensure!(checkpoint.starts_with("/user/alice/.Trash/"), "{made}");
        assert_eq!(say(&["cat", &format!("{checkpoint}/shared/d/f")]).await?, "alice's");
        // What lies in the trash is removed for good, as is everything with -skipTrash.
        assert_eq!(
            say(&["rm", &format!("{checkpoint}/shared/d/f")]).await?,
            format!("Deleted {checkpoint}/shared/d/f\n")
        );
        assert_eq!(
            say(&["-expunge", "-immediate"]).await?,
            format!("Deleted trash checkpoint: {checkpoint}\n")
        );
        say(&["touchz", "/shared/g"]).await?;
        assert_eq!(say(&["rm", "-skipTrash", "/shared/g"]).await?, "Deleted /shared/g\n");
        say(&["touchz", "/shared/h"]).await?;
        assert_eq!(say(&["rm", "--skip-trash", "/shared/h"]).await?, "Deleted /shared/h\n");
        assert_eq!(say(&["ls", "-C", "-R", "/user/alice"]).await?, "/user/alice/.Trash\n");
        // Nobody else looks into it.
        let other = cluster.dfs(&["--user", "bob", "ls", "/user/alice/.Trash"]).await?;
        ensure!(other.code == Some(1) && other.stderr.contains("Permission denied"), "{other:?}");
        Ok(())
    })
}
