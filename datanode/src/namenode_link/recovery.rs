//! Block recovery as its primary: brings all replicas of a block whose writer is gone to one length, stamp
//! and state, and tells the namenode.
//!
//! 1. Every datanode stops writing the replica and tells what it has.
//! 2. The length: that of the finalized replicas if there is one; otherwise the least of those that were being
//!    written when the recovery began; otherwise the least of those found at a restart. What every member
//!    had acknowledged is on all of them, so none of it is lost. A truncate, and a block that was complete before, bring
//!    their own length. A replica that is shorter than the namenode knows the block, or that ends where its disk spoilt
//!    it, decides nothing as long as there is a better one, or one that cannot be reached now may be better; and nothing is cut when none
//!    has the length that is known.
//! 3. The content: overwrites that were never acknowledged may have reached some replicas only. The checksums over that
//!    length are compared, and the largest group of equal ones goes on; every member has what was acknowledged, so no
//!    choice loses any of it. A replica whose checksums cannot be had takes no part, also if it is the only one that can
//!    be reached now. They are composed of those of the chunks: damage inside a replica is found by the reads that follow.
//! 4. Every replica that takes part is cut to the length, gets the new stamp and is finalized; the others keep their
//!    old stamp, are stale from the commit on, and are replaced then.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::v1::datanode_control_client::DatanodeControlClient;
use dfs_proto::v1::{
    CommitBlockSynchronizationRequest, DatanodeInfo, InitReplicaRecoveryRequest, RecoverBlockCommand,
    UpdateReplicaUnderRecoveryRequest,
};
use dfs_proto::{ErrorKind, GenerationStamp, RpcError};
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::{NamenodeLink, endpoint, recovery_outcome};
use crate::dataset::recovery::RecoveryCandidate;
use crate::error::DatanodeError;
use crate::replica::{BlockRef, ReplicaState};
use crate::transfer::checksum_op;

/// Longest wait for a step at another datanode, which may have to wait for a writer to stop. There are two steps, and both together
/// end well before the namenode takes the recovery for lost (15 s) and has it begun again: else one datanode
/// that stands still would keep the file closed until it counts as dead.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Replicas that suffice to go on without those whose datanodes are [`LATE_AFTER`]: what was acknowledged is on each, and with two the
/// block is as safe as a pipeline that lost a member.
const SUFFICIENT: usize = 2;

/// How long the others are waited for when [`SUFFICIENT`] replicas are there. Stopping a writer takes milliseconds; callers wait for the file.
const LATE_AFTER: Duration = Duration::from_millis(1_500);

/// What the replicas agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Length.
    pub length: u64,
    /// Which of the candidates take part.
    pub members: Vec<usize>,
}

/// Whether a replica has data of the incarnation to recover.
fn is_usable(block: BlockRef, candidate: &RecoveryCandidate) -> bool {
    candidate.block.stamp >= block.stamp && candidate.length > 0
}

/// Agrees on a length; `None`: no replica has data, the block can be forgotten. `known_length` bytes are known to have
/// been acknowledged.
pub fn agree(
    block: BlockRef,
    known_length: u64,
    candidates: &[RecoveryCandidate],
    truncate_length: Option<u64>,
) -> Result<Option<Agreement>, DatanodeError> {
    let with_data = |c: &RecoveryCandidate| is_usable(block, c);
    let Some(longest) = candidates.iter().filter(|c| with_data(c)).map(|c| c.length).max() else {
        return Ok(None);
    };
    let needed = match truncate_length {
        Some(needed) if longest < needed => {
            return Err(DatanodeError::ReplicasShort { block, longest, needed });
        }
        Some(needed) => needed,
        // What was acknowledged was not on disk, and is lost everywhere.
        None => known_length.min(longest),
    };
    let has_all = |c: &RecoveryCandidate| with_data(c) && c.length >= needed;
    let any_whole = candidates.iter().any(|c| has_all(c) && !c.damaged);
    let usable = |c: &RecoveryCandidate| has_all(c) && !(any_whole && c.damaged);
    let Some(best) = candidates.iter().filter(|c| usable(c)).map(|c| c.original_state).min() else {
        return Ok(None);
    };
    let of_best = || candidates.iter().filter(|c| usable(c) && c.original_state == best);
    let shortest = of_best().map(|c| c.length).min().unwrap_or(0);
    // Replicas that are cut all end where the cut is: an attempt that could not be recorded may have cut some already.
    if best == ReplicaState::Finalized
        && truncate_length.is_none()
        && let Some(other) = of_best().find(|c| c.length != shortest)
    {
        return Err(DatanodeError::ReplicasDiffer { block, first: shortest, second: other.length });
    }
    let length = truncate_length.unwrap_or(shortest);
    let takes_part = |c: &RecoveryCandidate| match (best, c.original_state) {
        (ReplicaState::Finalized, ReplicaState::Rbw) => c.length == shortest,
        (best, state) => best == state,
    };
    let members =
        candidates.iter().enumerate().filter(|(_, c)| usable(c) && takes_part(c)).map(|(i, _)| i).collect();
    Ok(Some(Agreement { length, members }))
}

/// Whether only replicas agreed that their disks spoilt.
fn is_spoilt(candidates: &[RecoveryCandidate], agreement: &Agreement) -> bool {
    agreement.members.iter().all(|i| candidates[*i].damaged)
}

/// Recovers one block.
pub async fn run(link: &NamenodeLink, order: &RecoverBlockCommand) -> Result<(), DatanodeError> {
    let block = order.block.as_ref().ok_or(DatanodeError::Field("block"))?;
    let known = BlockRef::from(block);
    let id = GenerationStamp(order.new_generation_stamp);
    let members: Vec<&DatanodeInfo> = order.locations.iter().filter_map(|l| l.datanode.as_ref()).collect();
    let answers = begin_everywhere(link, &members, known, id).await;
    let mut candidates = Vec::new();
    let mut places = Vec::new();
    let mut failures = 0;
    let mut undecided = 0;
    for (member, answer) in members.iter().zip(answers) {
        match answer {
            Ok(Some(candidate)) => {
                candidates.push(candidate);
                places.push(*member);
            }
            Ok(None) => tracing::debug!(block = %known, datanode = member.uuid, "no replica to recover"),
            Err(error) => {
                tracing::info!(block = %known, datanode = member.uuid, %error, "no part in the recovery");
                failures += 1;
                undecided += usize::from(error.kind() != ErrorKind::StaleGenerationStamp);
            }
        }
    }
    // That those who answered have nothing is no reason to forget the block: who did not may have its data.
    let nothing = !candidates.iter().any(|candidate| is_usable(known, candidate));
    if failures == members.len() || (nothing && undecided > 0) {
        return Err(DatanodeError::NothingToRecover { block: known });
    }
    let mut outcome = CommitBlockSynchronizationRequest {
        block: Some(*block),
        new_generation_stamp: id.get(),
        ..Default::default()
    };
    let asked = (&candidates[..], &places[..]);
    let all_answered = undecided == 0 && order.away == 0;
    match agree_on_content(link, order, (known, block.length), asked, all_answered).await? {
        None => outcome.delete_block = true,
        Some(agreement) => {
            let updates = agreement
                .members
                .iter()
                .map(|i| finish(link, places[*i], candidates[*i].block, id, agreement.length));
            for (i, update) in agreement.members.iter().zip(join_all(updates).await) {
                match update {
                    Ok(storage_id) => outcome.storage_ids.push(storage_id),
                    Err(error) => {
                        tracing::warn!(block = %known, datanode = places[*i].uuid, %error, "replica not recovered");
                    }
                }
            }
            if outcome.storage_ids.is_empty() {
                return Err(DatanodeError::NothingToRecover { block: known });
            }
            outcome.new_length = agreement.length;
        }
    }
    tracing::info!(
        block = %known,
        new_stamp = id.get(),
        length = outcome.new_length,
        replicas = outcome.storage_ids.len(),
        delete = outcome.delete_block,
        "block recovered"
    );
    recovery_outcome::tell(link, outcome).await
}

/// [`agree`], and members whose checksums can be had and are the same; a lone one is read and verified. Others decide nothing. If
/// all that answered are such, or less is left than is known to have been acknowledged, those that are away may be better,
/// and the recovery is tried again later; if `all_answered`, the file is closed with what is there.
async fn agree_on_content(
    link: &NamenodeLink,
    order: &RecoverBlockCommand,
    (known, known_length): (BlockRef, u64),
    (candidates, places): (&[RecoveryCandidate], &[&DatanodeInfo]),
    all_answered: bool,
) -> Result<Option<Agreement>, DatanodeError> {
    let mut left: Vec<usize> = (0..candidates.len()).collect();
    let mut first = None;
    loop {
        let asked: Vec<RecoveryCandidate> = left.iter().map(|i| candidates[*i].clone()).collect();
        let agreed = match agree(known, known_length, &asked, order.truncate_length) {
            Err(error) if first.is_none() => return Err(error),
            agreed => agreed.unwrap_or(None),
        };
        let Some(mut agreement) = agreed else {
            return match first {
                Some(_) if !all_answered => Err(DatanodeError::NothingToRecover { block: known }),
                first => Ok(first),
            };
        };
        agreement.members = agreement.members.iter().map(|i| left[*i]).collect();
        if agreement.length == 0 {
            return Ok(Some(agreement));
        }
        // Where a disk spoilt a replica says nothing about how long the block was.
        let is_less = agreement.length < known_length || is_spoilt(candidates, &agreement);
        if is_less && order.truncate_length.is_none() && !all_answered {
            return Err(DatanodeError::NothingToRecover { block: known });
        }
        let is_lone = agreement.members.len() == 1;
        let mut kept = of_one_content(link, places, candidates, &agreement, is_lone).await;
        if !is_lone && let [lone] = kept[..] {
            let alone = Agreement { members: vec![lone], ..agreement };
            kept = of_one_content(link, places, candidates, &alone, true).await;
        }
        if !kept.is_empty() {
            return Ok(Some(Agreement { members: kept, ..agreement }));
        }
        left.retain(|i| !agreement.members.contains(i));
        first.get_or_insert(agreement);
    }
}

/// The members of the largest group with equal content. With `verify`, those that do not fit their checksums are left out.
async fn of_one_content(
    link: &NamenodeLink,
    places: &[&DatanodeInfo],
    candidates: &[RecoveryCandidate],
    agreement: &Agreement,
    verify: bool,
) -> Vec<usize> {
    let sums = agreement.members.iter().map(|i| {
        let (shared, datanode) = (Arc::clone(&link.shared), places[*i].into());
        let (block, length) = (candidates[*i].block, agreement.length);
        link.disk_workers.call(move || checksum_op::content_sum(&shared, &datanode, block, length, verify))
    });
    let mut found = Vec::with_capacity(agreement.members.len());
    for (i, sum) in agreement.members.iter().zip(join_all(sums).await) {
        match sum {
            Ok(sum) => found.push((*i, sum)),
            Err(error) => {
                let (block, datanode) = (candidates[*i].block, &places[*i].uuid);
                tracing::warn!(%block, datanode, %error, "replica without a checksum left out of the recovery");
            }
        }
    }
    let kept = largest_group(&found);
    for (i, _) in found.iter().filter(|(i, _)| !kept.contains(i)) {
        let (block, datanode) = (candidates[*i].block, &places[*i].uuid);
        tracing::warn!(%block, datanode, "replica with other content left out of the recovery");
    }
    kept
}

/// Members of the largest group with equal values; of two such groups the one that is named first.
fn largest_group<T: PartialEq>(values: &[(usize, T)]) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::new();
    for (_, value) in values {
        let group: Vec<usize> = values.iter().filter(|(_, v)| v == value).map(|(i, _)| *i).collect();
        if group.len() > best.len() {
            best = group;
        }
    }
    best
}

/// A client for a datanode's control service.
fn control(
    member: &DatanodeInfo,
) -> Result<(String, DatanodeControlClient<tonic::transport::Channel>), DatanodeError> {
    let host = if member.ip.contains(':') { format!("[{}]", member.ip) } else { member.ip.clone() };
    let peer = format!("{host}:{}", member.ipc_port);
    let channel = endpoint(&peer, STEP_TIMEOUT)?.connect_lazy();
    Ok((peer, DatanodeControlClient::new(channel)))
}

/// Asks every member at once what it has; the answers are in the order of the members.
async fn begin_everywhere(
    link: &NamenodeLink,
    members: &[&DatanodeInfo],
    known: BlockRef,
    id: GenerationStamp,
) -> Vec<Result<Option<RecoveryCandidate>, DatanodeError>> {
    let late = |_| Err(DatanodeError::Late { block: known });
    let mut answers: Vec<_> = (0..members.len()).map(late).collect();
    let ask = async |(i, member)| (i, begin(link, member, known, id).await);
    let mut asked: FuturesUnordered<_> = members.iter().copied().enumerate().map(ask).collect();
    let mut good = 0;
    let mut until = None;
    loop {
        let next = match until {
            None => asked.next().await,
            Some(until) => timeout_at(until, asked.next()).await.unwrap_or(None),
        };
        let Some((i, answer)) = next else { return answers };
        good += usize::from(matches!(&answer, Ok(Some(found)) if is_usable(known, found) && !found.damaged));
        answers[i] = answer;
        if good == SUFFICIENT && until.is_none() {
            until = Some(Instant::now() + LATE_AFTER);
        }
    }
}

async fn begin(
    link: &NamenodeLink,
    member: &DatanodeInfo,
    known: BlockRef,
    id: GenerationStamp,
) -> Result<Option<RecoveryCandidate>, DatanodeError> {
    if member.uuid == link.shared.dataset.uuid() {
        let dataset = Arc::clone(&link.shared.dataset);
        return link.disk_workers.call(move || dataset.begin_recovery(known, id)).await;
    }
    let (peer, mut client) = control(member)?;
    let request =
        InitReplicaRecoveryRequest { block: Some(known.to_proto(0)), new_generation_stamp: id.get() };
    let answer = client.init_replica_recovery(request).await;
    let answer =
        answer.map_err(|s| DatanodeError::Rpc { peer, error: RpcError::from_status(&s) })?.into_inner();
    if !answer.exists {
        return Ok(None);
    }
    let block = answer.block.as_ref().ok_or(DatanodeError::Field("block"))?;
    Ok(Some(RecoveryCandidate {
        block: BlockRef::from(block),
        length: block.length,
        original_state: ReplicaState::from_proto(answer.original_state()),
        storage_id: answer.storage_id.clone(),
        damaged: answer.damaged,
    }))
}

async fn finish(
    link: &NamenodeLink,
    member: &DatanodeInfo,
    replica: BlockRef,
    id: GenerationStamp,
    length: u64,
) -> Result<String, DatanodeError> {
    if member.uuid == link.shared.dataset.uuid() {
        let dataset = Arc::clone(&link.shared.dataset);
        return link.disk_workers.call(move || dataset.finish_recovery(replica, id, length)).await;
    }
    let (peer, mut client) = control(member)?;
    let request = UpdateReplicaUnderRecoveryRequest {
        block: Some(replica.to_proto(0)),
        new_generation_stamp: id.get(),
        new_length: length,
    };
    let answer = client.update_replica_under_recovery(request).await;
    let answer = answer.map_err(|s| DatanodeError::Rpc { peer, error: RpcError::from_status(&s) })?;
    Ok(answer.into_inner().storage_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: BlockRef = BlockRef::new(1, 10);
    const KNOWN: u64 = 40;

    fn candidate(original_state: ReplicaState, length: u64, stamp: u64) -> RecoveryCandidate {
        RecoveryCandidate {
            block: BlockRef::new(1, stamp),
            length,
            original_state,
            storage_id: String::new(),
            damaged: false,
        }
    }

    #[test]
    fn replicas_agree_as_in_hdfs() {
        use ReplicaState::{Finalized, Rbw, Rwr};
        type Row = (&'static str, Vec<(ReplicaState, u64, u64)>, Option<u64>, Option<(u64, Vec<usize>)>);
        let table: Vec<Row> = vec![
            ("nobody has anything", vec![], None, None),
            ("empty replicas do not count", vec![(Rbw, 0, 10)], None, None),
            ("stale replicas do not count", vec![(Finalized, 5, 9)], None, None),
            ("finalized wins", vec![(Rbw, 90, 10), (Finalized, 70, 10)], None, Some((70, vec![1]))),
            (
                "equal rbw joins finalized",
                vec![(Rbw, 70, 10), (Finalized, 70, 10)],
                None,
                Some((70, vec![0, 1])),
            ),
            (
                "least of the written",
                vec![(Rbw, 90, 10), (Rbw, 80, 10), (Rwr, 20, 10)],
                None,
                Some((80, vec![0, 1])),
            ),
            ("least of the found", vec![(Rwr, 90, 10), (Rwr, 50, 11)], None, Some((50, vec![0, 1]))),
            ("nobody has what is known", vec![(Rwr, 9, 10), (Rwr, 8, 10)], None, Some((9, vec![0]))),
            ("truncate", vec![(Finalized, 70, 10), (Finalized, 70, 10)], Some(33), Some((33, vec![0, 1]))),
            (
                "truncate anew",
                vec![(Finalized, 33, 11), (Finalized, 70, 10)],
                Some(33),
                Some((33, vec![0, 1])),
            ),
            (
                "one that is too short decides nothing",
                vec![(Rwr, 20, 11), (Rwr, 71, 11), (Rwr, 70, 11)],
                Some(70),
                Some((70, vec![1, 2])),
            ),
            ("not even in a better state", vec![(Rbw, 20, 10), (Rwr, 40, 10)], None, Some((40, vec![1]))),
        ];
        for (name, replicas, truncate, expected) in table {
            let candidates: Vec<_> = replicas.iter().map(|(s, l, g)| candidate(*s, *l, *g)).collect();
            let found = agree(BLOCK, KNOWN, &candidates, truncate).expect("agreement");
            let found = found.map(|a| (a.length, a.members));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn the_largest_group_of_one_content_goes_on() {
        assert_eq!(largest_group(&[(0, 'a'), (2, 'b'), (3, 'b')]), [2, 3]);
        assert_eq!(largest_group(&[(0, 'a'), (1, 'b')]), [0]);
        assert_eq!(largest_group(&[(4, 'a'), (5, 'a'), (6, 'a')]), [4, 5, 6]);
        assert!(largest_group::<char>(&[]).is_empty());
    }

    #[test]
    fn finalized_replicas_of_different_lengths_are_an_error() {
        let candidates =
            [candidate(ReplicaState::Finalized, 5, 10), candidate(ReplicaState::Finalized, 6, 10)];
        assert!(matches!(agree(BLOCK, 0, &candidates, None), Err(DatanodeError::ReplicasDiffer { .. })));
        let cut = agree(BLOCK, 0, &candidates, Some(6)).expect("agreement");
        assert_eq!(cut, Some(Agreement { length: 6, members: vec![1] }), "the other is too short");
    }

    #[test]
    fn nothing_is_cut_below_the_length_that_a_block_had() {
        let candidates = [candidate(ReplicaState::Rwr, 20, 11), candidate(ReplicaState::Rwr, 69, 11)];
        let refused = agree(BLOCK, 70, &candidates, Some(70));
        assert!(matches!(refused, Err(DatanodeError::ReplicasShort { longest: 69, needed: 70, .. })));
    }

    #[test]
    fn a_replica_that_its_disk_spoilt_decides_nothing_beside_a_whole_one() {
        let spoilt = RecoveryCandidate { damaged: true, ..candidate(ReplicaState::Rwr, 20, 10) };
        let mut candidates = vec![spoilt, candidate(ReplicaState::Rwr, 60, 10)];
        let agreed = |candidates: &[RecoveryCandidate]| {
            let found = agree(BLOCK, 0, candidates, None).expect("agreement");
            found.map(|a| (a.length, a.members))
        };
        assert_eq!(agreed(&candidates), Some((60, vec![1])));
        candidates.pop();
        assert_eq!(agreed(&candidates), Some((20, vec![0])), "better than nothing");
        let alone = Agreement { length: 20, members: vec![0] };
        assert!(is_spoilt(&candidates, &alone), "but not while another may be better");
        candidates.push(candidate(ReplicaState::Rwr, 20, 10));
        assert!(!is_spoilt(&candidates, &Agreement { members: vec![0, 1], ..alone }));
    }
}
