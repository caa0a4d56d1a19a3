//! Which local process listens on which TCP port, from `/proc`.
//!
//! `/proc/net/tcp` and `tcp6` give the inode of each listening socket; `/proc/PID/fd` gives the sockets
//! of each process. The descriptors of other users' processes cannot be read: those are not found.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::unistd::Pid;

/// State of a listening socket in `/proc/net/tcp`.
const STATE_LISTEN: &str = "0A";

/// One line of `/proc/net/tcp` or `tcp6` in state LISTEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    addr: SocketAddr,
    inode: u64,
}

impl Listener {
    /// Whether a connection to `addr` on this machine ends here.
    fn takes(&self, addr: SocketAddr) -> bool {
        self.addr.port() == addr.port()
            && (self.addr.ip().is_unspecified() || canonical(self.addr.ip()) == canonical(addr.ip()))
    }
}

/// The process that listens on each of `addrs`, in their order; `None` where none is found.
pub fn pids_listening_on(addrs: &[SocketAddr]) -> Vec<Option<Pid>> {
    let listeners: Vec<Listener> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| parse_listeners(&text))
        .collect();
    let inodes: Vec<Option<u64>> =
        addrs.iter().map(|addr| listeners.iter().find(|l| l.takes(*addr)).map(|l| l.inode)).collect();
    let owners = socket_owners(&inodes.iter().copied().flatten().collect::<Vec<u64>>());
    inodes.into_iter().map(|inode| owners.get(&inode?).copied()).collect()
}

/// The process that has each of these sockets open. One that inherited a descriptor counts less than
/// the one with the lower process id, its parent.
fn socket_owners(inodes: &[u64]) -> HashMap<u64, Pid> {
    let mut owners = HashMap::new();
    if inodes.is_empty() {
        return owners;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return owners };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            if let Some(inode) = target.to_str().and_then(parse_socket_link)
                && inodes.contains(&inode)
            {
                let owner = owners.entry(inode).or_insert(Pid::from_raw(pid));
                *owner = Pid::from_raw(pid.min(owner.as_raw()));
            }
        }
    }
    owners
}

/// `socket:[1234]` is 1234.
fn parse_socket_link(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// All listening sockets of a `/proc/net/tcp` or `tcp6`. Lines that make no sense are passed over.
fn parse_listeners(text: &str) -> Vec<Listener> {
    text.lines().skip(1).filter_map(parse_line).collect()
}

/// Fields: number, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode.
fn parse_line(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if *fields.get(3)? != STATE_LISTEN {
        return None;
    }
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let addr = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some(Listener { addr, inode: fields.get(9)?.parse().ok()? })
}

/// The kernel prints addresses as words in the machine's byte order: one for IPv4, four for IPv6.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// An IPv4 address in IPv6 clothes is that IPv4 address.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Lines as a little-endian machine prints them.
    #[cfg(target_endian = "little")]
    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:265C 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0
   1: 00000000:268A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0000000000000000 100 0 0 10 0
   2: 0100007F:265C 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0000000000000000 20 4 30 10 -1
   3: rubbish
";

    #[cfg(target_endian = "little")]
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:265C 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1 0000000000000000 100 0 0 10 0
";

    #[cfg(target_endian = "little")]
    #[test]
    fn listening_sockets_are_read_and_others_passed_over() {
        let addr = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let found = parse_listeners(TCP);
        let expected = [(addr("127.0.0.1:9820"), 4711), (addr("0.0.0.0:9866"), 4712)]
            .map(|(addr, inode)| Listener { addr, inode });
        assert_eq!(found, expected);
        assert!(found[0].takes(addr("127.0.0.1:9820")));
        assert!(!found[0].takes(addr("127.0.0.2:9820")), "bound to another address");
        assert!(found[1].takes(addr("127.0.0.2:9866")), "bound to all addresses");
        assert!(!found[1].takes(addr("127.0.0.1:9820")), "another port");
        assert_eq!(parse_listeners(TCP6), [Listener { addr: addr("[::1]:9820"), inode: 99 }]);
    }

    #[test]
    fn socket_links() {
        assert_eq!(parse_socket_link("socket:[4711]"), Some(4711));
        for other in ["pipe:[4711]", "socket:[x]", "/dev/null", "socket:[1"] {
            assert_eq!(parse_socket_link(other), None, "{other}");
        }
    }

    #[test]
    fn finds_this_process_and_not_a_closed_port() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let open = listener.local_addr().expect("an address");
        let closed = SocketAddr::new(open.ip(), 0);
        assert_eq!(pids_listening_on(&[open, closed]), [Some(Pid::this()), None]);
    }
}
