//! The address, port, timeout and secret with which the launchers of all nodes join.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::secret::SecretSource;
use crate::Error;

/// How long one side may take for its part of joining.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// Where the launchers of all nodes meet: torchrun's `--nnodes`, `--node-rank`, `--master-addr` and `--master-port`.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// Number of nodes.
    pub nnodes: usize,
    /// This one's number, from 0.
    pub node_rank: usize,
    /// An address of node 0.
    pub master_addr: String,
    /// A port that is free there.
    pub master_port: u16,
    /// How long to wait for all nodes to join.
    pub timeout: Duration,
    /// What a launcher must know to join.
    pub secret: SecretSource,
}

impl Rendezvous {
    pub(crate) fn place(&self) -> String {
        match self.master_addr.contains(':') {
            true => format!("[{}]:{}", self.master_addr, self.master_port),
            false => format!("{}:{}", self.master_addr, self.master_port),
        }
    }

    pub(crate) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((self.master_addr.as_str(), self.master_port).to_socket_addrs()?.collect())
    }

    pub(crate) fn failed(&self, problem: impl Into<String>) -> Error {
        Error::Rendezvous { place: self.place(), problem: problem.into() }
    }
}

/// `600 s`, `0.5 s`.
pub(super) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 && seconds.fract() > 0.05 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}
