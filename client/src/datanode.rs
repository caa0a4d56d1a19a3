//! How datanodes are named and addressed, and their control service.

use std::net::{IpAddr, SocketAddr};

use dfs_proto::transfer::{DatanodeIdProto, DatanodeInfoProto, ExtendedBlockProto};
use dfs_proto::v1::datanode_control_client::DatanodeControlClient;
use dfs_proto::v1::{self, Block, DatanodeInfo, ReplicaLocation};
use dfs_proto::{ErrorKind, RpcError};

use crate::TransferFault;
use crate::config::ClientConfig;
use crate::namenode::endpoint;

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

fn socket_name(ip: &str, port: u32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// The data transfer protocol's form of a datanode.
pub(crate) fn to_transfer(info: &DatanodeInfo) -> DatanodeInfoProto {
    DatanodeInfoProto {
        id: DatanodeIdProto {
            ip_addr: info.ip.clone(),
            host_name: info.hostname.clone(),
            datanode_uuid: info.uuid.clone(),
            xfer_port: info.xfer_port,
            info_port: info.http_port,
            ipc_port: info.ipc_port,
        },
        location: Some(info.rack.clone()),
    }
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

/// Asks a datanode how many bytes of a replica readers may see.
pub(crate) async fn visible_length(
    location: &ReplicaLocation,
    block: Block,
    config: &ClientConfig,
) -> Result<u64, TransferFault> {
    let unreachable =
        |reason: &str| TransferFault::Control(RpcError::new(ErrorKind::Unavailable, "", reason));
    let Some(info) = &location.datanode else { return Err(unreachable("no address")) };
    let address = socket_name(&info.ip, info.ipc_port);
    let endpoint = endpoint(&address).ok_or_else(|| unreachable("bad address"))?;
    let asked = async {
        let channel =
            endpoint.connect_timeout(config.datanode_connect_timeout).connect().await.map_err(|error| {
                TransferFault::Control(RpcError::new(ErrorKind::Unavailable, "", error.to_string()))
            })?;
        let request = v1::ReplicaVisibleLengthRequest { block: Some(block) };
        let answer = DatanodeControlClient::new(channel).get_replica_visible_length(request).await;
        answer.map_err(|status| TransferFault::Control(RpcError::from_status(&status)))
    };
    let answer = tokio::time::timeout(config.datanode_timeout, asked).await;
    Ok(answer.map_err(|_| TransferFault::Timeout)??.into_inner().length)
}

#[cfg(test)]
mod tests {
    use super::*;

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
