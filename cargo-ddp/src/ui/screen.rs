//! A job's stdout and stderr. A reader that is slow or paused, such as a pager or a terminal after Ctrl-S, must not hold up
//! the launcher: what cannot be written now waits here, and the loop of the launcher reads no more output meanwhile.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::stdout;
use crate::os::stdio::Target;

/// As much as a pipe takes without waiting, once it is ready (`PIPE_BUF`).
const PIECE: usize = 4096;

struct Queue {
    bytes: Vec<u8>,
    given_up: bool,
    /// Whether workers write there, too.
    has_output: bool,
}

impl Queue {
    const fn new() -> Self {
        Self { bytes: Vec::new(), given_up: false, has_output: false }
    }
}

static QUEUES: Mutex<[Queue; 2]> = Mutex::new([const { Queue::new() }; 2]);

fn queues() -> MutexGuard<'static, [Queue; 2]> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What follows is workers' output: if it is lost, the command has failed.
pub(crate) fn expect_output(target: Target) {
    queues()[target as usize].has_output = true;
}

/// Writes what can be written without waiting; the rest has to wait for [`flush`]. The first time that output is lost, returns
/// the reason.
pub(crate) fn write(target: Target, bytes: &[u8]) -> Option<String> {
    let queue = &mut queues()[target as usize];
    if queue.given_up {
        return None;
    }
    queue.bytes.extend_from_slice(bytes);
    send(target, queue)
}

/// Writes more of what waits.
pub(crate) fn flush(target: Target) -> Option<String> {
    send(target, &mut queues()[target as usize])
}

fn send(target: Target, Queue { bytes, has_output, .. }: &mut Queue) -> Option<String> {
    let mut sent = 0;
    let mut problem = None;
    while sent < bytes.len() && is_ready(target) {
        let end = bytes.len().min(sent + PIECE);
        match rustix::io::write(target.fd(), &bytes[sent..end]) {
            Ok(n) => sent += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(err) => {
                sent = bytes.len();
                // Nobody misses a launcher's own words on stderr.
                let is_output = target == Target::Stdout || *has_output;
                problem = is_output.then(|| stdout::record_for(target, Err(err.into()))).flatten();
            }
        }
    }
    bytes.drain(..sent);
    problem
}

/// Whether something waits to be written.
pub(crate) fn is_waiting(target: Target) -> bool {
    !queues()[target as usize].bytes.is_empty()
}

/// Whether the stream takes something now.
pub(crate) fn is_ready(target: Target) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(target.fd(), PollFlags::OUT)];
    !matches!(poll(&mut fds, Some(&now)), Ok(0))
}

/// Writes if the stream takes something now. For a process that must not wait for a reader, and ends.
pub(crate) fn write_if_ready(target: Target, bytes: &[u8]) {
    if is_ready(target) {
        // Shorter than PIPE_BUF: a stream that is ready takes all of it.
        let _ = rustix::io::write(target.fd(), bytes);
    }
}

/// From now on what is written to the stream is dropped.
pub(crate) fn give_up(target: Target) {
    queues()[target as usize] = Queue { given_up: true, ..Queue::new() };
}

/// Writes, and waits for the reader: for output before and after a job.
pub(crate) fn write_and_wait(target: Target, bytes: &[u8]) -> Option<String> {
    if queues()[target as usize].given_up {
        return None;
    }
    match target {
        Target::Stdout => stdout::write(bytes),
        Target::Stderr => {
            // A terminal that is gone is no reason to stop.
            let _ = io::stderr().lock().write_all(bytes);
            None
        }
    }
}
