//! Real file trees through `dfs put -r` and `dfs get -r`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, ensure};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::programs::{LocalCluster, run, run_within};
use dfs_tests::tree::{ensure_same_tree, entries, generate, real_tree, set_mode, set_mtime};

/// Longest that a test which copies a real tree may take in an unoptimised build.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(400);

#[test]
fn a_real_tree_survives_kill_9_of_everything() -> Result<()> {
    run_within(DEADLINE, async {
        let cluster = LocalCluster::start(&[]).await?;
        let source = real_tree(cluster.home())?;
        let files = entries(&source)?.len();
        println!("{files} entries of {}", source.display());
        let source_text = source.to_str().context("a UTF-8 path")?;
        cluster.dfs(&["put", "-r", "-p", source_text, "/tree"]).await?.ok()?;

        cluster.kill_9(|_| true).await?;
        cluster.start_again().await?;
        let out = cluster.home().join("out");
        let out_text = out.to_str().context("a UTF-8 path")?;
        cluster.dfs(&["get", "-r", "-p", "/tree", out_text]).await?.ok()?;
        ensure_same_tree(&out, &source, true)?;
        let counted = cluster.dfs(&["count", "/tree"]).await?.ok()?.text();
        let numbers: Vec<usize> = counted.split_ascii_whitespace().flat_map(str::parse).collect();
        // Directories (the root included), files, bytes.
        ensure!(numbers.len() >= 3 && numbers[0] + numbers[1] == files + 1, "{counted}");
        Ok(())
    })
}

#[test]
fn a_tree_with_odd_names_modes_and_times_comes_back_as_it_was() -> Result<()> {
    run_within(DEADLINE, async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        let source = cluster.home().join("source");
        generate(&source, 7)?;
        fs::create_dir_all(source.join("empty/in/empty"))?;
        set_mode(&source.join("empty/in"), 0o750)?;
        set_mtime(&source.join("empty/in"), 1_234_567_890, 987_654_321)?;
        fs::create_dir(source.join("bytes"))?;
        for name in [&b"caf\xe9"[..], b"caf\xc3\xa9", b"back\\slash", b"like\\x41"] {
            fs::write(source.join("bytes").join(OsStr::from_bytes(name)), name)?;
        }
        cluster.dfs(&["put", "-r", "-p", "source", "/odd"]).await?.ok()?;
        cluster.dfs(&["get", "-r", "-p", "/odd", "back"]).await?.ok()?;
        ensure_same_tree(&cluster.home().join("back"), &source, true)?;

        // Names that are no UTF-8 are shown with escapes, which are taken as arguments and patterns.
        let shown = cluster.dfs(&["ls", "-C", "/odd/bytes"]).await?.ok()?.text();
        let shown: Vec<&str> = shown.lines().collect();
        let names =
            ["back\\slash", "caf\u{e9}", "caf\\xe9", "like\\x5cx41"].map(|n| format!("/odd/bytes/{n}"));
        assert_eq!(shown, names);
        assert_eq!(cluster.dfs(&["cat", "/odd/bytes/caf\\xe9"]).await?.ok()?.stdout, b"caf\xe9");
        assert_eq!(cluster.dfs(&["cat", "/odd/bytes/like\\x5cx41"]).await?.ok()?.stdout, b"like\\x41");
        assert_eq!(cluster.dfs(&["cat", "/odd/bytes/*\\xe9"]).await?.ok()?.stdout, b"caf\xe9");

        // Without -p the bytes are the same and the attributes are whatever new files get.
        cluster.dfs(&["get", "-r", "/odd", "plain"]).await?.ok()?;
        ensure_same_tree(&cluster.home().join("plain"), &source, false)?;

        // Into an existing directory: below it, under the source's name, as cp does.
        fs::create_dir(cluster.home().join("into"))?;
        cluster.dfs(&["get", "-r", "/odd", "into"]).await?.ok()?;
        ensure_same_tree(&cluster.home().join("into/odd"), &source, false)
    })
}

#[test]
fn standard_input_and_output_carry_any_bytes() -> Result<()> {
    run(async {
        let cluster = LocalCluster::start(&["--datanodes", "1"]).await?;
        for len in [0, 1, 1_000_003] {
            let bytes = pattern(len, 0, len as usize);
            let path = format!("/f{len}");
            cluster.dfs_with_input(&["put", "-", &path], &bytes).await?.ok()?;
            ensure_same("cat", &cluster.dfs(&["cat", &path]).await?.ok()?.stdout, &bytes)?;
            ensure_same("get -", &cluster.dfs(&["get", &path, "-"]).await?.ok()?.stdout, &bytes)?;
        }
        let bytes = pattern(0, 0, 1_000_003);
        fs::write(cluster.home().join("local"), &bytes)?;
        cluster.dfs(&["put", "local", "/copy"]).await?.ok()?;
        cluster.dfs(&["get", "/copy", "copy"]).await?.ok()?;
        ensure_same("copy", &fs::read(cluster.home().join("copy"))?, &bytes)?;
        let (one, two) = (
            cluster.dfs(&["checksum", "/copy"]).await?.ok()?.text(),
            cluster.dfs(&["checksum", "/f1000003"]).await?.ok()?.text(),
        );
        ensure!(one != two && one.split_ascii_whitespace().count() == two.split_ascii_whitespace().count());
        cluster.dfs_with_input(&["append", "-", "/copy"], b"tail").await?.ok()?;
        let appended = cluster.dfs(&["tail", "/copy"]).await?.ok()?.stdout;
        ensure!(appended.ends_with(b"tail"));
        Ok(())
    })
}
