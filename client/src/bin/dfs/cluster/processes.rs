//! The processes of a local cluster, as other verbs see them.

use std::path::{Path, PathBuf};

use super::layout::{self, Layout, LayoutError};
use super::{members, programs};

/// A cluster on this machine and those of its processes that run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCluster {
    /// Its directory.
    pub dir: PathBuf,
    /// Address of its namenode.
    pub namenode: String,
    /// Process id of the namenode.
    pub namenode_pid: Option<i32>,
    /// Process ids of the datanodes.
    pub datanode_pids: Vec<i32>,
}

/// The cluster in `dir`; `None` if there is none.
pub fn in_directory(dir: &Path) -> anyhow::Result<Option<LocalCluster>> {
    let Some(layout) = Layout::load(dir)? else { return Ok(None) };
    let mut found = LocalCluster {
        dir: dir.to_owned(),
        namenode: layout.namenode(),
        namenode_pid: None,
        datanode_pids: Vec::new(),
    };
    for (index, member) in members(dir, &layout, &programs()?).iter().enumerate() {
        let pid = member.running().map(|identity| identity.pid);
        match index {
            0 => found.namenode_pid = pid,
            _ => found.datanode_pids.extend(pid),
        }
    }
    Ok(Some(found))
}

/// The cluster that `dfs cluster start` makes when no directory is named, if its namenode listens on `namenode`
/// (HOST:PORT).
pub fn by_default(namenode: &str) -> anyhow::Result<Option<LocalCluster>> {
    let port = namenode.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    for port_base in [None, port] {
        let dir = match layout::directory(None, port_base) {
            Ok(dir) => dir,
            Err(LayoutError::NoDirectory) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(found) = in_directory(&dir)?
            && found.namenode == namenode
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::layout::Choices;
    use super::*;

    #[test]
    fn a_recorded_cluster_that_does_not_run_has_no_processes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(in_directory(dir.path()).unwrap(), None);
        let choices = Choices { port_base: Some(30_000), ..Choices::default() };
        Layout::new(choices).unwrap().save(dir.path()).unwrap();
        let found = in_directory(dir.path()).unwrap().unwrap();
        assert_eq!((found.namenode.as_str(), found.namenode_pid), ("127.0.0.1:30000", None));
        assert!(found.datanode_pids.is_empty());
    }
}
