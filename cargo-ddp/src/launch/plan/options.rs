//! The options of a launch, before the machine is known; `resolve` makes a plan of them.

use std::path::PathBuf;
use std::time::Duration;

use super::{Nproc, Show};

/// What the user asks of a launch, from flags, environment and Cargo.toml together. `None` and `false` are the defaults.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The project that the job belongs to.
    pub project: PathBuf,
    /// GPUs to use, one worker each: numbers, ranges, UUIDs, MIG instances or `all`.
    pub gpus: Option<String>,
    /// Number of workers.
    pub nproc: Option<Nproc>,
    /// Bind each worker to the cores and the memory of its GPU's NUMA node, or to its share of the cores.
    pub bind: bool,
    /// [`Rules::max_restarts`](super::Rules::max_restarts).
    pub max_restarts: Option<u32>,
    /// The program may not report to the launcher: without `max_restarts`, it is restarted only once it has reported something.
    pub only_reporting: bool,
    /// [`Rules::backoff`](super::Rules::backoff).
    pub backoff: Option<Duration>,
    /// [`Rules::grace`](super::Rules::grace).
    pub grace: Option<Duration>,
    /// [`Rules::stall_timeout`](super::Rules::stall_timeout).
    pub stall_timeout: Option<Duration>,
    /// [`Rules::restart_on_stall`](super::Rules::restart_on_stall).
    pub restart_on_stall: bool,
    /// Ranks whose output is shown: `all`, `none`, or `0,1`.
    pub show: Option<Show>,
    /// The rank that reads standard input.
    pub stdin: Option<usize>,
    /// Number of nodes.
    pub nnodes: Option<usize>,
    /// This node's number, from 0.
    pub node_rank: Option<usize>,
    /// An address of node 0 that all nodes can reach.
    pub master_addr: Option<String>,
    /// A port that is free on node 0.
    pub master_port: Option<u16>,
    /// How long to wait for all nodes to join.
    pub join_timeout: Option<Duration>,
    /// Variables that are meant for this launcher alone: workers do not inherit them.
    pub withheld: Vec<String>,
    /// File with the secret of a job on several nodes.
    pub secret_file: Option<PathBuf>,
}
