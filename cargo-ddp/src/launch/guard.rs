//! Two processes for one launcher, so that the sudden death of either leaves no worker and nothing that a worker started.
//!
//! The process that the user started becomes the guard. Its child does the launcher's work, and is what workers descend
//! from. Both are subreapers: a worker's descendants that lose their parent become children of the launcher, wherever
//! they have gone (another group, another session), and can be ended without searching the machine for them.
//!
//! - SIGKILL for the guard: its pipe ends, and the launcher kills all it has.
//! - SIGKILL for the launcher: its workers die with it (`PR_SET_PDEATHSIG`), what they started becomes the guard's, which
//!   kills it, and ends with the launcher's code.
//! - SIGKILL for both at once: the workers die with the launcher; what had left their groups may stay.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, pidfd_open, set_child_subreaper,
    waitpid,
};

use super::signals::Signals;
use crate::debug::{self, Session};
use crate::{Error, Result, exit};

/// How long the kernel may take to end what was sent SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The guard, seen from the launcher: where signals for the job come from.
pub(super) enum Guard {
    /// The parent process.
    Parent(UnixStream),
    /// There is none: this process catches them itself.
    None(Signals),
}

/// Makes a guard of this process, and goes on in its child. A debugger that watches this process watches the guard then,
/// which opens the debug sessions that the launcher asks it for.
///
/// With `whole`, for those who debug the launcher itself, there is no guard: the debugger would lose us.
///
/// # Errors
/// [`Error::System`].
pub(super) fn split(whole: bool) -> Result<Guard> {
    let cant = || Error::system("can't start the launcher's second process");
    let (read, write) = UnixStream::pair().map_err(cant())?;
    read.set_nonblocking(true).map_err(cant())?;
    set_child_subreaper(Some(getpid())).map_err(|err| cant()(err.into()))?;
    if whole {
        return Ok(Guard::None(Signals::catch()?));
    }
    // Until both sides know their part, signals wait.
    let blocked = block_signals();
    let signals = Signals::catch()?;
    let guard = getpid();
    // SAFETY: the launcher has one thread here. (If it had more, the child would go on with this one alone, and the C
    // library keeps its own locks usable.)
    match unsafe { libc::fork() } {
        -1 => Err(cant()(std::io::Error::last_os_error())),
        0 => {
            drop(write);
            // From now on they do nothing here: what a terminal sends to both comes through the guard.
            drop(signals);
            set_child_subreaper(Some(getpid())).map_err(|err| cant()(err.into()))?;
            restore_signals(&blocked);
            if getppid() != Some(guard) {
                return Err(cant()(rustix::io::Errno::SRCH.into()));
            }
            Ok(Guard::Parent(read))
        }
        pid => {
            drop(read);
            restore_signals(&blocked);
            let code = Pid::from_raw(pid).map_or(exit::SYSTEM.into(), |launcher| watch_over(launcher, signals, write));
            exit(code)
        }
    }
}

/// What the guard does until the launcher has ended: passes signals on, and opens debug sessions. Gives its exit code.
fn watch_over(launcher: Pid, mut signals: Signals, mut pipe: UnixStream) -> i32 {
    let pidfd = pidfd_open(launcher, PidfdFlags::empty());
    let mut requests = Requests { partial: Vec::new(), open: pipe.set_nonblocking(true).is_ok() };
    let status = loop {
        if let Ok(pidfd) = &pidfd {
            let mut fds: Vec<_> = signals.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            fds.push(PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN));
            if requests.open {
                fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
            }
            let _ = poll(&mut fds, None);
        }
        requests.serve(&mut pipe);
        for signal in signals.take() {
            // A launcher that is gone needs no signals.
            let _ = pipe.write_all(&[u8::try_from(signal).unwrap_or(0)]);
        }
        // Without pidfd (Linux before 5.3) the wait itself; signals are then late.
        let options = if pidfd.is_ok() { WaitOptions::NOHANG } else { WaitOptions::empty() };
        match waitpid(Some(launcher), options) {
            Ok(Some((_, status))) => break Some(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break None,
        }
    };
    end_adopted(&[]);
    code(status)
}

/// What the launcher asks of its guard: debug sessions, one a line.
struct Requests {
    partial: Vec<u8>,
    open: bool,
}

impl Requests {
    fn serve(&mut self, pipe: &mut UnixStream) {
        let mut buffer = [0; 4096];
        while self.open {
            match pipe.read(&mut buffer) {
                Ok(0) => self.open = false,
                Ok(n) => self.partial.extend_from_slice(&buffer[..n]),
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
        }
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            if let Ok(session) = serde_json::from_slice::<Session>(&line) {
                debug::start(&session);
            }
        }
    }
}

fn code(status: Option<WaitStatus>) -> i32 {
    let Some(status) = status else { return exit::SYSTEM.into() };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => {
            let _ = writeln!(
                std::io::stderr(),
                "error: the launcher itself was killed by signal {signal}; its workers are ended"
            );
            exit::signalled(signal).into()
        }
        _ => exit::SYSTEM.into(),
    }
}

impl Guard {
    /// The process that answers for the job.
    pub(super) fn pid(&self) -> u32 {
        let pid = match self {
            Self::Parent(_) => getppid(),
            Self::None(_) => Some(getpid()),
        };
        pid.map_or(0, Pid::as_raw_pid).unsigned_abs()
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Parent(pipe) => vec![pipe.as_fd()],
            Self::None(signals) => signals.fds().collect(),
        }
    }

    /// The signals that came since the last look; `None` once the guard is gone.
    pub(super) fn take(&mut self) -> Option<Vec<i32>> {
        let pipe = match self {
            Self::Parent(pipe) => pipe,
            Self::None(signals) => return Some(signals.take()),
        };
        let mut buffer = [0; 64];
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
    pub(super) fn open(&mut self, session: &Session) {
        match self {
            Self::Parent(pipe) => {
                let Ok(mut line) = serde_json::to_vec(session) else { return };
                line.push(b'\n');
                // A guard that is gone ends the job anyway.
                let _ = pipe.write_all(&line);
            }
            Self::None(_) => debug::start(session),
        }
    }
}

/// Takes note of the ends of processes that became ours when their parents ended.
pub(super) fn reap_adopted(own: &[Pid]) {
    for pid in children().into_iter().filter(|pid| !own.contains(pid)) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Kills whatever became ours when its parent ended, and what it leaves in turn.
pub(super) fn end_adopted(own: &[Pid]) {
    let end = Instant::now() + KILL_TIMEOUT;
    loop {
        let adopted: Vec<_> = children().into_iter().filter(|pid| !own.contains(pid)).collect();
        if adopted.is_empty() || Instant::now() > end {
            return;
        }
        for &pid in &adopted {
            let _ = kill_process(pid, Signal::KILL);
        }
        for &pid in &adopted {
            while matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// This process's children, as the kernel lists them.
fn children() -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<_> = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.iter().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
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
