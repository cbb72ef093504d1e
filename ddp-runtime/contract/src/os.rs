//! What this crate asks of the operating system beyond the standard library: all that is special to Linux is here.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FlockOperation, OFlags, Timespec, Timestamps, UTIME_NOW, flock, futimens};
use rustix::io::Errno;

/// Open flags: do not wait for the other end of a FIFO; do not follow a link; do not take a terminal over.
pub(crate) const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();
pub(crate) const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();
pub(crate) const NOCTTY: i32 = OFlags::NOCTTY.bits().cast_signed();

/// What became of an attempt to lock a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flock {
    Taken,
    /// Another process has a lock that excludes this one.
    Busy,
    /// The file system has no locks.
    Unsupported,
}

/// Takes a lock that several processes can have.
pub(crate) fn flock_shared(file: &File) -> io::Result<Flock> {
    outcome(flock(file, FlockOperation::NonBlockingLockShared))
}

/// Takes a lock that one process can have.
pub(crate) fn flock_exclusive(file: &File) -> io::Result<Flock> {
    outcome(flock(file, FlockOperation::NonBlockingLockExclusive))
}

fn outcome(locked: rustix::io::Result<()>) -> io::Result<Flock> {
    match locked {
        Ok(()) => Ok(Flock::Taken),
        Err(Errno::WOULDBLOCK) => Ok(Flock::Busy),
        Err(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(Flock::Unsupported),
        Err(err) => Err(err.into()),
    }
}

/// Sets the times of a file to the present, by the clock of its server.
pub(crate) fn touch(file: &File) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

/// The name of this host.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What only this boot of this host has.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The number of this process's PID namespace.
pub(crate) fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

/// When a process started; `None` if there is none.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
