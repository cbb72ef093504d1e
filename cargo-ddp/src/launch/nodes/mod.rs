//! Several nodes: one launcher on each, started by hand or by a scheduler (torchrun's static rendezvous).
//!
//! | file | what it does |
//! |---|---|
//! | `join` | the launchers meet at node 0's `--master-addr` and `--master-port`, and agree on who has which ranks |
//! | `accept` | node 0's part of that, among strangers |
//! | `handshake` | what they say to each other until all have joined |
//! | `secret` | what a launcher must know to join |
//! | `bounds` | the largest numbers and the longest lists that they may send |
//! | `link` | the connection between two launchers: messages, signs of life, its end |
//! | `message` | what they say to each other |
//!
//! Node 0's dispatcher decides for all. The other launchers tell it what happens to their workers, and do what it says.
//! Workers never see any of this: they meet at a port of its own for each attempt, which node 0 opens for its rank 0.

mod accept;
mod bounds;
mod handshake;
mod join;
mod link;
mod message;
mod secret;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use serde::{Deserialize, Serialize};

pub(crate) use bounds::{LONGEST_ERROR_FILE, LONGEST_LINE, LONGEST_TEXT, shortened};
pub use join::{Rendezvous, join};
pub use link::Link;
pub(crate) use link::Lost;
pub(crate) use message::{FromCoordinator, ToCoordinator};
pub use secret::{Secret, SecretSource};

/// One launcher's part in the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its machine's name.
    pub host: String,
    /// Its first rank in the job.
    pub first_rank: usize,
    /// Number of its workers.
    pub nproc: usize,
    /// Their GPUs.
    pub gpus: Option<Vec<String>>,
}

impl Member {
    /// Its ranks.
    pub fn ranks(&self) -> Range<usize> {
        self.first_rank..self.first_rank + self.nproc
    }
}

/// All nodes of the job, and which of them is this one.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// By node rank.
    pub members: Vec<Member>,
    /// This one's.
    pub own: usize,
    /// Where rank 0's store is, as the workers look for it.
    pub master_addr: String,
    /// Where the store listens, on node 0; elsewhere, where this node is reached by the others. The port means nothing; a
    /// link-local IPv6 address means nothing without its interface.
    pub address: SocketAddr,
}

impl Nodes {
    /// This machine alone.
    pub fn one(nproc: usize, gpus: Option<Vec<String>>) -> Self {
        let member = Member { host: host_name(), first_rank: 0, nproc, gpus };
        let address = crate::os::loopback::address();
        Self { members: vec![member], own: 0, master_addr: address.to_string(), address: (address, 0).into() }
    }

    /// Whether there are others.
    pub fn are_several(&self) -> bool {
        self.members.len() > 1
    }

    /// This node's ranks.
    pub fn own_ranks(&self) -> Range<usize> {
        self.members[self.own].ranks()
    }

    /// Number of workers of the whole job.
    pub fn world_size(&self) -> usize {
        self.members.iter().map(|member| member.nproc).sum()
    }

    /// The node that has this rank.
    pub fn of_rank(&self, rank: usize) -> Option<(usize, &Member)> {
        self.members.iter().enumerate().find(|(_, member)| member.ranks().contains(&rank))
    }

    /// `node 1 (gpu-b)`.
    pub fn name(&self, node: usize) -> String {
        name(node, &self.members[node].host)
    }

    /// The network interface by which the others reach this node.
    pub fn interface(&self) -> Option<String> {
        interface_of(self.address)
    }
}

fn name(node: usize, host: &str) -> String {
    format!("node {node} ({host})")
}

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The interface that has this address, as the kernel lists them.
fn interface_of(address: SocketAddr) -> Option<String> {
    // The same link-local address may be on several interfaces.
    let scope = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
    let mut list = std::ptr::null_mut();
    // SAFETY: on success `list` leads to a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return None;
    }
    let mut found = None;
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: an entry of the list, which lives until it is freed.
        let interface = unsafe { &*entry };
        // SAFETY: null, or a socket address of the kind that its family tells.
        let same_address = unsafe { socket_address(interface.ifa_addr) } == Some(address.ip());
        // SAFETY: every entry has a name that ends with a zero.
        let name = unsafe { std::ffi::CStr::from_ptr(interface.ifa_name) };
        // SAFETY: as above.
        if same_address && (scope == 0 || unsafe { libc::if_nametoindex(name.as_ptr()) } == scope) {
            found = Some(name.to_string_lossy().into_owned());
            break;
        }
        entry = interface.ifa_next;
    }
    // SAFETY: it came from getifaddrs, and nothing of it is used any more.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// # Safety
/// `address` is null or leads to a socket address of the kind that its family tells.
unsafe fn socket_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: every socket address begins with its family.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says so.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(IpAddr::V4(u32::from_be(v4.sin_addr.s_addr).into()))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says so.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(IpAddr::V6(v6.sin6_addr.s6_addr.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn ranks_lie_one_node_after_the_other() {
        let member = |first_rank, nproc| Member { host: "h".into(), first_rank, nproc, gpus: None };
        let mut nodes = Nodes::one(2, None);
        assert!(!nodes.are_several() && nodes.own_ranks() == (0..2));
        nodes.members = vec![member(0, 2), member(2, 1), member(3, 4)];
        nodes.own = 2;
        assert_eq!((nodes.world_size(), nodes.own_ranks()), (7, 3..7));
        assert_eq!(nodes.of_rank(2).unwrap().0, 1);
        assert!(nodes.of_rank(7).is_none());
        assert_eq!(nodes.name(1), "node 1 (h)");
    }

    #[test]
    fn the_loopback_interface_is_found() {
        let interface = |address: IpAddr| interface_of((address, 0).into());
        assert_eq!(interface(Ipv4Addr::LOCALHOST.into()).as_deref(), Some("lo"));
        assert_eq!(interface(Ipv4Addr::new(203, 0, 113, 7).into()), None);
    }
}
