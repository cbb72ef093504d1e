//! How a job is launched, and what is built for it: the flags that several commands share.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::project::cargo::Selection;

/// How a job is launched. Those without a value are taken from `[package.metadata.ddp]`, where they have the same names
/// (`max-restarts = 5`), and then from the defaults.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct LaunchOptions {
    /// GPUs to use, one worker each: numbers, ranges, UUIDs, MIG instances or `all`, as in `2,3` or `0-3` [default: all
    /// visible ones, or one worker on the CPU]
    #[arg(long, value_name = "LIST", conflicts_with = "nproc")]
    pub gpus: Option<String>,
    /// Number of workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub nproc: Option<u16>,
    /// How often to restart all workers from the newest snapshot when one fails, without a new snapshot between
    /// [default: 3]
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
    /// Time without progress after which the stacks of all ranks are written; 0: never [default: 600 for workers that
    /// tell of their steps, never for others]
    #[arg(long, value_name = "SECONDS")]
    pub stall_timeout: Option<Seconds>,
    /// Restart all workers when they make no progress
    #[arg(long)]
    pub restart_on_stall: bool,
    /// Ranks whose output is shown: `all`, `none`, or `0,1` [default: all]
    #[arg(long, value_name = "RANKS")]
    pub show: Option<String>,
    /// Directory for runs: their logs, reports and metrics [default: runs in the project, or here]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// The rank that reads standard input [default: none]
    #[arg(long, value_name = "RANK")]
    pub stdin: Option<usize>,
    /// Write what happened to the job to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print everything that happens as JSON on stdout, one object a line, workers' output included
    #[arg(long)]
    pub json: bool,
    /// Print warnings and errors only, beside workers' output
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the plan and each worker's environment, and launch nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Number of nodes; a launcher is to be started on each [default: 1]
    #[arg(long, value_name = "N", help_heading = "Several nodes", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub nnodes: Option<u16>,
    /// This node's number, from 0
    #[arg(long, value_name = "R", help_heading = "Several nodes")]
    pub node_rank: Option<u16>,
    /// An address of node 0 that all nodes can reach
    #[arg(long, value_name = "HOST", help_heading = "Several nodes")]
    pub master_addr: Option<String>,
    /// A port that is free on node 0, where the launchers meet [default: 29500]
    #[arg(long, value_name = "PORT", help_heading = "Several nodes", value_parser = clap::value_parser!(u16).range(1..))]
    pub master_port: Option<u16>,
    /// Time for all nodes to come [default: 600]
    #[arg(long, value_name = "SECONDS", help_heading = "Several nodes")]
    pub join_timeout: Option<Seconds>,
    /// File with the secret that all nodes of the job share; node 0 creates it if it does not exist [default: the
    /// secret in DDP_JOB_SECRET, or the file in DDP_JOB_SECRET_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Several nodes")]
    pub secret_file: Option<PathBuf>,
}

/// More seconds than this mean the same: moments further away are beyond the clock's range.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A number of seconds, with or without a fraction; at most a hundred years.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(pub Duration);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if seconds >= FOREVER.as_secs_f64() {
            return Ok(Self(FOREVER));
        }
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|err| err.to_string())
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<f64>().map_err(|_| format!("{text:?} is not a number of seconds"))?.try_into()
    }
}

/// cargo's selection flags.
#[derive(Args, Debug)]
#[command(next_help_heading = "Build")]
pub struct Build {
    /// Package to build
    #[arg(short, long, value_name = "SPEC")]
    package: Option<String>,
    /// Binary to run
    #[arg(long, value_name = "NAME", conflicts_with = "example")]
    bin: Option<String>,
    /// Example to run
    #[arg(long, value_name = "NAME")]
    example: Option<String>,
    /// Build with optimizations
    #[arg(short, long, conflicts_with = "profile")]
    release: bool,
    /// Build with this profile
    #[arg(long, value_name = "PROFILE-NAME")]
    profile: Option<String>,
    /// Features to turn on
    #[arg(short = 'F', long, value_name = "FEATURES")]
    features: Vec<String>,
    /// Turn all features on
    #[arg(long)]
    all_features: bool,
    /// Do not turn the `default` feature on
    #[arg(long)]
    no_default_features: bool,
    /// Platform to build for
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Folder for what is built
    #[arg(long, value_name = "DIRECTORY")]
    target_dir: Option<PathBuf>,
    /// Path to Cargo.toml
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
    /// Number of parallel jobs
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Assert that Cargo.lock stays as it is
    #[arg(long)]
    locked: bool,
    /// Do not use the network
    #[arg(long)]
    offline: bool,
    /// --locked and --offline
    #[arg(long)]
    frozen: bool,
}

impl Build {
    /// As plain data.
    pub fn selection(&self) -> Selection {
        let mut flags: Vec<OsString> = Vec::new();
        let mut valued = |flag: &str, value: Option<&std::ffi::OsStr>| {
            if let Some(value) = value {
                flags.extend([flag.into(), value.to_owned()]);
            }
        };
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        valued("--package", text(&self.package).as_deref());
        valued("--bin", text(&self.bin).as_deref());
        valued("--example", text(&self.example).as_deref());
        valued("--profile", text(&self.profile).as_deref());
        valued("--jobs", text(&self.jobs).as_deref());
        valued("--target", text(&self.target).as_deref());
        valued("--target-dir", self.target_dir.as_ref().map(|path| path.as_os_str()));
        for features in &self.features {
            valued("--features", Some(features.as_ref()));
        }
        for (flag, on) in [
            ("--release", self.release),
            ("--all-features", self.all_features),
            ("--no-default-features", self.no_default_features),
            ("--locked", self.locked),
            ("--offline", self.offline),
            ("--frozen", self.frozen),
        ] {
            flags.extend(on.then(|| flag.into()));
        }
        Selection {
            manifest_path: self.manifest_path.clone(),
            flags,
            target: self.bin.clone().or_else(|| self.example.clone()),
            example: self.example.is_some(),
            package: self.package.clone(),
            platform: self.target.clone(),
            profile: self.profile.clone().or_else(|| self.release.then(|| "release".to_owned())),
            elsewhere: self.target_dir.is_some(),
            quiet: false,
        }
    }
}
