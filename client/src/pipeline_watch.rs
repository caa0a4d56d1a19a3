//! Finds the pipeline members that hold a writer up: those that have fallen silent, and those that crawl.
//!
//! The member we talk to is silent too when one behind it is, and a full pipeline stands still everywhere. So when the oldest packet
//! is not acknowledged for [`SUSPECT_AFTER`], or little was acknowledged in [`CRAWL_WINDOW`] of waiting, every member is
//! asked on its control port how far the packets have come. Who does not answer is out. If all answer, they are asked a few times more:
//! the member that waits for bytes which the one before it has had all the while is the one that holds the others up. Of several it
//! is the last, since those before it wait for it with full buffers. If the writer sends to every member itself (a star), it is the one
//! that waits for bytes while another one does not; if all wait, the writer's own link is slow. A member that is busy with what it has
//! received is given longer, since disks may be slow for a moment; one that has stored nothing of it for [`HUNG_LOOKS`] looks hangs.
//!
//! The pipeline goes on meanwhile. Invariant: at most one inquiry a pipeline at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::ErrorKind;
use dfs_proto::v1::{Block, PipelineProgress, ReplicaLocation};
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::dfs_client::Inner;
use crate::pipeline::{Pipeline, PipelineSetup, SetupFailure};
use crate::{TransferFault, datanode};

/// Time without an acknowledgement after which members are asked whether they live: a healthy pipeline needs milliseconds,
/// a busy disk's sync a few hundred.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_millis(1500);

/// Time in which a member must answer: one lost packet of a new connection, sent again after a second, is forgiven.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Waiting after which the rate of acknowledgements is looked at.
const CRAWL_WINDOW: Duration = Duration::from_secs(3);

/// Bytes a second below which a pipeline that is waited for crawls. Small flushed records are as slow on a busy disk, so members
/// are only asked then, and not blamed unless bytes wait between two of them.
const CRAWL_RATE: u64 = 128 << 10;

/// Looks at living members.
const LOOKS: usize = 4;

/// Time between two of them: in this time any network that is worth writing over has delivered a packet.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Looks at a member that is busy with what it has received, before it is blamed: with the time before the first one, three and a
/// half seconds in which its disk did nothing. What is left of five is for going on without it.
const HUNG_LOOKS: usize = 11;

/// Time in which a member must answer again. One that takes longer is taken to be where it was: the link that its packets crawl over
/// carries its answers, too.
const LOOK_TIMEOUT: Duration = Duration::from_millis(200);

/// Pairs of looks between which a member got nothing of what waits for it, before it is blamed.
const STUCK_PAIRS: usize = 2;

/// What an inquiry found out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Members that do not answer.
    pub silent: Vec<usize>,
    /// The member that bytes wait for.
    pub stuck: Option<usize>,
    /// The member that has bytes and does nothing with them.
    pub hung: Option<usize>,
}

/// What one member answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Silent,
    /// It lives, and nobody writes to it: it has finished, or never began.
    Idle,
    Writes(PipelineProgress),
}

async fn look_at(client: &Inner, block: Block, member: &ReplicaLocation, patience: Duration) -> Look {
    match datanode::progress(member, block, &client.config, patience).await {
        Ok(Some(progress)) => Look::Writes(progress),
        Ok(None) => Look::Idle,
        // A refusal is an answer: the member lives.
        Err(TransferFault::Control(error)) if error.kind != ErrorKind::Unavailable => Look::Idle,
        Err(_) => Look::Silent,
    }
}

async fn look(client: &Inner, block: Block, members: &[ReplicaLocation], patience: Duration) -> Vec<Look> {
    join_all(members.iter().map(|member| look_at(client, block, member, patience))).await
}

fn silent(looks: &[Look]) -> Vec<usize> {
    looks.iter().enumerate().filter(|(_, look)| **look == Look::Silent).map(|(index, _)| index).collect()
}

/// Indexes of the members that do not answer.
pub(crate) async fn silent_members(client: &Inner, block: Block, members: &[ReplicaLocation]) -> Vec<usize> {
    silent(&look(client, block, members, PROBE_TIMEOUT).await)
}

/// Who holds up a pipeline into which `queued` units were put; `star`: each member gets them from the writer.
pub(crate) async fn inquire(
    client: &Inner,
    (block, members): (Block, &[ReplicaLocation]),
    queued: u64,
    star: bool,
) -> Findings {
    let first = look(client, block, members, PROBE_TIMEOUT).await;
    let silent = silent(&first);
    if !silent.is_empty() {
        return Findings { silent, ..Findings::default() };
    }
    let mut last = first.clone();
    let mut series = Vec::with_capacity(HUNG_LOOKS);
    series.push(first);
    // A member that may hang is looked at longer.
    while series.len() < LOOKS || series.len() < HUNG_LOOKS && hung(&series).is_some() {
        tokio::time::sleep(LOOK_EVERY).await;
        for (known, look) in last.iter_mut().zip(look(client, block, members, LOOK_TIMEOUT).await) {
            if look != Look::Silent {
                *known = look;
            }
        }
        series.push(last.clone());
        if series.len() == LOOKS
            && let Some(stuck) = stuck(&series, queued, star)
        {
            return Findings { stuck: Some(stuck), ..Findings::default() };
        }
    }
    let hung = if series.len() < HUNG_LOOKS { None } else { hung(&series) };
    Findings { hung, ..Findings::default() }
}

/// The last member that had bytes all the while and stored none of them. Those before it may wait for it with full buffers.
fn hung(series: &[Vec<Look>]) -> Option<usize> {
    let first = series.first()?;
    (0..first.len()).rev().find(|member| {
        let Look::Writes(then) = first[*member] else { return false };
        then.stored < then.received
            && series
                .iter()
                .all(|looks| matches!(looks[*member], Look::Writes(now) if now.stored == then.stored))
    })
}

/// The last member that got nothing, between two looks often enough, while who sends to it had more. Of a star it is none if it
/// is all.
fn stuck(series: &[Vec<Look>], queued: u64, star: bool) -> Option<usize> {
    let members = series.first().map_or(0, Vec::len);
    let starves = |member: &usize| {
        let waits = series.windows(2).filter(|pair| {
            let (Some(before), Some(after)) =
                (starving(&pair[0], *member, queued, star), starving(&pair[1], *member, queued, star))
            else {
                return false;
            };
            before == after
        });
        waits.count() >= STUCK_PAIRS
    };
    let last = (0..members).rev().find(starves)?;
    if star && members > 1 && (0..members).all(|member| starves(&member)) { None } else { Some(last) }
}

/// Units that a member has received, if it waits for some that who sends to it has.
fn starving(looks: &[Look], member: usize, queued: u64, star: bool) -> Option<u64> {
    let Look::Writes(progress) = looks[member] else { return None };
    let sender = if star { None } else { member.checked_sub(1) };
    let before = match sender.map(|before| looks[before]) {
        // The beginning of a packet is passed on with its first bytes.
        Some(Look::Writes(before)) if has_only_begun(before) => before.stored,
        Some(Look::Writes(before)) => before.received,
        // All that there is.
        Some(Look::Idle | Look::Silent) | None => queued,
    };
    (progress.received < before && has_only_begun(progress)).then_some(progress.received)
}

/// Of what a member has not stored it has got the beginning of a packet at most, which counts before its bytes have come.
fn has_only_begun(progress: PipelineProgress) -> bool {
    progress.received.saturating_sub(progress.stored) <= units(0)
}

/// Watches how the packets of one pipeline are acknowledged.
#[derive(Debug)]
pub(crate) struct Watch {
    queued: u64,
    acknowledged: u64,
    /// When the oldest packet on its way became that.
    oldest_since: Instant,
    /// Time of waiting, and units acknowledged in it, since it was last judged.
    waited: Duration,
    got: u64,
    crawls: bool,
    /// End of the last inquiry.
    inquired: Instant,
    inquiry: Option<JoinHandle<Findings>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Watch {
    const fn new(now: Instant) -> Self {
        Self {
            queued: 0,
            acknowledged: 0,
            oldest_since: now,
            waited: Duration::ZERO,
            got: 0,
            crawls: false,
            inquired: now,
            inquiry: None,
        }
    }
}

/// Units of a packet with `data` bytes.
const fn units(data: usize) -> u64 {
    data as u64 + 1
}

impl Watch {
    /// A packet with `data` bytes goes out.
    pub(crate) fn sent(&mut self, data: usize) {
        self.sent_at(data, Instant::now());
    }

    fn sent_at(&mut self, data: usize, now: Instant) {
        if self.queued == self.acknowledged {
            self.oldest_since = now;
        }
        self.queued += units(data);
    }

    /// The oldest packet was acknowledged; it has `data` bytes.
    pub(crate) fn acked(&mut self, data: usize) {
        self.acked_at(data, Instant::now());
    }

    fn acked_at(&mut self, data: usize, now: Instant) {
        self.acknowledged += units(data);
        self.got += units(data);
        self.waited += now.saturating_duration_since(self.oldest_since);
        self.oldest_since = now;
        if self.waited >= CRAWL_WINDOW {
            self.crawls = u128::from(self.got) * 1000 < u128::from(CRAWL_RATE) * self.waited.as_millis();
            (self.waited, self.got) = (Duration::ZERO, 0);
        }
    }

    /// Units put into the pipeline.
    pub(crate) fn queued(&self) -> u64 {
        self.queued
    }

    /// When members are to be asked, if nothing happens before.
    pub(crate) fn suspicious_at(&self) -> Instant {
        if self.crawls { self.inquired } else { self.oldest_since.max(self.inquired) + SUSPECT_AFTER }
    }

    /// Whether an inquiry is going on.
    pub(crate) fn inquires(&self) -> bool {
        self.inquiry.is_some()
    }

    /// Starts one.
    pub(crate) fn start(
        &mut self,
        client: &Arc<Inner>,
        (block, members): (Block, &[ReplicaLocation]),
        star: bool,
    ) {
        let (client, members, queued) = (Arc::clone(client), members.to_vec(), self.queued);
        self.crawls = false;
        self.inquiry =
            Some(tokio::spawn(async move { inquire(&client, (block, &members), queued, star).await }));
    }

    /// What the inquiry has found out; waits for ever if there is none. Cancelling it loses nothing.
    pub(crate) async fn findings(&mut self) -> Findings {
        let Some(inquiry) = &mut self.inquiry else { return std::future::pending().await };
        let found = inquiry.await.unwrap_or_default();
        self.inquiry = None;
        self.inquired = Instant::now();
        found
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(inquiry) = &self.inquiry {
            inquiry.abort();
        }
    }
}

/// Sets up a pipeline, and finds out who is to blame if that takes too long.
pub(crate) async fn open_watched(
    client: &Arc<Inner>,
    setup: &PipelineSetup<'_>,
    eager: Vec<Bytes>,
) -> Result<Pipeline, SetupFailure> {
    let mut opening = std::pin::pin!(Pipeline::open(setup, eager));
    loop {
        if let Ok(outcome) = timeout(SUSPECT_AFTER, &mut opening).await {
            return outcome;
        }
        let asked = silent_members(client, setup.block, setup.members);
        let silent = tokio::select! {
            outcome = &mut opening => return outcome,
            silent = asked => silent,
        };
        if !silent.is_empty() {
            return Err(SetupFailure { bad: silent, fault: TransferFault::Timeout });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(received: u64, stored: u64) -> Look {
        Look::Writes(PipelineProgress { received, stored })
    }

    #[test]
    fn the_last_member_that_bytes_wait_for_is_stuck() {
        let same = |looks: [Look; 3]| vec![looks.to_vec(); LOOKS];
        // Everything stands; members before the stuck one are full, and busy with passing on.
        let behind_second = same([writes(900, 700), writes(500, 400), writes(100, 100)]);
        assert_eq!(stuck(&behind_second, 1000, false), Some(2));
        assert_eq!(
            stuck(&same([writes(900, 700), writes(500, 500), writes(500, 500)]), 1000, false),
            Some(1)
        );
        assert_eq!(
            stuck(&same([writes(100, 100), writes(100, 100), writes(100, 100)]), 1000, false),
            Some(0)
        );
        // All have everything: somebody syncs.
        assert_eq!(
            stuck(&same([writes(1000, 900), writes(1000, 1000), writes(1000, 900)]), 1000, false),
            None
        );
        // The last one's disk is slow, and all others wait for it.
        assert_eq!(stuck(&same([writes(900, 700), writes(800, 400), writes(100, 50)]), 1000, false), None);
        // The last one has got the beginning of a packet.
        assert_eq!(
            stuck(&same([writes(900, 700), writes(500, 400), writes(101, 100)]), 1000, false),
            Some(2)
        );
        // Slow is the link to the one that has got the beginning of a packet and has nothing to pass on yet.
        let first = same([writes(101, 100), writes(100, 100), writes(100, 100)]);
        assert_eq!(stuck(&first, 1000, false), Some(0));
        let second = same([writes(1000, 1000), writes(101, 100), writes(100, 100)]);
        assert_eq!(stuck(&second, 1000, false), Some(1));
        // The member before it is done with the block.
        assert_eq!(stuck(&same([Look::Idle, writes(999, 999), Look::Idle]), 1000, false), Some(1));
    }

    #[test]
    fn of_a_star_who_waits_for_bytes_that_others_have_got_is_stuck() {
        let same = |looks: [Look; 3]| vec![looks.to_vec(); LOOKS];
        let (done, waits) = (writes(1000, 1000), writes(400, 400));
        assert_eq!(stuck(&same([waits, done, done]), 1000, true), Some(0));
        assert_eq!(stuck(&same([done, waits, done]), 1000, true), Some(1));
        assert_eq!(
            stuck(&same([waits, writes(300, 300), done]), 1000, true),
            Some(1),
            "the other one is next"
        );
        assert_eq!(stuck(&same([waits, done, waits]), 1000, true), Some(2), "whatever others have");
        assert_eq!(stuck(&same([waits, waits, waits]), 1000, true), None, "our own link is slow");
        assert_eq!(stuck(&same([done, writes(1000, 400), Look::Idle]), 1000, true), None, "a slow disk");
    }

    #[test]
    fn the_last_member_whose_disk_does_nothing_hangs() {
        let same = |looks: [Look; 3]| vec![looks.to_vec(); HUNG_LOOKS];
        let idle = writes(1000, 1000);
        assert_eq!(hung(&same([writes(1000, 900), idle, idle])), Some(0));
        // The first one waits for the second with full buffers.
        assert_eq!(hung(&same([writes(900, 700), writes(500, 400), writes(100, 100)])), Some(1));
        assert_eq!(hung(&same([idle, idle, idle])), None);
        assert_eq!(hung(&same([Look::Idle, idle, Look::Idle])), None);
        let mut series = same([writes(1000, 900), idle, idle]);
        series[HUNG_LOOKS - 1][0] = writes(1000, 901);
        assert_eq!(hung(&series), None, "it gets on");
        assert_eq!(hung(&[]), None);
    }

    #[test]
    fn a_member_that_gets_on_is_not_stuck() {
        let series: Vec<Vec<Look>> =
            (0..LOOKS as u64).map(|n| vec![writes(50 + n, 50 + n), writes(10 + n, 10 + n)]).collect();
        assert_eq!(stuck(&series, 1000, false), None);
        let mut series = vec![vec![writes(50, 50), writes(10, 10)]; LOOKS];
        series[1] = vec![writes(50, 50), writes(11, 11)];
        series[2] = vec![writes(50, 50), writes(12, 12)];
        assert_eq!(stuck(&series, 50, false), None, "one pause only");
        assert_eq!(stuck(&[], 50, false), None);
    }

    #[test]
    fn a_pipeline_is_suspicious_when_a_packet_is_late_and_when_little_comes_in_all_the_waiting() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.sent_at(100, start + CRAWL_WINDOW);
        assert_eq!(watch.suspicious_at(), start + CRAWL_WINDOW + SUSPECT_AFTER);
        watch.acked_at(100, start + CRAWL_WINDOW + Duration::from_millis(1));
        assert!(!watch.crawls, "idle time does not count");
        let mut now = start + CRAWL_WINDOW * 2;
        for _ in 0..4 {
            watch.sent_at(4096, now);
            now += Duration::from_secs(1);
            watch.acked_at(4096, now);
        }
        assert!(watch.crawls && watch.suspicious_at() <= now);
        let mut watch = Watch::new(start);
        for n in 0..4 {
            watch.sent_at(1 << 20, start + Duration::from_secs(n));
            watch.acked_at(1 << 20, start + Duration::from_secs(n + 1));
        }
        assert!(!watch.crawls);
    }
}
