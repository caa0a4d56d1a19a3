//! Settings of a client.

use std::time::Duration;

use dfs_proto::ports;

use crate::{DfsClient, DfsError, RetryPolicy};

/// Smallest and largest packet accepted by [`ClientBuilder::packet_bytes`]: below, headers dominate; above,
/// the datanode refuses ([`dfs_proto::packet::MAX_PACKET_PAYLOAD_BYTES`] counts checksums too).
pub const PACKET_BYTES_RANGE: std::ops::RangeInclusive<usize> = 4096..=(8 << 20);

/// Largest value of [`ClientBuilder::packets_in_flight`]: bounds the memory of one writer.
pub const MAX_PACKETS_IN_FLIGHT: usize = 256;

/// All settings, with defaults. Made by [`ClientBuilder`].
#[derive(Clone, Debug)]
pub(crate) struct ClientConfig {
    /// Namenodes as `host:port`; more than one if they are replicas of each other.
    pub namenodes: Vec<String>,
    /// User name told to the namenode.
    pub user: Option<String>,
    /// Lease holder; chosen at random if absent.
    pub holder: Option<String>,
    /// Replication of new files; the cluster's default if absent.
    pub replication: Option<u16>,
    /// Block size of new files in bytes; the cluster's default if absent.
    pub block_size: Option<u64>,
    /// Retries of namenode calls.
    pub retry: RetryPolicy,
    /// How long `connect` keeps trying.
    pub connect_deadline: Duration,
    /// Longest time of one attempt of a namenode call.
    pub rpc_timeout: Duration,
    /// Longest time to connect to a datanode.
    pub datanode_connect_timeout: Duration,
    /// Longest silence of a datanode within an operation.
    pub datanode_timeout: Duration,
    /// How long a writer waits for a block's datanodes when it has lost them all.
    pub datanode_return: Duration,
    /// Interval between lease renewals while files are open for writing.
    pub lease_renewal: Duration,
    /// Bytes of data in a full packet.
    pub packet_bytes: usize,
    /// Packets of one writer that may be unacknowledged.
    pub packets_in_flight: usize,
    /// Read replicas on this machine from their files.
    pub local_reads: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            namenodes: Vec::new(),
            user: None,
            holder: None,
            replication: None,
            block_size: None,
            retry: RetryPolicy::default(),
            connect_deadline: Duration::from_secs(5),
            rpc_timeout: Duration::from_secs(20),
            datanode_connect_timeout: Duration::from_secs(3),
            datanode_timeout: Duration::from_secs(10),
            datanode_return: Duration::from_secs(10),
            lease_renewal: Duration::from_secs(30),
            packet_bytes: 1 << 20,
            packets_in_flight: 8,
            local_reads: true,
        }
    }
}

impl ClientConfig {
    /// Without an address, the one of a namenode on this machine is used.
    pub(crate) fn default_namenode(&mut self) {
        if self.namenodes.is_empty() {
            self.namenodes.push(format!("127.0.0.1:{}", ports::NAMENODE_RPC));
        }
    }

    /// Refuses settings out of range.
    pub(crate) fn validate(&self) -> Result<(), DfsError> {
        let refuse = |setting, value| Err(DfsError::InvalidSetting { setting, value });
        if !PACKET_BYTES_RANGE.contains(&self.packet_bytes) {
            return refuse("packet_bytes", self.packet_bytes as u64);
        }
        if self.packets_in_flight == 0 || self.packets_in_flight > MAX_PACKETS_IN_FLIGHT {
            return refuse("packets_in_flight", self.packets_in_flight as u64);
        }
        if let Some(replication @ (0 | 513..)) = self.replication {
            return refuse("replication", u64::from(replication));
        }
        for (setting, value) in [
            ("lease_renewal", self.lease_renewal),
            ("rpc_timeout", self.rpc_timeout),
            ("datanode_timeout", self.datanode_timeout),
            ("datanode_connect_timeout", self.datanode_connect_timeout),
        ] {
            if value.is_zero() {
                return refuse(setting, 0);
            }
        }
        Ok(())
    }
}

/// Sets up a [`DfsClient`]. Every setting has a default; see each method.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `connect`"]
pub struct ClientBuilder {
    config: ClientConfig,
}

impl ClientBuilder {
    /// A namenode as `host:port`, or several separated by commas when they are replicas of each other.
    /// Default 127.0.0.1:9820.
    pub fn namenode(mut self, address: impl Into<String>) -> Self {
        let address: String = address.into();
        self.config.namenodes.extend(address.split(',').map(|part| part.trim().to_owned()));
        self
    }

    /// User in whose name calls are made. Default: the user who runs the process.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.config.user = Some(user.into());
        self
    }

    /// Replication of new files, 1 to 512. Default: the cluster's.
    pub fn replication(mut self, replication: u16) -> Self {
        self.config.replication = Some(replication);
        self
    }

    /// Block size of new files in bytes. Default: the cluster's.
    pub fn block_size(mut self, bytes: u64) -> Self {
        self.config.block_size = Some(bytes);
        self
    }

    /// Retries of namenode calls. Default: for up to 60 s.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.config.retry = policy;
        self
    }

    /// How long [`Self::connect`] keeps trying a namenode that refuses connections. Default 5 s.
    pub fn connect_deadline(mut self, deadline: Duration) -> Self {
        self.config.connect_deadline = deadline;
        self
    }

    /// Longest time of one attempt of a namenode call. Default 20 s.
    pub fn rpc_timeout(mut self, timeout: Duration) -> Self {
        self.config.rpc_timeout = timeout;
        self
    }

    /// Longest time to connect to a datanode before another one is used. Default 3 s.
    pub fn datanode_connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.datanode_connect_timeout = timeout;
        self
    }

    /// Longest silence of a datanode in the middle of an operation before it is given up. Default 10 s. Readers wait
    /// less as long as another datanode has the block.
    pub fn datanode_timeout(mut self, timeout: Duration) -> Self {
        self.config.datanode_timeout = timeout;
        self
    }

    /// How long a writer that has lost all datanodes of a block waits for one of them to come back, as after a restart, before
    /// writing fails. Default 10 s.
    pub fn datanode_return(mut self, patience: Duration) -> Self {
        self.config.datanode_return = patience;
        self
    }

    /// Interval between lease renewals, at most half of the namenode's soft limit. Default 30 s.
    pub fn lease_renewal(mut self, interval: Duration) -> Self {
        self.config.lease_renewal = interval;
        self
    }

    /// Bytes of data in a full packet, in [`PACKET_BYTES_RANGE`]. Default 1 MiB.
    pub fn packet_bytes(mut self, bytes: usize) -> Self {
        self.config.packet_bytes = bytes;
        self
    }

    /// Packets of one writer that may be unacknowledged, 1 to [`MAX_PACKETS_IN_FLIGHT`]; with
    /// [`Self::packet_bytes`] this bounds the memory of a writer. Default 8.
    pub fn packets_in_flight(mut self, packets: usize) -> Self {
        self.config.packets_in_flight = packets;
        self
    }

    /// Whether replicas on this machine are read from their files, with descriptors that the datanode hands out, instead of
    /// over the network. Default true.
    pub fn local_reads(mut self, enabled: bool) -> Self {
        self.config.local_reads = enabled;
        self
    }

    /// Connects, checks the protocol version and fetches the cluster's defaults.
    pub async fn connect(mut self) -> Result<DfsClient, DfsError> {
        self.config.default_namenode();
        self.config.validate()?;
        DfsClient::connect_with(self.config).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ErrorKind;

    #[tokio::test]
    async fn settings_out_of_range_are_refused_before_connecting() {
        for builder in [
            ClientBuilder::default().packet_bytes(1),
            ClientBuilder::default().packets_in_flight(0),
            ClientBuilder::default().replication(513),
            ClientBuilder::default().lease_renewal(Duration::ZERO),
        ] {
            let error = builder.connect().await.expect_err("out of range");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
    }

    #[tokio::test]
    async fn bad_addresses_are_named() {
        for (address, kind) in [
            ("nonsense", ErrorKind::InvalidArgument),
            ("host:port", ErrorKind::InvalidArgument),
            ("no-such-host.invalid:9820", ErrorKind::Unavailable),
        ] {
            let error = ClientBuilder::default().namenode(address).connect().await.expect_err(address);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().starts_with(address), "{error}");
        }
    }
}
