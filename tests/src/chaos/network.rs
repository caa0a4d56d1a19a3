//! A network namespace a node, joined by a bridge.
//!
//! Nodes know each other's hardware addresses for good, so that nothing is asked on the wire. A link is cut one way when the
//! sender has a hardware address for the receiver that nobody has: packets leave and arrive nowhere, as in a network that
//! loses them, and connections that exist are cut as well as new ones.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::isolation::NAMES_OF_NETWORKS;

/// The bridge, which is also the node from which the run itself watches; its links are never cut.
const BRIDGE: &str = "br0";

/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:ff:ff";

/// Addresses are 10.77.0.N.
const WATCHER: u8 = 200;

/// Bytes that a slowed link may send at once.
const BURST: &str = "16kb";

/// How long a packet waits at a slowed link before it is dropped.
const QUEUE: &str = "300ms";

/// The nodes' network.
#[derive(Debug)]
pub struct Network {
    /// Last byte of each node's address.
    numbers: BTreeMap<String, u8>,
}

impl Network {
    /// Makes the network of `nodes` in this process's namespaces, which are its own.
    pub fn new(nodes: &[String]) -> Result<Self> {
        ensure!(nodes.len() < usize::from(WATCHER), "too many nodes");
        std::fs::create_dir_all(NAMES_OF_NETWORKS)?;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), NAMES_OF_NETWORKS, Some("tmpfs"), flags, None::<&str>)?;
        let numbers = nodes.iter().cloned().zip(1..).collect();
        let network = Self { numbers };
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link add {BRIDGE} address {} type bridge", hardware(WATCHER)),
            format!("addr add {}/24 dev {BRIDGE}", address(WATCHER)),
            format!("link set {BRIDGE} up"),
        ];
        for (node, number) in &network.numbers {
            lines.push(format!("netns add {node}"));
            lines.push(format!(
                "link add v{number} type veth peer name eth0 address {} netns {node}",
                hardware(*number)
            ));
            lines.push(format!("link set v{number} master {BRIDGE} up"));
            lines.push(format!(
                "neigh replace {} lladdr {} dev {BRIDGE}",
                address(*number),
                hardware(*number)
            ));
        }
        ip(&[], &lines)?;
        for (node, number) in &network.numbers {
            let mut lines = vec![
                "link set lo up".to_owned(),
                format!("addr add {}/24 dev eth0", address(*number)),
                "link set eth0 up".to_owned(),
                neighbour(WATCHER, &hardware(WATCHER)),
            ];
            let others = network.numbers.values().filter(|other| *other != number);
            lines.extend(others.map(|other| neighbour(*other, &hardware(*other))));
            ip(&["-n", node], &lines)?;
        }
        Ok(network)
    }

    /// IP address of `node`.
    pub fn address(&self, node: &str) -> Result<String> {
        Ok(address(self.number(node)?))
    }

    /// A command that runs `program` at `node`. It is the process that is started, not a child of it.
    pub fn command(&self, node: &str, program: &str) -> Result<Command> {
        self.number(node)?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NAMES_OF_NETWORKS}/{node}")).args(["--", program]);
        Ok(command)
    }

    /// From now on, what `from` sends to `to` is lost, or (`whole`) arrives again.
    pub fn set_link(&self, from: &str, to: &str, whole: bool) -> Result<()> {
        let number = self.number(to)?;
        let hardware = if whole { hardware(number) } else { NOBODY.to_owned() };
        ip(&["-n", from], &[neighbour(number, &hardware)])
    }

    /// Slows what `node` sends and gets to `kilobits` a second each, or (`None`) no longer.
    pub fn set_rate(&self, node: &str, kilobits: Option<u32>) -> Result<()> {
        let port = format!("v{}", self.number(node)?);
        for (namespace, device) in [(vec!["-n", node], "eth0"), (Vec::new(), port.as_str())] {
            let mut command = Command::new("tc");
            command.args(namespace).args(["qdisc"]);
            match kilobits {
                Some(kilobits) => command
                    .args(["replace", "dev", device, "root", "tbf", "rate", &format!("{kilobits}kbit")])
                    .args(["burst", BURST, "latency", QUEUE]),
                None => command.args(["del", "dev", device, "root"]),
            };
            let output = command.stdin(Stdio::null()).output().context("tc")?;
            // A link that is not slowed has nothing to remove.
            ensure!(
                output.status.success() || kilobits.is_none(),
                "tc for {node}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// All links whole and fast.
    pub fn heal(&self) -> Result<()> {
        for (node, number) in &self.numbers {
            let others = self.numbers.values().filter(|other| *other != number);
            let lines: Vec<String> = others.map(|other| neighbour(*other, &hardware(*other))).collect();
            ip(&["-n", node], &lines)?;
            self.set_rate(node, None)?;
        }
        Ok(())
    }

    fn number(&self, node: &str) -> Result<u8> {
        self.numbers.get(node).copied().with_context(|| format!("no node {node}"))
    }
}

fn address(number: u8) -> String {
    format!("10.77.0.{number}")
}

fn hardware(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

fn neighbour(number: u8, hardware: &str) -> String {
    format!("neigh replace {} lladdr {hardware} dev eth0 nud permanent", address(number))
}

/// Runs the commands in `lines` with one `ip`.
fn ip(arguments: &[&str], lines: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments).args(["-batch", "-"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("ip")?;
    child.stdin.take().context("the input of ip")?.write_all((lines.join("\n") + "\n").as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
