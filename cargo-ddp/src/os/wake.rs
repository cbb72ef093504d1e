//! Continues a stopped process when a connection has news.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::getpid;

/// fcntl(2): the signal to send instead of SIGIO. The libc crate has no name for it.
const F_SETSIG: libc::c_int = 10;

/// Makes the kernel send SIGCONT to this process when data arrives on `connection` or its other end is closed. SIGCONT does
/// nothing to a process that runs. Where the kernel lacks F_SETSIG, a stopped process stays stopped.
pub(crate) fn continue_on(connection: &impl AsFd) {
    let fd = connection.as_fd().as_raw_fd();
    // SAFETY: a system call, on a descriptor that is borrowed.
    let set = |what, value: libc::c_int| unsafe { libc::fcntl(fd, what, value) };
    set(libc::F_SETOWN, getpid().as_raw_pid());
    set(F_SETSIG, libc::SIGCONT);
    set(libc::F_SETFL, set(libc::F_GETFL, 0) | libc::O_ASYNC);
}
