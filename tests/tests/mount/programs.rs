//! Programs that people run on their files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::{Place, with_mount, with_mount_within};
use dfs_tests::pattern::{ensure_same, pattern};
use dfs_tests::tree::{ensure_same_tree, generate, generate_files};

use crate::commands::{run, shell};
use crate::sys::STAT_BLOCK;

/// Files of the tree that is unpacked.
const TREE_FILES: usize = 5_000;

/// Longest that a test with thousands of files may take in an unoptimised build.
const LONG: Duration = Duration::from_secs(400);

/// git as these tests use it.
const GIT: &str = "git -c user.name=t -c user.email=t@example.org -c safe.directory=*";

#[test]
fn an_unpacked_archive_is_what_was_packed() -> Result<()> {
    with_mount_within(LONG, &[], |place| {
        let source = place.scratch.join("source");
        generate_files(&source, 11, TREE_FILES)?;
        let archive = place.scratch.join("a.tar");
        let archive = archive.to_str().context("a UTF-8 path")?;
        run(&source, &["tar", "--format=posix", "-cf", archive, "."])?;
        let target = place.root.join("unpacked");
        fs::create_dir(&target)?;
        run(&target, &["tar", "-xpf", archive])?;
        ensure_same_tree(&target, &source, true)?;

        // grep sees what it sees on a local disk, and packing again gives the same archive.
        let words = ["grep", "-rlae", "ab", "."];
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        ensure!(sorted(run(&target, &words)?) == sorted(run(&source, &words)?));
        let pack = "tar --sort=name --owner=0 --group=0 --numeric-owner -cf - . | sha256sum";
        ensure!(shell(&target, pack)? == shell(&source, pack)?, "packed again, the archives differ");

        run(&place.root, &["rm", "-r", "unpacked"])?;
        ensure!(fs::read_dir(&place.root)?.next().is_none());
        Ok(())
    })
}

#[test]
fn symbolic_and_hard_links_are_copied_as_such() -> Result<()> {
    with_mount(&[], |place| {
        shell(
            &place.root,
            "mkdir -p a/b; echo text > a/b/f; ln a/b/f a/g; ln -s ../b/f a/b/s; ln -s /nowhere a/dangling; mkfifo a/p
             cp -a a copy; tar -cf - a | (mkdir t; cd t; tar -xpf -)",
        )?;
        for tree in ["copy", "t/a"] {
            let tree = place.root.join(tree);
            let (one, two) = (fs::metadata(tree.join("b/f"))?, fs::metadata(tree.join("g"))?);
            ensure!(one.ino() == two.ino() && one.nlink() == 2, "{} links", one.nlink());
            ensure!(fs::read_link(tree.join("b/s"))?.to_str() == Some("../b/f"));
            ensure!(fs::read_link(tree.join("dangling"))?.to_str() == Some("/nowhere"));
            ensure!(fs::symlink_metadata(tree.join("p"))?.mode() & libc::S_IFMT == libc::S_IFIFO);
        }
        Ok(())
    })
}

#[test]
fn git_clones_checks_and_commits() -> Result<()> {
    with_mount_within(LONG, &[], |place| {
        generate(&place.scratch.join("origin"), 12)?;
        let origin = place.scratch.join("origin");
        shell(&origin, &format!("{GIT} init -q -b main .; {GIT} add -A .; {GIT} commit -q -m one"))?;
        let source = origin.display();
        shell(&place.root, &format!("{GIT} clone -q --no-hardlinks file://{source} clone"))?;
        let clone = place.root.join("clone");
        let commit = format!(
            "{GIT} fsck --strict --full; test -z \"$({GIT} status --porcelain)\"
             echo more > new; {GIT} rm -q -r --cached . ; {GIT} add -A .; {GIT} commit -q -m two
             {GIT} gc -q; {GIT} fsck --strict --full; {GIT} reset -q --hard HEAD~1; test ! -e new; {GIT} log --oneline"
        );
        let log = shell(&clone, &commit)?;
        ensure!(log.lines().count() == 1, "{log}");
        fs::remove_dir_all(clone.join(".git"))?;
        fs::remove_dir_all(origin.join(".git"))?;
        ensure_same_tree(&clone, &without_empty_directories(place, &origin)?, false)
    })
}

/// git keeps no empty directories.
fn without_empty_directories(place: &Place, tree: &std::path::Path) -> Result<std::path::PathBuf> {
    shell(&place.scratch, &format!("find {} -mindepth 1 -type d -empty -delete", tree.display()))?;
    Ok(tree.to_owned())
}

#[test]
fn sqlite_keeps_its_database_whole() -> Result<()> {
    with_mount_within(LONG, &[], |place| {
        for journal in ["delete", "truncate", "persist", "wal"] {
            let mut script =
                format!("PRAGMA journal_mode={journal}; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\n");
            for number in 0..100 {
                script.push_str(&format!(
                    "BEGIN; INSERT INTO t VALUES({number}, hex(zeroblob({}))); COMMIT;\n",
                    100 * number
                ));
            }
            fs::write(place.scratch.join("script"), script)?;
            let input = place.scratch.join("script");
            let said = shell(&place.root, &format!("sqlite3 {journal}.db < {}", input.display()))?;
            ensure!(said.trim() == journal, "{said}");
            let check = "PRAGMA integrity_check; SELECT count(*), sum(length(b)) FROM t;";
            let said = run(&place.root, &["sqlite3", &format!("{journal}.db"), check])?;
            ensure!(said == "ok\n100|990000\n", "{journal}: {said}");
        }
        // Two writers take turns, which takes locks; with WAL also a shared mapping.
        for journal in ["delete", "wal"] {
            let writer = |table: &str| {
                format!(
                    "i=0; while [ $i -lt 40 ]; do i=$((i+1));
                     sqlite3 -cmd '.timeout 60000' {journal}.db \"INSERT INTO u VALUES('{table}', $i)\"; done"
                )
            };
            let (one, two) = (writer("one"), writer("two"));
            shell(
                &place.root,
                &format!(
                    "sqlite3 {journal}.db 'CREATE TABLE u(a TEXT, b INTEGER)'
                     ({one}) & first=$!; ({two}) & second=$!; wait $first; wait $second"
                ),
            )?;
            let check = "PRAGMA integrity_check; SELECT a, count(*), sum(b) FROM u GROUP BY a ORDER BY a;";
            let said = run(&place.root, &["sqlite3", &format!("{journal}.db"), check])?;
            ensure!(said == "ok\none|40|820\ntwo|40|820\n", "{journal}: {said}");
        }
        Ok(())
    })
}

#[test]
fn rsync_copies_once_and_finds_nothing_to_do_the_second_time() -> Result<()> {
    with_mount_within(LONG, &[], |place| {
        let source = place.scratch.join("source");
        generate(&source, 13)?;
        shell(&source, "ln -s f1 link; ln \"$(find . -type f | head -n1)\" hard")?;
        let from = format!("{}/", source.display());
        run(&place.root, &["rsync", "-aH", "--modify-window=-1", &from, "copy"])?;
        fs::remove_file(source.join("link"))?;
        ensure!(fs::read_link(place.root.join("copy/link"))?.to_str() == Some("f1"));
        let second = run(&place.root, &["rsync", "-aHi", "--modify-window=-1", "--delete", &from, "copy"])?;
        // The link that was removed meanwhile is all there is to do.
        let changes: Vec<&str> = second.lines().filter(|line| !line.starts_with(".d..t")).collect();
        ensure!(changes == ["*deleting   link"], "{second}");
        let third = run(&place.root, &["rsync", "-aHi", "--checksum", &from, "copy"])?;
        ensure!(third.is_empty(), "{third}");
        ensure_same_tree(&place.root.join("copy"), &source, true)
    })
}

#[test]
fn a_sparse_copy_takes_little_space_and_has_the_same_bytes() -> Result<()> {
    // A block's length counts as space, holes in it as well.
    with_mount(&["-o", "block-size=256k"], |place| {
        const SIZE: usize = 48 << 20;
        let mut bytes = vec![0u8; SIZE];
        for (number, at) in [0, 7 << 20, (20 << 20) + 123, SIZE - 5_000].into_iter().enumerate() {
            bytes[at..at + 5_000].copy_from_slice(&pattern(number as u64, 0, 5_000));
        }
        let local = place.scratch.join("full");
        fs::write(&local, &bytes)?;
        let full = local.to_str().context("a UTF-8 path")?;
        run(&place.root, &["cp", "--sparse=always", full, "sparse"])?;
        let copy = place.root.join("sparse");
        ensure_same("the copy", &fs::read(&copy)?, &bytes)?;
        let taken = fs::metadata(&copy)?.blocks() * STAT_BLOCK;
        ensure!((20_000..2 << 20).contains(&taken), "{taken} bytes are taken for 20,000 bytes of data");
        // And back, which looks for the holes.
        let back = place.scratch.join("back");
        run(&place.root, &["cp", "--sparse=auto", "sparse", back.to_str().context("a UTF-8 path")?])?;
        ensure_same("the copy of the copy", &fs::read(&back)?, &bytes)?;
        run(&place.root, &["cmp", full, "sparse"]).map(|_| ())
    })
}

#[test]
fn a_c_program_is_built_and_runs() -> Result<()> {
    with_mount_within(LONG, &[], |place| {
        const MODULES: usize = 12;
        let directory = place.root.join("project");
        fs::create_dir(&directory)?;
        let mut main = String::from("#include <stdio.h>\n");
        let mut sum = String::new();
        for number in 0..MODULES {
            fs::write(
                directory.join(format!("m{number}.c")),
                format!("#include \"all.h\"\nint m{number}(void) {{ return {number} + ONE; }}\n"),
            )?;
            main.push_str(&format!("int m{number}(void);\n"));
            sum.push_str(&format!("+m{number}()"));
        }
        main.push_str(&format!("int main(void) {{ printf(\"%d\\n\", 0{sum}); return 0; }}\n"));
        fs::write(directory.join("main.c"), main)?;
        fs::write(directory.join("all.h"), "#define ONE 1\n")?;
        let objects: String = (0..MODULES).map(|number| format!(" m{number}.o")).collect();
        fs::write(
            directory.join("Makefile"),
            format!(
                "prog: main.o libm.a\n\tcc -o $@ main.o libm.a\nlibm.a:{objects}\n\tar rc $@ $^\n%.o: %.c all.h\n\tcc -c -o $@ $<\n"
            ),
        )?;
        run(&directory, &["make", "-s", "-j2"])?;
        let expected: usize = (0..MODULES).map(|number| number + 1).sum();
        ensure!(run(&directory, &["./prog"])?.trim() == expected.to_string());
        ensure!(run(&directory, &["make"])?.contains("up to date"));
        // A newer header builds everything again: times are in order.
        fs::write(directory.join("all.h"), "#define ONE 2\n")?;
        run(&directory, &["make", "-s", "-j2"])?;
        ensure!(run(&directory, &["./prog"])?.trim() == (expected + MODULES).to_string());
        Ok(())
    })
}
