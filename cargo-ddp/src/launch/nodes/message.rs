//! The messages that launchers exchange once they have joined.

use std::time::Duration;

use ddp_contract::Event;
use serde::{Deserialize, Serialize};

use super::Member;
use crate::launch::outcome::{Exit, Failure, Known, Suspect, Verdict};

/// What a launcher that has joined sends to node 0's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToCoordinator {
    /// Nothing else was sent for a while.
    Alive,
    Exited {
        rank: usize,
        pid: u32,
        exit: Exit,
        message: Option<String>,
        /// Its last lines on stderr, and its error file, when it failed.
        last_lines: Vec<String>,
        /// As it is in the file.
        error_file: Option<String>,
    },
    Event {
        rank: usize,
        event: Event,
    },
    /// A worker wrote something. Not sent for each piece.
    Output {
        rank: usize,
    },
    /// This launcher was sent a signal.
    Signal(i32),
    /// The stacks of its workers are written.
    Traced(Option<Suspect>),
    /// It can't continue, and ends now.
    GivesUp(String),
}

/// What node 0's launcher sends to the others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromCoordinator {
    /// All nodes have joined.
    Welcome { members: Vec<Member>, run: String },
    /// Nothing else was sent for a while.
    Alive,
    /// Start your workers; they meet at this port.
    Start { attempt: u32, port: u16 },
    /// Send your workers a signal.
    Signal(i32),
    /// All have ended after this failure, and will be started again.
    Announce { after: Failure, attempt: u32, delay: Duration, newest: Option<Known> },
    /// The job makes no progress.
    Trace { idle: Duration, steps: Vec<Option<u64>> },
    /// The job is over.
    Finish(Verdict),
    /// Node 0 can't continue, and ends now.
    GivesUp(String),
}
