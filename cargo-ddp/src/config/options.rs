//! How a job is launched. A new option is one field here: the flag, the variable `DDP_…` and the key in Cargo.toml follow
//! from it. (Its users are in `commands`, its documentation in docs/launching.md.)

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::launch::plan::{Nproc, Show};

/// How a job is launched. An option without a value has its default, which is decided where it is used.
#[derive(Args, Clone, Debug, Default)]
pub struct LaunchOptions {
    /// GPUs to use, one worker each: numbers, ranges, UUIDs, MIG instances or `all`, as in `2,3` or `0-3` [default: all
    /// visible ones, or one worker on the CPU]
    #[arg(long, value_name = "LIST", conflicts_with = "nproc")]
    pub gpus: Option<String>,
    /// Number of workers; or `gpu` (one per GPU), `cpu` (one per core, on the CPU), `auto` (`gpu` if there are GPUs, else
    /// `cpu`)
    #[arg(long, value_name = "N", visible_alias = "nproc-per-node", alias = "nproc_per_node")]
    pub nproc: Option<Nproc>,
    /// Maximum restarts in a row without a new snapshot [default: 3, or 0 for a program of `launch` that does not use
    /// ddp-runtime]
    #[arg(long, value_name = "K")]
    pub max_restarts: Option<u32>,
    /// Time before the second restart in a row; doubled for each further one, at most a minute [default: 1]
    #[arg(long, value_name = "SECONDS")]
    pub backoff: Option<Seconds>,
    /// Time between asking workers to stop (SIGTERM) and killing them [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub grace: Option<Seconds>,
    /// Bind each worker to the cores and the memory of its GPU's NUMA node, or to its share of the cores
    #[arg(long)]
    pub bind: bool,
    /// Dump all ranks' stacks after this long without progress (0: off) [default: 600 with ddp-runtime, else off]
    #[arg(long, value_name = "SECONDS")]
    pub stall_timeout: Option<Seconds>,
    /// Restart all workers when they make no progress
    #[arg(long)]
    pub restart_on_stall: bool,
    /// Ranks whose output is shown: `all`, `none`, or `0,1` [default: all]
    #[arg(long, value_name = "RANKS")]
    pub show: Option<Show>,
    /// Directory for runs: their logs, reports and metrics [default: runs in the project, or here]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// The rank that reads standard input [default: none]
    #[arg(long, value_name = "RANK")]
    pub stdin: Option<usize>,
    /// Write a report of the job to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print all events as JSON on stdout, one object a line, workers' output included
    #[arg(long)]
    pub json: bool,
    /// Print only warnings, errors and workers' output
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the plan and each worker's environment, and launch nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Number of nodes; run `cargo ddp` once on each node [default: 1]
    #[arg(long, value_name = "N", help_heading = "Several nodes", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub nnodes: Option<u16>,
    /// This node's number, from 0
    #[arg(long, value_name = "R", help_heading = "Several nodes")]
    pub node_rank: Option<u16>,
    /// An address of node 0 that all nodes can reach
    #[arg(long, value_name = "HOST", help_heading = "Several nodes")]
    pub master_addr: Option<String>,
    /// A free port of node 0, to which the launchers connect [default: 29500]
    #[arg(long, value_name = "PORT", help_heading = "Several nodes", value_parser = clap::value_parser!(u16).range(1..))]
    pub master_port: Option<u16>,
    /// How long to wait for all nodes to join [default: 600]
    #[arg(long, value_name = "SECONDS", help_heading = "Several nodes")]
    pub join_timeout: Option<Seconds>,
    /// File with the secret that all nodes of the job share; node 0 creates it if it does not exist [default: the
    /// secret in DDP_JOB_SECRET]
    #[arg(long, value_name = "FILE", help_heading = "Several nodes")]
    pub secret_file: Option<PathBuf>,
}

/// More seconds than this mean the same: moments further away are beyond the clock's range.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A number of seconds, with or without a fraction; at most a hundred years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(seconds) if seconds >= FOREVER.as_secs_f64() => Ok(Self(FOREVER)),
            Ok(seconds) if seconds >= 0.0 => Ok(Self(Duration::from_secs_f64(seconds))),
            _ => Err("expected a number of seconds, 0 or more".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_refuse_negative_values_and_have_a_maximum() {
        assert_eq!("2.5".parse(), Ok(Seconds(Duration::from_millis(2500))));
        assert_eq!("1e300".parse(), Ok(Seconds(FOREVER)));
        assert_eq!("inf".parse(), Ok(Seconds(FOREVER)));
        for text in ["-1", "long", "", "nan"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
