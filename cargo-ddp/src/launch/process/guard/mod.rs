//! Three processes for one launcher, so that the sudden death of any two leaves no worker and nothing that a worker started.
//!
//! The process that the user started becomes the guard. Its child is the keeper, and the keeper's child does the launcher's
//! work, and is what workers descend from. All three are subreapers: a worker's descendants that lose their parent become
//! children of the nearest of the three that lives, wherever they have gone (another group, another session), and can be
//! ended without searching the machine for them.
//!
//! - SIGKILL for the guard, the keeper or both: the launcher's connections end, and it kills all it has. A launcher that does
//!   not end is killed by the keeper.
//! - SIGKILL for the launcher, or for guard and launcher: its workers die with it (`PR_SET_PDEATHSIG`), and what they started
//!   becomes the keeper's, which kills it.
//! - SIGKILL for the keeper, or for keeper and launcher: what is left becomes the guard's, which kills it.
//! - SIGKILL for all three at the same moment: the workers die with the launcher; processes that had left their sessions stay.
//!
//! Each two of the three are connected by a pair of sockets. When one process dies, the kernel continues the other two, should
//! they be stopped ([`continue_on`]).
//!
//! The guard also sees to it that signals reach a launcher that cannot hear them: one that is stopped is continued, and one
//! that does not end after a second signal is killed.

mod patience;
mod requests;

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, waitpid};

use patience::{Patience, timespec};
use requests::Requests;

use crate::editor::debug::{self, Session};
use crate::launch::event::{LauncherEnd, Reporter};
use crate::os::adopted::{adopt_descendants, end_adopted};
use crate::os::pidfd;
use crate::os::reap::KILL_TIMEOUT;
use crate::os::signals::Signals;
use crate::os::wake;
use crate::{Error, Result, exit};

/// The guard, seen from the launcher: where signals for the job come from.
pub(crate) enum Guard {
    /// The process that the user started. `keeper` is at its end when the keeper is gone.
    Other { pipe: UnixStream, keeper: UnixStream, pid: Pid },
    /// No guard: this process catches signals itself.
    None(Signals),
}

/// Makes a guard of this process, and continues in its child's child. A debugger that watches this process watches the guard then,
/// which opens the debug sessions that the launcher asks it for.
///
/// With `in_one_process`, for those who debug the launcher itself, the guard is left out: the debugger would lose us.
///
/// # Errors
/// [`Error::System`].
pub(crate) fn split(in_one_process: bool, reporter: &dyn Reporter) -> Result<Guard> {
    let cant = || Error::system("can't start the launcher's processes");
    let (read, write) = UnixStream::pair().map_err(cant())?;
    read.set_nonblocking(true).map_err(cant())?;
    let (to_keeper, to_guard) = UnixStream::pair().map_err(cant())?;
    adopt_descendants().map_err(cant())?;
    if in_one_process {
        return Ok(Guard::None(Signals::catch().map_err(Error::system("can't catch signals"))?));
    }
    // Until both sides know their part, signals wait.
    let blocked = block_signals();
    let signals = Signals::catch().map_err(Error::system("can't catch signals"))?;
    let guard = getpid();
    // SAFETY: the launcher has one thread here. (If it had more, the child would continue with this one alone, and the C
    // library keeps its own locks usable.)
    match unsafe { libc::fork() } {
        -1 => Err(cant()(std::io::Error::last_os_error())),
        0 => {
            drop((write, to_keeper));
            // From now on they do nothing here: what a terminal sends to all comes through the guard.
            drop(signals);
            as_child_of(guard).map_err(cant())?;
            split_again(guard, read, to_guard, &blocked, reporter)
        }
        pid => {
            drop((read, to_guard));
            continue_on(&to_keeper);
            continue_on(&write);
            restore_signals(&blocked);
            let code =
                Pid::from_raw(pid).map_or(exit::SYSTEM.into(), |keeper| watch_over(keeper, signals, write, reporter));
            exit(code)
        }
    }
}

/// Makes the keeper of this process, and continues in its child, the launcher.
fn split_again(
    guard: Pid,
    mut pipe: UnixStream,
    to_guard: UnixStream,
    blocked: &libc::sigset_t,
    reporter: &dyn Reporter,
) -> Result<Guard> {
    let cant = || Error::system("can't start the launcher's third process");
    let (to_launcher, to_keeper) = UnixStream::pair().map_err(cant())?;
    to_keeper.set_nonblocking(true).map_err(cant())?;
    let keeper = getpid();
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        -1 => Err(cant()(std::io::Error::last_os_error())),
        0 => {
            drop((to_guard, to_launcher));
            as_child_of(keeper).map_err(cant())?;
            continue_on(&to_keeper);
            continue_on(&pipe);
            restore_signals(blocked);
            Ok(Guard::Other { pipe, keeper: to_keeper, pid: guard })
        }
        pid => {
            // Without it the guard can't wake the launcher.
            let _ = pipe.write_all(format!("{pid}\n").as_bytes());
            // The guard's death has to be seen through the launcher's copy.
            drop((pipe, to_keeper));
            continue_on(&to_launcher);
            continue_on(&to_guard);
            restore_signals(blocked);
            let status = Pid::from_raw(pid).and_then(|launcher| await_end(launcher, &to_guard));
            end_adopted(&[]);
            exit(code(status, reporter))
        }
    }
}

/// What the keeper does until the launcher has ended. Once the guard is gone, the launcher ends by itself, or is killed.
fn await_end(launcher: Pid, to_guard: &UnixStream) -> Option<WaitStatus> {
    // Without pidfd (Linux before 5.3) the wait itself.
    if let Ok(pidfd) = pidfd::open(launcher) {
        let [end, guard] = [pidfd.as_fd(), to_guard.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        is_ready_within(None, &mut [end.clone(), guard]);
        if !is_ready_within(Some(KILL_TIMEOUT), &mut [end]) {
            let _ = kill_process(launcher, Signal::KILL);
        }
    }
    loop {
        match waitpid(Some(launcher), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Some(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn is_ready_within(limit: Option<Duration>, fds: &mut [PollFd<'_>]) -> bool {
    let end = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = end.map(|end| timespec(end.saturating_duration_since(Instant::now())));
        match poll(fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready != Ok(0),
        }
    }
}

fn as_child_of(parent: Pid) -> std::io::Result<()> {
    adopt_descendants()?;
    if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
}

/// What the guard does until the keeper, and with it the launcher, has ended: forwards signals, and opens debug sessions.
/// Returns the launcher's exit code.
fn watch_over(keeper: Pid, mut signals: Signals, mut pipe: UnixStream, reporter: &dyn Reporter) -> i32 {
    let pidfd = pidfd::open(keeper);
    let mut requests = Requests::new(pipe.set_nonblocking(true).is_ok());
    let mut patience = Patience::default();
    let status = loop {
        if let Ok(pidfd) = &pidfd {
            let mut fds: Vec<_> = signals.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            fds.push(PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN));
            if requests.open {
                fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
            }
            let _ = poll(&mut fds, patience.left().as_ref());
        }
        requests.serve(&mut pipe);
        for signal in signals.take() {
            // A launcher that is gone needs no signals.
            let _ = pipe.write_all(&[u8::try_from(signal).unwrap_or(0)]);
            patience.record(signal);
            // One that is stopped could not hear it.
            for process in [Some(keeper), requests.launcher].into_iter().flatten() {
                let _ = kill_process(process, Signal::CONT);
            }
        }
        if let Some(signal) = patience.is_over() {
            let _ = kill_process(keeper, Signal::KILL);
            let _ = waitpid(Some(keeper), WaitOptions::empty());
            end_adopted(&[]);
            reporter.launcher_ended(LauncherEnd::Unresponsive);
            return exit::signaled(signal).into();
        }
        // Without pidfd (Linux before 5.3) the wait itself; signals are then late.
        let options = if pidfd.is_ok() { WaitOptions::NOHANG } else { WaitOptions::empty() };
        match waitpid(Some(keeper), options) {
            Ok(Some((_, status))) => break Some(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break None,
        }
    };
    end_adopted(&[]);
    code(status, reporter)
}

/// Resumes this process, should it be stopped, when data arrives on `connection` or its other end is closed. Not under a
/// debugger, which would stop at each of these signals.
fn continue_on(connection: &UnixStream) {
    if !debug::is_traced() {
        wake::continue_on(connection);
    }
}

fn code(status: Option<WaitStatus>, reporter: &dyn Reporter) -> i32 {
    let Some(status) = status else { return exit::SYSTEM.into() };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => {
            reporter.launcher_ended(LauncherEnd::Killed(signal));
            exit::signaled(signal).into()
        }
        _ => exit::SYSTEM.into(),
    }
}

impl Guard {
    /// The process that answers for the job.
    pub(crate) fn pid(&self) -> u32 {
        let pid = match self {
            Self::Other { pid, .. } => *pid,
            Self::None(_) => getpid(),
        };
        pid.as_raw_pid().unsigned_abs()
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Other { pipe, keeper, .. } => vec![pipe.as_fd(), keeper.as_fd()],
            Self::None(signals) => signals.fds().collect(),
        }
    }

    /// The signals since the last call; `None` once the guard or the keeper is gone.
    pub(crate) fn take(&mut self) -> Option<Vec<i32>> {
        let (pipe, keeper) = match self {
            Self::Other { pipe, keeper, .. } => (pipe, keeper),
            Self::None(signals) => return Some(signals.take()),
        };
        let mut buffer = [0; 64];
        // The keeper writes nothing.
        if matches!(keeper.read(&mut buffer), Ok(0)) {
            return None;
        }
        match pipe.read(&mut buffer) {
            Ok(0) => None,
            Ok(n) => Some(buffer[..n].iter().map(|&signal| signal.into()).collect()),
            Err(err) if matches!(err.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
                Some(Vec::new())
            }
            Err(_) => None,
        }
    }

    /// Has a debug session opened.
    pub(crate) fn open(&mut self, session: &Session) {
        match self {
            Self::Other { pipe, .. } => {
                let Ok(mut line) = serde_json::to_vec(session) else { return };
                line.push(b'\n');
                // A guard that is gone ends the job anyway.
                let _ = pipe.write_all(&line);
            }
            Self::None(_) => debug::start(session),
        }
    }
}

fn block_signals() -> libc::sigset_t {
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: plain memory for the C library to fill.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: as above; `all` is filled.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), old.as_mut_ptr()) };
    // SAFETY: the call above filled it.
    unsafe { old.assume_init() }
}

fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: `old` is what was in force before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_is_stopped_is_continued_when_the_other_end_closes() {
        let (end, other) = UnixStream::pair().unwrap();
        // SAFETY: the child makes system calls, and uses the allocator, which glibc keeps usable after a fork.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(other);
            continue_on(&end);
            let _ = kill_process(getpid(), Signal::STOP);
            // SAFETY: a system call.
            unsafe { libc::_exit(7) }
        }
        let pid = Pid::from_raw(pid);
        drop(end);
        let (_, status) = waitpid(pid, WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
        std::thread::sleep(Duration::from_millis(20));
        assert!(waitpid(pid, WaitOptions::NOHANG).unwrap().is_none(), "it stays stopped until then");
        drop(other);
        let end = Instant::now() + KILL_TIMEOUT;
        let status = loop {
            match waitpid(pid, WaitOptions::NOHANG).unwrap() {
                Some((_, status)) => break status,
                None if Instant::now() > end => {
                    let _ = kill_process(pid.unwrap(), Signal::KILL);
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        assert_eq!(status.exit_status(), Some(7));
    }
}
