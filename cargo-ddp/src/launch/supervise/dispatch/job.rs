//! What can happen to a job, and what can be done about it.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use ddp_contract::{Event, LOST_PEER};
use serde::{Deserialize, Serialize};

use super::{PREEMPTED, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
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
    /// By a signal that programs don't send themselves, or as a shell puts that.
    fn is_from_outside(self) -> bool {
        let signal = match self {
            Self::Signal(signal) => signal,
            Self::Code(code) => code - 128,
        };
        matches!(signal, SIGHUP | SIGINT | SIGQUIT | SIGKILL | SIGUSR1 | SIGUSR2 | SIGTERM)
    }

    /// After the work, after saving, or by the signal that asked it to (or SIGKILL, as it did not listen).
    pub(super) fn is_answer_to(self, signal: i32) -> bool {
        match self {
            Self::Code(0) | PREEMPTED => true,
            Self::Code(code) => [signal, SIGKILL].contains(&(code - 128)),
            Self::Signal(end) => [signal, SIGTERM, SIGKILL].contains(&end),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or(SIGKILL)),
        }
    }
}

/// A worker's failure, and what it led to.
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
    /// What it left in its error file.
    pub message: Option<String>,
    /// Its last lines on stderr, as `comparable` gives them. Only node 0, which decides, compares them.
    #[serde(skip)]
    pub stderr: String,
    /// No rank had taken a step in this attempt, as far as is known.
    #[serde(default)]
    pub at_startup: bool,
    /// The attempt in which it failed, from 0.
    pub attempt: u32,
    /// It was ended because the job made no progress for so long.
    pub stalled: Option<Duration>,
    /// The ranks that ended after it, before they were told to or because they were.
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

impl Failure {
    /// The same failure at the same place, by a program that says enough to tell. One that comes from outside, such as SIGKILL,
    /// is never the same.
    pub(crate) fn is_again(&self, other: &Self) -> bool {
        let message = |failure: &Self| failure.message.as_deref().map(comparable);
        let same_message = self.step == other.step && message(self) == message(other);
        let told = self.step.is_some() || self.message.is_some();
        // Before the first step a program has got nowhere, even if it says nothing.
        let same_startup = self.at_startup && other.at_startup && self.stderr == other.stderr;
        !self.exit.is_from_outside()
            && self.stalled.is_none()
            && self.exit == other.exit
            && same_message
            && (told || same_startup)
    }

    /// Wrong arguments: by convention (getopt, clap, argparse) a program that can't read them ends with this code.
    pub(crate) fn is_usage_error(&self) -> bool {
        self.exit == USAGE && self.at_startup
    }

    /// Whether this is what `other`, noticed a moment before, complains of: that rank says that a peer is gone, and this one
    /// went for a reason of its own, not because it was asked to.
    pub(crate) fn explains(&self, other: &Self) -> bool {
        let asked = matches!(self.exit, Exit::Code(0) | PREEMPTED | Exit::Signal(SIGTERM) | ASKED);
        other.stalled.is_none() && other.misses_a_peer() && !asked && !self.misses_a_peer()
    }

    pub(super) fn misses_a_peer(&self) -> bool {
        let says = |text: &str| PEER_IS_GONE.iter().any(|words| text.contains(words));
        // NCCL's watchdog leaves no error file.
        self.message.as_deref().is_some_and(says) || self.exit == ABORTED && says(&self.stderr)
    }
}

/// Two failures of one kind differ in pids, ports, addresses, times, ids and names of temporary files: a `#` stands for each.
pub(crate) fn comparable(text: &str) -> String {
    let mut out = String::new();
    let (mut rest, mut previous) = (text, ' ');
    while let Some(c) = rest.chars().next() {
        let length = match previous {
            '/' => temporary_name(&out, rest).or_else(|| number(rest)),
            previous if previous.is_ascii_alphanumeric() => c.is_ascii_digit().then(|| word(rest)),
            _ => number(rest),
        };
        out.push(if length.is_some() { '#' } else { c });
        let (done, left) = rest.split_at(length.unwrap_or(c.len_utf8()));
        (rest, previous) = (left, done.chars().next_back().unwrap_or(c));
    }
    out
}

fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len())
}

/// The length of a number, a UUID or a hash that `text` begins with.
fn number(text: &str) -> Option<usize> {
    let uuid = text.get(..36).filter(|uuid| {
        uuid.bytes()
            .enumerate()
            .all(|(i, byte)| if matches!(i, 8 | 13 | 18 | 23) { byte == b'-' } else { byte.is_ascii_hexdigit() })
    });
    let word = &text[..word(text)];
    let is_hash = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_hash = is_hash && word.bytes().any(|byte| byte.is_ascii_digit());
    uuid.or_else(|| Some(word).filter(|word| is_hash || word.starts_with(|c: char| c.is_ascii_digit()))).map(str::len)
}

/// The length of the name of a temporary file that `text`, a part of a path, begins with: one directly in /tmp, or one as
/// Python, Rust and mktemp(1) make them.
fn temporary_name(before: &str, text: &str) -> Option<usize> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name = &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())];
    let random = name.trim_start_matches('.').strip_prefix("tmp").is_some_and(|rest| rest.len() >= 6);
    (random || before.ends_with("/tmp/") && !name.is_empty()).then_some(name.len())
}

/// How a program ends that can't read its arguments.
const USAGE: Exit = Exit::Code(2);
/// How a shell puts that its program was ended by SIGTERM.
const ASKED: Exit = Exit::Code(128 + SIGTERM);
/// How a process ends in which NCCL's watchdog, or another thread of libtorch, met an error: by SIGABRT.
const ABORTED: Exit = Exit::Signal(6);
/// What Gloo, NCCL, its watchdog, the TCPStore and ddp-runtime say when another rank is gone.
const PEER_IS_GONE: [&str; 12] = [
    LOST_PEER,
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection was likely closed",
    "remote process exiting prematurely",
    "remote process exited or there was a network error",
    "NCCL lost the connection to another rank",
    "NCCL communicator was aborted",
    "a rank did not take part in it",
    "Timed out waiting",
    "To avoid data inconsistency, we are taking the entire process down",
];

/// Why a job was not started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoRestart {
    /// `--max-restarts` is 0.
    Never,
    /// As many as allowed were made without progress.
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
    /// All workers ended with code 0.
    Done {
        /// Restarts that it took.
        restarts: u32,
    },
    /// The workers were told to stop, have saved a snapshot, and left.
    Preempted {
        /// The newest snapshot that they told of.
        snapshot: Option<PathBuf>,
    },
    /// A worker failed, and the job was not started again.
    Failed(Failure, NoRestart),
    /// The launcher was told to stop by this signal.
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
                exit::signalled(*signal)
            }
            Self::NodeLost(_) => exit::NODE_LOST,
        }
    }
}

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
    /// The guard is gone: end at once.
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
    /// A debugger is at work on a worker: that the job stands still means nothing.
    Debugged,
    /// Workers that should have ended by now are paused in a debugger.
    Paused,
    /// They go on.
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
    /// Say that all workers will be started again after this failure, in so long.
    Announce {
        after: Failure,
        attempt: u32,
        delay: Duration,
    },
    /// Start all workers.
    Start {
        attempt: u32,
    },
    /// The job has made no progress for so long: find out what each rank does.
    Trace {
        idle: Duration,
    },
    Finish(Verdict),
}

/// The newest snapshot that the workers have told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) snapshot: PathBuf,
    pub(crate) step: u64,
}

/// When to restart, and how long to wait for what.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How often all workers may be restarted without progress (a new snapshot) between.
    pub max_restarts: u32,
    /// Time before the second restart without progress; the first comes at once, and each further one waits twice as
    /// long as the one before, at most a minute.
    pub backoff: Duration,
    /// Only a program that has reported something (a step, a snapshot) is restarted: another one might begin from scratch each
    /// time.
    pub only_reporting: bool,
    /// Time between asking workers to stop and killing them.
    pub grace: Duration,
    /// Time without a sign of progress after which a job is stalled. `None`: 10 minutes for workers that send events,
    /// never for others. Zero: never.
    pub stall_timeout: Option<Duration>,
    /// Whether a stalled job is restarted.
    pub restart_on_stall: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_restarts: 3,
            only_reporting: false,
            backoff: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            stall_timeout: None,
            restart_on_stall: false,
        }
    }
}
