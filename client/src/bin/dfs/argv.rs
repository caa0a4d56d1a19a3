//! Accepts the spellings of `hdfs dfs`.
//!
//! * A verb may carry a dash: `dfs -ls /` is `dfs ls /`.
//! * A long flag may have one dash: `dfs rm -skipTrash /f` is `dfs rm --skipTrash /f`. Only flags that
//!   the verb really has are touched, so bundles of short flags (`-rf`) and modes (`chmod -wx`) stay.
//!
//! * `dfs HOST:PORT[/PATH] MOUNTPOINT -o OPTIONS`, which is how mount(8) calls the program of file system type
//!   `fuse.dfs`, is `dfs mount` with the same arguments.
//!
//! Nothing after `--` is touched.

use std::collections::HashSet;
use std::ffi::OsString;

use clap::CommandFactory;

use crate::cli::Cli;

/// Global options that take a value in the next word.
const GLOBAL_WITH_VALUE: [&str; 2] = ["--namenode", "--user"];

/// Rewrites `args` (program name first) to what clap understands.
pub fn normalise(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.len() > 2 && is_source(&args[1]) {
        args.insert(1, "mount".into());
    }
    if !args.iter().skip(1).any(is_dashed_word) {
        return args;
    }
    let root = Cli::command();
    let Some(verb_at) = position_of_verb(&args) else { return args };
    let Some(mut command) = find_command(&root, &args[verb_at]) else { return args };
    args[verb_at] = command.get_name().into();

    let mut at = verb_at + 1;
    if let Some(inner) = args.get(at).and_then(|arg| find_command(command, arg)) {
        args[at] = inner.get_name().into();
        command = inner;
        at += 1;
    }
    let flags: HashSet<&str> = command
        .get_arguments()
        .flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default())
        .collect();
    for arg in &mut args[at..] {
        if arg == "--" {
            break;
        }
        if is_dashed_word(arg)
            && let Some(text) = arg.to_str()
            && flags.contains(text[1..].split('=').next().unwrap_or_default())
        {
            *arg = format!("-{text}").into();
        }
    }
    args
}

/// `-xy...`: one dash and at least two more characters.
fn is_dashed_word(arg: &OsString) -> bool {
    let bytes = arg.as_encoded_bytes();
    bytes.len() > 2 && bytes[0] == b'-' && bytes[1] != b'-'
}

/// `HOST:PORT...`, which no verb is.
fn is_source(arg: &OsString) -> bool {
    let bytes = arg.as_encoded_bytes();
    !bytes.starts_with(b"-") && bytes.contains(&b':')
}

fn position_of_verb(args: &[OsString]) -> Option<usize> {
    let mut at = 1;
    while let Some(arg) = args.get(at) {
        let bytes = arg.as_encoded_bytes();
        if GLOBAL_WITH_VALUE.iter().any(|option| arg == option) {
            at += 2;
        } else if bytes.starts_with(b"--") {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

fn find_command<'c>(parent: &'c clap::Command, word: &OsString) -> Option<&'c clap::Command> {
    let word = word.to_str()?;
    parent.find_subcommand(word.strip_prefix('-').unwrap_or(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        normalise(args).iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_dash_before_the_verb_is_dropped() {
        assert_eq!(rewritten("dfs -completion bash"), "dfs completion bash");
        assert_eq!(rewritten("dfs --namenode h:1 -completion bash"), "dfs --namenode h:1 completion bash");
        assert_eq!(rewritten("dfs -ls -R /"), "dfs ls -R /");
        assert_eq!(rewritten("dfs admin -report"), "dfs admin report");
        assert_eq!(rewritten("dfs -copyFromLocal a /"), "dfs put a /");
        assert_eq!(rewritten("dfs -nonsense"), "dfs -nonsense");
    }

    #[test]
    fn mount_8_names_no_verb() {
        assert_eq!(rewritten("dfs nn:1/a /mnt -o ro"), "dfs mount nn:1/a /mnt -o ro");
        assert_eq!(rewritten("dfs ls nn:1"), "dfs ls nn:1");
        assert_eq!(rewritten("dfs --namenode h:1 ls"), "dfs --namenode h:1 ls");
    }

    #[test]
    fn long_flags_of_the_verb_may_have_one_dash() {
        assert_eq!(rewritten("dfs rm -rf -skipTrash /x"), "dfs rm -rf --skipTrash /x");
        assert_eq!(rewritten("dfs find / -name -print"), "dfs find / --name --print");
        assert_eq!(rewritten("dfs fsck / -files -blocks"), "dfs fsck / --files --blocks");
        assert_eq!(rewritten("dfs chmod -wx /x"), "dfs chmod -wx /x");
        assert_eq!(rewritten("dfs ls -- -files"), "dfs ls -- -files");
    }

    #[test]
    fn flags_of_hdfs_parse() {
        use clap::Parser;
        for line in [
            "dfs -rm -r -f -skipTrash /a",
            "dfs chmod -R -w,u+x /a",
            "dfs chmod -wx /a /b",
            "dfs ls -h -R -d -t -S -r",
            "dfs test -e /a",
            "dfs tail -f /a",
            "dfs setrep -w 2 /a",
            "dfs put -f -p - /a",
            "dfs stat %b,%n /a",
            "dfs stat -c %b /a",
            "dfs du -s -h /",
            "dfs count -q -h /",
            "dfs find / -iname *.rs -print",
            "dfs fsck / -files -blocks -locations",
            "dfs admin -safemode get",
            "dfs ls / --namenode h:1",
        ] {
            let args = normalise(line.split(' ').map(OsString::from).collect());
            if let Err(error) = Cli::try_parse_from(args) {
                panic!("{line}: {error}");
            }
        }
        for line in ["dfs", "dfs ls --nonsense", "dfs test /a", "dfs chmod 9 /a", "dfs put"] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
