//! A network of machines in one: a bridge, and a network namespace with an address of its own for each machine.
//!
//! The test itself is at the bridge. The link of a machine can be cut (packets vanish, and nobody is told) and slowed
//! down, in one direction or both. Everything is removed when the network is dropped. It takes root and the program `ip`, `tc` for
//! slow and cut links; where that is not to be had, [`Network::new`] says so loudly, and fails in CI.
//!
//! Invariants: names and addresses are this process's own; namespaces outlive no network, and a process in one is ended
//! by its owner before that.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

/// Machines of one network at most: their addresses fit one byte.
const MAX_MACHINES: usize = 200;

/// Subnets tried before giving up: others' tests may use some.
const SUBNET_ATTEMPTS: u32 = 64;

/// Address of machine 0; the bridge has 1.
const FIRST_HOST: usize = 10;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the machine.
    To,
    /// From the machine.
    From,
}

/// Both directions.
pub const BOTH: [Direction; 2] = [Direction::To, Direction::From];

/// What a link does in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Everything gets through at once.
    Good,
    /// Nothing gets through.
    Cut,
    /// At most so many bytes a second get through.
    Slow(u64),
}

/// The network.
#[derive(Debug)]
pub struct Network {
    /// Part of all names.
    id: String,
    /// First three bytes of all addresses.
    prefix: [u8; 3],
    machines: usize,
}

impl Network {
    /// A bridge with `machines` machines. None, loudly, where that is not allowed.
    pub fn new(machines: usize) -> Result<Option<Self>> {
        ensure!(machines <= MAX_MACHINES, "{machines} machines");
        if !geteuid().is_root() || run(&["ip", "-V"]).is_err() {
            ensure!(std::env::var_os("CI").is_none(), "network namespaces need root and iproute2");
            eprintln!("\n**** SKIPPED: network namespaces need root and iproute2 ****\n");
            return Ok(None);
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Interface names have 15 characters at most.
        let id = format!("{:x}.{number:x}", std::process::id());
        let bridge = format!("b{id}");
        let mut network = Self { id, prefix: [10, 0, 0], machines: 0 };
        run(&["ip", "link", "add", &bridge, "type", "bridge"])?;
        network.claim_subnet(&bridge, number)?;
        run(&["ip", "link", "set", &bridge, "up"])?;
        for machine in 0..machines {
            network.machines = machine + 1;
            network.plug_in(&bridge, machine)?;
        }
        Ok(Some(network))
    }

    /// Takes a subnet that nobody on this machine has.
    fn claim_subnet(&mut self, bridge: &str, number: u32) -> Result<()> {
        let start = std::process::id().wrapping_mul(31).wrapping_add(number);
        for attempt in 0..SUBNET_ATTEMPTS {
            let place = start.wrapping_add(attempt.wrapping_mul(257));
            // The upper half of 10/8, which machines rarely have.
            self.prefix = [10, 128 + (place >> 8 & 0x7f) as u8, (place & 0xff) as u8];
            let subnet = format!("{}/24", self.address_of(0));
            if run(&["ip", "-4", "route", "show", "root", &subnet])?.trim().is_empty() {
                let own = format!("{}/24", self.host());
                return run(&["ip", "addr", "add", &own, "dev", bridge]).map(drop);
            }
        }
        bail!("no free subnet")
    }

    fn plug_in(&self, bridge: &str, machine: usize) -> Result<()> {
        let (namespace, outer, inner) = (self.namespace(machine), self.outer(machine), self.inner(machine));
        let address = format!("{}/24", self.address(machine));
        run(&["ip", "netns", "add", &namespace])?;
        run(&["ip", "link", "add", &outer, "type", "veth", "peer", "name", &inner])?;
        run(&["ip", "link", "set", &inner, "netns", &namespace])?;
        run(&["ip", "link", "set", &outer, "master", bridge])?;
        run(&["ip", "link", "set", &outer, "up"])?;
        run(&["ip", "-n", &namespace, "link", "set", "lo", "up"])?;
        run(&["ip", "-n", &namespace, "addr", "add", &address, "dev", &inner])?;
        run(&["ip", "-n", &namespace, "link", "set", &inner, "up"]).map(drop)
    }

    /// The test's own address, the bridge's.
    pub fn host(&self) -> Ipv4Addr {
        self.address_of(1)
    }

    /// Address of a machine.
    pub fn address(&self, machine: usize) -> Ipv4Addr {
        self.address_of((FIRST_HOST + machine) as u8)
    }

    fn address_of(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.prefix[0], self.prefix[1], self.prefix[2], host)
    }

    /// A command that runs `program` on a machine, in a process of the command's number.
    pub fn command(&self, machine: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(machine)]).arg(program);
        command
    }

    /// Makes a machine's link behave in one direction.
    pub fn set(&self, machine: usize, direction: Direction, link: Link) -> Result<()> {
        let namespace = self.namespace(machine);
        let (mut command, device) = match direction {
            Direction::To => (vec!["tc"], self.outer(machine)),
            Direction::From => (vec!["tc", "-n", namespace.as_str()], self.inner(machine)),
        };
        let (rate, burst, limit) = match link {
            Link::Good => {
                command.extend(["qdisc", "del", "dev", &device, "root"]);
                // Nothing to delete is as good.
                let _ = run(&command);
                return Ok(());
            }
            // No packet fits the bucket: each is dropped.
            Link::Cut => ("8bit".to_owned(), "10b".to_owned(), "10b".to_owned()),
            // Two packets' burst; what waits may wait for about a second and a half.
            Link::Slow(bytes) => {
                (format!("{}bit", bytes * 8), "3100b".to_owned(), format!("{}b", 3100 + bytes * 3 / 2))
            }
        };
        command.extend(["qdisc", "replace", "dev", &device, "root", "tbf"]);
        command.extend(["rate", &rate, "burst", &burst, "limit", &limit]);
        run(&command).map(drop)
    }

    /// Nothing gets through between two machines, while others reach both.
    pub fn part(&self, one: usize, other: usize) -> Result<()> {
        self.route(one, "add", other)?;
        self.route(other, "add", one)
    }

    /// Undoes [`Self::part`].
    pub fn join(&self, one: usize, other: usize) -> Result<()> {
        self.route(one, "del", other)?;
        self.route(other, "del", one)
    }

    /// Adds or removes a route from a machine to another one that leads nowhere.
    fn route(&self, from: usize, verb: &str, to: usize) -> Result<()> {
        let to = format!("{}/32", self.address(to));
        run(&["ip", "-n", &self.namespace(from), "route", verb, "blackhole", &to]).map(drop)
    }

    fn namespace(&self, machine: usize) -> String {
        format!("dfs-{}-{machine}", self.id)
    }

    fn outer(&self, machine: usize) -> String {
        format!("o{}.{machine:x}", self.id)
    }

    fn inner(&self, machine: usize) -> String {
        format!("i{}.{machine:x}", self.id)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What is not there need not be removed.
        for machine in 0..self.machines {
            let _ = run(&["ip", "link", "del", &self.outer(machine)]);
            let _ = run(&["ip", "netns", "del", &self.namespace(machine)]);
        }
        let _ = run(&["ip", "link", "del", &format!("b{}", self.id)]);
    }
}

/// Runs a program to its end and answers what it printed.
fn run(command: &[&str]) -> Result<String> {
    let [program, arguments @ ..] = command else { bail!("no program") };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| (*program).to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", command.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
