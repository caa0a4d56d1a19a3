//! Fuzzing of all messages of all services, by service and direction.

use prost::Message;

use crate::fuzz_tests::comes_back;
use crate::fuzzing::fuzz_message;
use crate::{ErrorKind, RpcError, v1};

/// Messages of many shapes; what one type is, others partly are.
fn messages() -> Vec<Vec<u8>> {
    let context = v1::CallContext { client_id: vec![7; 16].into(), call_id: 9, ..Default::default() };
    let node = v1::NodeRef { base: 5, path: "/a/b".into() };
    let block = v1::Block { id: 1_073_741_825, generation_stamp: 1_001, length: 77 };
    let info =
        v1::DatanodeInfo { uuid: "u".into(), ip: "10.0.0.1".into(), xfer_port: 9866, ..Default::default() };
    let location = v1::ReplicaLocation { datanode: Some(info.clone()), storage_id: "DS-1".into() };
    let located = v1::LocatedBlock {
        block: Some(block),
        offset: 8,
        locations: vec![location.clone(), location],
        ..Default::default()
    };
    let create = v1::CreateRequest {
        context: Some(context.clone()),
        node: Some(node.clone()),
        mode: 0o644,
        holder: "h".into(),
        replication: 3,
        block_size: 1 << 20,
        ..Default::default()
    };
    let committed =
        v1::CommittedBlock { block: Some(block), storage_ids: vec!["DS-1".into(), "DS-2".into()] };
    let complete = v1::CompleteRequest {
        context: Some(context.clone()),
        inode: 5,
        holder: "h".into(),
        last: Some(committed),
    };
    let storage = v1::StorageReport { storage_id: "DS-1".into(), capacity: 1 << 40, ..Default::default() };
    let report = v1::DatanodeReport { info: Some(info), storages: vec![storage], ..Default::default() };
    let status = v1::FileStatus { name: "f".into(), inode: 77, owner: "o".into(), ..Default::default() };
    let name = v1::ListedName { name: "n".into(), inode: 78, r#type: 1 };
    let list = v1::ListResponse { entries: vec![status], names: vec![name], ..Default::default() };
    let list_request =
        v1::ListRequest { context: Some(context), node: Some(node), limit: 9, ..Default::default() };
    let command = v1::RecoverBlockCommand { block: Some(block), ..Default::default() };
    let command = v1::datanode_command::Command::RecoverBlock(command);
    let commands = vec![v1::DatanodeCommand { command: Some(command) }];
    let heartbeat = v1::HeartbeatResponse { commands, ..Default::default() };
    let slice = v1::BlockReportSlice {
        block_ids: vec![7, 9],
        generation_stamps: vec![1_001, 1_002],
        lengths: vec![77, 0],
        states: vec![0, 1],
        ..Default::default()
    };
    let detail = RpcError::new(ErrorKind::NotFound, "/a", "it never was").to_status().details().to_vec();
    vec![
        located.encode_to_vec(),
        create.encode_to_vec(),
        complete.encode_to_vec(),
        report.encode_to_vec(),
        list.encode_to_vec(),
        list_request.encode_to_vec(),
        heartbeat.encode_to_vec(),
        slice.encode_to_vec(),
        detail,
    ]
}

/// Fuzzes messages of these types.
macro_rules! fuzz_messages {
    ($($name:ident),* $(,)?) => {
        $(fuzz_message(stringify!($name), &messages(), |input| {
            v1::$name::decode(input).is_ok_and(|message| comes_back(&message))
        });)*
    };
}

#[test]
fn fuzzed_requests_of_clients() {
    fuzz_messages!(
        AbandonBlockRequest,
        AddBlockRequest,
        AppendRequest,
        BalanceRequest,
        CompleteRequest,
        ContentSummaryRequest,
        CreateRequest,
        DatanodeReportRequest,
        DeleteRequest,
        DescribeBlockRequest,
        ExpungeRequest,
        FsyncRequest,
        GetAdditionalDatanodesRequest,
        GetServerDefaultsRequest,
        GetStatsRequest,
        ListRequest,
        MkdirRequest,
        MoveToTrashRequest,
        OpenRequest,
        RecoverLeaseRequest,
        RenameRequest,
        RenewLeaseRequest,
        RepairBandwidthRequest,
        ReportBadBlocksRequest,
        RestoredRequest,
        SafeModeRequest,
        SetDatanodeAdminRequest,
        SetOwnerRequest,
        SetPermissionRequest,
        SetReplicationRequest,
        SetTimesRequest,
        StatRequest,
        TruncateRequest,
        UpdateBlockForPipelineRequest,
        UpdatePipelineRequest,
    );
}

#[test]
fn fuzzed_answers_to_clients() {
    fuzz_messages!(
        AppendResponse,
        BalanceStatus,
        BlockDescription,
        ClusterStats,
        ContentSummary,
        CreateResponse,
        DatanodeReport,
        DatanodeReportResponse,
        DeleteResponse,
        ExpungeResponse,
        FileStatus,
        GetAdditionalDatanodesResponse,
        ListResponse,
        LocatedBlock,
        LocatedBlocks,
        MoveToTrashResponse,
        RecoverLeaseResponse,
        RepairBandwidthResponse,
        RestoredResponse,
        SafeModeResponse,
        ServerDefaults,
        TruncateResponse,
        UpdateBlockForPipelineResponse,
        ErrorDetail,
    );
}

#[test]
fn fuzzed_requests_of_mounts() {
    fuzz_messages!(
        CloseSessionRequest,
        CommitBlocksRequest,
        GetLockRequest,
        GetXattrRequest,
        KeepSessionRequest,
        LinkRequest,
        ListXattrsRequest,
        LocateFilesRequest,
        MakeNodeRequest,
        MoveRequest,
        NoteOpensRequest,
        OpenFileRequest,
        ReleaseFilesRequest,
        ReturnLocksRequest,
        RemoveXattrRequest,
        SetAttributesRequest,
        SetLockRequest,
        SetXattrRequest,
        SyncNamespaceRequest,
        UnlinkRequest,
        WriteBlockRequest,
    );
}

#[test]
fn fuzzed_answers_to_mounts() {
    fuzz_messages!(
        GetLockResponse,
        GetXattrResponse,
        KeepSessionResponse,
        ListXattrsResponse,
        LocateFilesResponse,
        MakeNodeResponse,
        MoveResponse,
        SetLockResponse,
        UnlinkResponse,
        WriteBlockResponse,
    );
}

#[test]
fn fuzzed_requests_of_datanodes() {
    fuzz_messages!(
        BlockReceivedAndDeletedRequest,
        BlockReportSlice,
        CommitBlockSynchronizationRequest,
        HeartbeatRequest,
        NamespaceInfoRequest,
        RegisterRequest,
        ReportBadReplicasRequest,
    );
}

#[test]
fn fuzzed_answers_to_datanodes() {
    fuzz_messages!(BlockReportResponse, HeartbeatResponse, NamespaceInfo, RegisterResponse,);
}

#[test]
fn fuzzed_requests_to_datanodes() {
    fuzz_messages!(
        BalanceDisksRequest,
        DescribeReplicaRequest,
        InitReplicaRecoveryRequest,
        ReplicaExtentsRequest,
        ReplicaVisibleLengthRequest,
        ScrubRequest,
        SyncReplicaRequest,
        TriggerBlockReportRequest,
        UpdateReplicaUnderRecoveryRequest,
    );
}

#[test]
fn fuzzed_answers_of_datanodes() {
    fuzz_messages!(
        BalanceDisksStatus,
        InitReplicaRecoveryResponse,
        ReplicaDescription,
        ReplicaExtentsResponse,
        ReplicaVisibleLengthResponse,
        ScrubProgress,
        UpdateReplicaUnderRecoveryResponse,
    );
}
