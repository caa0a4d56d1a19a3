//! Programs that run from the mount.
//!
//! A file that is being executed must not be written to (`ETXTBSY`). The kernel sees to that, but for one case: an open for reading that
//! truncates is checked after the open only, which has cut the file already. For this rare case the processes are looked
//! through here.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Where a mount is and under which device number.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    /// Absolute path.
    pub mountpoint: PathBuf,
    /// As `stat` tells it.
    pub device: u64,
}

/// Whether a process that is visible here executes the file `inode` of the mount at `place`. Blocks: asks the kernel, which may
/// ask this mount. Programs that lie elsewhere are not looked at, since another mount may not answer.
pub fn is_executed(place: &Whereabouts, inode: u64) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let program = process.path().join("exe");
        let is_process = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        is_process
            && fs::read_link(&program).is_ok_and(|path| path.starts_with(&place.mountpoint))
            && fs::metadata(&program)
                .is_ok_and(|program| program.dev() == place.device && program.ino() == inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_test_is_executed() {
        let own = fs::metadata(std::env::current_exe().unwrap()).unwrap();
        let place = Whereabouts { mountpoint: "/".into(), device: own.dev() };
        assert!(is_executed(&place, own.ino()));
        assert!(!is_executed(&Whereabouts { mountpoint: "/no/such".into(), ..place.clone() }, own.ino()));
        let manifest = fs::metadata(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        assert!(!is_executed(&place, manifest.ino()));
    }
}
