//! Who carries operations out: a program with the library, the command line, and system calls on a mount.

mod commands;
mod library;
mod mounted;

use std::path::PathBuf;

use anyhow::Result;

use super::load::Abilities;
use super::operation::Operation;

pub use commands::Commands;
pub use library::Library;
pub use mounted::Mounted;

/// Why an operation was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Something was away or full: nobody knows whether the operation was or will be carried out.
    Unknown(String),
    /// The answer denies what was acknowledged before, or is wrong.
    Impossible(String),
}

/// Told how many bytes of an operation's content are safe.
pub type Safe<'a> = dyn FnMut(u64) -> Result<()> + 'a;

/// Carries operations out, one after the other.
pub trait Actor {
    /// What this actor can do.
    fn abilities(&self) -> Abilities;

    /// Carries `operation` out. `known` is the content of the file that it reads. The outer error is the test's own.
    fn perform(
        &mut self,
        operation: &Operation,
        known: &[u8],
        safe: &mut Safe<'_>,
    ) -> Result<std::result::Result<(), Failure>>;
}

/// The kinds of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A program with the library.
    Library,
    /// The command line.
    Commands,
    /// System calls on a mount.
    Mounted,
}

/// Where an actor finds what it works with.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `host:port` of the namenode.
    pub namenode: String,
    /// Directory of the programs.
    pub programs: PathBuf,
    /// The mount point.
    pub mount: PathBuf,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Library, Self::Commands, Self::Mounted];

    /// Its name in file names, namespaces and the environment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Library => "library",
            Self::Commands => "commands",
            Self::Mounted => "mounted",
        }
    }

    /// The kind called `name`.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// An actor of this kind. A careful one has everything on disks before it goes on, where that is not promised anyway.
    pub fn actor(self, surroundings: Surroundings, careful: bool) -> Result<Box<dyn Actor>> {
        Ok(match self {
            Self::Library => Box::new(Library::new(surroundings.namenode)?),
            Self::Commands => Box::new(Commands::new(surroundings)),
            Self::Mounted => Box::new(Mounted::new(surroundings.mount, careful)),
        })
    }
}
