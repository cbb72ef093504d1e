//! `job.json` in the directory of a run: the one record of a job, which its launcher keeps up to date.
//!
//! `cargo ddp ps`, `runs`, `stop` and `attach` read it; `--report FILE` and the last event of `--json` are copies of it.
//! Readers ignore fields that they do not know. Fields that a writer of an earlier version did not have are missing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Name of the file in a run's directory.
pub const FILE: &str = "job.json";
/// The version that is written. A file without a version has version 0.
pub const VERSION: u32 = 1;

/// A job: what was launched, where it runs, and what happened to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// [`VERSION`] of the format.
    #[serde(default)]
    pub version: u32,
    /// Name of the run (`TORCHELASTIC_RUN_ID`).
    pub run: String,
    /// The run's directory.
    #[serde(default, serialize_with = "crate::text::lossy")]
    pub run_dir: PathBuf,
    /// The project that the job belongs to: the workspace's root, or the working directory of `cargo ddp launch`.
    #[serde(default, serialize_with = "crate::text::lossy")]
    pub project: PathBuf,
    /// The launcher's working directory.
    #[serde(default, serialize_with = "crate::text::lossy")]
    pub folder: PathBuf,
    /// The workers' program and its arguments.
    pub command: Vec<String>,
    /// Number of workers on this node.
    pub nproc: usize,
    /// This node's number.
    #[serde(default)]
    pub node_rank: usize,
    /// Number of nodes.
    #[serde(default)]
    pub nnodes: usize,
    /// Number of workers on all nodes.
    #[serde(default)]
    pub world_size: usize,
    /// The first rank on this node.
    #[serde(default)]
    pub first_rank: usize,
    /// The workers' GPUs.
    #[serde(default)]
    pub gpus: Option<Vec<String>>,
    /// The launcher's process id: signals go there.
    #[serde(default)]
    pub pid: u32,
    /// The launcher's process, with its machine.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// The workers' process ids by rank, from [`first_rank`](Self::first_rank). Empty until the workers have started.
    #[serde(default)]
    pub workers: Vec<u32>,
    /// The attempt that the workers belong to, from 0.
    #[serde(default)]
    pub attempt: u32,
    /// Seconds since 1970.
    pub started: f64,
    /// Seconds since 1970; 0 until the job has ended.
    #[serde(default)]
    pub ended: f64,
    /// How the job ended, if it did.
    #[serde(default)]
    pub outcome: Outcome,
    /// The launcher's exit code, once the job has ended.
    #[serde(default)]
    pub exit_code: u8,
    /// Where training began, once the workers have reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The step that the job was asked to go to (`--at-step`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_step: Option<u64>,
    /// The last step that the node's first rank reported.
    #[serde(default)]
    pub last_step: Option<u64>,
    /// The newest snapshot.
    #[serde(default)]
    pub snapshot: Option<Saved>,
    /// The snapshot with the best metric, if the program defines which is better; else the newest with a metric.
    #[serde(default)]
    pub best: Option<Saved>,
    /// The newest restarts, oldest first.
    #[serde(default)]
    pub restarts: Vec<Restart>,
    /// The failure that ended the job.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// What kept the job from starting.
    #[serde(default)]
    pub error: Option<String>,
}

/// How a job ended, if it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The job runs.
    #[default]
    Running,
    /// The launcher waits for the launchers of the other nodes.
    Waiting,
    /// All workers exited with code 0.
    Done,
    /// Asked to stop, and the workers have saved a snapshot.
    Preempted,
    /// A worker failed, or none could be started.
    Failed,
    /// Stopped by a signal.
    Stopped,
    /// Another node failed to join, or was lost.
    NodeLost,
    /// The launcher died before it could write how the job ended (SIGKILL, a power failure). Only readers set this.
    Lost,
}

/// A snapshot that a run saved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Its directory.
    #[serde(serialize_with = "crate::text::lossy")]
    pub snapshot: PathBuf,
    /// Optimizer steps that it holds.
    pub step: u64,
    /// The metric that the program saved it with.
    #[serde(default)]
    pub metric: Option<f64>,
}

/// Where the training of a job began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The snapshot that the workers resumed from; null for a start from scratch.
    #[serde(default, serialize_with = "crate::text::lossy_option")]
    pub snapshot: Option<PathBuf>,
    /// Optimizer steps that were done.
    pub step: u64,
}

/// A restart of all workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    /// The failure before it.
    pub cause: Option<Cause>,
    /// The snapshot that the workers resume from.
    #[serde(serialize_with = "crate::text::lossy_option")]
    pub snapshot: Option<PathBuf>,
    /// Steps since that snapshot, which are lost.
    pub steps_lost: Option<u64>,
    /// Time between failure and restart.
    pub delay_seconds: f64,
}

/// A worker's failure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// The rank that failed first.
    pub rank: usize,
    /// Its node, in jobs on several nodes: `node 1 (gpu-b)`.
    pub node: Option<String>,
    /// Its process.
    pub pid: u32,
    /// Its GPU.
    pub gpu: Option<String>,
    /// The attempt in which it failed, from 0.
    pub attempt: u32,
    /// Its exit code, unless a signal ended it.
    pub exit_code: Option<i32>,
    /// The name of the signal that ended it.
    pub signal: Option<String>,
    /// The last step that it reported.
    pub step: Option<u64>,
    /// The launcher ended it because the job had made no progress for this long.
    pub stalled_seconds: Option<f64>,
    /// The message in its error file.
    pub message: Option<String>,
    /// The place in its error file (`file:line:column`).
    pub location: Option<String>,
    /// Its last lines on stderr.
    pub stderr: Vec<String>,
    /// The ranks that ended after it.
    pub consequences: Vec<Consequence>,
}

/// How a rank ended after another had failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Consequence {
    /// The rank.
    pub rank: usize,
    /// Its exit code, unless a signal ended it.
    pub exit_code: Option<i32>,
    /// The name of the signal that ended it.
    pub signal: Option<String>,
}

/// A process, so that it can be distinguished from every other one: a home directory or a project may be shared by several
/// machines and containers, and a process id means nothing elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The name of its machine or container.
    pub host: String,
    /// The kernel's id of this boot: different for each machine and each start of it.
    pub boot_id: String,
    /// The inode of the namespace that `pid` belongs to: each container has its own.
    pub pid_namespace: u64,
    /// Its process id.
    pub pid: u32,
    /// When the process started, in the kernel's clock ticks since the boot: a later process with the same id has another.
    pub start_time: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_file_without_a_version_has_version_0() {
        let text = r#"{"run": "run-1-7", "command": ["train"], "nproc": 2, "started": 1700000000}"#;
        let job: Job = serde_json::from_str(text).expect("all other fields may be missing");
        assert_eq!((job.version, job.outcome, job.started), (0, Outcome::Running, 1.7e9));
        for text in ["{}", r#"{"run": "x"}"#, "[]"] {
            assert!(serde_json::from_str::<Job>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn job_file_of_version_1_is_read_unchanged() {
        let text = include_str!("job-1.json");
        let job: Job = serde_json::from_str(text).expect("a file of version 1");
        assert_eq!((job.version, job.outcome, job.restarts.len()), (1, Outcome::Failed, 1));
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(&serde_json::to_string(&job).expect("plain data")), value(text));
    }

    #[test]
    fn job_file_of_a_newer_version_is_read_without_its_unknown_fields() {
        let text = r#"{"version": 9, "run": "r", "command": [], "nproc": 1, "started": 1.5, "coffee": true}"#;
        assert_eq!(serde_json::from_str::<Job>(text).expect("unknown fields are ignored").version, 9);
    }
}
