//! Settings of a datanode. Each has a default, a unit and a bound; `validate` runs before anything opens.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use dfs_proto::ports;

use crate::error::DatanodeError;
use crate::scrub::ScrubSettings;
use crate::scrub::pace::Pace;

/// Settings.
#[derive(Clone, Debug)]
pub struct DatanodeConfig {
    /// Namenode's gRPC address, `host:port`.
    pub namenode: String,
    /// Directories for replicas, one a disk. At least one.
    pub volumes: Vec<PathBuf>,
    /// Address to listen on. Default 0.0.0.0.
    pub bind: IpAddr,
    /// Port of the data transfer protocol; 0: any. Default 9866.
    pub xfer_port: u16,
    /// gRPC port; 0: any. Default 9867.
    pub ipc_port: u16,
    /// HTTP port; 0: any. Default 9864.
    pub http_port: u16,
    /// Address told to the namenode. Default: `bind`, or the address that the namenode sees us call from
    /// if that is unspecified.
    pub advertised_ip: Option<IpAddr>,
    /// Name told to the namenode. Default: the machine's.
    pub hostname: Option<String>,
    /// Network location such as `/dc1/rack2`. Default `/default-rack`.
    pub rack: String,
    /// Bytes of each volume that replicas leave free. Default: the smaller of 1 GiB and 1 % of the volume.
    pub reserved_bytes: Option<u64>,
    /// Data connections served at once, 1 to 65,536. Each has a thread. Default 4,096.
    pub max_xceivers: usize,
    /// Copies to other datanodes at once, 1 to 64. Default 4.
    pub max_transfers: usize,
    /// Time to connect to another datanode, 10 ms to 60 s. Default 3 s.
    pub connect_timeout: Duration,
    /// Longest wait for a request's header once its first byte has come, and for the first byte on a
    /// new connection; 10 ms to 10 min. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a connection may idle between operations, 10 ms to 1 h. Default 60 s. Clients that
    /// keep connections should drop them earlier.
    pub keepalive_timeout: Duration,
    /// Longest silence of a writer between packets, and of a reader that does not take data; 10 ms to 1 h.
    /// Default 60 s. Writers with nothing to say send heartbeat packets.
    pub stream_timeout: Duration,
    /// Longest wait for a downstream member's acknowledgement, 10 ms to 10 min. Default 5 s; a second is
    /// added for each member after it, so that the member next to a dead one is the one to name it.
    pub peer_timeout: Duration,
    /// Hand readers on the same machine descriptors of replica files, so that they read without the datanode's
    /// help. Default true.
    pub local_reads: bool,
    /// Time in which all replicas of a volume are reread and verified, 1 s to 1 year. Default 14 days.
    pub scrub_period: Duration,
    /// Greatest rate of this in bytes a second and volume, 64 KiB to 16 GiB. Default 64 MiB.
    pub scrub_rate_max: u64,
    /// Difference between the used shares of the fullest and the emptiest volume, in percent, above which replicas are
    /// moved between them; 0: never. Default 10; at most 100.
    pub disk_balance_threshold: u32,
    /// Bytes a second of that. Default 10 MiB; at least 64 KiB.
    pub disk_balance_bandwidth: u64,
}

/// Bounds of durations: longest accepted.
const HOUR: Duration = Duration::from_secs(3600);

/// Bounds of durations: shortest accepted.
const SHORTEST: Duration = Duration::from_millis(10);

/// A day.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Bounds of the period of scrubs.
const SCRUB_PERIODS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// Bounds of the rate of scrubs.
const SCRUB_RATES: std::ops::RangeInclusive<u64> = 64 << 10..=16 << 30;

/// After its start a datanode has better things to do than to scrub, for this long,
const SCRUB_DELAY: Duration = Duration::from_secs(60);
/// or this part of the period, if that is shorter.
const SCRUB_DELAY_DIVISOR: u32 = 10;

/// Time between two looks at the directories: as long as between full block reports,
const DIRECTORY_PERIOD: Duration = Duration::from_secs(6 * 3600);

/// Most volumes of one datanode: volume numbers are stored in 16 bits, and no machine has more disks.
const MAX_VOLUMES: usize = 1024;

impl Default for DatanodeConfig {
    fn default() -> Self {
        Self {
            namenode: format!("127.0.0.1:{}", ports::NAMENODE_RPC),
            volumes: Vec::new(),
            bind: IpAddr::from([0, 0, 0, 0]),
            xfer_port: ports::DATANODE_XFER,
            ipc_port: ports::DATANODE_IPC,
            http_port: ports::DATANODE_HTTP,
            advertised_ip: None,
            hostname: None,
            rack: "/default-rack".to_owned(),
            reserved_bytes: None,
            max_xceivers: 4096,
            max_transfers: 4,
            connect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(60),
            stream_timeout: Duration::from_secs(60),
            peer_timeout: Duration::from_secs(5),
            local_reads: true,
            scrub_period: 14 * DAY,
            scrub_rate_max: 64 << 20,
            disk_balance_threshold: 10,
            disk_balance_bandwidth: 10 << 20,
        }
    }
}

impl DatanodeConfig {
    /// Checks all bounds.
    pub fn validate(&self) -> Result<(), DatanodeError> {
        let refuse = |setting, value: String, rule| Err(DatanodeError::Config { setting, value, rule });
        if self.namenode.rsplit_once(':').is_none_or(|(h, p)| h.is_empty() || p.parse::<u16>().is_err()) {
            return refuse("namenode", self.namenode.clone(), "host:port");
        }
        if self.volumes.is_empty() || self.volumes.len() > MAX_VOLUMES {
            return refuse(
                "volumes",
                format!("{} directories", self.volumes.len()),
                "1 to 1,024 directories",
            );
        }
        for (i, volume) in self.volumes.iter().enumerate() {
            if self.volumes[..i].contains(volume) {
                return refuse("volumes", volume.display().to_string(), "named once");
            }
        }
        if !self.rack.starts_with('/') {
            return refuse("rack", self.rack.clone(), "a path such as /dc1/rack2");
        }
        if !(1..=65_536).contains(&self.max_xceivers) {
            return refuse("max_xceivers", self.max_xceivers.to_string(), "1 to 65,536");
        }
        if !(1..=64).contains(&self.max_transfers) {
            return refuse("max_transfers", self.max_transfers.to_string(), "1 to 64");
        }
        if self.disk_balance_threshold > 100 {
            return refuse("disk_balance_threshold", self.disk_balance_threshold.to_string(), "0 to 100 %");
        }
        if self.disk_balance_bandwidth < 64 << 10 {
            return refuse(
                "disk_balance_bandwidth",
                self.disk_balance_bandwidth.to_string(),
                "at least 65,536",
            );
        }
        let durations = [
            ("connect_timeout", self.connect_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("keepalive_timeout", self.keepalive_timeout),
            ("stream_timeout", self.stream_timeout),
            ("peer_timeout", self.peer_timeout),
        ];
        for (setting, value) in durations {
            if !(SHORTEST..=HOUR).contains(&value) {
                return refuse(setting, format!("{value:?}"), "10 ms to 1 h");
            }
        }
        if !SCRUB_PERIODS.contains(&self.scrub_period) {
            return refuse("scrub_period", format!("{:?}", self.scrub_period), "1 s to 1 year");
        }
        if !SCRUB_RATES.contains(&self.scrub_rate_max) {
            return refuse("scrub_rate_max", self.scrub_rate_max.to_string(), "64 KiB to 16 GiB a second");
        }
        Ok(())
    }

    /// How replicas are scrubbed.
    pub fn scrub_settings(&self) -> ScrubSettings {
        ScrubSettings {
            pace: Pace { period: self.scrub_period, max_rate: self.scrub_rate_max },
            delay: SCRUB_DELAY.min(self.scrub_period / SCRUB_DELAY_DIVISOR),
            directory_period: DIRECTORY_PERIOD.min(self.scrub_period),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senseless_settings_are_refused_by_name() {
        let good = DatanodeConfig { volumes: vec!["/data".into()], ..DatanodeConfig::default() };
        assert!(good.validate().is_ok());
        let bad = [
            ("namenode", DatanodeConfig { namenode: "nohost".into(), ..good.clone() }),
            ("volumes", DatanodeConfig { volumes: vec![], ..good.clone() }),
            ("volumes", DatanodeConfig { volumes: vec!["/a".into(), "/a".into()], ..good.clone() }),
            ("rack", DatanodeConfig { rack: "rack1".into(), ..good.clone() }),
            ("max_xceivers", DatanodeConfig { max_xceivers: 0, ..good.clone() }),
            ("max_transfers", DatanodeConfig { max_transfers: 65, ..good.clone() }),
            ("peer_timeout", DatanodeConfig { peer_timeout: Duration::ZERO, ..good.clone() }),
        ];
        for (name, config) in bad {
            match config.validate() {
                Err(DatanodeError::Config { setting, .. }) => assert_eq!(setting, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
