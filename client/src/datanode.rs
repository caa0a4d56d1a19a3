//! How datanodes are named and addressed, and their control service.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dfs_proto::transfer::ExtendedBlockProto;
use dfs_proto::v1::datanode_control_client::DatanodeControlClient;
use dfs_proto::v1::{self, Block, ReplicaLocation};
use dfs_proto::{ErrorKind, RpcError};
use tonic::transport::{Channel, Endpoint};

use crate::TransferFault;
use crate::config::ClientConfig;

/// Longest wait for a sync: after it the datanode gives up answering, too.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// Identity of a location's datanode.
pub(crate) fn uuid(location: &ReplicaLocation) -> &str {
    location.datanode.as_ref().map_or("", |d| &d.uuid)
}

/// `ip:port` of a location's data port, for people and for comparing with `first_bad_link`.
pub(crate) fn name(location: &ReplicaLocation) -> String {
    location.datanode.as_ref().map_or_else(String::new, |d| socket_name(&d.ip, d.xfer_port))
}

/// Address of a location's data port.
pub(crate) fn address(location: &ReplicaLocation) -> Result<SocketAddr, TransferFault> {
    let unusable = TransferFault::Unexpected { field: "address" };
    let Some(info) = &location.datanode else { return Err(unusable) };
    match (info.ip.parse::<IpAddr>(), u16::try_from(info.xfer_port)) {
        (Ok(ip), Ok(port)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(unusable),
    }
}

/// Whether two locations are equally near to any third machine, for all that their addresses and racks tell.
pub(crate) fn is_as_near(one: &ReplicaLocation, other: &ReplicaLocation) -> bool {
    let (Some(one), Some(other)) = (&one.datanode, &other.datanode) else { return false };
    one.ip == other.ip || (one.rack == other.rack && !is_local(&one.ip) && !is_local(&other.ip))
}

/// Whether an address is one of this machine's.
fn is_local(ip: &str) -> bool {
    // Only an address of our own can be bound to.
    ip.parse::<IpAddr>().is_ok_and(|ip| std::net::UdpSocket::bind((ip, 0)).is_ok())
}

fn socket_name(ip: &str, port: u32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// The data transfer protocol's form of a block.
pub(crate) fn extended(pool_id: &str, block: Block) -> ExtendedBlockProto {
    ExtendedBlockProto {
        pool_id: pool_id.to_owned(),
        block_id: block.id,
        generation_stamp: block.generation_stamp,
        num_bytes: Some(block.length),
    }
}

/// Connects to a datanode's control service.
async fn control(
    location: &ReplicaLocation,
    config: &ClientConfig,
) -> Result<DatanodeControlClient<Channel>, TransferFault> {
    let unreachable =
        |reason: String| TransferFault::Control(RpcError::new(ErrorKind::Unavailable, "", reason));
    let Some(info) = &location.datanode else { return Err(unreachable("no address".to_owned())) };
    let address = socket_name(&info.ip, info.ipc_port);
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| unreachable("bad address".to_owned()))?
        .tcp_nodelay(true)
        .connect_timeout(config.datanode_connect_timeout);
    let connected = endpoint.connect().await;
    Ok(DatanodeControlClient::new(connected.map_err(|error| unreachable(error.to_string()))?))
}

fn refused(status: tonic::Status) -> TransferFault {
    TransferFault::Control(RpcError::from_status(&status))
}

/// Asks a datanode how many bytes of a replica readers may see, and waits for `patience`.
pub(crate) async fn visible_length(
    location: &ReplicaLocation,
    block: Block,
    config: &ClientConfig,
    patience: Duration,
) -> Result<u64, TransferFault> {
    let asked = async {
        let request = v1::ReplicaVisibleLengthRequest { block: Some(block) };
        control(location, config).await?.get_replica_visible_length(request).await.map_err(refused)
    };
    let answer = tokio::time::timeout(patience, asked).await;
    Ok(answer.map_err(|_| TransferFault::Timeout)??.into_inner().length)
}

/// Asks a datanode about its volumes' balance, or has it even them out.
pub(crate) async fn balance_disks(
    location: &ReplicaLocation,
    request: v1::BalanceDisksRequest,
    config: &ClientConfig,
) -> Result<v1::BalanceDisksStatus, TransferFault> {
    let asked = async { control(location, config).await?.balance_disks(request).await.map_err(refused) };
    let answer = tokio::time::timeout(SYNC_TIMEOUT, asked).await;
    Ok(answer.map_err(|_| TransferFault::Timeout)??.into_inner())
}

/// Asks a datanode how far the packets of a block have come; none if nobody writes it there.
pub(crate) async fn progress(
    location: &ReplicaLocation,
    block: Block,
    config: &ClientConfig,
    patience: Duration,
) -> Result<Option<v1::PipelineProgress>, TransferFault> {
    let asked = async {
        let request = v1::ReplicaVisibleLengthRequest { block: Some(block) };
        control(location, config).await?.get_replica_visible_length(request).await.map_err(refused)
    };
    let answer = tokio::time::timeout(patience, asked).await;
    Ok(answer.map_err(|_| TransferFault::Timeout)??.into_inner().progress)
}

/// Has a datanode put its finalized replica of a block on disk.
pub(crate) async fn sync_replica(
    location: &ReplicaLocation,
    block: Block,
    config: &ClientConfig,
) -> Result<(), TransferFault> {
    let asked = async {
        let request = v1::SyncReplicaRequest { block: Some(block) };
        control(location, config).await?.sync_replica(request).await.map_err(refused)
    };
    let answer = tokio::time::timeout(SYNC_TIMEOUT, asked).await;
    answer.map_err(|_| TransferFault::Timeout)?.map(drop)
}

/// Asks a datanode which ranges of a replica have data, from `offset` on, and waits for `patience`.
pub(crate) async fn replica_extents(
    location: &ReplicaLocation,
    block: Block,
    (offset, limit): (u64, u32),
    config: &ClientConfig,
    patience: Duration,
) -> Result<v1::ReplicaExtentsResponse, TransferFault> {
    let asked = async {
        let request = v1::ReplicaExtentsRequest { block: Some(block), offset, limit };
        control(location, config).await?.replica_extents(request).await.map_err(refused)
    };
    let answer = tokio::time::timeout(patience, asked).await;
    Ok(answer.map_err(|_| TransferFault::Timeout)??.into_inner())
}

/// Asks a datanode for a replica and its files, and waits for `patience`.
pub(crate) async fn describe_replica(
    location: &ReplicaLocation,
    block: Block,
    verify: bool,
    config: &ClientConfig,
    patience: Duration,
) -> Result<v1::ReplicaDescription, TransferFault> {
    let asked = async {
        let request = v1::DescribeReplicaRequest { block: Some(block), verify };
        control(location, config).await?.describe_replica(request).await.map_err(refused)
    };
    let answer = tokio::time::timeout(patience, asked).await;
    Ok(answer.map_err(|_| TransferFault::Timeout)??.into_inner())
}

/// Has a datanode verify all its replicas.
pub(crate) async fn scrub(
    location: &ReplicaLocation,
    context: Option<v1::CallContext>,
    config: &ClientConfig,
) -> Result<tonic::Streaming<v1::ScrubProgress>, TransferFault> {
    let request = v1::ScrubRequest { context };
    let answer = control(location, config).await?.scrub(request).await.map_err(refused)?;
    Ok(answer.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::v1::DatanodeInfo;

    fn location(ip: &str, xfer_port: u32) -> ReplicaLocation {
        let datanode = Some(DatanodeInfo { ip: ip.into(), xfer_port, ..Default::default() });
        ReplicaLocation { datanode, storage_id: String::new() }
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(address(&location("127.0.0.1", 9866)).expect("valid").to_string(), "127.0.0.1:9866");
        assert_eq!(address(&location("::1", 9866)).expect("valid").to_string(), name(&location("::1", 9866)));
        for bad in [location("host", 1), location("127.0.0.1", 70_000), ReplicaLocation::default()] {
            assert!(address(&bad).is_err());
        }
    }
}
