//! Processor time of the client and of the servers.
//!
//! Time comes from the processes' CPU clocks (`clock_getcpuclockid`), which count nanoseconds of all
//! threads, finished ones too, and are readable for any process on this machine. What cannot be known
//! (a server elsewhere, one that ended) is `None`, never a partial sum: a figure that misses a process
//! would look like a good one.

use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// CPU clock of one process.
#[derive(Clone, Copy)]
struct CpuClock(ClockId);

impl CpuClock {
    fn of(pid: Pid) -> Option<Self> {
        clock_getcpuclockid(pid).ok().map(Self)
    }

    fn read(self) -> Option<Duration> {
        self.0.now().ok().map(Duration::from)
    }
}

/// CPU clocks of one kind of server.
#[derive(Clone, Default)]
struct Group(Option<Vec<CpuClock>>);

impl Group {
    /// Processes named twice count once; one that is unknown makes the group unknown, and so does none.
    fn of(pids: Option<Vec<Pid>>) -> Self {
        Self(pids.filter(|pids| !pids.is_empty()).and_then(|mut pids| {
            pids.sort_unstable();
            pids.dedup();
            pids.into_iter().map(CpuClock::of).collect()
        }))
    }

    fn read(&self) -> Option<Duration> {
        self.0.as_ref()?.iter().map(|clock| clock.read()).sum()
    }
}

/// The processes whose time is measured.
#[derive(Clone, Default)]
pub struct CpuClocks {
    datanodes: Group,
    namenode: Group,
}

/// Processor time since each process began, or between two such readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// This process.
    pub client: Option<Duration>,
    /// All datanodes together.
    pub datanodes: Option<Duration>,
    /// The namenode.
    pub namenode: Option<Duration>,
}

impl CpuClocks {
    /// Clocks of these servers; `None` for servers that are not on this machine.
    pub fn new(namenode: Option<Pid>, datanodes: Option<Vec<Pid>>) -> Self {
        Self { datanodes: Group::of(datanodes), namenode: Group::of(namenode.map(|pid| vec![pid])) }
    }

    /// Whether the namenode's and all datanodes' clocks are known.
    pub fn complete(&self) -> bool {
        self.datanodes.0.is_some() && self.namenode.0.is_some()
    }

    /// All clocks now.
    pub fn read(&self) -> CpuTimes {
        CpuTimes { client: own_time(), datanodes: self.datanodes.read(), namenode: self.namenode.read() }
    }
}

impl CpuTimes {
    /// Time between an earlier reading and this one.
    pub fn since(self, earlier: Self) -> Self {
        let between = |now: Option<Duration>, then: Option<Duration>| now?.checked_sub(then?);
        Self {
            client: between(self.client, earlier.client),
            datanodes: between(self.datanodes, earlier.datanodes),
            namenode: between(self.namenode, earlier.namenode),
        }
    }

    /// All processes together.
    pub fn total(&self) -> Option<Duration> {
        Some(self.client? + self.datanodes? + self.namenode?)
    }
}

/// Processor time of this process.
pub fn own_time() -> Option<Duration> {
    CpuClock(ClockId::CLOCK_PROCESS_CPUTIME_ID).read()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(client: u64, datanodes: Option<u64>, namenode: Option<u64>) -> CpuTimes {
        let ms = Duration::from_millis;
        CpuTimes { client: Some(ms(client)), datanodes: datanodes.map(ms), namenode: namenode.map(ms) }
    }

    #[test]
    fn an_unknown_part_makes_the_total_unknown() {
        let delta = times(50, Some(300), Some(7)).since(times(20, Some(100), Some(2)));
        assert_eq!(delta, times(30, Some(200), Some(5)));
        assert_eq!(delta.total(), Some(Duration::from_millis(235)));
        let remote = times(50, None, Some(7)).since(times(20, Some(100), Some(2)));
        assert_eq!(remote, times(30, None, Some(5)));
        assert_eq!(remote.total(), None);
    }

    #[test]
    fn the_clock_of_this_process_counts_its_work() {
        let clocks = CpuClocks::new(Some(Pid::this()), Some(vec![Pid::this(), Pid::this()]));
        assert!(clocks.complete());
        let before = clocks.read();
        let mut value = 0u64;
        while clocks.read().since(before).total() < Some(Duration::from_millis(60)) {
            value = std::hint::black_box(value.wrapping_add(1));
        }
        let spent = clocks.read().since(before);
        assert!(spent.datanodes >= Some(Duration::from_millis(19)), "{spent:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_unknown() {
        // Linux gives out no process id above 2^22.
        let nobody = Pid::from_raw((1 << 22) + 1);
        let clocks = CpuClocks::new(None, Some(vec![Pid::this(), nobody]));
        assert!(!clocks.complete());
        let read = clocks.read();
        assert_eq!((read.datanodes, read.namenode), (None, None));
        assert!(read.client.is_some());
    }
}
