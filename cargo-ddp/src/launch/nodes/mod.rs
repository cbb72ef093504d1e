//! Several nodes: one launcher on each, started by hand or by a scheduler (torchrun's static rendezvous).
//!
//! | file | what it does |
//! |---|---|
//! | `rendezvous` | where the launchers meet: node 0's `--master-addr` and `--master-port` |
//! | `join` | they meet there, and agree on who has which ranks |
//! | `accept` | node 0's part of that, among strangers |
//! | `handshake` | what they send each other until all have joined |
//! | `secret` | what a launcher must know to join |
//! | `bounds` | the largest numbers and the longest lists that they may send |
//! | `link` | the connection between two launchers: messages, signs of life, its end |
//! | `message` | what they send each other |
//!
//! Node 0's dispatcher decides for all. The other launchers report to it what happens to their workers, and do what it says.
//! Workers never see any of this: they meet at a new port for each attempt, which node 0 opens for its rank 0.

mod accept;
mod bounds;
mod handshake;
mod join;
mod link;
mod message;
mod rendezvous;
mod secret;

use std::net::SocketAddr;
use std::ops::Range;

use serde::{Deserialize, Serialize};

pub(crate) use bounds::{LONGEST_ERROR_FILE, LONGEST_LINE, LONGEST_TEXT, shortened};
pub use join::join;
pub use link::Link;
pub(crate) use link::Lost;
pub(crate) use message::{FromCoordinator, ToCoordinator};
pub use rendezvous::Rendezvous;
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
    /// Whether there are other nodes.
    pub fn is_multi_node(&self) -> bool {
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
}

/// `node 1 (gpu-b)`.
pub(crate) fn name(node: usize, host: &str) -> String {
    format!("node {node} ({host})")
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_numbered_node_by_node() {
        let member = |first_rank, nproc| Member { host: "h".into(), first_rank, nproc, gpus: None };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut nodes = Nodes { members: vec![member(0, 2)], own: 0, master_addr: "127.0.0.1".into(), address };
        assert!(!nodes.is_multi_node() && nodes.own_ranks() == (0..2));
        nodes.members = vec![member(0, 2), member(2, 1), member(3, 4)];
        nodes.own = 2;
        assert_eq!((nodes.world_size(), nodes.own_ranks()), (7, 3..7));
        assert_eq!(nodes.of_rank(2).unwrap().0, 1);
        assert!(nodes.of_rank(7).is_none());
        assert_eq!(nodes.name(1), "node 1 (h)");
    }
}
