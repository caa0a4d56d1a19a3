//! A pipeline without a chain: the writer sends every packet to every member itself.
//!
//! In a chain a packet waits for a thread of each member in turn, and so does its acknowledgement: for a small packet that is
//! synced, or a small block that comes whole, that is most of the time it takes. Sent to all members at once it costs the
//! writer's network as often as there are members, so that this is for small packets. To a datanode each connection is a pipeline of one member. A packet is
//! acknowledged when every member has acknowledged it; a member that reports a failure is heard at once.

use bytes::Bytes;
use dfs_proto::transfer::{PipelineAckProto, Status};
use futures::future::join_all;

use super::link::{Link, succeeded};
use super::{Pipeline, PipelineSetup, SetupFailure, refusal};
use crate::TransferFault;

impl Pipeline {
    /// Connects to every member and has each set up a pipeline of its own; `eager` is sent with the request.
    pub(super) async fn open_star(setup: &PipelineSetup<'_>, eager: &[Bytes]) -> Result<Self, SetupFailure> {
        let starts = setup.members.iter().map(|member| async move {
            let (link, response) = Self::start(setup, member, &[], eager).await?;
            if response.status() == Status::Success { Ok(link) } else { Err(refusal(&response)) }
        });
        gather(join_all(starts).await).map(Self::of)
    }
}

/// What all members answered, or who failed.
fn gather<T>(outcomes: Vec<Result<T, TransferFault>>) -> Result<Vec<T>, SetupFailure> {
    let mut done = Vec::with_capacity(outcomes.len());
    let mut failure: Option<SetupFailure> = None;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(one) => done.push(one),
            Err(fault) => {
                failure.get_or_insert(SetupFailure { bad: Vec::new(), fault }).bad.push(index);
            }
        }
    }
    failure.map_or(Ok(done), Err)
}

/// The next acknowledgement of several members: a failure that one reports, or what all have acknowledged. The error is who
/// acknowledged something else.
pub(super) fn join_acks(links: &mut [Link]) -> Result<Option<PipelineAckProto>, usize> {
    let failed = links.iter().position(|link| link.acks.front().is_some_and(|ack| !succeeded(ack)));
    if let Some(index) = failed {
        let Some(ack) = links[index].acks.pop_front() else { return Ok(None) };
        let failure = ack.reply.into_iter().find(|status| *status != i32::from(Status::Success));
        let mut reply = vec![Status::Success.into(); links.len()];
        reply[index] = failure.unwrap_or(Status::Error.into());
        return Ok(Some(PipelineAckProto { seqno: ack.seqno, reply, ..Default::default() }));
    }
    let mut seqno = None;
    for (index, link) in links.iter().enumerate() {
        let Some(ack) = link.acks.front() else { return Ok(None) };
        if *seqno.get_or_insert(ack.seqno) != ack.seqno {
            return Err(index);
        }
    }
    let mut reply = Vec::with_capacity(links.len());
    for link in links {
        reply.extend(link.acks.pop_front().iter().flat_map(|ack| ack.reply.first().copied()));
    }
    Ok(seqno.map(|seqno| PipelineAckProto { seqno, reply, ..Default::default() }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::connection::DataConnection;

    async fn links(count: usize) -> Vec<Link> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let (address, second) = (listener.local_addr().expect("address"), Duration::from_secs(20));
        let mut links = Vec::new();
        for _ in 0..count {
            links.push(Link::new(DataConnection::connect(address, second, second).await.expect("connects")));
        }
        links
    }

    fn ack(seqno: i64, status: Status) -> PipelineAckProto {
        PipelineAckProto { seqno, reply: vec![status.into()], ..Default::default() }
    }

    #[tokio::test]
    async fn a_packet_is_acknowledged_by_all_or_refused_by_one() {
        let mut links = links(3).await;
        assert_eq!(join_acks(&mut links), Ok(None));
        for index in [2, 0] {
            links[index].acks.extend([ack(5, Status::Success), ack(6, Status::Success)]);
            assert_eq!(join_acks(&mut links), Ok(None));
        }
        links[1].acks.push_back(ack(5, Status::Success));
        let all = join_acks(&mut links).expect("in step").expect("all have it");
        assert_eq!((all.seqno, all.reply), (5, vec![Status::Success as i32; 3]));
        assert_eq!(join_acks(&mut links), Ok(None), "the second member has not acknowledged the next");
        links[1].acks.push_back(ack(6, Status::ErrorNoSpace));
        let refused = join_acks(&mut links).expect("in step").expect("heard at once");
        let success = Status::Success as i32;
        assert_eq!((refused.seqno, refused.reply), (6, vec![success, Status::ErrorNoSpace as i32, success]));
        let mut links = self::links(2).await;
        links[0].acks.push_back(ack(7, Status::Success));
        links[1].acks.push_back(ack(8, Status::Success));
        assert_eq!(join_acks(&mut links), Err(1));
    }
}
