//! Processes by a descriptor (pidfd), which never belongs to another process later, as a process id may.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A descriptor that is readable once the process has ended.
pub(crate) fn open(pid: Pid) -> rustix::io::Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty())
}

/// Sends a signal to this process alone.
pub(crate) fn signal(pidfd: &OwnedFd, signal: Signal) -> rustix::io::Result<()> {
    pidfd_send_signal(pidfd, signal)
}

/// The process at the other end of a Unix socket.
pub(crate) fn peer(connection: &OwnedFd) -> rustix::io::Result<Pid> {
    Ok(rustix::net::sockopt::socket_peercred(connection)?.pid)
}

/// How a process has ended that is not our child: what Linux reports since 6.15, once the parent has reaped it. Waits for that,
/// up to `limit`, which is below a second. `None`: an older kernel, or a parent that took longer.
pub(crate) fn exit_status(pidfd: &OwnedFd, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        // SAFETY: plain numbers.
        let mut info: libc::pidfd_info = unsafe { MaybeUninit::zeroed().assume_init() };
        info.mask = libc::PIDFD_INFO_EXIT.into();
        // SAFETY: the kernel writes no more than the size that is part of the number.
        let has_info = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) } == 0;
        if has_info && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0 {
            return Some(ExitStatus::from_raw(info.exit_code));
        }
        let left = end.saturating_duration_since(Instant::now());
        if !has_info || left.is_zero() {
            return None;
        }
        // POLLHUP means that the parent has reaped it.
        let time = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::empty())], Some(&time));
    }
}
