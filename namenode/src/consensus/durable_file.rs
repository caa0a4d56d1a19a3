//! Small files that are replaced as a whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::ConsensusError;

/// Ending of files that are being written; left behind by a crash, they are deleted at the next start.
pub const ASIDE_ENDING: &str = "tmp";

/// Puts `bytes` into the file `path`, so that after a crash at any moment it holds either the old or the
/// new content: they are written to another file, which is synced before it takes the name, and the
/// directory is synced so that the name survives too. On return the new content is durable. Gives back
/// the open file.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<File, ConsensusError> {
    let aside = aside(path);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&aside)
        .map_err(|error| ConsensusError::io(&aside, "create", error))?;
    file.write_all(bytes).map_err(|error| ConsensusError::io(&aside, "write", error))?;
    file.sync_all().map_err(|error| ConsensusError::io(&aside, "sync", error))?;
    fs::rename(&aside, path).map_err(|error| ConsensusError::io(path, "rename", error))?;
    sync_parent(path)?;
    Ok(file)
}

/// Where [`replace`] writes what is to be the content of `path`. Errors about this file say that nothing has changed.
pub fn aside(path: &Path) -> PathBuf {
    path.with_extension(ASIDE_ENDING)
}

/// Makes the names in the directory of `path` durable.
pub fn sync_parent(path: &Path) -> Result<(), ConsensusError> {
    // The parent of a relative path of one part is written as nothing.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| ConsensusError::io(dir, "sync", error))
}

/// Makes the directory `dir` with a durable name; it may exist.
pub fn make_dir(dir: &Path) -> Result<(), ConsensusError> {
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(|error| ConsensusError::io(dir, "create", error))?;
        sync_parent(dir)?;
    }
    Ok(())
}

/// Deletes a file; one that does not exist is no error.
pub fn remove(path: &Path) -> Result<(), ConsensusError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ConsensusError::io(path, "delete", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_of_one_part_lies_in_the_current_directory() {
        sync_parent(Path::new("Cargo.toml")).expect("the current directory");
        assert!(sync_parent(Path::new("/no/such/directory")).is_err());
    }
}
