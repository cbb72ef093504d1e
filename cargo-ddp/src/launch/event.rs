//! What the launcher reports, as plain data. It has no words: [`ui`](crate::ui) turns events into lines, JSON and a live bar.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use ddp_contract::Event;
use ddp_contract::job::{Cause, Job};

use super::outcome::{Exit, Known, NoRestart, Verdict};
use crate::os::stdio::Target;

/// Something that happened to a job.
#[derive(Clone, Debug)]
pub(crate) enum LaunchEvent {
    // --- the run's directory -------------------------------------------------------------------------------------
    /// The logs of these old runs were removed; only the newest `kept` runs have logs.
    RunsPruned { first: u64, last: u64, kept: usize },
    /// The link to the newest run could not be replaced, because something else has its name.
    LatestBlocked { latest: PathBuf, by: Blocker },
    /// The job can't be listed with the user's running jobs.
    NotListed { problem: String },
    /// A worker's log ends early.
    LogEnded { path: PathBuf, problem: String },

    // --- several nodes -------------------------------------------------------------------------------------------
    /// This node waits until node 0 has created the secret file.
    SecretFileAwaited { path: PathBuf },
    /// Others can read or replace the secret file.
    SecretExposed(Exposure),
    /// Whoever reaches this address can join the job.
    NoSecret { place: String },
    /// Node 0 waits for these nodes, of `nnodes`.
    NodesAwaited { missing: Vec<usize>, nnodes: usize, place: String },
    /// This node connects to node 0.
    JoiningNode0 { place: String, node_rank: usize, nnodes: usize },
    /// A node has joined.
    NodeJoined { node: usize, host: String },
    /// A node that had joined has left before all had.
    NodeLeft { node: usize, host: String },
    /// A launcher may not join.
    LauncherRefused { from: IpAddr, problem: String },
    /// Further refusals are not reported.
    RefusalsHidden,
    /// Another node's launcher is gone, for this reason.
    NodeLost { why: String },

    // --- workers that a debugger starts ----------------------------------------------------------------------------
    /// The launcher waits for the debugger to start these ranks.
    WorkersAwaited { ranks: Vec<usize>, program: String, limit: Duration },
    /// A worker ended before all others had joined.
    WorkerLeft { rank: usize },
    /// A worker may not join.
    WorkerRefused { problem: String },
    /// A process of another user may not join.
    StrangerRefused { pid: i32, uid: u32 },

    // --- the job ---------------------------------------------------------------------------------------------------
    /// All workers of an attempt were started.
    Launched(Launched),
    /// A worker's library reported this.
    Worker { rank: usize, event: Event },
    /// Ctrl-C: the workers were asked to stop.
    Stopping { grace: Duration },
    /// Ranks that should end are paused in a debugger, maybe after a failure.
    RanksPaused { ranks: Vec<usize>, after: Option<Box<Cause>> },
    /// All workers will be started again.
    Restarting(Box<Restarting>),
    /// The job makes no progress. `steps` are the ranks' last ones.
    Stalled { idle: Duration, steps: Vec<Option<u64>> },
    /// What the ranks of a stalled job do; `None` without a debugger to find out.
    Stacks(Option<Vec<RankStack>>),
    /// A worker failed, and the job is not restarted.
    Failed(Box<Failed>),
    /// All nodes were stopped by a signal to one of them.
    StoppedEverywhere { signal: i32 },
    /// The job has ended; always the last event.
    Finished { verdict: Verdict, job: Box<Job>, elapsed: Duration },
}

/// What has the name of the link to the newest run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blocker {
    Link(PathBuf),
    CopyOfRun,
    Directory,
    File,
}

/// Who may read or replace the secret file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exposure {
    Everybody(PathBuf),
    AnotherUser(PathBuf),
}

/// The workers of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Launched {
    /// Name of the run.
    pub(crate) run: String,
    /// From 0.
    pub(crate) attempt: u32,
    /// This node's first rank.
    pub(crate) first_rank: usize,
    /// The process ids of this node's workers, by rank.
    pub(crate) pids: Vec<u32>,
    /// The number of workers on all nodes.
    pub(crate) world_size: usize,
    /// This node's GPUs.
    pub(crate) gpus: Option<Vec<String>>,
}

/// A failure, with what is needed to describe it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FailureReport {
    pub(crate) cause: Cause,
    /// How the worker ended; the cause has a signal's name only.
    pub(crate) exit: Option<Exit>,
    /// A Python worker's traceback, which is the only place that it names.
    pub(crate) traceback: Option<String>,
    /// The rank's output is on this screen.
    pub(crate) shown: bool,
}

/// A restart after a failure.
#[derive(Clone, Debug)]
pub(crate) struct Restarting {
    pub(crate) report: FailureReport,
    /// The attempt that follows, from 1.
    pub(crate) attempt: u32,
    pub(crate) max_restarts: u32,
    pub(crate) delay: Duration,
    pub(crate) newest: Option<Known>,
}

/// A failure that ends the job.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) report: FailureReport,
    pub(crate) no_restart: NoRestart,
    pub(crate) at_startup: bool,
    /// Processes that the kernel has killed for lack of memory during the job; `None` where it does not count them.
    pub(crate) oom_kills: Option<u64>,
    pub(crate) run_dir: PathBuf,
}

/// What a rank of a stalled job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RankStack {
    pub(crate) rank: usize,
    pub(crate) activity: Activity,
    /// The stacks of all its threads.
    pub(crate) file: PathBuf,
}

/// What a process's main thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It waits for other ranks, in this function.
    Waits(String),
    /// It is in this function of the program.
    Runs(String),
    Unknown,
}

/// How the launcher's process ended, as its guard sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LauncherEnd {
    /// It did not respond to a second signal, and was killed.
    Unresponsive,
    /// This signal killed it.
    Killed(i32),
}

/// What a worker wrote.
pub(crate) struct Output<'a> {
    pub(crate) rank: usize,
    pub(crate) stream: Target,
    pub(crate) bytes: &'a [u8],
    /// The stream is at its end: what has no line end is a line.
    pub(crate) ends: bool,
}

/// The receiver of events of a job. A reader that is slow holds up the workers' output, but not the launcher.
pub(crate) trait Reporter {
    /// Something happened.
    fn report(&mut self, event: LaunchEvent);

    /// A worker wrote something.
    fn output(&mut self, output: Output<'_>);

    /// The workers are about to start: from now on nothing may wait for a reader.
    fn begin(&mut self);

    /// The workers are gone: from now on everything may wait for a reader.
    fn end(&mut self);

    /// Whether what a worker writes there has to wait for a reader.
    fn is_held_up(&self, stream: Target) -> bool;

    /// Whether what workers' libraries report has to wait for a reader.
    fn holds_up_events(&self) -> bool;

    /// Descriptors that something waits to be written to.
    fn waiting(&self) -> Vec<(Target, BorrowedFd<'static>)>;

    /// Writes more of what waits.
    fn flush(&mut self, stream: Target);

    /// Drops what waits for readers that do not read, and what is written there from now on.
    fn give_up(&mut self);

    /// The guard reports the launcher's end. It must not wait for a reader.
    fn launcher_ended(&self, end: LauncherEnd);
}

/// A reporter that reports nothing.
#[cfg(test)]
pub(crate) struct Silent;

#[cfg(test)]
impl Reporter for Silent {
    fn report(&mut self, _: LaunchEvent) {}
    fn output(&mut self, _: Output<'_>) {}
    fn begin(&mut self) {}
    fn end(&mut self) {}
    fn is_held_up(&self, _: Target) -> bool {
        false
    }
    fn holds_up_events(&self) -> bool {
        false
    }
    fn waiting(&self) -> Vec<(Target, BorrowedFd<'static>)> {
        vec![]
    }
    fn flush(&mut self, _: Target) {}
    fn give_up(&mut self) {}
    fn launcher_ended(&self, _: LauncherEnd) {}
}
