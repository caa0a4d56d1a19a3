//! Runs the README's transcript and compares the shape of what comes out: the words of every line, with
//! numbers, times and names of this machine left open. So the README cannot promise what is not true.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::programs::{LocalCluster, finish, program_dir, run_within};

/// Marks the block of the README that is run.
const BLOCK_START: &str = "```console\n";
const BLOCK_END: &str = "\n```";

/// One command and the output that the README shows.
struct Entry {
    command: String,
    output: Vec<String>,
}

fn transcript(readme: &str) -> Result<Vec<Entry>> {
    let start = readme.find(BLOCK_START).context("the README has a console block")? + BLOCK_START.len();
    let len = readme[start..].find(BLOCK_END).context("the console block ends")?;
    let mut entries: Vec<Entry> = Vec::new();
    for line in readme[start..start + len].lines() {
        match line.strip_prefix("$ ") {
            Some(command) => entries.push(Entry { command: command.to_owned(), output: Vec::new() }),
            None => entries.last_mut().context("output before a command")?.output.push(line.to_owned()),
        }
    }
    Ok(entries)
}

/// Printed before each command's output, so that the outputs can be told apart.
const SEPARATOR: char = '\u{1e}';

/// A line with everything left open that differs from run to run: words with digits in them, paths of this
/// machine, the name of who runs the test, and how many dots a command printed while it waited.
fn shape(line: &str, users: &[String]) -> String {
    let open = |word: &str| {
        word.contains(|c: char| c.is_ascii_digit())
            || users.iter().any(|user| user == word)
            || word.starts_with('/') && word.contains("dfs")
    };
    let homes = users
        .iter()
        .fold(line.to_owned(), |line, user| line.replace(&format!("/user/{user}/"), "/user/you/"));
    // Consecutive open words are one: a size is "512" or "1.5 K", a time one word or two.
    let mut words: Vec<&str> = Vec::new();
    for word in homes.split_ascii_whitespace() {
        let word = match word {
            _ if open(word) => "#",
            _ if word.bytes().all(|byte| byte == b'.') => "...",
            _ => word,
        };
        if word != "#" || words.last() != Some(&"#") {
            words.push(word);
        }
    }
    words.join(" ")
}

#[test]
fn the_readmes_transcript_is_true() -> Result<()> {
    run_within(Duration::from_secs(200), async {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let readme = std::fs::read_to_string(workspace.join("README.md"))?;
        let entries = transcript(&readme)?;
        ensure!(entries.len() >= 5, "a transcript of {} commands", entries.len());
        // The reader's cluster has the default ports and lies in ~/.dfs; the test's has its own of both.
        let cluster = LocalCluster::start(&[]).await?;
        for file in ["README.md", "LICENSE"] {
            std::fs::copy(workspace.join(file), cluster.home().join(file))?;
        }
        std::fs::create_dir(cluster.home().join("target"))?;
        symlink(program_dir()?, cluster.home().join("target/release"))?;
        let place = format!("--dir {}", cluster.dir().display());

        let mut script = "set -e -o pipefail\n".to_owned();
        for entry in &entries {
            let mut command = entry.command.replace("~/.dfs", &cluster.dir().display().to_string());
            for verb in ["start", "stop", "status"] {
                command = command.replace(&format!("cluster {verb}"), &format!("cluster {verb} {place}"));
            }

            script.push_str(&format!("printf '{SEPARATOR}'\n{command}\n"));
        }
        let mut shell = cluster.in_environment("bash");
        shell.arg("-c").arg(script);
        let finished = finish(shell, b"").await?.ok()?;

        let users = [std::env::var("USER").unwrap_or_default(), "root".to_owned(), "you".to_owned()];
        let shapes = |lines: &mut dyn Iterator<Item = &str>| -> Vec<String> {
            lines.map(|line| shape(line, &users)).collect()
        };
        let text = finished.text().replace(&format!(" --namenode {}", cluster.namenode_address()), "");
        let text = text.replace(&format!(" {place}"), "");
        for (entry, printed) in entries.iter().zip(text.split(SEPARATOR).skip(1)) {
            let got = shapes(&mut printed.lines());
            let wanted = shapes(&mut entry.output.iter().map(String::as_str));
            ensure!(
                got == wanted,
                "{}\nprinted\n{printed}\nthe README shows\n{}\nshapes {got:#?} and {wanted:#?}",
                entry.command,
                entry.output.join("\n")
            );
        }
        Ok(())
    })
}
