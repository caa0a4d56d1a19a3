//! A datanode without disks.

use std::io;
use std::sync::{Arc, Mutex};

use dfs_proto::checksum::Checksum;
use dfs_proto::data_transfer::{Op, decode_op_prefix};
use dfs_proto::transfer::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::transfer::{
    BlockOpResponseProto, ChecksumTypeProto, ClientReadStatusProto, OpBlockChecksumProto,
    OpBlockChecksumResponseProto, OpReadBlockProto, OpTransferBlockProto, OpWriteBlockProto,
    PipelineAckProto, ReadOpChecksumInfoProto, Status,
};
use dfs_proto::v1::datanode_control_server::{DatanodeControl, DatanodeControlServer};
use dfs_proto::v1::{self, Empty};
use dfs_proto::{ErrorKind, RpcError};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::wire::{Socket, read_message, read_packet, send_message, send_packet};
use super::{Fault, Replica, State};

const READ_PACKET: usize = 16 << 10;

type Shared = Arc<Mutex<State>>;

pub async fn serve(state: Shared, index: usize, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a connected socket");
        state.lock().expect("lock").datanodes[index].accepted += 1;
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let mut socket = Socket::new(stream);
            while let Ok(true) = operation(&state, index, &mut socket).await {}
        });
    }
}

/// One operation. True if the connection may carry another.
async fn operation(state: &Shared, index: usize, socket: &mut Socket) -> io::Result<bool> {
    let mut prefix = [0; 3];
    socket.read_exact(&mut prefix).await?;
    match decode_op_prefix(prefix) {
        Ok(Op::ReadBlock) => read_block(state, index, socket).await,
        Ok(Op::WriteBlock) => write_block(state, index, socket).await,
        Ok(Op::TransferBlock) => transfer(state, index, socket).await,
        Ok(Op::BlockChecksum) => checksum(state, index, socket).await,
        Ok(Op::RequestShortCircuitFds) | Err(_) => Ok(false),
    }
}

fn response(status: Status) -> BlockOpResponseProto {
    BlockOpResponseProto { status: status.into(), ..Default::default() }
}

fn fault(state: &Shared, index: usize) -> Fault {
    state.lock().expect("lock").datanodes[index].fault
}

async fn read_block(state: &Shared, index: usize, socket: &mut Socket) -> io::Result<bool> {
    let request: OpReadBlockProto = read_message(socket).await?;
    let block = request.header.base_header.block.block_id;
    let fault = fault(state, index);
    state.lock().expect("lock").datanodes[index].reads += 1;
    match fault {
        Fault::StallReadAfter(0) => std::future::pending().await,
        Fault::SlowRead(delay) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let replica = state.lock().expect("lock").datanodes[index].replicas.get(&block).cloned();
    let Some(replica) = replica.filter(|_| fault != Fault::Refuse) else {
        send_message(socket, &response(Status::Error)).await?;
        return Ok(false);
    };
    let checksum = Checksum::default();
    let chunk = checksum.bytes_per_checksum();
    let visible = if replica.finalized { replica.data.len() } else { replica.acked };
    let (start, end) = (request.offset as usize, (request.offset + request.len) as usize);
    if end > visible {
        send_message(socket, &response(Status::ErrorInvalid)).await?;
        return Ok(false);
    }
    let mut at = start - start % chunk;
    let info = ReadOpChecksumInfoProto { checksum: checksum.to_proto(), chunk_offset: at as u64 };
    send_message(
        socket,
        &BlockOpResponseProto { read_op_checksum_info: Some(info), ..response(Status::Success) },
    )
    .await?;
    let end = end.next_multiple_of(chunk).min(replica.data.len());
    let mut seqno = 0;
    while at < end {
        if matches!(fault, Fault::CloseReadAfter(n) if seqno as usize == n) {
            return Ok(false);
        }
        if matches!(fault, Fault::StallReadAfter(n) if seqno as usize == n) {
            std::future::pending::<()>().await;
        }
        let mut data = replica.data[at..(at + READ_PACKET).min(end)].to_vec();
        let mut sums = Vec::new();
        checksum.append_checksums(&data, &mut sums);
        if fault == Fault::Corrupt {
            data[0] ^= 1;
        }
        send_packet(socket, at as u64, seqno, &sums, &data, false).await?;
        at += data.len();
        seqno += 1;
    }
    send_packet(socket, at as u64, seqno, &[], &[], true).await?;
    let status: ClientReadStatusProto = read_message(socket).await?;
    Ok(status.status() == Status::ChecksumOk)
}

/// Carries out a pipeline set-up on one member.
fn prepare(state: &mut State, member: usize, request: &OpWriteBlockProto) -> Result<(), String> {
    let block = &request.header.base_header.block;
    let (least, most) = (request.min_bytes_rcvd as usize, request.max_bytes_rcvd as usize);
    let known = block.generation_stamp;
    let replicas = &mut state.datanodes[member].replicas;
    if request.stage() == Stage::PipelineSetupCreate {
        let replica = Replica { stamp: known, ..Default::default() };
        return replicas.insert(block.block_id, replica).map_or(Ok(()), |_| Err("exists".to_owned()));
    }
    let replica = replicas.get_mut(&block.block_id).ok_or("no replica")?;
    if replica.stamp < known || replica.stamp >= request.latest_generation_stamp {
        return Err(format!("stamp {} for {known}", replica.stamp));
    }
    match request.stage() {
        Stage::PipelineSetupAppend if replica.finalized && replica.data.len() == least => {}
        Stage::PipelineSetupAppendRecovery if replica.data.len() == least => {}
        Stage::PipelineCloseRecovery if replica.data.len() == least => {}
        Stage::PipelineSetupStreamingRecovery
            if !replica.finalized && replica.acked >= least && replica.acked <= most =>
        {
            replica.data.truncate(replica.acked);
        }
        stage => return Err(format!("{stage:?} of {replica:?} with {least} to {most}")),
    }
    replica.stamp = request.latest_generation_stamp;
    replica.finalized = request.stage() == Stage::PipelineCloseRecovery;
    Ok(())
}

async fn write_block(state: &Shared, index: usize, socket: &mut Socket) -> io::Result<bool> {
    let request: OpWriteBlockProto = read_message(socket).await?;
    let block = request.header.base_header.block.block_id;
    let (members, bad_link) = {
        let mut state = state.lock().expect("lock");
        let mut members = vec![index];
        members.extend(request.targets.iter().filter_map(|t| state.index_of(&t.id.datanode_uuid)));
        if members.len() != request.pipeline_size as usize {
            state.violations.push("pipeline size".into());
        }
        let dead = members.iter().find(|m| state.datanodes[**m].fault == Fault::Refuse).copied();
        let mut bad_link = dead;
        if dead.is_none() {
            for member in &members {
                if let Err(reason) = prepare(&mut state, *member, &request) {
                    state.violations.push(format!("member {member}: {reason}"));
                    bad_link = Some(*member);
                }
            }
        }
        let name = |m: usize| {
            state.datanodes[m].location.datanode.as_ref().map(|d| format!("{}:{}", d.ip, d.xfer_port))
        };
        (members, bad_link.and_then(name))
    };
    if bad_link.is_some() {
        let refusal = BlockOpResponseProto { first_bad_link: bad_link, ..response(Status::Error) };
        send_message(socket, &refusal).await?;
        return Ok(false);
    }
    send_message(socket, &response(Status::Success)).await?;
    if request.stage() == Stage::PipelineCloseRecovery {
        return Ok(false);
    }
    loop {
        let (header, sums, data) = read_packet(socket).await?;
        let mut reply = vec![i32::from(Status::Success); members.len()];
        let failed = {
            let mut state = state.lock().expect("lock");
            let failed = members.iter().position(|m| fails(&mut state, *m, header.last_packet_in_block));
            if failed.is_none() {
                for member in &members {
                    store(&mut state, *member, block, header, &sums, &data);
                }
            }
            failed.map(|position| (position, state.datanodes[members[position]].fault))
        };
        if let Some((position, fault)) = failed {
            if matches!(fault, Fault::SilentWriteAfter(_)) {
                // Holds the connection open without a word.
                std::future::pending::<()>().await;
            }
            reply.truncate(position + 1);
            reply[position] = Status::Error.into();
        }
        let ack = PipelineAckProto { seqno: header.seqno, reply, ..Default::default() };
        send_message(socket, &ack).await?;
        if failed.is_some() {
            return Ok(false);
        }
        if header.last_packet_in_block {
            return Ok(true);
        }
    }
}

/// Whether a member's fault strikes at this packet. What fails once stays dead.
fn fails(state: &mut State, member: usize, last: bool) -> bool {
    let datanode = &mut state.datanodes[member];
    datanode.packets += 1;
    let strikes = match datanode.fault {
        Fault::FailWriteAfter(n) | Fault::SilentWriteAfter(n) => datanode.packets > n,
        Fault::FailLastPacket => last,
        Fault::None | Fault::Corrupt | Fault::Refuse | Fault::CloseReadAfter(_) | Fault::FailSync => false,
        Fault::StallReadAfter(_) | Fault::SlowRead(_) => false,
    };
    if strikes && !matches!(datanode.fault, Fault::SilentWriteAfter(_)) {
        datanode.fault = Fault::Refuse;
    }
    strikes
}

fn store(
    state: &mut State,
    member: usize,
    block: u64,
    header: dfs_proto::packet::PacketHeader,
    sums: &[u8],
    data: &[u8],
) {
    let checksum = Checksum::default();
    let chunk = checksum.bytes_per_checksum();
    let offset = header.offset_in_block as usize;
    let mut wrong = None;
    if let Some(replica) = state.datanodes[member].replicas.get_mut(&block) {
        let in_chunk = offset % chunk;
        if offset > replica.data.len() && header.seqno >= 0 {
            wrong = Some("gap");
        } else if in_chunk != 0 && in_chunk + data.len() > chunk {
            wrong = Some("packet in mid-chunk crosses a chunk");
        } else if sums.len() != checksum.checksums_len(data.len()) || checksum.verify(data, sums).is_err() {
            wrong = Some("checksums");
        } else if !data.is_empty() {
            let known = replica.data.len().saturating_sub(offset).min(data.len());
            if replica.data[offset..offset + known] != data[..known] {
                wrong = Some("other data sent again");
            }
            replica.data.extend_from_slice(&data[known..]);
            replica.acked = replica.acked.max(offset + data.len());
        }
        replica.finalized = header.last_packet_in_block;
        if header.sync_block {
            replica.synced = replica.data.len();
        }
        if header.last_packet_in_block && offset != replica.data.len() {
            wrong = Some("last packet elsewhere than at the end");
        }
    } else {
        wrong = Some("no replica");
    }
    if let Some(wrong) = wrong {
        state.violations.push(format!("member {member}, block {block}: {wrong}"));
    }
}

async fn transfer(state: &Shared, index: usize, socket: &mut Socket) -> io::Result<bool> {
    let request: OpTransferBlockProto = read_message(socket).await?;
    let block = request.header.base_header.block.block_id;
    let status = {
        let mut state = state.lock().expect("lock");
        let target = request.targets.first().and_then(|t| state.index_of(&t.id.datanode_uuid));
        let replica = state.datanodes[index].replicas.get(&block).cloned();
        match (target, replica) {
            (Some(target), Some(mut replica)) if state.datanodes[target].fault == Fault::None => {
                replica.data.truncate(replica.acked);
                state.datanodes[target].replicas.insert(block, replica);
                Status::Success
            }
            _ => Status::Error,
        }
    };
    send_message(socket, &response(status)).await?;
    Ok(false)
}

async fn checksum(state: &Shared, index: usize, socket: &mut Socket) -> io::Result<bool> {
    let request: OpBlockChecksumProto = read_message(socket).await?;
    let block = request.header.block.block_id;
    let replica = state.lock().expect("lock").datanodes[index].replicas.get(&block).cloned();
    let Some(replica) = replica.filter(|_| fault(state, index) != Fault::Refuse) else {
        send_message(socket, &response(Status::Error)).await?;
        return Ok(false);
    };
    let crc = Checksum::default().of(&replica.data);
    let answer = OpBlockChecksumResponseProto {
        bytes_per_crc: 4096,
        crc_per_block: replica.data.len().div_ceil(4096) as u64,
        block_checksum: crc.to_be_bytes().to_vec().into(),
        crc_type: Some(ChecksumTypeProto::ChecksumCrc32.into()),
    };
    let answer = BlockOpResponseProto { checksum_response: Some(answer), ..response(Status::Success) };
    send_message(socket, &answer).await?;
    Ok(true)
}

struct Control {
    state: Shared,
    index: usize,
}

pub async fn serve_control(state: Shared, index: usize, listener: TcpListener) {
    let service = DatanodeControlServer::new(Control { state, index });
    let incoming = TcpListenerStream::new(listener);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await
        .expect("control service");
}

#[tonic::async_trait]
impl DatanodeControl for Control {
    async fn get_replica_visible_length(
        &self,
        request: Request<v1::ReplicaVisibleLengthRequest>,
    ) -> Result<Response<v1::ReplicaVisibleLengthResponse>, tonic::Status> {
        if matches!(
            fault(&self.state, self.index),
            Fault::Refuse | Fault::SilentWriteAfter(_) | Fault::StallReadAfter(_)
        ) {
            std::future::pending::<()>().await;
        }
        let block = request.into_inner().block.unwrap_or_default();
        let state = self.state.lock().expect("lock");
        match state.datanodes[self.index].replicas.get(&block.id) {
            Some(replica) => Ok(Response::new(v1::ReplicaVisibleLengthResponse {
                length: replica.acked as u64,
                progress: None,
            })),
            None => Err(RpcError::new(ErrorKind::NotFound, block.to_string(), "").to_status()),
        }
    }

    async fn init_replica_recovery(
        &self,
        _: Request<v1::InitReplicaRecoveryRequest>,
    ) -> Result<Response<v1::InitReplicaRecoveryResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }

    async fn update_replica_under_recovery(
        &self,
        _: Request<v1::UpdateReplicaUnderRecoveryRequest>,
    ) -> Result<Response<v1::UpdateReplicaUnderRecoveryResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }

    async fn sync_replica(
        &self,
        request: Request<v1::SyncReplicaRequest>,
    ) -> Result<Response<Empty>, tonic::Status> {
        let fault = fault(&self.state, self.index);
        if fault == Fault::Refuse {
            std::future::pending::<()>().await;
        }
        let block = request.into_inner().block.unwrap_or_default();
        let mut state = self.state.lock().expect("lock");
        let datanode = &mut state.datanodes[self.index];
        datanode.syncs.push(block.id);
        if fault == Fault::FailSync {
            return Err(RpcError::new(ErrorKind::Internal, block.to_string(), "").to_status());
        }
        match datanode.replicas.get_mut(&block.id) {
            Some(replica) if replica.finalized && replica.data.len() as u64 >= block.length => {
                replica.synced = replica.data.len();
                Ok(Response::new(Empty {}))
            }
            _ => Err(RpcError::new(ErrorKind::BlockMissing, block.to_string(), "").to_status()),
        }
    }

    async fn replica_extents(
        &self,
        _: Request<v1::ReplicaExtentsRequest>,
    ) -> Result<Response<v1::ReplicaExtentsResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }

    async fn balance_disks(
        &self,
        _: Request<v1::BalanceDisksRequest>,
    ) -> Result<Response<v1::BalanceDisksStatus>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }

    async fn trigger_block_report(
        &self,
        _: Request<v1::TriggerBlockReportRequest>,
    ) -> Result<Response<Empty>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }

    type ScrubStream = tokio_stream::Empty<Result<v1::ScrubProgress, tonic::Status>>;

    async fn scrub(
        &self,
        _: Request<v1::ScrubRequest>,
    ) -> Result<Response<Self::ScrubStream>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }

    async fn describe_replica(
        &self,
        _: Request<v1::DescribeReplicaRequest>,
    ) -> Result<Response<v1::ReplicaDescription>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }
}
