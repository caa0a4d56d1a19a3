//! What a local cluster consists of, where it lives and which ports it uses.
//!
//! `DIR/cluster.toml` records the choices that must not change between starts; everything else
//! follows from them:
//!
//! ```text
//! DIR/cluster.toml          this record
//!     cluster.lock          held while `start` or `stop` runs
//!     namenode/             the namespace
//!     datanode-0/ ...       volumes
//!     logs/NAME.log         what each process says
//!     run/NAME.pid          identity of each process
//!     run/mount             path of the mount point, if the cluster is mounted
//! ```
//!
//! Ports, all on 127.0.0.1 (`i` counts datanodes from 0):
//!
//! | service            | without `--port-base` | with `--port-base P` |
//! |--------------------|-----------------------|----------------------|
//! | namenode gRPC      | 9820                  | P                    |
//! | namenode HTTP      | 9870                  | P + 1                |
//! | datanode data      | 9866 + 10 i           | P + 10 + 10 i        |
//! | datanode gRPC      | 9867 + 10 i           | P + 11 + 10 i        |
//! | datanode HTTP      | 9864 + 10 i           | P + 12 + 10 i        |

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dfs_proto::ports;
use serde::{Deserialize, Serialize};

/// Version of `cluster.toml`.
const RECORD_VERSION: u32 = 1;
/// Most datanodes of a local cluster; more would say nothing new on one machine.
pub const MAX_DATANODES: u16 = 100;
/// Distance between the ports of neighbouring datanodes.
const DATANODE_STRIDE: u16 = 10;
/// Replication unless chosen, as HDFS; fewer when there are fewer datanodes.
const DEFAULT_REPLICATION: u16 = 3;
/// Datanodes unless chosen.
const DEFAULT_DATANODES: u16 = 3;
/// Lowest port that needs no privilege.
const LOWEST_PORT_BASE: u16 = 1024;

/// The recorded choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Version of this record.
    version: u32,
    /// Number of datanodes.
    pub datanodes: u16,
    /// Default replication of new files.
    pub replication: u16,
    /// First port; absent for HDFS's own numbers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port_base: Option<u16>,
}

/// Choices of a command line; `None` keeps what is recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// Number of datanodes.
    pub datanodes: Option<u16>,
    /// Default replication.
    pub replication: Option<u16>,
    /// First port.
    pub port_base: Option<u16>,
}

/// Ports of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatanodePorts {
    /// Data transfer protocol.
    pub xfer: u16,
    /// gRPC.
    pub ipc: u16,
    /// HTTP.
    pub http: u16,
}

/// Why a layout cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Zero or too many.
    #[error("{datanodes} datanodes: 1 to {MAX_DATANODES} are possible")]
    Datanodes {
        /// Number asked for.
        datanodes: u16,
    },
    /// More replicas than datanodes, or none.
    #[error("replication {replication}: 1 to {datanodes} is possible with {datanodes} datanodes")]
    Replication {
        /// Replication asked for.
        replication: u16,
        /// Datanodes there are.
        datanodes: u16,
    },
    /// Privileged, or too high for all ports to fit.
    #[error("port base {base}: {LOWEST_PORT_BASE} to {highest} is possible with {datanodes} datanodes")]
    PortBase {
        /// First port asked for.
        base: u16,
        /// Highest possible.
        highest: u16,
        /// Datanodes there are.
        datanodes: u16,
    },
    /// Removing a datanode would lose its replicas.
    #[error("{path}: the cluster has {recorded} datanodes; it cannot shrink to {wanted}")]
    Shrink {
        /// The record.
        path: PathBuf,
        /// Datanodes it has.
        recorded: u16,
        /// Datanodes asked for.
        wanted: u16,
    },
    /// Neither `--dir` nor an environment that names a place.
    #[error("no place for the cluster: give --dir, or set HOME or XDG_STATE_HOME")]
    NoDirectory,
    /// The record cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record is damaged.
    #[error("{path}: {source}")]
    Parse {
        /// The record.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Written by another version of this program.
    #[error("{path}: record version {version}, this program knows {RECORD_VERSION}")]
    Version {
        /// The record.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl Layout {
    /// A new layout from choices and defaults.
    pub fn new(choices: Choices) -> Result<Self, LayoutError> {
        let datanodes = choices.datanodes.unwrap_or(DEFAULT_DATANODES);
        let replication = choices.replication.unwrap_or(DEFAULT_REPLICATION.min(datanodes));
        Self { version: RECORD_VERSION, datanodes, replication, port_base: choices.port_base }.validated()
    }

    /// This layout with other choices; `path` is its record, for messages.
    pub fn changed(&self, choices: Choices, path: &Path) -> Result<Self, LayoutError> {
        let wanted = choices.datanodes.unwrap_or(self.datanodes);
        if wanted < self.datanodes {
            return Err(LayoutError::Shrink { path: path.to_owned(), recorded: self.datanodes, wanted });
        }
        Self {
            version: RECORD_VERSION,
            datanodes: wanted,
            replication: choices.replication.unwrap_or(self.replication),
            port_base: choices.port_base.or(self.port_base),
        }
        .validated()
    }

    fn validated(self) -> Result<Self, LayoutError> {
        let datanodes = self.datanodes;
        if datanodes == 0 || datanodes > MAX_DATANODES {
            return Err(LayoutError::Datanodes { datanodes });
        }
        if self.replication == 0 || self.replication > datanodes {
            return Err(LayoutError::Replication { replication: self.replication, datanodes });
        }
        if let Some(base) = self.port_base {
            let highest = u16::MAX - (DATANODE_STRIDE * datanodes + 2);
            if !(LOWEST_PORT_BASE..=highest).contains(&base) {
                return Err(LayoutError::PortBase { base, highest, datanodes });
            }
        }
        Ok(self)
    }

    /// Namenode gRPC.
    pub fn namenode_rpc_port(&self) -> u16 {
        self.port_base.unwrap_or(ports::NAMENODE_RPC)
    }

    /// Namenode HTTP.
    pub fn namenode_http_port(&self) -> u16 {
        self.port_base.map_or(ports::NAMENODE_HTTP, |base| base + 1)
    }

    /// Ports of datanode `index`, which is below `datanodes`.
    pub fn datanode_ports(&self, index: u16) -> DatanodePorts {
        let shift = DATANODE_STRIDE * index;
        match self.port_base {
            None => DatanodePorts {
                xfer: ports::DATANODE_XFER + shift,
                ipc: ports::DATANODE_IPC + shift,
                http: ports::DATANODE_HTTP + shift,
            },
            Some(base) => {
                let first = base + DATANODE_STRIDE + shift;
                DatanodePorts { xfer: first, ipc: first + 1, http: first + 2 }
            }
        }
    }

    /// Address for clients.
    pub fn namenode(&self) -> String {
        format!("127.0.0.1:{}", self.namenode_rpc_port())
    }

    /// Reads the record of the cluster in `dir`; `None` if there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>, LayoutError> {
        let path = record_path(dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LayoutError::Io { path, source }),
        };
        let layout: Self = toml::from_str(&text)
            .map_err(|source| LayoutError::Parse { path: path.clone(), source: Box::new(source) })?;
        if layout.version != RECORD_VERSION {
            return Err(LayoutError::Version { path, version: layout.version });
        }
        layout.validated().map(Some)
    }

    /// Writes the record: aside, then renamed, so that a crash leaves the old or the new one.
    pub fn save(&self, dir: &Path) -> Result<(), LayoutError> {
        let path = record_path(dir);
        let aside = path.with_extension("toml.new");
        let mut text = format!(
            "# Local dfs cluster: written by `dfs cluster start`.\nversion = {}\ndatanodes = {}\nreplication = {}\n",
            self.version, self.datanodes, self.replication
        );
        if let Some(base) = self.port_base {
            text.push_str(&format!("port_base = {base}\n"));
        }
        let write = || -> io::Result<()> {
            let mut file = std::fs::File::create(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)
        };
        write().map_err(|source| LayoutError::Io { path: path.clone(), source })
    }
}

/// The record of the cluster in `dir`.
pub fn record_path(dir: &Path) -> PathBuf {
    dir.join("cluster.toml")
}

/// The directory of a cluster: `--dir`; else `$XDG_STATE_HOME/dfs` or `~/.dfs`, followed by
/// `-P` for a cluster with `--port-base P`, so that two clusters do not meet in one directory.
pub fn directory(dir: Option<&Path>, port_base: Option<u16>) -> Result<PathBuf, LayoutError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let chosen = match dir {
        Some(dir) => dir.to_owned(),
        None => {
            let (parent, name) = match set("XDG_STATE_HOME") {
                Some(parent) => (parent, "dfs"),
                None => (set("HOME").ok_or(LayoutError::NoDirectory)?, ".dfs"),
            };
            match port_base {
                Some(base) => parent.join(format!("{name}-{base}")),
                None => parent.join(name),
            }
        }
    };
    std::path::absolute(&chosen).map_err(|source| LayoutError::Io { path: chosen, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all_ports(layout: &Layout) -> Vec<u16> {
        let mut all = vec![layout.namenode_rpc_port(), layout.namenode_http_port()];
        for index in 0..layout.datanodes {
            let ports = layout.datanode_ports(index);
            all.extend([ports.xfer, ports.ipc, ports.http]);
        }
        all
    }

    #[test]
    fn ports_never_meet() {
        for port_base in [None, Some(1024), Some(21_000)] {
            let choices = Choices { datanodes: Some(MAX_DATANODES), port_base, ..Default::default() };
            let all = all_ports(&Layout::new(choices).unwrap());
            let distinct: BTreeSet<u16> = all.iter().copied().collect();
            assert_eq!(distinct.len(), all.len());
        }
    }

    #[test]
    fn the_first_datanode_has_the_well_known_ports() {
        let layout = Layout::new(Choices::default()).unwrap();
        assert_eq!((layout.namenode_rpc_port(), layout.namenode_http_port()), (9820, 9870));
        assert_eq!(layout.datanode_ports(0), DatanodePorts { xfer: 9866, ipc: 9867, http: 9864 });
        assert_eq!(layout.datanode_ports(2), DatanodePorts { xfer: 9886, ipc: 9887, http: 9884 });
        let moved = layout
            .changed(Choices { port_base: Some(21_000), ..Default::default() }, Path::new("x"))
            .unwrap();
        assert_eq!(moved.namenode(), "127.0.0.1:21000");
        assert_eq!(moved.datanode_ports(1), DatanodePorts { xfer: 21_020, ipc: 21_021, http: 21_022 });
    }

    #[test]
    fn limits_hold() {
        let new =
            |datanodes, replication, port_base| Layout::new(Choices { datanodes, replication, port_base });
        assert!(matches!(new(Some(0), None, None), Err(LayoutError::Datanodes { .. })));
        assert!(matches!(new(Some(101), None, None), Err(LayoutError::Datanodes { .. })));
        assert!(matches!(new(Some(2), Some(3), None), Err(LayoutError::Replication { .. })));
        assert!(matches!(new(None, Some(0), None), Err(LayoutError::Replication { .. })));
        assert!(matches!(new(None, None, Some(80)), Err(LayoutError::PortBase { .. })));
        assert!(matches!(new(None, None, Some(65_504)), Err(LayoutError::PortBase { .. })));
        assert_eq!(*all_ports(&new(None, None, Some(65_503)).unwrap()).iter().max().unwrap(), 65_535);
        assert_eq!(new(Some(1), None, None).unwrap().replication, 1);
        assert_eq!(new(Some(5), None, None).unwrap().replication, 3);
    }

    #[test]
    fn the_record_survives_and_never_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Layout::load(dir.path()).unwrap(), None);
        let layout = Layout::new(Choices { port_base: Some(30_000), ..Default::default() }).unwrap();
        layout.save(dir.path()).unwrap();
        assert_eq!(Layout::load(dir.path()).unwrap(), Some(layout.clone()));
        let fewer = Choices { datanodes: Some(2), ..Default::default() };
        assert!(matches!(layout.changed(fewer, dir.path()), Err(LayoutError::Shrink { .. })));
    }
}
