//! Which failures are the same, and which is the cause of another.

use ddp_contract::LOST_PEER;
use libc::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::launch::outcome::{Exit, Failure};

/// By a signal that programs don't send themselves, or as a shell reports that.
fn is_from_outside(exit: Exit) -> bool {
    let signal = match exit {
        Exit::Signal(signal) => signal,
        Exit::Code(code) => code - 128,
    };
    matches!(signal, SIGHUP | SIGINT | SIGQUIT | SIGKILL | SIGUSR1 | SIGUSR2 | SIGTERM)
}

impl Exit {
    /// After the work, after saving, or by the signal that asked it to (or SIGKILL, as it did not listen).
    pub(super) fn is_answer_to(self, signal: i32) -> bool {
        match self {
            Self::Code(0) | Self::PREEMPTED => true,
            Self::Code(code) => [signal, SIGKILL].contains(&(code - 128)),
            Self::Signal(end) => [signal, SIGTERM, SIGKILL].contains(&end),
        }
    }
}

impl Failure {
    /// Whether this is the same failure at the same place, by a program that reports enough to tell. A failure that comes from
    /// outside, such as SIGKILL, is never the same.
    pub(crate) fn is_repeat_of(&self, other: &Self) -> bool {
        let message = |failure: &Self| failure.message.as_deref().map(comparable);
        let same_message = self.step == other.step && message(self) == message(other);
        let reports = self.step.is_some() || self.message.is_some();
        // Before the first step a program has made no progress, even if it prints nothing.
        let same_startup = self.at_startup && other.at_startup && self.stderr == other.stderr;
        !is_from_outside(self.exit)
            && self.stalled.is_none()
            && self.exit == other.exit
            && same_message
            && (reports || same_startup)
    }

    /// Wrong arguments: by convention (getopt, clap, argparse) a program that can't read them ends with this code.
    pub(crate) fn is_usage_error(&self) -> bool {
        self.exit == USAGE && self.at_startup
    }

    /// Whether this is the cause of `other`, which was noticed a moment before: that rank reports that a peer is gone, and this
    /// one ended for its own reason, not because it was asked to.
    pub(crate) fn explains(&self, other: &Self) -> bool {
        let asked = matches!(self.exit, Exit::Code(0) | Exit::PREEMPTED | Exit::Signal(SIGTERM) | ASKED);
        other.stalled.is_none() && other.misses_a_peer() && !asked && !self.misses_a_peer()
    }

    pub(super) fn misses_a_peer(&self) -> bool {
        let says = |text: &str| PEER_IS_GONE.iter().any(|words| text.contains(words));
        // NCCL's watchdog leaves no error file.
        self.message.as_deref().is_some_and(says) || self.exit == ABORTED && says(&self.stderr)
    }
}

/// Two failures of one kind differ in pids, ports, addresses, times, ids and names of temporary files: each becomes a `#`.
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
/// How a shell reports that its program was ended by SIGTERM.
const ASKED: Exit = Exit::Code(128 + SIGTERM);
/// How a process ends in which NCCL's watchdog, or another thread of libtorch, met an error: by SIGABRT.
const ABORTED: Exit = Exit::Signal(6);
/// What Gloo, NCCL, its watchdog, the TCPStore and ddp-runtime report when another rank is gone.
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
