//! What can happen to a job, and what can be done about it.

use std::ops::Range;
use std::time::Duration;

use ddp_contract::Event;

use crate::launch::outcome::{Exit, Failure, Verdict};

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    Exited {
        rank: usize,
        pid: u32,
        exit: Exit,
        message: Option<String>,
        /// Its last lines on stderr, as [`comparable`] gives them.
        stderr: String,
    },
    Event {
        rank: usize,
        event: Event,
    },
    /// A worker wrote something.
    Output {
        rank: usize,
    },
    Signal(i32),
    /// The guard is gone: end immediately.
    Orphaned,
    /// Another node's launcher is gone, and with it these ranks.
    NodeLost {
        ranks: Range<usize>,
        why: String,
    },
    /// The stacks of a stalled job are written; `rank` seems to hold the others up.
    Traced {
        rank: usize,
        pid: u32,
    },
    /// A debugger is at work on a worker: a stall means nothing.
    Debugged,
    /// Workers that should have ended by now are paused in a debugger.
    Paused,
    /// They run again.
    Resumed,
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Send a signal to every worker that lives.
    Signal(i32),
    /// A worker has failed, and the others are asked to stop.
    Failed(Failure),
    /// Kill every worker that lives and is not paused in a debugger: somebody looks at that one.
    KillUnpaused,
    /// Announce that all workers will be started again after this failure and this delay.
    Announce {
        after: Failure,
        attempt: u32,
        delay: Duration,
    },
    /// Start all workers.
    Start {
        attempt: u32,
    },
    /// The job has made no progress for this long: find out what each rank does.
    Trace {
        idle: Duration,
    },
    Finish(Verdict),
}
