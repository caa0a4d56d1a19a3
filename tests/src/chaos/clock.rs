//! Wall clocks of single processes that step: a small library (`clock_shim.c`), compiled by the run and preloaded
//! into the servers, adds what a file says.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const SHIM_SOURCE: &str = include_str!("clock_shim.c");

/// Names the file of a process's offset for the shim.
const OFFSET_VARIABLE: &str = "DFS_CHAOS_CLOCK";

/// The clocks of a run.
#[derive(Debug)]
pub struct Clocks {
    dir: PathBuf,
}

impl Clocks {
    /// Compiles the shim in `dir`.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let source = dir.join("clock_shim.c");
        fs::write(&source, SHIM_SOURCE)?;
        let clocks = Self { dir };
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(clocks.shim()).arg(&source);
        let output = compiler.output().context("cc")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        Ok(clocks)
    }

    /// Has `command` go by the clock called `name`.
    pub fn set(&self, name: &str, command: &mut Command) -> Result<()> {
        let file = self.file(name);
        if !file.exists() {
            fs::write(&file, 0i64.to_ne_bytes())?;
        }
        command.env("LD_PRELOAD", self.shim()).env(OFFSET_VARIABLE, file);
        Ok(())
    }

    /// The clock called `name` is `seconds` ahead from now on.
    pub fn step(&self, name: &str, seconds: i64) -> Result<()> {
        let file = fs::OpenOptions::new().write(true).open(self.file(name))?;
        Ok(file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }

    fn shim(&self) -> PathBuf {
        self.dir.join("clock_shim.so")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(Path::new(name).with_extension("offset"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_goes_by_its_own_clock() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let clocks = Clocks::new(dir.path().to_owned())?;
        let year = || -> Result<String> {
            let mut command = Command::new("date");
            clocks.set("one", command.args(["-u", "+%Y"]))?;
            Ok(String::from_utf8(command.output()?.stdout)?.trim().to_owned())
        };
        let before: i64 = year()?.parse()?;
        clocks.step("one", 366 * 86_400 * 10)?;
        let after: i64 = year()?.parse()?;
        assert!((before + 10..=before + 11).contains(&after), "{before} {after}");
        Ok(())
    }
}
