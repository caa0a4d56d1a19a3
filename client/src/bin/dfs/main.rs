//! The `dfs` command.
//!
//! Data goes to standard output, messages to standard error. Exit codes: 0 success, 1 something
//! failed, 2 bad usage (see [`exit`]). Verbs, flags and output formats follow `hdfs dfs` where it has
//! the same verb; [`argv`] accepts its single-dash spellings.
//!
//! Start-up is kept short: verbs that do not move data run on the calling thread, and nothing is
//! read or connected that the verb does not need.

mod argv;
mod bench;
mod cli;
mod cluster;
mod cmd;
mod config;
mod exit;
mod glob;
mod globals;
mod human;
mod json;
mod mode;
mod mount;
mod namespace;
mod output;
mod path;
mod session;
mod times;
mod transfer;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, Verb};
use cmd::{admin, attributes, balancer, checksum, content, copy, find, fsck, ls, names, stat, usage, write};
use globals::Globals;
use session::Threads::{One, PerCore};

fn main() -> ExitCode {
    let args = argv::normalise(std::env::args_os().collect());
    match Cli::try_parse_from(args) {
        Ok(cli) => exit::finish(run(cli)),
        Err(error) => exit::bad_usage(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Completion(args) => cli::completion(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Mount(args) => mount::mount(&args, &Globals::resolve(cli.global)?),
        Command::Umount(args) => mount::umount(&args),
        Command::Bench(args) => bench::run(args, &Globals::resolve(cli.global)?),
        Command::Verb(verb) => ask(verb, &Globals::resolve(cli.global)?),
    }
}

/// Runs a verb that asks a cluster.
fn ask(verb: Verb, globals: &Globals) -> anyhow::Result<ExitCode> {
    let run = session::Runner::new(globals);
    match verb {
        Verb::Put(a) => run.verb("put", PerCore, async |s, _| copy::put(s, &a).await),
        Verb::Get(a) => run.verb("get", PerCore, async |s, o| copy::get(s, o, &a).await),
        Verb::Cat(a) => run.verb("cat", PerCore, async |s, o| content::cat(s, o, &a).await),
        Verb::Tail(a) => run.verb("tail", One, async |s, o| content::tail(s, o, &a).await),
        Verb::Head(a) => run.verb("head", One, async |s, o| content::head(s, o, &a).await),
        Verb::Ls(a) => run.verb("ls", One, async |s, o| ls::run(s, o, &a).await),
        Verb::Mkdir(a) => run.verb("mkdir", One, async |s, _| names::mkdir(s, &a).await),
        Verb::Rmdir(a) => run.verb("rmdir", One, async |s, _| names::rmdir(s, &a).await),
        Verb::Mv(a) => run.verb("mv", One, async |s, _| names::mv(s, &a).await),
        Verb::Cp(a) => run.verb("cp", PerCore, async |s, _| copy::cp(s, &a).await),
        Verb::Rm(a) => run.verb("rm", One, async |s, o| names::rm(s, o, &a).await),
        Verb::Expunge(a) => run.verb("expunge", One, async |s, o| names::expunge(s, o, &a).await),
        Verb::Touch(a) => run.verb("touch", One, async |s, _| attributes::touch(s, &a).await),
        Verb::Touchz(a) => run.verb("touchz", One, async |s, _| attributes::touchz(s, &a).await),
        Verb::Stat(a) => run.verb("stat", One, async |s, o| stat::stat(s, o, &a).await),
        Verb::Du(a) => run.verb("du", One, async |s, o| usage::du(s, o, &a).await),
        Verb::Df(a) => run.verb("df", One, async |s, o| usage::df(s, o, &a).await),
        Verb::Count(a) => run.verb("count", One, async |s, o| usage::count(s, o, &a).await),
        Verb::Find(a) => run.verb("find", One, async |s, o| find::run(s, o, &a).await),
        Verb::Chmod(a) => run.verb("chmod", One, async |s, _| attributes::chmod(s, &a).await),
        Verb::Chown(a) => run.verb("chown", One, async |s, _| attributes::chown(s, &a).await),
        Verb::Chgrp(a) => run.verb("chgrp", One, async |s, _| attributes::chgrp(s, &a).await),
        Verb::Setrep(a) => run.verb("setrep", One, async |s, o| attributes::setrep(s, o, &a).await),
        Verb::Append(a) => run.verb("append", PerCore, async |s, _| write::append(s, &a).await),
        Verb::Truncate(a) => run.verb("truncate", One, async |s, o| write::truncate(s, o, &a).await),
        Verb::Checksum(a) => run.verb("checksum", One, async |s, o| checksum::run(s, o, &a).await),
        Verb::Test(a) => run.verb("test", One, async |s, _| stat::test(s, &a).await),
        Verb::Fsck(a) => run.verb("fsck", One, async |s, o| fsck::run(s, o, &a).await),
        Verb::Admin(a) => run.verb("admin", One, async |s, o| admin::run(s, o, &a).await),
        Verb::Balancer(a) => run.verb("balancer", One, async |s, o| balancer::run(s, o, &a).await),
    }
}
