//! Does planned faults and undoes them.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result};

use super::clock::Clocks;
use super::events::Events;
use super::network::Network;
use super::observation::{Replica, replicas};
use super::pauses::Lasting;
use super::plan::{Fault, NAMENODE, Planned, Targets};
use super::servers::Servers;
use super::volumes::Volume;
use crate::rng::Rng;

/// Longest wait for a namenode that is asked how it is.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);

/// What faults are done with.
#[derive(Debug)]
pub struct Injector<'r> {
    /// The processes.
    pub servers: &'r mut Servers,
    /// The network.
    pub network: &'r Network,
    /// The servers' clocks.
    pub clocks: &'r Clocks,
    /// The datanodes' volumes, by name.
    pub volumes: &'r [(String, Volume)],
    /// The namenode's disk.
    pub namenode_disk: &'r Volume,
    /// What there is to hit.
    pub targets: &'r Targets,
    /// All nodes of the network.
    pub nodes: &'r [String],
    /// Blocks of which a replica was damaged.
    pub damaged: &'r mut BTreeSet<u64>,
    /// Where to note what is done.
    pub events: &'r Events,
    /// Where to note how long it lasted.
    pub lasted: &'r mut Vec<Lasting>,
}

impl Injector<'_> {
    /// Does `planned`.
    pub fn begin(&mut self, planned: &Planned) -> Result<()> {
        self.events.note(format_args!("fault: {planned}"));
        self.lasted.push(Lasting {
            kind: planned.fault.kind(self.targets),
            client: planned.fault.client(self.targets),
            begin_ms: self.events.now_ms(),
            end_ms: None,
        });
        match &planned.fault {
            Fault::Kill(name) => self.servers.kill_9(name),
            Fault::KillAll => {
                let servers = self.all_servers();
                for name in &servers {
                    self.servers.begin_kill_9(name)?;
                }
                servers.iter().try_for_each(|name| self.servers.end_kill_9(name))
            }
            Fault::Stop(name) => self.servers.set_stopped(name, true),
            Fault::Slow(node, kilobits) => self.network.set_rate(node, Some(*kilobits)),
            Fault::Fill(server, left) => self.disk(server)?.fill(*left),
            Fault::Hang(datanode) => self.disk(datanode)?.hang(),
            Fault::TurnReadOnly(datanode) => self.disk(datanode)?.turn_read_only(),
            Fault::LoseWrites => self.namenode_disk.lose_writes(),
            Fault::Flip(choice) => self.flip(*choice),
            Fault::StepClock(name, seconds) => self.clocks.step(name, *seconds),
            Fault::CutOneWay(..) | Fault::CutBoth(..) | Fault::Mute(_) | Fault::Isolate(_) => {
                self.set_links(&planned.fault, false)
            }
        }
    }

    /// Undoes `planned`.
    pub fn end(&mut self, planned: &Planned) -> Result<()> {
        match &planned.fault {
            Fault::Kill(name) => self.servers.start(name, self.network, self.clocks)?,
            Fault::KillAll => {
                for name in self.all_servers() {
                    self.servers.start(&name, self.network, self.clocks)?;
                }
            }
            Fault::Stop(name) => self.servers.set_stopped(name, false)?,
            Fault::Slow(node, _) => self.network.set_rate(node, None)?,
            Fault::Fill(server, _) => {
                if server == NAMENODE {
                    self.note_what_the_namenode_says();
                }
                self.disk(server)?.free_up()?;
            }
            Fault::Hang(datanode) => self.disk(datanode)?.go_on()?,
            Fault::TurnReadOnly(datanode) => self.mend(datanode)?,
            Fault::LoseWrites => self.mend(NAMENODE)?,
            // What the scrubber, a reader or a check finds stays damaged until then.
            Fault::Flip(_) => return self.end_of(planned),
            Fault::StepClock(name, _) => self.clocks.step(name, 0)?,
            Fault::CutOneWay(..) | Fault::CutBoth(..) | Fault::Mute(_) | Fault::Isolate(_) => {
                self.set_links(&planned.fault, true)?;
            }
        }
        self.events.note(format_args!("ended: {:?}", planned.fault));
        self.end_of(planned)
    }

    /// Notes that it has ended.
    fn end_of(&mut self, planned: &Planned) -> Result<()> {
        let (kind, client) = (planned.fault.kind(self.targets), planned.fault.client(self.targets));
        let is_this = |lasting: &&mut Lasting| {
            lasting.end_ms.is_none() && lasting.kind == kind && lasting.client == client
        };
        // Of several of a kind the first to begin is taken for the first to end.
        if let Some(lasting) = self.lasted.iter_mut().find(is_this) {
            lasting.end_ms = Some(self.events.now_ms());
        }
        Ok(())
    }

    fn disk(&self, server: &str) -> Result<&Volume> {
        if server == NAMENODE {
            return Ok(self.namenode_disk);
        }
        let volume = self.volumes.iter().find(|(name, _)| name == server);
        volume.map(|(_, volume)| volume).with_context(|| format!("{server} has no disk"))
    }

    /// Kills a server, has its disk repaired, and starts it again.
    fn mend(&mut self, server: &str) -> Result<()> {
        self.servers.kill_9(server)?;
        self.disk(server)?.mend()?;
        self.servers.start(server, self.network, self.clocks)
    }

    /// What an operator would be told.
    fn note_what_the_namenode_says(&self) {
        let health = self.network.address(NAMENODE).and_then(|address| health(&address));
        self.events.note(format_args!("the namenode says: {health:?}"));
    }

    fn all_servers(&self) -> Vec<String> {
        self.targets.datanodes.iter().cloned().chain([NAMENODE.to_owned()]).collect()
    }

    /// Cuts the links of a fault of the network, or makes them whole.
    fn set_links(&self, fault: &Fault, whole: bool) -> Result<()> {
        let others = |node: &String| -> Vec<String> {
            self.nodes.iter().filter(|other| *other != node).cloned().collect()
        };
        let links: Vec<(String, String)> = match fault {
            Fault::CutOneWay(from, to) => vec![(from.clone(), to.clone())],
            Fault::CutBoth(one, other) => {
                vec![(one.clone(), other.clone()), (other.clone(), one.clone())]
            }
            Fault::Mute(node) => others(node).into_iter().map(|other| (node.clone(), other)).collect(),
            Fault::Isolate(node) => others(node)
                .into_iter()
                .flat_map(|other| [(node.clone(), other.clone()), (other, node.clone())])
                .collect(),
            Fault::Kill(_)
            | Fault::Stop(_)
            | Fault::Slow(..)
            | Fault::Fill(..)
            | Fault::Hang(_)
            | Fault::TurnReadOnly(_)
            | Fault::LoseWrites
            | Fault::Flip(_)
            | Fault::StepClock(..)
            | Fault::KillAll => Vec::new(),
        };
        links.iter().try_for_each(|(from, to)| self.network.set_link(from, to, whole))
    }

    /// Changes a byte of a replica that is not the last good one: of a block with two closed replicas of the newest generation at
    /// least, and never two of one block.
    fn flip(&mut self, choice: u64) -> Result<()> {
        let mut rng = Rng::new(choice);
        let mut all: Vec<Replica> = Vec::new();
        for (name, volume) in self.volumes {
            all.extend(replicas(name, &volume.data())?);
        }
        all.sort();
        // Who writes to a disk that hangs, hangs.
        let is_writable = |datanode: &str| {
            self.volumes.iter().any(|(name, volume)| name == datanode && volume.is_writable())
        };
        let sizes: Vec<u64> =
            all.iter().map(|replica| std::fs::metadata(&replica.data).map_or(0, |data| data.len())).collect();
        let can_be_hit = |index: usize| {
            let replica = &all[index];
            let same_block = || all.iter().enumerate().filter(|(_, other)| other.block == replica.block);
            let newest = same_block().map(|(_, other)| other.stamp).max().unwrap_or(0);
            let as_good = same_block()
                .filter(|(at, other)| other.finalized && other.stamp == newest && sizes[*at] == sizes[index]);
            replica.finalized
                && is_writable(&replica.datanode)
                && replica.stamp == newest
                && sizes[index] > 0
                && same_block().all(|(_, other)| other.finalized)
                && as_good.count() >= 2
                && !self.damaged.contains(&replica.block)
        };
        let candidates: Vec<usize> = (0..all.len()).filter(|index| can_be_hit(*index)).collect();
        if candidates.is_empty() {
            self.events.note("nothing to flip");
            return Ok(());
        }
        let index = *rng.pick(&candidates);
        let (replica, offset) = (&all[index], rng.below(sizes[index]));
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&replica.data) else {
            self.events.note("the replica to flip is gone");
            return Ok(());
        };
        let mut byte = [0u8];
        // A replica that is cut meanwhile is left alone.
        if file.read_exact_at(&mut byte, offset).is_ok() {
            file.write_all_at(&[byte[0] ^ (1 + rng.below(255) as u8)], offset)?;
            self.damaged.insert(replica.block);
            self.events.note(format_args!(
                "flipped byte {offset} of blk_{}_{} on {}",
                replica.block, replica.stamp, replica.datanode
            ));
        }
        Ok(())
    }
}

/// Faults that last, and those to come.
#[derive(Debug)]
pub struct Timetable {
    coming: Vec<Planned>,
    lasting: Vec<Planned>,
}

impl Timetable {
    /// Nothing has begun yet of `planned`, which is sorted by its start.
    pub fn new(mut planned: Vec<Planned>) -> Self {
        planned.reverse();
        Self { coming: planned, lasting: Vec::new() }
    }

    /// Ends and begins what is due `now`, from the beginning of the round.
    pub fn go_to(&mut self, now: Duration, injector: &mut Injector<'_>) -> Result<()> {
        let due: Vec<Planned> = self.lasting.extract_if(.., |planned| planned.end <= now).collect();
        for planned in due {
            injector.end(&planned)?;
        }
        while let Some(planned) = self.coming.pop_if(|planned| planned.start <= now) {
            injector.begin(&planned)?;
            self.lasting.push(planned);
        }
        Ok(())
    }

    /// Ends everything.
    pub fn heal(&mut self, injector: &mut Injector<'_>) -> Result<()> {
        self.coming.clear();
        for planned in std::mem::take(&mut self.lasting) {
            injector.end(&planned)?;
        }
        injector.network.heal()
    }

    /// Whether the process called `name` is not to be started now.
    pub fn keeps_down(&self, name: &str) -> bool {
        self.lasting.iter().any(|planned| match &planned.fault {
            Fault::Kill(victim) | Fault::TurnReadOnly(victim) => victim == name,
            Fault::LoseWrites => name == NAMENODE,
            Fault::KillAll => name == NAMENODE || name.starts_with("datanode"),
            _ => false,
        })
    }

    /// Whether the process called `name` may end by itself now: a namenode stops when a sync fails, and a datanode that is just
    /// starting when it can write to none of its disks.
    pub fn may_end(&self, name: &str) -> bool {
        self.lasting.iter().any(|planned| match &planned.fault {
            Fault::TurnReadOnly(victim) => victim == name,
            Fault::LoseWrites => name == NAMENODE,
            _ => false,
        })
    }
}

/// What the namenode at `address` answers who asks how it is.
fn health(address: &str) -> Result<String> {
    let address = format!("{address}:{}", dfs_proto::ports::NAMENODE_HTTP).parse()?;
    let mut socket = TcpStream::connect_timeout(&address, HEALTH_WITHIN)?;
    socket.set_read_timeout(Some(HEALTH_WITHIN))?;
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: namenode\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text.lines().last().unwrap_or_default().to_owned())
}
