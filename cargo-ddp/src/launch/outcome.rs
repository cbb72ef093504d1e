//! How workers and jobs end.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exit;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Of a worker that was asked to stop, and has saved a snapshot.
    pub(crate) const PREEMPTED: Self = Self::Code(ddp_contract::exit::PREEMPTED as i32);
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or(libc::SIGKILL)),
        }
    }
}

/// A worker's failure, and its consequences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The rank that failed first.
    pub rank: usize,
    /// Its process.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// The last step that it had reported.
    pub step: Option<u64>,
    /// The message in its error file.
    pub message: Option<String>,
    /// Its last lines on stderr, as [`comparable`](super::supervise::dispatch::comparable) gives them. Only node 0, which
    /// decides, compares them.
    #[serde(skip)]
    pub stderr: String,
    /// No rank had taken a step in this attempt, as far as is known.
    #[serde(default)]
    pub at_startup: bool,
    /// The attempt in which it failed, from 0.
    pub attempt: u32,
    /// The launcher ended it because the job made no progress for this long.
    pub stalled: Option<Duration>,
    /// The ranks that ended after it, whether or not they were asked to.
    pub consequences: Vec<(usize, Exit)>,
}

#[cfg(test)]
impl Failure {
    /// Of rank 0 in the first attempt, with exit code 1 and no message.
    pub(crate) fn example() -> Self {
        Self {
            rank: 0,
            pid: 1,
            exit: Exit::Code(1),
            step: None,
            message: None,
            stderr: String::new(),
            at_startup: false,
            attempt: 0,
            stalled: None,
            consequences: vec![],
        }
    }
}

/// Why a job was not restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoRestart {
    /// `--max-restarts` is 0.
    Never,
    /// All allowed restarts were made without progress.
    UsedUp(u32),
    /// The last attempt failed in the same way at the same step, and would again.
    Again,
    /// The program refused its arguments, and would again.
    Usage,
    /// A node was lost, too.
    NodeLost,
    /// The job had been asked to stop.
    Stopping,
    /// The program reports nothing, and the number of restarts is the default.
    Unreported,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// All workers exited with code 0.
    Done {
        /// Restarts that it took.
        restarts: u32,
    },
    /// The workers were asked to stop, have saved a snapshot, and exited.
    Preempted {
        /// The newest snapshot that they reported.
        snapshot: Option<PathBuf>,
    },
    /// A worker failed, and the job was not restarted.
    Failed(Failure, NoRestart),
    /// The launcher was asked to stop by this signal.
    Stopped(i32),
    /// Another node's launcher is gone, for this reason.
    NodeLost(String),
}

impl Verdict {
    /// The launcher's exit code; see [`exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Done { .. } => exit::SUCCESS,
            Self::Preempted { .. } => exit::PREEMPTED,
            // A rank that stalled, and was asked to stop, may end with 0.
            Self::Failed(Failure { exit: Exit::Code(code), .. }, _) => {
                u8::try_from(*code).ok().filter(|&code| code != exit::SUCCESS).unwrap_or(exit::FAILED)
            }
            Self::Failed(Failure { exit: Exit::Signal(signal), .. }, _) | Self::Stopped(signal) => {
                exit::signaled(*signal)
            }
            Self::NodeLost(_) => exit::NODE_LOST,
        }
    }
}

/// The newest snapshot that the workers have reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) snapshot: PathBuf,
    pub(crate) step: u64,
}

/// The rank that seems to hold the others up. The least of several is the one to blame: the one with the fewest steps, and
/// among equals one that does not wait for others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Suspect {
    pub(crate) step: Option<u64>,
    pub(crate) waits: bool,
    pub(crate) rank: usize,
    pub(crate) pid: u32,
}

/// `SIGTERM`, or `signal 35` for one without a name.
pub(crate) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}
