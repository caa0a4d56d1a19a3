//! `VERSION`: what a volume belongs to.
//!
//! Text, one `key=value` a line, `\n` endings, unknown keys ignored:
//!
//! | key            | value                                                      |
//! |----------------|------------------------------------------------------------|
//! | `layoutVersion`| [`LAYOUT_VERSION`]; anything else is refused               |
//! | `clusterID`    | cluster, as the namenode told it                           |
//! | `blockPoolID`  | block pool, as the namenode told it                        |
//! | `datanodeUuid` | identity of the datanode, the same on all of its volumes   |
//! | `storageID`    | identity of the volume                                     |
//!
//! Written aside, synced and renamed, so that a crash leaves the old file or the new one. A volume
//! without the file is new: it is given one when the namenode first tells the cluster's identity.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{DatanodeError, disk};

/// Version of the directory layout that this program reads and writes.
pub const LAYOUT_VERSION: u32 = 1;

/// Name of the file.
pub const FILE_NAME: &str = "VERSION";

/// Longest file accepted; ours have about 250 bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Identity of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionFile {
    /// Cluster.
    pub cluster_id: String,
    /// Block pool.
    pub pool_id: String,
    /// Datanode.
    pub datanode_uuid: String,
    /// Volume.
    pub storage_id: String,
}

/// A `VERSION` file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// A key is missing or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A line without `=`.
    #[error("line {0} is not key=value")]
    Line(usize),
    /// Another layout.
    #[error("layout version {0}, this program knows {LAYOUT_VERSION}")]
    Layout(String),
    /// Far too long.
    #[error("file has {0} bytes")]
    Length(u64),
}

impl VersionFile {
    /// The file's text.
    pub fn encode(&self) -> String {
        format!(
            "layoutVersion={LAYOUT_VERSION}\nclusterID={}\nblockPoolID={}\ndatanodeUuid={}\nstorageID={}\n",
            self.cluster_id, self.pool_id, self.datanode_uuid, self.storage_id
        )
    }

    /// Reads the file's text.
    pub fn decode(text: &str) -> Result<Self, VersionError> {
        let mut pairs = Vec::new();
        for (i, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            pairs.push(line.split_once('=').ok_or(VersionError::Line(i + 1))?);
        }
        let get = |key: &'static str| {
            pairs
                .iter()
                .find(|(k, v)| *k == key && !v.is_empty())
                .map(|(_, v)| (*v).to_owned())
                .ok_or(VersionError::Missing(key))
        };
        let layout = get("layoutVersion")?;
        if layout != LAYOUT_VERSION.to_string() {
            return Err(VersionError::Layout(layout));
        }
        Ok(Self {
            cluster_id: get("clusterID")?,
            pool_id: get("blockPoolID")?,
            datanode_uuid: get("datanodeUuid")?,
            storage_id: get("storageID")?,
        })
    }

    /// Reads the volume's file; `None`: there is none.
    pub fn read(volume: &Path) -> Result<Option<Self>, DatanodeError> {
        let path = volume.join(FILE_NAME);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(disk(&path)(e)),
        };
        let refuse = |source| DatanodeError::Version { path: path.clone(), source };
        if length > MAX_FILE_BYTES {
            return Err(refuse(VersionError::Length(length)));
        }
        let text = fs::read_to_string(&path).map_err(disk(&path))?;
        Self::decode(&text).map(Some).map_err(refuse)
    }

    /// Puts the file in place; it is on disk on return.
    pub fn write(&self, volume: &Path) -> Result<(), DatanodeError> {
        write_aside(&volume.join(FILE_NAME), self.encode().as_bytes())
    }
}

/// Replaces a small file as a whole: new content under another name, synced, renamed over the old
/// one, directory synced. After a crash at any point the name holds the old content or the new.
pub(crate) fn write_aside(path: &Path, content: &[u8]) -> Result<(), DatanodeError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let mut file = File::create(&aside).map_err(disk(&aside))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(disk(&aside))?;
    fs::rename(&aside, path).map_err(disk(path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Puts a directory's entries on disk.
pub fn sync_dir(dir: &Path) -> Result<(), DatanodeError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(disk(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str =
        "layoutVersion=1\nclusterID=CID-1\nblockPoolID=BP-2\ndatanodeUuid=u-3\nstorageID=DS-4\n";

    fn sample() -> VersionFile {
        VersionFile {
            cluster_id: "CID-1".into(),
            pool_id: "BP-2".into(),
            datanode_uuid: "u-3".into(),
            storage_id: "DS-4".into(),
        }
    }

    #[test]
    fn golden_text() {
        assert_eq!(sample().encode(), GOLDEN);
        assert_eq!(VersionFile::decode(GOLDEN), Ok(sample()));
    }

    #[test]
    fn every_missing_line_is_named() {
        for key in ["layoutVersion", "clusterID", "blockPoolID", "datanodeUuid", "storageID"] {
            let text: String =
                GOLDEN.lines().filter(|l| !l.starts_with(key)).flat_map(|l| [l, "\n"]).collect();
            assert_eq!(VersionFile::decode(&text), Err(VersionError::Missing(key)));
        }
        let newer = GOLDEN.replace("Version=1", "Version=2");
        assert_eq!(VersionFile::decode(&newer), Err(VersionError::Layout("2".into())));
        assert_eq!(VersionFile::decode("x"), Err(VersionError::Line(1)));
    }

    #[test]
    fn a_volume_keeps_its_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(VersionFile::read(dir.path()).expect("readable"), None);
        sample().write(dir.path()).expect("written");
        assert_eq!(VersionFile::read(dir.path()).expect("readable"), Some(sample()));
        fs::write(dir.path().join(FILE_NAME), b"\xff\xfe").expect("written");
        assert!(VersionFile::read(dir.path()).is_err());
    }
}
