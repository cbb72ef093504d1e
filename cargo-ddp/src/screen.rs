//! A job's stdout and stderr. A reader that is slow or paused, such as a pager or a terminal after Ctrl-S, must not hold up
//! the launcher: what cannot be written now waits here, and the loop of the launcher reads no more output meanwhile.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::stdout;
use crate::ui::Target;

/// As much as a pipe takes without waiting, once it says that it takes something (`PIPE_BUF`).
const PIECE: usize = 4096;

struct Queue {
    bytes: Vec<u8>,
    given_up: bool,
}

static QUEUES: Mutex<[Queue; 2]> = Mutex::new([const { Queue { bytes: Vec::new(), given_up: false } }; 2]);

/// Both streams.
pub(crate) const TARGETS: [Target; 2] = [Target::Stdout, Target::Stderr];

fn queues() -> MutexGuard<'static, [Queue; 2]> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes what can be written without waiting; the rest has to wait for [`flush`]. The first time that output is lost, gives
/// the reason.
pub(crate) fn write(target: Target, bytes: &[u8]) -> Option<String> {
    let queue = &mut queues()[target as usize];
    if queue.given_up {
        return None;
    }
    queue.bytes.extend_from_slice(bytes);
    send(target, &mut queue.bytes)
}

/// Writes more of what waits.
pub(crate) fn flush(target: Target) -> Option<String> {
    send(target, &mut queues()[target as usize].bytes)
}

fn send(target: Target, bytes: &mut Vec<u8>) -> Option<String> {
    let mut sent = 0;
    let mut problem = None;
    while sent < bytes.len() && is_ready(target) {
        let end = bytes.len().min(sent + PIECE);
        match rustix::io::write(fd(target), &bytes[sent..end]) {
            Ok(n) => sent += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(err) => {
                sent = bytes.len();
                // Without stderr there is nobody to tell.
                problem = (target == Target::Stdout).then(|| stdout::note(Err(err.into()))).flatten();
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
    let mut fds = [PollFd::from_borrowed_fd(fd(target), PollFlags::OUT)];
    !matches!(poll(&mut fds, Some(&now)), Ok(0))
}

/// From now on what is written to the stream is dropped.
pub(crate) fn give_up(target: Target) {
    queues()[target as usize] = Queue { bytes: Vec::new(), given_up: true };
}

/// Writes even if that means to wait: for what comes before and after a job.
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

pub(crate) fn fd(target: Target) -> BorrowedFd<'static> {
    let number = match target {
        Target::Stdout => io::stdout().as_raw_fd(),
        Target::Stderr => io::stderr().as_raw_fd(),
    };
    // SAFETY: these two are never closed.
    unsafe { BorrowedFd::borrow_raw(number) }
}
